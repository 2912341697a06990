//! A model as other programs read it: a config.json and safetensors files of plain numbers.
//!
//! A checkpoint that has its tensors in the shapes of the hub keeps all of them, under their names. Where tensors are in
//! another form, as in GGUF files and MXFP4, the family is asked twice: what it would want of a checkpoint of the hub, and
//! what it wants of this one. It asks in the same order, so that the first says where goes what the second finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use moebius_backend::{Backend, WeightFormat};
use serde_json::{Map, Value};

use super::{ModelFiles, no_checkpoint};
use crate::checkpoint::{Checkpoint, Piece, PlainFiles, PlainTensor, is_covered};
use crate::config::Config;
use crate::families;
use crate::layout::{Stored, StoredValues};
use crate::loader::{Loader, Request};
use crate::{Error, Result};

/// The key that says how weights are scaled.
const QUANTIZATION: &str = "quantization_config";
/// Keys that say what weights are stored in: the older one, which every reader knows, first.
const DTYPES: [&str; 2] = ["torch_dtype", "dtype"];

impl ModelFiles {
    /// The text of the config.json of the model once its weights are plain numbers in `format`.
    ///
    /// # Errors
    /// A config.json that cannot be read; [`Error::NotPlain`] for a GGUF file that says what no config.json can.
    pub fn plain_config(&self, format: WeightFormat) -> Result<String> {
        let config = match &self.gguf {
            Some((_, text)) => Config::parse(text)?,
            None => Config::read(&self.config)?,
        };
        let mut keys = config.values().clone();
        if self.gguf.is_some() {
            refuse_foreign(&keys)?;
        }
        keys.remove(QUANTIZATION);
        if !DTYPES.iter().any(|key| keys.contains_key(*key)) {
            keys.insert(DTYPES[0].into(), Value::Null);
        }
        name_dtype(&mut keys, format);
        Ok(serde_json::to_string_pretty(&keys).expect("plain data can be written"))
    }

    /// The files that hold the weights as plain numbers in `format`, of at most `file_bytes` each or one tensor more, for
    /// a `config` of [`ModelFiles::plain_config`].
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`]; [`Error::PackedAlready`]; [`Error::NotPlain`] for weights that are in a form which
    /// the hub's checkpoints do not have.
    pub fn plain_files(
        &self,
        backend: &Arc<dyn Backend>,
        config: &str,
        format: WeightFormat,
        file_bytes: u64,
    ) -> Result<PlainFiles<'_>> {
        let Some(checkpoint) = &self.checkpoint else { return Err(no_checkpoint()) };
        if let Some(held) = self.weights().and_then(Checkpoint::packing) {
            return Err(Error::PackedAlready { held: held.to_string() });
        }
        self.plan(backend)?;
        let tensors = if self.gguf.is_none() && checkpoint.is_in_place() {
            PlainFiles::tensors_of(checkpoint)
        } else {
            rearranged(&self.requests(backend, config)?)?
        };
        Ok(PlainFiles::new(checkpoint, tensors, format, file_bytes))
    }

    /// What the family would ask of a checkpoint with this config.json, and what it asks of this one.
    fn requests(&self, backend: &Arc<dyn Backend>, config: &str) -> Result<[Vec<Request>; 2]> {
        let config = Config::parse(config)?.into_text_part();
        let architecture = (families::find(&config)?.read)(&config)?;
        let wanted = Loader::inventory(backend).trailing();
        architecture.load(&wanted)?;
        let found = Loader::plan(backend, self.weights(), self.held()?).trailing();
        self.architecture.load(&found)?;
        found.check()?;
        Ok([wanted, found].map(Loader::into_trail))
    }
}

/// The tensors of a checkpoint of the hub, put together from what lies elsewhere in another form.
fn rearranged([wanted, found]: &[Vec<Request>; 2]) -> Result<Vec<PlainTensor>> {
    let mut tensors: BTreeMap<&str, PlainTensor> = BTreeMap::new();
    for (wanted, found) in wanted.iter().zip(found) {
        let (to, from) = (wanted.name(), found.name());
        let other_form = || refused(to, format!("it is stored as `{from}`, in another form"));
        if !is_same(to, from) {
            return Err(other_form());
        }
        let (shape, piece) = match (wanted, found) {
            (Request::Matrix(to, matrix), Request::Matrix(from, theirs)) if matrix == theirs => {
                (&to.shape, Piece::Matrix { from: from.clone(), to: to.part, matrix: *matrix })
            }
            (Request::Values(to, len), Request::Values(from, theirs)) if len == theirs => {
                (&to.shape, Piece::Values { from: from.clone(), to: to.clone(), len: *len })
            }
            _ => return Err(other_form()),
        };
        let new = || PlainTensor { name: to.to_owned(), shape: shape.clone(), pieces: Vec::new() };
        tensors.entry(to).or_insert_with(new).pieces.push(piece);
    }
    if wanted.len() != found.len() {
        let more = wanted.get(found.len()).or(found.get(wanted.len())).map_or("a tensor", Request::name);
        return Err(refused(more, "it has no counterpart".into()));
    }
    let tensors: Vec<PlainTensor> = tensors.into_values().collect();
    match tensors.iter().find(|tensor| !is_covered(tensor)) {
        None => Ok(tensors),
        Some(tensor) => Err(refused(&tensor.name, "parts of it are stored nowhere".into())),
    }
}

/// Whether a tensor of the hub has the elements of another one as they are. Experts lie in stacks, and latent attention has
/// its up-projections apart; whatever else has another name is something else, such as the logarithm.
fn is_same(to: &str, from: &str) -> bool {
    let up = |name: &str| {
        let stem = ["kv_b_proj.weight", "k_b_proj.weight", "v_b_proj.weight"];
        stem.iter().find_map(|ending| name.strip_suffix(&format!(".{ending}")).map(str::to_owned))
    };
    let is_expert = from.starts_with("blk.") && from.contains("_exps.");
    to == from || is_expert || up(to).is_some_and(|prefix| up(from) == Some(prefix))
}

impl Request {
    fn name(&self) -> &str {
        match self {
            Request::Matrix(Stored { name, .. }, _) | Request::Values(StoredValues { name, .. }, _) => name,
        }
    }
}

fn refused(name: &str, reason: String) -> Error {
    Error::NotPlain { what: format!("tensor `{name}`"), reason }
}

/// Fails for what was made up for GGUF files alone: tables of factors, and orders of heads that only they have.
fn refuse_foreign(keys: &Map<String, Value>) -> Result<()> {
    let scaling = keys.get("rope_scaling").and_then(|scaling| scaling.get("rope_type")?.as_str());
    let what = match scaling {
        Some("factors") => "the scaling of its positions",
        _ if keys.contains_key("linear_value_heads_tiled") => "the order of its value heads",
        _ => return Ok(()),
    };
    let reason = "a GGUF file has a table for it, and a config.json no words".into();
    Err(Error::NotPlain { what: what.into(), reason })
}

/// Says what weights are stored in wherever a configuration does, parts of multimodal models included.
fn name_dtype(keys: &mut Map<String, Value>, format: WeightFormat) {
    let name = match format {
        WeightFormat::Bf16 => "bfloat16",
        WeightFormat::F16 => "float16",
        _ => "float32",
    };
    for (key, value) in keys.iter_mut() {
        match value {
            Value::Object(part) => name_dtype(part, format),
            value if DTYPES.contains(&key.as_str()) => *value = name.into(),
            _ => {}
        }
    }
}
