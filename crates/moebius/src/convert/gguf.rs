//! Writing a model as a GGUF file.
//!
//! The header is written first and read back as a model: what does not say the same is refused before a weight is rounded.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use moebius_backend::Backend;
use moebius_model::{GgufValue, ModelFiles};

use super::{ConvertOptions, Converted, Watch, threads, write_at_end};
use crate::Result;
use crate::generation_config::GenerationConfig;
use crate::partial::{self, Partial, write_error};
use crate::text::{gguf_copied, gguf_pairs};

/// The file, until it gets its name.
const FILE: &str = "model.gguf";

/// Whether a path is for a GGUF file.
pub(super) fn is_wanted(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Writes `files` to the new file `out`; `None` when `progress` said to stop.
pub(super) fn write(
    files: &ModelFiles,
    backend: &Arc<dyn Backend>,
    out: &Path,
    options: &ConvertOptions,
    progress: Watch<'_>,
) -> Result<Option<Converted>> {
    let info = files.info(backend)?;
    let more = match files.gguf() {
        Some(metadata) => gguf_copied(metadata),
        None => {
            let stops = GenerationConfig::read(files.dir())?.map(|config| config.stop_tokens);
            let eos = stops.filter(|ids| !ids.is_empty()).unwrap_or_else(|| info.eos_token_ids.clone());
            let mut pairs = vec![("general.name".to_owned(), GgufValue::Text(name_of(files.dir())))];
            if let Some(id) = info.bos_token_id {
                pairs.push(("tokenizer.ggml.bos_token_id".to_owned(), GgufValue::Count(id)));
            }
            pairs.extend(gguf_pairs(files.dir(), info.vocab_size, &eos)?);
            pairs
        }
    };
    let file = files.gguf_file(backend, more)?;
    let bytes = file.size_bytes()?;
    partial::check_room(partial::directory_of(out), bytes)?;
    let partial = Partial::beside(out)?;
    let path = partial.file(FILE);
    let mut sink = File::create_new(&path).map_err(write_error(&path))?;
    let whole = sink.write_all(&file.start()?).and_then(|()| sink.set_len(bytes));
    whole.map_err(write_error(&path))?;
    files.check_same(&ModelFiles::open(&path, None)?, backend)?;
    let flow = write_at_end(&path, sink, |out| file.write_weights(out, threads(options), progress))?;
    if flow.is_break() {
        return Ok(None);
    }
    partial.rename_file(FILE, out)?;
    Ok(Some(Converted { source_bytes: file.source_bytes(), bytes, parameters: info.total_parameters() }))
}

/// What a model in a directory is called.
fn name_of(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    dir.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
