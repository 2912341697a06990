//! Writes a model as a GGUF file, version 3: header first, then a tensor at a time.
//!
//! Invariants: the header is complete before the first tensor, from shapes alone; of a tensor no more than a stretch of
//! rows is in memory, and rows that are stored as they are written are copied.

mod delta;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;

use moebius_backend::ExpertSpec;

use super::arch::{self, Facts};
use super::header::{ALIGNMENT, MAGIC};
use super::value::{self, GgufValue};
use crate::checkpoint::rows::{Rows, Sink, finite};
use crate::checkpoint::{Asked, Checkpoint, TensorEntry};
use crate::formats::HeldFormats;
use crate::layers::{BaseConfig, RopeConfig};
use crate::layout::ExpertLayout;
use crate::planned::PlannedRouter;
use crate::{Error, Result};
use tensors::{Content, Source, TensorOut};

/// The version that is written.
const VERSION: u32 = 3;

/// What a model is known by when it is written.
pub(crate) struct Described<'a> {
    /// `model_type` of its family.
    pub(crate) model_type: &'a str,
    /// Its config.json.
    pub(crate) keys: &'a serde_json::Map<String, serde_json::Value>,
    /// Its sizes.
    pub(crate) base: &'a BaseConfig,
    /// All of its rotations.
    pub(crate) ropes: &'a [RopeConfig],
    /// Its routers.
    pub(crate) routers: &'a [PlannedRouter],
    /// Its experts, and where they are stored.
    pub(crate) banks: &'a [(ExpertSpec, ExpertLayout)],
    /// What was asked for.
    pub(crate) asked: &'a BTreeMap<String, Asked>,
    /// What weights are rounded to.
    pub(crate) held: HeldFormats,
}

/// A GGUF file that is to be written.
pub struct GgufFile<'a> {
    checkpoint: &'a Checkpoint,
    pairs: Vec<(String, GgufValue)>,
    tensors: Vec<TensorOut>,
}

