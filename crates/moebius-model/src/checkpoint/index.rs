//! Which files make up a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::read_json;
use crate::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Real indices are a few megabytes at most.
const INDEX_LIMIT_BYTES: u64 = 256 << 20;

/// The files of a checkpoint, and what an index promised about them.
pub(super) struct Shards {
    pub(super) files: Vec<PathBuf>,
    index: PathBuf,
    /// Tensor name to shard name; empty without an index.
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Fails when the index names a tensor that no file has.
    pub(super) fn check(&self, has: impl Fn(&str) -> bool) -> Result<()> {
        let absent: Vec<&str> =
            self.weight_map.keys().map(String::as_str).filter(|name| !has(name)).collect();
        let Some(first) = absent.first() else { return Ok(()) };
        let shard = &self.weight_map[*first];
        Err(Error::InvalidFile {
            path: self.index.clone(),
            reason: format!(
                "the index names {} tensors that its shards do not have, first `{first}` in `{shard}`",
                absent.len()
            ),
        })
    }
}

/// Finds the files: those of the index if there is one, else the single file.
pub(super) fn shards(dir: &Path) -> Result<Shards> {
    if !dir.is_dir() {
        return Err(Error::NotFound { what: "model directory", path: dir.into() });
    }
    let index = dir.join(INDEX);
    if index.exists() {
        return from_index(dir, index);
    }
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(Shards { files: vec![single], index, weight_map: BTreeMap::new() });
    }
    Err(Error::NotFound { what: "model.safetensors or model.safetensors.index.json", path: dir.into() })
}

fn from_index(dir: &Path, index: PathBuf) -> Result<Shards> {
    let invalid = |reason: String| Error::InvalidFile { path: index.clone(), reason };
    let json = read_json(&index, "index", INDEX_LIMIT_BYTES)?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| invalid("expected an object `weight_map`".into()))?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard
            .as_str()
            .ok_or_else(|| invalid(format!("expected a file name for tensor `{tensor}`, got {shard}")))?;
        if !is_plain_file_name(shard) {
            return Err(invalid(format!(
                "tensor `{tensor}`: expected a plain .safetensors file name, got `{shard}`"
            )));
        }
        weight_map.insert(tensor.clone(), shard.to_owned());
    }
    let names: BTreeSet<&String> = weight_map.values().collect();
    if names.is_empty() {
        return Err(invalid("`weight_map` names no tensor".into()));
    }
    let files: Vec<PathBuf> = names.into_iter().map(|name| dir.join(name)).collect();
    if let Some(missing) = files.iter().find(|path| !path.exists()) {
        return Err(Error::NotFound { what: "checkpoint shard", path: missing.clone() });
    }
    Ok(Shards { files, index, weight_map })
}

/// One path component that names a safetensors file: nothing that leads elsewhere.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    single && name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::is_plain_file_name;

    #[test]
    fn a_shard_name_is_one_plain_component() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in [
            "../model.safetensors",
            "/etc/model.safetensors",
            "a/b.safetensors",
            "a\\b.safetensors",
            "C:model.safetensors",
            "..",
            "",
            "model.bin",
            "a\0.safetensors",
        ] {
            assert!(!is_plain_file_name(name), "{name:?} was accepted");
        }
    }
}
