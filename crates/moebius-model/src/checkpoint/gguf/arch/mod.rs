//! What models are called in GGUF files: architectures, metadata keys and tensor names beside those of Hugging Face.
//!
//! An architecture is an entry of [`ARCHITECTURES`], data; what is no renaming is a function beside the table.

mod list;
mod more;

use serde_json::{Map, Value};

use super::metadata::GgufMetadata;
use crate::Result;

use list::{ARCHITECTURES, BLOCK_NAMES, KEYS, OUTER_NAMES};

/// The keys of a config.json.
pub(super) type Keys = Map<String, Value>;

/// How one architecture is written down in GGUF files.
pub(super) struct Arch {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of config.json.
    pub(super) model_type: &'static str,
    /// Metadata keys, without the architecture, and the keys of config.json that say the same, besides [`KEYS`].
    pub(super) keys: &'static [(&'static str, &'static str)],
    /// What config.json says of every model of the architecture, as JSON.
    pub(super) fixed: &'static str,
    /// Names within a layer that differ from [`BLOCK_NAMES`] or are not there.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// Names outside of layers that differ from [`OUTER_NAMES`].
    pub(super) outer: &'static [(&'static str, &'static str)],
    /// Whether rows of queries and keys stand in pairs that are rotated together, where Hugging Face has halves.
    pub(super) paired: bool,
    /// What else config.json needs.
    pub(super) read: fn(&Source<'_>, &mut Keys) -> Result<()>,
}

/// A file whose configuration is read.
pub(super) struct Source<'a> {
    pub(super) metadata: &'a GgufMetadata,
    /// `general.architecture`, as the prefix of keys.
    pub(super) arch: &'a str,
    /// The shape of a tensor, outermost first.
    pub(super) shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
}

impl Source<'_> {
    /// The value of `{arch}.{key}` as JSON: of a list whose elements are the same, one of them.
    fn value(&self, key: &str) -> Result<Option<Value>> {
        self.metadata.json(&format!("{}.{key}", self.arch))
    }

    /// A whole number of `{arch}.{key}`.
    fn count(&self, key: &str) -> Result<Option<u64>> {
        let key = format!("{}.{key}", self.arch);
        if self.metadata.is_list(&key) {
            let numbers = self.metadata.numbers(&key)?.unwrap_or_default();
            return Ok(numbers.iter().copied().reduce(f64::max).map(|n| n as u64));
        }
        self.metadata.count(&key)
    }

    /// A number of `{arch}.{key}`.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.number(&format!("{}.{key}", self.arch))
    }

    /// As [`Source::count`], of a key that must be there.
    fn need(&self, key: &str) -> Result<u64> {
        let missing = || self.metadata.invalid(format!("metadata `{}.{key}` is missing", self.arch));
        self.count(key)?.ok_or_else(missing)
    }
}

/// The architecture called `name` in GGUF files.
pub(super) fn find(metadata: &GgufMetadata, name: &str) -> Result<&'static Arch> {
    ARCHITECTURES.iter().find(|arch| arch.name == name).ok_or_else(|| {
        let known = ARCHITECTURES.iter().map(|arch| format!("`{}`", arch.name)).collect::<Vec<_>>();
        let name: String = name.chars().take(80).collect();
        metadata.invalid(format!("architecture: expected one of {}, got `{name}`", known.join(", ")))
    })
}

/// The config.json that `source` stands for.
pub(super) fn config(arch: &Arch, source: &Source<'_>) -> Result<Keys> {
    let mut keys: Keys = serde_json::from_str(arch.fixed).expect("the table holds objects");
    keys.insert("model_type".into(), arch.model_type.into());
    for (theirs, ours) in KEYS.iter().chain(arch.keys) {
        if let Some(value) = source.value(theirs)? {
            keys.insert((*ours).into(), value);
        }
    }
    let layers = source.need("block_count")?;
    let mtp = source.count("nextn_predict_layers")?.unwrap_or(0);
    keys.insert("num_hidden_layers".into(), layers.saturating_sub(mtp).into());
    let vocab = (source.shape)("token_embd.weight").and_then(|shape| shape.first().copied());
    let missing = || source.metadata.invalid("tensor `token_embd.weight` is missing".into());
    keys.insert("vocab_size".into(), vocab.ok_or_else(missing)?.into());
    keys.insert("tie_word_embeddings".into(), (source.shape)("output.weight").is_none().into());
    for (theirs, ours) in [("bos", "bos_token_id"), ("eos", "eos_token_id")] {
        if let Some(id) = source.metadata.count(&format!("tokenizer.ggml.{theirs}_token_id"))? {
            keys.insert(ours.into(), id.into());
        }
    }
    if let Some(scaling) = more::rope_scaling(source)? {
        keys.insert("rope_scaling".into(), scaling);
    }
    (arch.read)(source, &mut keys)?;
    Ok(keys)
}

/// The Hugging Face name of a tensor, and the number of its layer; `None` for one that no family asks for.
pub(super) fn translate(arch: &Arch, name: &str) -> Option<String> {
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return renamed(&[arch.outer, OUTER_NAMES], name);
    };
    layer.parse::<u16>().ok()?;
    let rest = renamed(&[arch.names, BLOCK_NAMES], rest)?;
    Some(format!("model.layers.{layer}.{rest}"))
}

/// The other name of `name` in the first table that has it, with or without its ending.
fn renamed(tables: &[&[(&str, &str)]], name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    tables.iter().flat_map(|table| table.iter()).find_map(|(theirs, ours)| {
        if *theirs == name {
            Some((*ours).to_owned())
        } else {
            (*theirs == stem).then(|| format!("{ours}.{ending}"))
        }
    })
}
