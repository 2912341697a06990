//! `moebius bench`.

mod layer;
mod record;
mod report;
mod tables;

use std::ops::ControlFlow;

use moebius::bench::{Measurement, Progress, Session, Subject, Test};
use moebius::router::LoadStats;
use moebius::{CacheUse, Error, HeldFormats};

use crate::args::{BenchArgs, BenchCommand, OutputArgs};
use crate::commands::subject;
use crate::errors::{CliError, Result};
use crate::interrupt::{Generating, Interrupt};
use crate::terminal::{printable, remark, say};
use crate::{energy, keeping, meter, progress};
use record::{Machine, Setting};
use report::Report;

/// Random tokens that tell how evenly the experts are used.
const LOAD_TOKENS: usize = 512;

/// Measures every combination that was asked for.
pub(crate) fn bench(args: &BenchArgs, output: &OutputArgs) -> Result<()> {
    if let Some(BenchCommand::Layer(args)) = &args.command {
        return layer::layer(args, output);
    }
    let plan = args.plan();
    let tests = plan.tests();
    if tests.is_empty() {
        return Err(CliError::usage(
            "there is nothing to measure",
            "-p 512 reads a prompt, -n 128 generates",
        ));
    }
    let subject = subject(&args.shape, args.model.as_deref(), output)?;
    let interrupt = Interrupt::install();
    let mut report = Report::new(args.rows.format(), &tests);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut measured: Option<Machine> = None;
    for (threads, format) in combinations(args) {
        let options = args.open_options(threads, format);
        let machine = machine(&mut measured, threads.unwrap_or(cores), output)?;
        if let (Subject::Model(dir), true) = (&subject, args.cache.keeps()) {
            keeping::keep(dir, &options, &interrupt, output)?;
        }
        let opened =
            progress::with_bar(output, "loading", |bar| Session::open(&subject, &plan, &options, bar));
        let mut session = opened.map_err(|error| smaller(error, args))?;
        session.set_energy(energy::opened(args.watts.watts));
        say_where_from(&session, output);
        if output.verbose {
            introduce(&mut session)?;
        }
        let machine = machine.running(&session)?;
        let setting = Setting::new(&subject, (&plan, &options), &session, machine);
        report.begin(&setting)?;
        let generating = interrupt.generating();
        for &test in &tests {
            match measure(&mut session, test, &generating, output)? {
                Some(measurement) => report.row(&setting, measurement)?,
                None => {
                    report.finish()?;
                    return Err(CliError::Interrupted);
                }
            }
        }
    }
    report.finish()
}

/// The numbers of threads, `None` being all cores, with the formats of weights, each once.
fn combinations(args: &BenchArgs) -> Vec<(Option<usize>, HeldFormats)> {
    let threads: Vec<Option<usize>> = match args.threads.is_empty() {
        true => vec![None],
        false => args.threads.iter().map(|&count| usize::try_from(count).ok()).collect(),
    };
    let as_stored = [HeldFormats::AsStored];
    let formats = if args.format.is_empty() { &as_stored[..] } else { &args.format };
    let mut all = Vec::new();
    for &threads in &threads {
        for &format in formats {
            if !all.contains(&(threads, format)) {
                all.push((threads, format));
            }
        }
    }
    all
}

/// What the machine does with `threads` threads, measured anew where their number changes.
fn machine(last: &mut Option<Machine>, threads: usize, output: &OutputArgs) -> Result<Machine> {
    if let Some(machine) = last.as_ref().filter(|machine| machine.threads == threads) {
        return Ok(machine.clone());
    }
    if output.verbose {
        remark(output, "measuring memory and arithmetic ...");
    }
    Ok(last.insert(Machine::measure(threads)?).clone())
}

/// Runs one test with a line on the terminal; `None` after Ctrl-C.
fn measure(
    session: &mut Session,
    test: Test,
    generating: &Generating<'_>,
    output: &OutputArgs,
) -> Result<Option<Measurement>> {
    let line = progress::line(output);
    let mut shown = None;
    let measured = session.measure(test, &mut |progress: Progress| {
        if generating.stopped() {
            return ControlFlow::Break(());
        }
        if shown.replace(progress) != Some(progress) {
            line.set_message(match progress {
                Progress { sample: 0, .. } => format!("{test}: warming up"),
                Progress { sample, samples } => format!("{test}: sample {sample} of {samples}"),
            });
            line.tick();
        }
        ControlFlow::Continue(())
    });
    line.finish_and_clear();
    if let Ok(Some(measured)) = &measured
        && let Some(fetches) = meter::fetch_line(&measured.reading)
    {
        remark(output, &format!("{test}: {fetches}"));
    }
    Ok(measured?)
}

/// What does not fit may fit with less of it.
fn smaller(error: Error, args: &BenchArgs) -> CliError {
    match error {
        Error::Memory { .. } if args.shape.name.is_some() => {
            CliError::Hinted(error, "use --layers for fewer layers, or a smaller -b or -d".into())
        }
        Error::Memory { .. } => CliError::Hinted(error, "use a smaller model, or a smaller -b or -d".into()),
        other => other.into(),
    }
}

/// Says so if the weights are mapped, which may show in what is measured, or could have been.
fn say_where_from(session: &Session, output: &OutputArgs) {
    if let Some(plan) = session.memory_plan() {
        remark(output, &format!("memory: {}", meter::plan(plan)));
    }
    match session.cache_use() {
        CacheUse::Mapped(path) => {
            let path = path.display().to_string();
            remark(output, &format!("weights are mapped from {}; --no-cache packs them", printable(&path)));
        }
        unused => keeping::warn_of_unused(unused, output),
    }
}

/// Says what runs, and how evenly its routers choose.
fn introduce(session: &mut Session) -> Result<()> {
    let info = session.info();
    let backend = session.backend().info();
    say(&format!(
        "{}: {} layers, {} on {}: {}",
        info.family, info.n_layers, info.attention, backend.name, backend.detail
    ));
    if info.moe.is_some() && info.context >= LOAD_TOKENS {
        let stats = session.expert_load(LOAD_TOKENS)?;
        say(&load_line(&stats));
    }
    Ok(())
}

/// How even the load of the experts is, over all layers.
fn load_line(layers: &[LoadStats]) -> String {
    let jain: Vec<f64> = layers.iter().filter_map(|stats| stats.jain_index).collect();
    let jain = jain.iter().sum::<f64>() / jain.len().max(1) as f64;
    let busiest = layers.iter().filter_map(|stats| stats.max_over_mean).fold(0.0, f64::max);
    let unused: usize = layers.iter().filter_map(|stats| stats.unused.as_ref()).map(Vec::len).sum();
    format!(
        "expert load over {LOAD_TOKENS} random tokens: Jain's index {jain:.3} on average (1 is even), the busiest \
         expert {busiest:.2} times the mean, {unused} without a token"
    )
}
