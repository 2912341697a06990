//! The commands: one file each.

mod bench;
mod cache;
mod cache_sim;
mod chat;
mod compare;
mod completions;
mod convert;
mod doctor;
mod explain;
mod families;
mod knobs;
mod list;
mod plan;
mod prompt;
mod pull;
mod rm;
mod routing;
mod run;
mod score;
mod show;
mod sweep;
mod trace;
mod twin;

use std::path::PathBuf;

use moebius::bench::{Shape, Subject};
use moebius::{Error, Needs};

use crate::args::{Cli, Command, OutputArgs, ShapeArgs};
use crate::errors::Result;
use crate::terminal;

/// Does what the command line says.
pub(crate) fn dispatch(cli: &Cli) -> Result<()> {
    terminal::set_color(cli.output.color);
    match &cli.command {
        None => run::story(&cli.output),
        Some(Command::Run(args)) => run::run(args, &cli.output),
        Some(Command::Show(args)) => show::show(args, &cli.output),
        Some(Command::Score(args)) => score::score(args, &cli.output),
        Some(Command::Trace(args)) => trace::trace(args, &cli.output),
        Some(Command::Sweep(args)) => sweep::sweep(args, &cli.output),
        Some(Command::Pull(args)) => pull::pull(args, &cli.output),
        Some(Command::List(args)) => list::list(args, &cli.output),
        Some(Command::Rm(args)) => rm::rm(args, &cli.output),
        Some(Command::Convert(args)) => convert::convert(args, &cli.output),
        Some(Command::Cache(args)) => cache::cache(args, &cli.output),
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

/// What is measured: a shape, or a model.
fn subject(shape: &ShapeArgs, model: Option<&str>, output: &OutputArgs) -> Result<Subject> {
    Ok(match &shape.name {
        Some(name) => Subject::Shape { shape: Shape::find(name)?, layers: shape.layers },
        None => Subject::Model(model_dir(model, Needs::Everything, output)?),
    })
}

/// Where a model is, or the default one. What is needed of a hub's model and is not here is downloaded.
fn model_dir(name: Option<&str>, needs: Needs, output: &OutputArgs) -> Result<PathBuf> {
    let Some(name) = name else { return Ok(moebius::bundled_model()?) };
    match moebius::locate_model(name, needs) {
        Err(Error::NotLocal(_)) => pull::download(name, needs, output),
        located => Ok(located?),
    }
}
