//! Keeping the packed weights of a model before it is opened.
//!
//! Invariants: a person who asks for an answer gets it: a disk that refuses costs a warning, and the weights are packed in
//! memory.

use std::ops::ControlFlow;
use std::path::Path;

use moebius::metering::format::si;
use moebius::{CacheUse, Cached, ConvertOptions, Error, OpenOptions};

use crate::args::OutputArgs;
use crate::errors::{self, CliError, Result};
use crate::interrupt::Interrupt;
use crate::progress;
use crate::terminal::{printable, remark};

/// Packs the model in `dir` into the cache, unless it is there. The first Ctrl-C leaves nothing behind.
pub(crate) fn keep(
    dir: &Path,
    options: &OpenOptions,
    interrupt: &Interrupt,
    output: &OutputArgs,
) -> Result<()> {
    let Some(cache) = &options.cache else {
        warn_of_refusal(&Error::NoCachePlace, output);
        return Ok(());
    };
    let packing = ConvertOptions {
        backend: options.backend.clone(),
        format: options.format,
        ..ConvertOptions::default()
    };
    let writing = interrupt.generating();
    let cached = progress::with_bar(output, "packing", |bar| {
        cache.pack(dir, &packing, &mut |bytes, total| {
            bar(bytes, total);
            if writing.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    match cached {
        Ok(None) => Err(CliError::Interrupted),
        Ok(Some(Cached::Packed { path, converted })) => {
            let (size, path) = (si(Some(converted.bytes as f64), "B"), path.display().to_string());
            remark(output, &format!("kept the packed weights, {size}: {}", printable(&path)));
            Ok(())
        }
        Ok(Some(Cached::Found(_) | Cached::NotNeeded)) => Ok(()),
        Err(error @ (Error::Write { .. } | Error::DiskSpace { .. } | Error::SourceChanged(_))) => {
            warn_of_refusal(&error, output);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Says so if there is a copy that was not used.
pub(crate) fn warn_of_unused(cache_use: &CacheUse, output: &OutputArgs) {
    match cache_use {
        CacheUse::Outdated(_) => {
            remark(output, "the model has changed since its packed copy was made; --cache packs it anew");
        }
        CacheUse::Unusable(error) if !output.quiet => {
            errors::warn("a packed copy of the model is left aside", error);
        }
        _ => {}
    }
}

fn warn_of_refusal(error: &Error, output: &OutputArgs) {
    if !output.quiet {
        errors::warn("the packed weights are not kept", error);
    }
}
