//! Traces from what other engines return.

use moebius::metering::format::si;
use moebius::trace::{ImportShape, fingerprint, import_trace};
use moebius::{Needs, OpenOptions, inspect};
use serde::Serialize;

use crate::args::{ImportArgs, OutputArgs, saturate};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::json;
use crate::terminal::{printable, say};

#[derive(Serialize)]
struct Report {
    file: String,
    tokens: u64,
    bytes: u64,
}

/// Makes the trace.
pub(crate) fn import(args: &ImportArgs, output: &OutputArgs) -> Result<()> {
    let mut shape = match &args.model {
        None => ImportShape::default(),
        Some(name) => {
            let dir = model_dir(Some(name), Needs::Description, output)?;
            let (info, _) = inspect(&dir, &OpenOptions::default())?;
            ImportShape::of_model(&info, fingerprint(&dir).ok())
        }
    };
    let n_experts = args.n_experts.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    shape.n_experts = n_experts.or(shape.n_experts);
    shape.layers = args.layers.or(shape.layers);
    shape.k = args.k.map(saturate).or(shape.k);
    if shape.n_experts.is_none() {
        let message = "the number of experts of a layer is not known";
        return Err(CliError::usage(message, "give --model DIR, or --n-experts N"));
    }
    let hint = "`moebius trace import --help` says what is read; --model, --layers and --k say its shape";
    let summary = import_trace(&args.input, &args.output, &shape).map_err(|error| match error {
        error @ moebius::Error::Trace { .. } => CliError::Hinted(error, hint.into()),
        error => error.into(),
    })?;
    let file = printable(&summary.path.display().to_string()).into_owned();
    if args.json.json {
        return json::print(&Report { file, tokens: summary.tokens, bytes: summary.bytes });
    }
    if !output.quiet {
        say(&format!("wrote {file}: {} tokens, {}", summary.tokens, si(Some(summary.bytes as f64), "B")));
    }
    Ok(())
}
