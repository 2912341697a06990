//! `moebius trace`.

mod devices;
mod export;
mod import;
mod plot;
mod show;
mod stats;

use crate::args::{OutputArgs, TraceArgs, TraceCommand};
use crate::errors::Result;

/// Does what was asked for with traces.
pub(crate) fn trace(args: &TraceArgs, output: &OutputArgs) -> Result<()> {
    match &args.command {
        TraceCommand::Show(args) => show::show(args, output),
        TraceCommand::Stats(args) => stats::stats(args, output),
        TraceCommand::Devices(args) => devices::devices(args, output),
        TraceCommand::Export(args) => export::export(args, output),
        TraceCommand::Plot(args) => plot::plot(args, output),
        TraceCommand::Import(args) => import::import(args, output),
    }
}
