//! Writing a model with its weights as the kernels hold them, so that it starts without packing any; or as a GGUF file; or
//! as a checkpoint of the hub.
//!
//! Invariants: what stands at the target is whole: files are written into a directory beside it, which is renamed at the
//! end and removed when something goes wrong. What a killed program leaves behind has another name, harms nobody, and is
//! removed by the next conversion to the same place.

mod gguf;
mod plain;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use moebius_backend::Backend;
use moebius_model::{Error as ModelError, HeldFormats, ModelFiles};

use crate::backend::{BackendOptions, open_backend};
use crate::partial::{self, Partial, refuse_existing, write_error};
use crate::text::gguf_files;
use crate::{Error, Result};

/// Files beside the weights that say how a model is used, or under which terms; those that are there are copied.
const COMPANIONS: [&str; 15] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "NOTICE.txt",
];
/// A directory of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
const CONFIG: &str = "config.json";
/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// The file that packed weights are written to.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// How to convert a model.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// What packs it.
    pub backend: BackendOptions,
    /// What weights are rounded to, whatever they are stored in.
    pub format: HeldFormats,
    /// Whether the directory is for other programs: plain numbers in bf16, f16 or f32, under the names that checkpoints of
    /// the hub have.
    pub unpacked: bool,
    /// Most bytes of each of its files, or one tensor more; 5 GB unless told otherwise.
    pub file_bytes: Option<u64>,
}

/// What a conversion read and wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the weights that were read.
    pub source_bytes: u64,
    /// Bytes of the files that hold them now.
    pub bytes: u64,
    /// Parameters of the model.
    pub parameters: u64,
}

impl Converted {
    /// Bits of a parameter in the file, padding included; `None` for a model without parameters.
    #[must_use]
    pub fn bits_per_weight(&self) -> Option<f64> {
        (self.parameters > 0).then(|| self.bytes as f64 * 8.0 / self.parameters as f64)
    }
}

/// Writes the model in the directory or GGUF file `model` to the new directory `out`, its weights rounded and packed as
/// [`crate::Model::open`] would hold them. Opening that maps them and copies none, and gives the same bits. The file
/// serves every little-endian machine, whatever its instruction set. Where `out` ends in `.gguf`, it is a GGUF file with
/// the same weights, for other programs; with [`ConvertOptions::unpacked`] the directory is one for other programs.
/// `progress` is told the bytes read so far and in all after every matrix; `None`
/// when it said to stop, and then nothing is left at `out`.
///
/// # Errors
/// [`Error::OutputExists`] when something is at `out` already; [`Error::DiskSpace`] and [`Error::Write`]; those of
/// [`crate::Model::open`] for the source, its weights looked at one by one; a source that is packed already; for other
/// programs a model that their files cannot hold; [`Error::Unpacked`].
pub fn convert(
    model: impl AsRef<Path>,
    out: impl AsRef<Path>,
    options: &ConvertOptions,
    progress: Watch<'_>,
) -> Result<Option<Converted>> {
    let (model, out) = (model.as_ref(), out.as_ref());
    refuse_existing(out)?;
    let files = ModelFiles::open(model, None)?.hold(options.format);
    if files.checkpoint_bytes().is_none() {
        return Err(Error::NoWeights(model.into()));
    }
    let backend = open_backend(&options.backend)?;
    partial::sweep_beside(out);
    if gguf::is_wanted(out) {
        if options.unpacked {
            return Err(Error::Unpacked("a directory", out.display().to_string()));
        }
        return gguf::write(&files, &backend, out, options, progress);
    }
    let partial = Partial::beside(out)?;
    match files.gguf() {
        Some(metadata) => {
            for (name, content) in gguf_files(metadata)? {
                write(&content, &partial.file(name))?;
            }
        }
        None => copy_companions(files.dir(), partial.path())?,
    }
    let converted = if options.unpacked {
        plain::write(&files, &backend, &partial, options, progress)?
    } else {
        match files.gguf_config() {
            Some(config) => write(config.as_bytes(), &partial.file(CONFIG))?,
            None => copy(files.config_path(), &partial.file(CONFIG))?,
        }
        write_weights(&files, &backend, &partial, progress)?
    };
    if converted.is_some() {
        partial.rename(out)?;
    }
    Ok(converted)
}

/// Told the bytes read so far and in all; says whether to go on.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Writes the weights of `files`, packed, into a directory that has none yet; `None` when `progress` said to stop.
pub(crate) fn write_weights(
    files: &ModelFiles,
    backend: &Arc<dyn Backend>,
    partial: &Partial,
    progress: Watch<'_>,
) -> Result<Option<Converted>> {
    let parameters = files.info(backend)?.total_parameters();
    let needed_bytes = files.packed_bytes(backend)?;
    partial::check_room(partial::directory_of(partial.path()), needed_bytes)?;
    let path = partial.file(WEIGHTS);
    let mut file = File::create_new(&path).map_err(write_error(&path))?;
    let written = files.write_packed(backend, &mut file, progress).map_err(|error| match error {
        ModelError::Output(source) => write_error(&path)(source),
        other => other.into(),
    })?;
    let Some(source_bytes) = written else { return Ok(None) };
    file.sync_all().map_err(write_error(&path))?;
    let bytes = file.metadata().map_err(write_error(&path))?.len();
    debug_assert_eq!(bytes, needed_bytes);
    Ok(Some(Converted { source_bytes, bytes, parameters }))
}

/// Writes weights at the end of the file at `path`, and has the system keep it; break when `weights` said to stop.
fn write_at_end(
    path: &Path,
    file: File,
    weights: impl FnOnce(&mut dyn Write) -> moebius_model::Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut buffer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let flow = weights(&mut buffer).map_err(|error| match error {
        ModelError::Output(source) => write_error(path)(source),
        other => other.into(),
    })?;
    if flow.is_continue() {
        let file = buffer.into_inner().map_err(|error| write_error(path)(error.into_error()))?;
        file.sync_all().map_err(write_error(path))?;
    }
    Ok(flow)
}

/// Threads that round weights.
fn threads(options: &ConvertOptions) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    options.backend.threads.unwrap_or_else(cores)
}

/// Copies contents and not permissions: what is written can be replaced.
fn copy(from: &Path, to: &Path) -> Result<()> {
    write(&fs::read(from).map_err(|source| ModelError::Io { path: from.into(), source })?, to)
}

/// Writes a file that was not there.
fn write(content: &[u8], to: &Path) -> Result<()> {
    let mut file = File::create_new(to).map_err(write_error(to))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(write_error(to))
}

/// Copies what lies beside the weights in `from` and is a file.
fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        if from.join(name).is_file() {
            copy(&from.join(name), &to.join(name))?;
        }
    }
    let Ok(templates) = fs::read_dir(from.join(TEMPLATES)) else { return Ok(()) };
    let to = to.join(TEMPLATES);
    fs::create_dir(&to).map_err(write_error(&to))?;
    for path in templates.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        if let Some(name) = path.file_name() {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}
