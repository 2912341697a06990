//! The commands: one file each.

mod bench;
mod cache;
mod chat;
mod compare;
mod completions;
mod convert;
mod doctor;
mod explain;
mod families;
mod knobs;
mod plan;
mod prompt;
mod routing;
mod run;
mod score;
mod show;
mod sweep;
mod trace;
mod twin;

use std::path::PathBuf;

use crate::args::{Cli, Command};
use crate::errors::Result;
use crate::terminal;

/// Does what the command line says.
pub(crate) fn dispatch(cli: &Cli) -> Result<()> {
    terminal::set_color(cli.output.color);
    match &cli.command {
        None => run::story(&cli.output),
        Some(Command::Run(args)) => run::run(args, &cli.output),
        Some(Command::Show(args)) => show::show(args),
        Some(Command::Score(args)) => score::score(args, &cli.output),
        Some(Command::Trace(args)) => trace::trace(args, &cli.output),
        Some(Command::Sweep(args)) => sweep::sweep(args, &cli.output),
        Some(Command::Convert(args)) => convert::convert(args, &cli.output),
        Some(Command::Cache(args)) => cache::cache(args),
        Some(Command::Bench(args)) => bench::bench(args, &cli.output),
        Some(Command::Twin(args)) => twin::twin(args, &cli.output),
        Some(Command::Compare(args)) => compare::compare(args, &cli.output),
        Some(Command::Explain(args)) => explain::explain(args, &cli.output),
        Some(Command::Plan(args)) => plan::plan(args, &cli.output),
        Some(Command::Families(args)) => families::families(args),
        Some(Command::Doctor(args)) => doctor::doctor(args, &cli.output),
        Some(Command::Knobs(args)) => knobs::knobs(args),
        Some(Command::Completions { shell }) => completions::completions(*shell),
    }
}

/// The directory of a model, or of the default one.
fn model_dir(name: Option<&str>) -> Result<PathBuf> {
    Ok(match name {
        Some(name) => moebius::locate_model(name)?,
        None => moebius::bundled_model()?,
    })
}
