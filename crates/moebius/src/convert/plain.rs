//! Writing a model as a checkpoint of the hub: config.json, safetensors files of plain numbers, and what concerns text.
//!
//! Headers are written first and read back as a model: what does not say the same is refused before a weight is rounded.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use moebius_backend::{Backend, WeightFormat};
use moebius_model::{Error as ModelError, HeldFormats, ModelFiles};

use super::{CONFIG, ConvertOptions, Converted, Watch, threads, write as write_new, write_at_end};
use crate::partial::{self, Partial, write_error};
use crate::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a file, as the programs of the hub cut them.
const FILE_BYTES: u64 = 5_000_000_000;

/// Writes configuration and weights into a directory that has neither; `None` when `progress` said to stop.
pub(super) fn write(
    files: &ModelFiles,
    backend: &Arc<dyn Backend>,
    partial: &Partial,
    options: &ConvertOptions,
    progress: Watch<'_>,
) -> Result<Option<Converted>> {
    let parameters = files.info(backend)?.total_parameters();
    let format = match options.format {
        HeldFormats::Uniform(format @ (WeightFormat::Bf16 | WeightFormat::F16 | WeightFormat::F32)) => format,
        other => return Err(Error::Unpacked("bf16, f16 or f32", other.to_string())),
    };
    let config = files.plain_config(format)?;
    let plain = files.plain_files(backend, &config, format, options.file_bytes.unwrap_or(FILE_BYTES))?;
    let bytes = plain.size_bytes();
    partial::check_room(partial::directory_of(partial.path()), bytes)?;
    write_new(config.as_bytes(), &partial.file(CONFIG))?;
    if let Some(index) = plain.index() {
        write_new(index.as_bytes(), &partial.file(INDEX))?;
    }
    let mut sinks = Vec::new();
    for (number, name) in plain.names().iter().enumerate() {
        let path = partial.file(name);
        let mut sink = File::create_new(&path).map_err(write_error(&path))?;
        let begun =
            sink.write_all(&plain.header(number)).and_then(|()| sink.set_len(plain.file_bytes(number)));
        begun.map_err(write_error(&path))?;
        sinks.push((path, sink));
    }
    let written = ModelFiles::open(partial.path(), None)?;
    files.check_same(&written, backend).map_err(|error| match error {
        ModelError::NotInGguf { what, reason } => ModelError::NotPlain { what, reason },
        other => other,
    })?;
    let (mut read, total) = (0, plain.source_bytes());
    let mut advance = |bytes: u64| {
        read += bytes;
        progress(read.min(total), total)
    };
    for (number, (path, sink)) in sinks.into_iter().enumerate() {
        let weights = |out: &mut dyn Write| plain.write_weights(number, out, threads(options), &mut advance);
        if write_at_end(&path, sink, weights)?.is_break() {
            return Ok(None);
        }
    }
    Ok(Some(Converted { source_bytes: total, bytes, parameters }))
}