impl<'a> GgufFile<'a> {
    /// The file of a model. `more` is what else its metadata says: names, vocabulary, templates.
    ///
    /// # Errors
    /// [`Error::NotInGguf`] for what the format or the architecture cannot hold.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        model: &Described<'_>,
        more: Vec<(String, GgufValue)>,
    ) -> Result<Self> {
        let arch = arch::for_family(model.model_type, model.routers)?;
        let source = Source { checkpoint, arch, model };
        let tensors = source.tensors()?;
        let shapes: BTreeMap<&str, &Vec<usize>> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape)).collect();
        let banks: Vec<ExpertSpec> = model.banks.iter().map(|(spec, _)| spec.clone()).collect();
        let shape = |name: &str| shapes.get(name).map(|shape| (*shape).clone());
        let facts = Facts {
            keys: model.keys,
            base: model.base,
            ropes: model.ropes,
            routers: model.routers,
            banks: &banks,
            shape: &shape,
        };
        let text = |words: &str| GgufValue::Text(words.into());
        let mut pairs = vec![
            ("general.architecture".to_owned(), text(arch.name)),
            ("general.type".to_owned(), text("model")),
            ("general.quantization_version".to_owned(), GgufValue::Count(2)),
            ("general.file_type".to_owned(), GgufValue::Count(file_type(model.held, &tensors))),
        ];
        pairs.extend(arch::pairs(arch, &facts)?);
        let said: BTreeSet<String> = pairs.iter().map(|(key, _)| key.clone()).collect();
        pairs.extend(more.into_iter().filter(|(key, _)| !said.contains(key)));
        Ok(GgufFile { checkpoint, pairs, tensors })
    }

    /// Bytes of the checkpoint that will be read.
    pub fn source_bytes(&self) -> u64 {
        let sources: BTreeSet<&str> = self.tensors.iter().flat_map(TensorOut::sources).collect();
        sources.into_iter().filter_map(|name| self.checkpoint.get(name)).map(|e| e.size_bytes() as u64).sum()
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// A tensor that is too large.
    pub fn size_bytes(&self) -> Result<u64> {
        let header = self.header()?.len() as u64;
        self.tensors.iter().try_fold(header, |sum, tensor| Ok(sum.saturating_add(padded(bytes_of(tensor)?))))
    }

    /// Everything that says what the model is: the header, and tables that are in no tensor of the checkpoint. The weights
    /// follow.
    ///
    /// # Errors
    /// A tensor that is too large.
    pub fn start(&self) -> Result<Vec<u8>> {
        let mut out = self.header()?;
        for tensor in &self.tensors {
            if let Content::Numbers(numbers) = &tensor.content {
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                out.resize(padded(out.len() as u64) as usize, 0);
            }
        }
        Ok(out)
    }

    /// Everything before the first tensor.
    fn header(&self) -> Result<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            value::text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            value::text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
            out.extend(tensor.kind().id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = offset.saturating_add(padded(bytes_of(tensor)?));
        }
        out.resize(padded(out.len() as u64) as usize, 0);
        Ok(out)
    }

    /// Writes the weights, rounded by `threads` threads. `progress` is told how many bytes were read so far and will be in
    /// all; says to stop without an error, and what was written then is no file.
    ///
    /// # Errors
    /// [`Error::Output`] when `out` refuses; a weight that is a NaN or an infinity.
    pub fn write_weights(
        &self,
        out: &mut dyn Write,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let (mut read, total) = (0u64, self.source_bytes());
        let weights = self.tensors.iter().filter(|tensor| !matches!(tensor.content, Content::Numbers(_)));
        for tensor in weights {
            let mut sink = Sink { out: &mut *out, bytes: 0 };
            let mut advance = |bytes: usize| {
                read += bytes as u64;
                progress(read.min(total), total)
            };
            if self.write_tensor(tensor, &mut sink, threads, &mut advance)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            debug_assert_eq!(Some(sink.bytes), tensor.size_bytes(), "{}", tensor.name);
            let padding = padded(sink.bytes) - sink.bytes;
            sink.write(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn write_tensor(
        &self,
        tensor: &TensorOut,
        sink: &mut Sink<'_>,
        threads: usize,
        advance: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let order = tensor.order.as_deref();
        match &tensor.content {
            // Written before.
            Content::Numbers(_) => {}
            Content::Values(runs, len) => {
                for run in runs {
                    let elements = run.first..run.first + (len - 1) * run.step + 1;
                    let values =
                        self.checkpoint.floats_in(&run.name, elements).expect("a plan has found it whole");
                    let values: Vec<f32> = values.into_iter().step_by(run.step).collect();
                    finite(&run.name, &values)?;
                    let at = |index: usize| order.map_or(index, |order| order[index] as usize);
                    let value = |index: usize| tensor.change.apply(values[at(index)]);
                    sink.write_floats(&(0..*len).map(value).collect::<Vec<_>>())?;
                }
                let first = tensor.sources().first().and_then(|name| self.checkpoint.get(name));
                return Ok(advance(first.map_or(0, TensorEntry::size_bytes)));
            }
            Content::Matrices(parts, matrix) => {
                for part in parts {
                    let view = self.checkpoint.matrix((&part.name, part.part), *matrix, tensor.format);
                    let view = view.expect("a plan has found the tensor whole");
                    let rows = Rows {
                        view: &view,
                        format: tensor.format,
                        order,
                        columns: tensor.columns.as_deref(),
                    };
                    rows.write(sink, threads)?;
                    view.release(&view.bytes);
                    if advance(self.checkpoint.stored_bytes(&part.name, *matrix)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn bytes_of(tensor: &TensorOut) -> Result<u64> {
    tensor.size_bytes().ok_or_else(|| Error::NotInGguf {
        what: format!("tensor `{}`", tensor.name),
        reason: "it is too large".into(),
    })
}

fn padded(bytes: u64) -> u64 {
    bytes.saturating_add(ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

/// The number that llama.cpp gives a mix of formats, which it prints and nothing else.
fn file_type(held: HeldFormats, tensors: &[TensorOut]) -> u32 {
    let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
    for tensor in tensors {
        *bytes.entry(tensor.kind().id()).or_default() += tensor.size_bytes().unwrap_or(0);
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(0, |(kind, _)| kind);
    match (held, super::types::TensorType::of(most)) {
        (HeldFormats::Q4KM, _) => 15,
        (HeldFormats::Q5KM, _) => 17,
        (_, Some(kind)) => kind.file_type(),
        (_, None) => 0,
    }
}
