//! Which files make up a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::read_json;
use crate::config::shown;
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
    /// Fails when the index names a tensor that its shard does not have; `file_of` is where a tensor is.
    pub(super) fn check<'f>(&self, file_of: impl Fn(&str) -> Option<&'f Path>) -> Result<()> {
        let misplaced = |(name, shard): &(&String, &String)| {
            file_of(name).and_then(Path::file_name) != Some(OsStr::new(shard))
        };
        let misplaced: Vec<_> = self.weight_map.iter().filter(misplaced).collect();
        let Some((tensor, shard)) = misplaced.first() else { return Ok(()) };
        Err(Error::InvalidFile {
            path: self.index.clone(),
            reason: format!(
                "the shards lack {} of the index's tensors, first `{tensor}` in `{shard}`",
                misplaced.len()
            ),
        })
    }
}

/// Finds the files: the single file if there is one, else those of the index, as the reference
/// implementation does.
pub(super) fn shards(dir: &Path) -> Result<Shards> {
    if !dir.is_dir() {
        return Err(Error::NotFound { what: "model directory", path: dir.into() });
    }
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if is_there(&single) {
        return Ok(Shards { files: vec![single], index, weight_map: BTreeMap::new() });
    }
    if is_there(&index) {
        return from_index(dir, index);
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
        let shard = shard.as_str().ok_or_else(|| {
            invalid(format!("expected a file name for tensor `{tensor}`, got {}", shown(shard)))
        })?;
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

/// Whether a file is there, be it a link that leads nowhere: opening that is an error, not a missing file.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
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
