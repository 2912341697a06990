//! Where models are.

use std::path::{Path, PathBuf};

use crate::hub::{Hub, HubError, HubName, Needs};
use crate::ollama::{self, OllamaName, OllamaSettings, OllamaStore};
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

/// What a person may mean by the name of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// A file or directory. What is there has precedence over names of other kinds.
    Path(PathBuf),
    /// A model on a hub: `owner/name[@revision][:quant]`.
    Hub(HubName),
    /// A model in Ollama's store: `ollama:NAME[:TAG]`.
    Ollama(OllamaName),
}

impl ModelName {
    /// What `name` means here and now.
    ///
    /// # Errors
    /// A name that begins with `ollama:` and is none.
    pub fn of(name: &str) -> Result<Self> {
        let path = PathBuf::from(name);
        if path.exists() {
            return Ok(ModelName::Path(path));
        }
        if let Some(name) = name.strip_prefix(ollama::PREFIX) {
            return Ok(ModelName::Ollama(name.parse()?));
        }
        Ok(name.parse().map_or(ModelName::Path(path), ModelName::Hub))
    }
}

/// What [`crate::Model::open`] takes for what a person calls `name`: a directory or file, a model in the cache of the hub or
/// in Ollama's store. `needs` says how much of a hub's model must be there. The network is not asked.
///
/// # Errors
/// [`Error::ModelNotFound`] when there is nothing, [`Error::NotLocal`] for the name of a hub's model that is not in the
/// cache, [`Error::Hub`] for one that Ollama does not have.
pub fn locate_model(name: &str, needs: Needs) -> Result<PathBuf> {
    match ModelName::of(name)? {
        ModelName::Path(path) if path.exists() => Ok(path),
        ModelName::Path(path) => Err(Error::ModelNotFound(path)),
        ModelName::Hub(hub_name) => {
            Hub::standard()?.find(&hub_name, needs).ok_or_else(|| Error::NotLocal(name.into()))
        }
        ModelName::Ollama(name) => ollama_store(&name)?.find(&name),
    }
}

/// What is said about how to run what a person calls `name`, where it is a model in Ollama's store.
///
/// # Errors
/// Those of [`OllamaStore::settings`].
pub fn ollama_settings(name: &str) -> Result<Option<OllamaSettings>> {
    match ModelName::of(name)? {
        ModelName::Ollama(name) => ollama_store(&name)?.settings(&name).map(Some),
        ModelName::Path(_) | ModelName::Hub(_) => Ok(None),
    }
}

fn ollama_store(name: &OllamaName) -> Result<OllamaStore> {
    let nowhere = || HubError::NotHere {
        name: format!("{}{name}", ollama::PREFIX),
        dir: PathBuf::from("~/.ollama/models"),
    };
    Ok(OllamaStore::standard().ok_or_else(nowhere)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_of_hubs_and_of_ollama_are_told_apart() {
        let of = |name: &str| ModelName::of(name).unwrap();
        assert!(matches!(of("allenai/OLMoE-1B-7B-0924@main:q4_k_m"), ModelName::Hub(_)));
        assert!(matches!(of("ollama:olmoe:7b"), ModelName::Ollama(_)));
        for path in ["./missing", "/missing/model", "../a/b", "missing", "a/b/c"] {
            assert_eq!(of(path), ModelName::Path(path.into()));
            assert!(matches!(locate_model(path, Needs::Everything), Err(Error::ModelNotFound(_))), "{path}");
        }
        assert!(ModelName::of("ollama:../x").is_err());
    }

    #[test]
    fn what_is_there_wins_over_the_name_of_a_hub() {
        assert_eq!(ModelName::of("src/hub").unwrap(), ModelName::Path("src/hub".into()));
    }
}
