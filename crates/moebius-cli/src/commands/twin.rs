//! `moebius twin`.

mod rows;

use std::ops::ControlFlow;

use moebius::bench::{Progress, Subject};
use moebius::text::Tokenizer;
use moebius::{EnergyMeter, Error, TwinRow, TwinSession, TwinText};

use crate::args::{OutputArgs, TwinArgs};
use crate::commands::subject;
use crate::errors::{CliError, Result};
use crate::interrupt::{Generating, Interrupt};
use crate::rows::RowPrinter;
use crate::terminal::print;
use crate::{energy, progress};
use rows::{Setting, Table};

/// What is read where nothing else is asked for.
const PROMPT: &str = "Once upon a time, there was a little robot who lived in a garden.";
/// What a shape reads, which has no tokenizer.
const RANDOM_PROMPT: usize = 16;
/// Runs the forms beside each other.
pub(crate) fn twin(args: &TwinArgs, output: &OutputArgs) -> Result<()> {
    let interrupt = Interrupt::install();
    let subject = subject(&args.shape, args.model.as_deref(), output)?;
    let ids = prompt(&subject, args)?;
    let (prompt_tokens, batches) = (ids.as_ref().map_or(RANDOM_PROMPT, Vec::len), args.batches());
    let chunks = batches.last().copied().unwrap_or(1); // a prompt may wait for as many others
    let context = match &subject {
        Subject::Model(_) => prompt_tokens + args.generate,
        Subject::Shape { .. } => prompt_tokens.saturating_add(args.generate).saturating_add(chunks),
    };
    let options = args.open_options();
    let mut energy = energy::opened(args.watts.watts);
    let opened =
        progress::with_bar(output, "loading", |bar| TwinSession::open(&subject, context, &options, bar));
    let mut session = opened.map_err(smaller)?;
    let ids = ids.unwrap_or_else(|| session.random_prompt(RANDOM_PROMPT, 0));
    let text = session.text(ids, args.generate)?;
    let fits = |&batch: &usize| session.positions(&text, batch) <= session.info().context;
    let (batches, too_many): (Vec<usize>, Vec<usize>) = batches.into_iter().partition(fits);
    let proof = session.prove(&text)?;
    let setting = Setting::new(&subject, &session, &text, (proof, options.backend.threads))?;
    let mut printer = RowPrinter::new(args.rows.format());
    if printer.is_for_people() {
        print(&rows::heading(&setting))?;
    }
    let (mut measured, generating) = (Vec::new(), interrupt.generating());
    for &batch in &batches {
        let sizes = (batch, args.repetitions);
        let Some(row) = measure(&mut session, &text, sizes, (&mut energy, &generating), output)? else {
            printer.finish()?;
            return Err(CliError::Interrupted);
        };
        if printer.is_for_people() && measured.is_empty() {
            print(&Table::forms(&row))?;
            print(&Table::savings(&row))?;
        }
        rows::records(&setting, &row).into_iter().try_for_each(|record| printer.row(record))?;
        measured.push(row);
    }
    if printer.is_for_people() {
        print(&Table::batches(&setting, &measured))?;
        print(&rows::notes(&setting, &measured, (&too_many, &energy)))?;
    }
    printer.finish()
}

/// The ids of the prompt; `None` for a shape, which has no text.
fn prompt(subject: &Subject, args: &TwinArgs) -> Result<Option<Vec<u32>>> {
    let Subject::Model(dir) = subject else { return Ok(None) };
    let text = args.prompt.as_deref().unwrap_or(PROMPT);
    let ids = Tokenizer::from_dir(dir)?.encode(text, true)?;
    match ids.is_empty() {
        true => Err(CliError::usage("the prompt is empty", "give some words after --prompt")),
        false => Ok(Some(ids)),
    }
}

/// Measures one batch with a line on the terminal; `None` after Ctrl-C.
fn measure(
    session: &mut TwinSession,
    text: &TwinText,
    sizes: (usize, usize),
    (energy, generating): (&mut EnergyMeter, &Generating<'_>),
    output: &OutputArgs,
) -> Result<Option<TwinRow>> {
    let (line, batch) = (progress::line(output), sizes.0);
    let measured = session.measure(text, sizes, energy, &mut |Progress { sample, samples }| {
        if generating.stopped() {
            return ControlFlow::Break(());
        }
        line.set_message(match sample {
            0 => format!("batch of {batch}: warming up"),
            _ => format!("batch of {batch}: sample {sample} of {samples}"),
        });
        line.tick();
        ControlFlow::Continue(())
    });
    line.finish_and_clear();
    Ok(measured?)
}

/// What does not fit may fit with less of it.
fn smaller(error: Error) -> CliError {
    match error {
        Error::Memory { .. } => {
            CliError::Hinted(error, "use a smaller model or --format, or --shape with fewer --layers".into())
        }
        other => other.into(),
    }
}
