//! `moebius bench layer`.

mod chart;
mod rows;

use std::ops::ControlFlow;

use moebius::bench::{LayerPlan, LayerRow, LayerSession, Progress};
use moebius::{BackendOptions, EnergyMeter};

use crate::args::{LayerArgs, OutputArgs};
use crate::errors::{CliError, Result};
use crate::interrupt::{Generating, Interrupt};
use crate::rows::RowPrinter;
use crate::terminal::{print, remark};
use crate::{energy, progress};
use rows::{Setting, Table};

/// What was measured of one layer.
pub(super) struct Measured {
    plan: LayerPlan,
    setting: Setting,
    rows: Vec<LayerRow>,
}

/// Measures every combination that was asked for.
pub(super) fn layer(args: &LayerArgs, output: &OutputArgs) -> Result<()> {
    let interrupt = Interrupt::install();
    let mut plans = args.plans();
    plans.iter_mut().try_for_each(|(plan, _)| plan.settle())?;
    let mut tokens = args.tokens.clone();
    tokens.sort_unstable();
    tokens.dedup();
    let mut energy = energy::opened(args.watts.watts);
    let mut printer = RowPrinter::new(args.rows.format());
    let table = Table::new(&plans);
    if printer.is_for_people() {
        print(&table.header(&plans)?)?;
    }
    let (mut all, mut stopped) = (Vec::new(), false);
    let generating = interrupt.generating();
    for (plan, options) in &plans {
        let most = tokens.last().copied().unwrap_or(1);
        let session = opened(plan, most, options, output)?;
        let setting = setting(&session, options)?;
        let mut rows = Vec::new();
        for &tokens in &tokens {
            let Some(row) = measure(&session, tokens, &mut energy, &generating, output)? else {
                stopped = true;
                break;
            };
            if printer.is_for_people() {
                print(&table.rows(plan, &setting, &row))?;
            }
            row.cells.iter().try_for_each(|cell| printer.row(rows::record((plan, &setting), &row, cell)))?;
            rows.push(row);
        }
        all.push(Measured { plan: plan.clone(), setting, rows });
        if stopped {
            break;
        }
    }
    printer.finish()?;
    if printer.is_for_people() {
        print(&rows::notes(&all, &energy))?;
    }
    if let Some(path) = &args.plot {
        chart::figure(&all).write(path)?;
        remark(output, &format!("drawn into {}", path.display()));
    }
    if stopped { Err(CliError::Interrupted) } else { Ok(()) }
}

/// Makes and loads a layer, with a line on the terminal.
fn opened(
    plan: &LayerPlan,
    most_tokens: usize,
    options: &BackendOptions,
    output: &OutputArgs,
) -> Result<LayerSession> {
    let line = progress::line(output);
    line.set_message(format!("making {} experts of {} x {} ...", plan.n_experts, plan.hidden, plan.ffn));
    line.tick();
    let session = LayerSession::open(plan, most_tokens, options).map_err(smaller);
    line.finish_and_clear();
    session
}

fn setting(session: &LayerSession, options: &BackendOptions) -> Result<Setting> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    Ok(Setting {
        backend: session.backend().info().name,
        kernels: moebius::kernel_name()?,
        threads: options.threads.unwrap_or(cores),
        cpu: moebius::cpu_name(),
        replayed_tokens: session.replayed_tokens(),
    })
}

/// Measures one number of tokens with a line on the terminal; `None` after Ctrl-C.
fn measure(
    session: &LayerSession,
    tokens: usize,
    energy: &mut EnergyMeter,
    generating: &Generating<'_>,
    output: &OutputArgs,
) -> Result<Option<LayerRow>> {
    let line = progress::line(output);
    let measured = session.measure(tokens, energy, &mut |Progress { sample, samples }| {
        if generating.stopped() {
            return ControlFlow::Break(());
        }
        line.set_message(match sample {
            0 => format!("{tokens} tokens: warming up"),
            _ => format!("{tokens} tokens: sample {sample} of {samples}"),
        });
        line.tick();
        ControlFlow::Continue(())
    });
    line.finish_and_clear();
    Ok(measured?)
}

/// What does not fit may fit with less of it.
fn smaller(error: moebius::Error) -> CliError {
    match error {
        moebius::Error::Memory { .. } => {
            CliError::Hinted(error, "use fewer --experts, fewer --tokens or a smaller --format".into())
        }
        other => other.into(),
    }
}
