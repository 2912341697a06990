//! `moebius convert`.

use std::ops::ControlFlow;
use std::time::Instant;

use moebius::metering::format::si;
use moebius::{BackendOptions, ConvertOptions, Converted, Needs};
use serde::Serialize;

use crate::args::{ConvertArgs, OutputArgs, saturate};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::terminal::{print, printable};
use crate::{json, progress};

#[derive(Serialize)]
struct Report<'a> {
    path: &'a str,
    format: String,
    source_bytes: u64,
    bytes: u64,
    parameters: u64,
    bits_per_weight: Option<f64>,
    seconds: f64,
}

/// Writes a model for a quick start, or for other programs.
pub(crate) fn convert(args: &ConvertArgs, output: &OutputArgs) -> Result<()> {
    let (model, out) =
        args.places().map_err(|message| CliError::usage(message, "`moebius convert --help` has examples"))?;
    let dir = model_dir(model, Needs::Everything, output)?;
    let format = args.format.held();
    let threads = args.threads.map(saturate);
    let backend = BackendOptions { threads, ..BackendOptions::default() };
    let options = ConvertOptions { backend, format, unpacked: args.unpacked, file_bytes: None };
    let interrupt = Interrupt::install();
    let writing = interrupt.generating();
    let started = Instant::now();
    let converted = progress::with_bar(output, "converting", |bar| {
        moebius::convert(&dir, &out, &options, &mut |bytes, total| {
            bar(bytes, total);
            if writing.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let Some(converted) = converted? else { return Err(CliError::Interrupted) };
    let Converted { source_bytes, bytes, parameters } = converted;
    let path = out.display().to_string();
    let bits_per_weight = converted.bits_per_weight();
    let seconds = started.elapsed().as_secs_f64();
    if args.json.json {
        let (path, format) = (&*path, format.to_string());
        return json::print(&Report {
            path,
            format,
            source_bytes,
            bytes,
            parameters,
            bits_per_weight,
            seconds,
        });
    }
    let size = |bytes: u64| si(Some(bytes as f64), "B");
    let bits = bits_per_weight.map_or(String::new(), |bits| format!(", {bits:.2} bits a weight"));
    let (before, after, path) = (size(source_bytes), size(bytes), printable(&path));
    print(&format!("{before} became {after}{bits}, in {seconds:.1} s: {path}\n"))
}
