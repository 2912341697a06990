//! `--trace`: a trace beside whatever a model does.

use moebius::Model;
use moebius::metering::format::si;

use crate::args::{OutputArgs, TraceArg};
use crate::errors::Result;
use crate::terminal::{printable, remark};

/// Begins the trace that was asked for, if one was.
pub(crate) fn start(model: &mut Model, args: &TraceArg) -> Result<()> {
    match &args.trace {
        Some(path) => Ok(model.start_trace(path, args.trace_mode)?),
        None => Ok(()),
    }
}

/// Ends it, and says where it is.
pub(crate) fn finish(model: &mut Model, output: &OutputArgs) -> Result<()> {
    if let Some(summary) = model.finish_trace()? {
        let size = si(Some(summary.bytes as f64), "B");
        let path = summary.path.display().to_string();
        remark(output, &format!("trace: {} tokens, {size}: {}", summary.tokens, printable(&path)));
    }
    Ok(())
}
