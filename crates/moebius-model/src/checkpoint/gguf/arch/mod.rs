//! What models are called in GGUF files: architectures, metadata keys and tensor names beside those of Hugging Face.
//!
//! An architecture is an entry of [`architectures`], data; what is no renaming is a function beside the table.

mod list;
mod more;
mod pairs;
mod said;

use serde_json::{Map, Value};

use super::metadata::GgufMetadata;
use crate::Result;

use list::{BLOCK_NAMES, KEYS, OUTER_NAMES, architectures};
pub(super) use pairs::{Facts, Pairs, for_family, pairs};

/// The keys of a config.json.
pub(super) type Keys = Map<String, Value>;

/// How one architecture is written down in GGUF files.
pub(super) struct Arch {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of config.json.
    pub(super) model_type: &'static str,
    /// Other values of it that are of the architecture, too.
    pub(super) also: &'static [&'static str],
    /// Metadata keys, without the architecture, and the keys of config.json that say the same, besides [`KEYS`].
    pub(super) keys: &'static [(&'static str, &'static str)],
    /// What config.json says of every model of the architecture, as JSON.
    pub(super) fixed: &'static str,
    /// Names within a layer that differ from [`BLOCK_NAMES`] or are not there.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// What the names of layers begin with, up to their numbers.
    pub(super) layers: &'static str,
    /// Names outside of layers that differ from [`OUTER_NAMES`].
    pub(super) outer: &'static [(&'static str, &'static str)],
    /// Tensors of a layer whose rows files have in several, one after another.
    pub(super) joined: &'static [(&'static str, &'static [&'static str])],
    /// Whether the weights of norms are one more in files than in checkpoints.
    pub(super) norms_plus_one: bool,
    /// Whether routers take sigmoids, where families of several architectures share a `model_type`.
    pub(super) sigmoid: Option<bool>,
    /// Whether files may have a table of factors on rotations.
    pub(super) tables: bool,
    /// Whether rows of queries and keys stand in pairs that are rotated together, where Hugging Face has halves.
    pub(super) paired: bool,
    /// What else config.json needs.
    pub(super) read: fn(&Source<'_>, &mut Keys) -> Result<()>,
    /// What else metadata needs, where config.json says it in other words.
    pub(super) write: fn(&Facts<'_>, &mut Pairs) -> Result<()>,
}

/// A file whose configuration is read.
pub(super) struct Source<'a> {
    pub(super) metadata: &'a GgufMetadata,
    /// `general.architecture`, as the prefix of keys.
    pub(super) arch: &'a str,
    /// The shape of a tensor, outermost first.
    pub(super) shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The elements of a tensor in f32.
    pub(super) values: &'a dyn Fn(&str) -> Option<Vec<f32>>,
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
    architectures().find(|arch| arch.name == name).ok_or_else(|| {
        let known = architectures().map(|arch| format!("`{}`", arch.name)).collect::<Vec<_>>();
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
    let rest = of_expert(rest).or_else(|| renamed(&[arch.names, BLOCK_NAMES], rest))?;
    Some(format!("{}.{layer}.{rest}", arch.layers))
}

/// The name of one expert's matrix in files from before experts were stacked, which are of Mixtral alone.
fn of_expert(rest: &str) -> Option<String> {
    let (name, expert) = rest.strip_suffix(".weight")?.split_once('.')?;
    let ours = match name {
        "ffn_gate" => "w1",
        "ffn_down" => "w2",
        "ffn_up" => "w3",
        _ => return None,
    };
    expert.parse::<u16>().ok()?;
    Some(format!("block_sparse_moe.experts.{expert}.{ours}.weight"))
}

/// The name in the file of a tensor that a family calls `name`; `None` for one that files do not have.
pub(super) fn untranslate(arch: &Arch, name: &str) -> Option<String> {
    let Some((layer, rest)) = in_layer(arch, name) else {
        return unnamed(&[arch.outer, OUTER_NAMES], name);
    };
    Some(format!("blk.{layer}.{}", unnamed(&[arch.names, BLOCK_NAMES], rest)?))
}

/// The number of the layer that a tensor is in, and the rest of its name.
pub(super) fn in_layer<'n>(arch: &Arch, name: &'n str) -> Option<(u16, &'n str)> {
    let (layer, rest) = name.strip_prefix(arch.layers)?.strip_prefix('.')?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The name that a tensor has in a model that is nothing but a language model.
pub(super) fn unwrapped(name: &str) -> String {
    const WRAPPERS: [(&str, &str); 3] = [
        ("model.language_model.", "model."),
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ];
    let inner =
        WRAPPERS.iter().find_map(|(outer, inner)| Some(format!("{inner}{}", name.strip_prefix(outer)?)));
    inner.unwrap_or_else(|| name.to_owned())
}

/// The inverse of [`renamed`].
fn unnamed(tables: &[&[(&str, &str)]], name: &str) -> Option<String> {
    rewritten(tables.iter().flat_map(|table| table.iter()).map(|&(theirs, ours)| (ours, theirs)), name)
}

/// The other name of `name` in the first table that has it, with or without its ending.
fn renamed(tables: &[&[(&str, &str)]], name: &str) -> Option<String> {
    rewritten(tables.iter().flat_map(|table| table.iter()).copied(), name)
}

/// The name that a table has for another one. Whole names come first: the beginning of one may be that of others.
fn rewritten<'t>(table: impl Iterator<Item = (&'t str, &'t str)> + Clone, name: &str) -> Option<String> {
    if let Some((_, to)) = table.clone().find(|(from, _)| *from == name) {
        return Some(to.to_owned());
    }
    let (stem, ending) = name.rsplit_once('.')?;
    let (_, to) = table.clone().find(|(from, _)| *from == stem)?;
    Some(format!("{to}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_come_before_those_that_begin_like_them() {
        let glm = architectures().find(|arch| arch.name == "glm4moe").unwrap();
        let ours = "model.layers.3.mlp.gate.e_score_correction_bias";
        assert_eq!(untranslate(glm, ours).as_deref(), Some("blk.3.exp_probs_b.bias"));
        assert_eq!(translate(glm, "blk.3.exp_probs_b.bias").as_deref(), Some(ours));
        assert_eq!(
            untranslate(glm, "model.layers.3.mlp.gate.weight").as_deref(),
            Some("blk.3.ffn_gate_inp.weight")
        );
    }

    #[test]
    fn every_name_is_found_again() {
        for arch in architectures() {
            for (theirs, _) in arch.names.iter().chain(BLOCK_NAMES) {
                let whole = if theirs.contains('.') {
                    format!("blk.7.{theirs}")
                } else {
                    format!("blk.7.{theirs}.weight")
                };
                let ours = translate(arch, &whole).unwrap();
                let again = untranslate(arch, &ours).unwrap();
                assert_eq!(translate(arch, &again).as_deref(), Some(&*ours), "{}: {whole}", arch.name);
            }
        }
    }
}
