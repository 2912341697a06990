//! Where models are.

use std::path::{Path, PathBuf};

use crate::{Error, Result, knobs};

/// The bundled model below a directory of the project.
const BUNDLED: &str = "models/moebius-tiny";

/// The model that is used when none is named: `MOEBIUS_MODEL`, or the one that comes with the project,
/// looked for from the current directory upward, beside the program, and where it was built.
///
/// # Errors
/// [`Error::NoBundledModel`] when it is in none of these places.
pub fn bundled_model() -> Result<PathBuf> {
    if let Some(dir) = knobs::MODEL.value() {
        return Ok(dir.into());
    }
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let ancestors = [here, program].into_iter().flatten();
    let places = ancestors.flat_map(|p| p.ancestors().map(Path::to_path_buf).collect::<Vec<_>>());
    let built_at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let candidates = places.chain([built_at]).map(|place| place.join(BUNDLED));
    candidates.into_iter().find(|dir| dir.join("config.json").is_file()).ok_or(Error::NoBundledModel)
}

/// The directory that a person means by `name`.
///
/// # Errors
/// [`Error::ModelNotFound`] when there is nothing, [`Error::NotLocal`] for what looks like the name of a
/// repository on a hub.
pub fn locate_model(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    if is_hub_name(name) { Err(Error::NotLocal(name.into())) } else { Err(Error::ModelNotFound(path)) }
}

/// `owner/name`, in the characters that hubs allow, and not a relative or absolute path.
fn is_hub_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match name.split_once('/') {
        Some((owner, name)) => {
            let part = |p: &str| !p.is_empty() && p.chars().all(allowed) && !p.starts_with('.');
            part(owner) && part(name)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_and_a_hub_name_are_told_apart() {
        assert!(matches!(locate_model("allenai/OLMoE-1B-7B-0924"), Err(Error::NotLocal(_))));
        for path in ["./missing", "/missing/model", "../a/b", "missing", "a/b/c"] {
            assert!(matches!(locate_model(path), Err(Error::ModelNotFound(_))), "{path}");
        }
    }
}
