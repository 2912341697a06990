//! A model directory: what it says, what it holds, and loading it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moebius_backend::Backend;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::TensorProblem;
use crate::families::{self, Architecture, Family};
use crate::formats::HeldFormats;
use crate::info::ModelInfo;
use crate::loader::{Loader, Progress};
use crate::model::Model;
use crate::{Error, Result};

/// A model directory whose configuration was read, and whose weights were found if they are there.
pub struct ModelFiles {
    dir: PathBuf,
    family: Family,
    architecture: Box<dyn Architecture>,
    checkpoint: Option<Checkpoint>,
    held: HeldFormats,
    unknown_keys: Vec<String>,
}

/// Weights that are made up, to measure a shape without its checkpoint: bf16, roughly normal.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomWeights {
    /// Decoder layers in place of the configured number.
    pub layers: Option<usize>,
    /// A sequence may have this many positions, or more if the configuration says so.
    pub context: usize,
    /// The same seed gives the same weights.
    pub seed: u64,
}

impl ModelFiles {
    /// Opens a directory with config.json and a checkpoint, or either config.json alone or a directory with
    /// nothing else. `top_k` replaces the configured experts per token.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a config.json; errors of the configuration; errors of a checkpoint that
    /// is there but damaged.
    pub fn open(path: &Path, top_k: Option<usize>) -> Result<Self> {
        let (dir, config_path) = locate(path)?;
        let config = Config::read(&config_path)?.with_top_k(top_k);
        let family = families::find(&config)?;
        let architecture = (family.read)(&config)?;
        let checkpoint = match Checkpoint::open(&dir) {
            Ok(checkpoint) => Some(checkpoint),
            Err(Error::NotFound { what, .. }) if what.contains("model.safetensors") => None,
            Err(error) => return Err(error),
        };
        let (held, unknown_keys) = (HeldFormats::AsStored, config.unused());
        Ok(ModelFiles { dir, family, architecture, checkpoint, held, unknown_keys })
    }

    /// A model of the configuration `config`, the text of a config.json, with every weight made up as it is
    /// loaded: nothing is read or written. `backend` is asked what it can hold.
    ///
    /// # Errors
    /// Errors of the configuration.
    pub fn random(
        config: &str,
        weights: &RandomWeights,
        top_k: Option<usize>,
        backend: &Arc<dyn Backend>,
    ) -> Result<Self> {
        let config = Config::parse(config)?.with_top_k(top_k);
        let config = config.with_at_least("max_position_embeddings", weights.context.max(1));
        let config = match weights.layers {
            Some(layers) => config.with_size("num_hidden_layers", layers),
            None => config,
        };
        let family = families::find(&config)?;
        let architecture = (family.read)(&config)?;
        let inventory = Loader::inventory(backend);
        architecture.load(&inventory)?;
        let checkpoint = Some(Checkpoint::random(inventory.into_inventory(), weights.seed)?);
        let (held, unknown_keys) = (HeldFormats::AsStored, config.unused());
        Ok(ModelFiles { dir: PathBuf::new(), family, architecture, checkpoint, held, unknown_keys })
    }

    /// Chooses what weights are held in; without this, as they are stored.
    #[must_use]
    pub fn hold(self, formats: HeldFormats) -> Self {
        ModelFiles { held: formats, ..self }
    }

    /// The directory that the files are in; empty for random weights.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of the checkpoint as stored, if one lies beside the configuration.
    pub fn checkpoint_bytes(&self) -> Option<u64> {
        self.checkpoint.as_ref().map(Checkpoint::size_bytes)
    }

    /// What the model is. Reads no weights.
    ///
    /// # Errors
    /// [`Error::Tensors`] when the checkpoint does not fit the configuration; a backend that cannot hold it.
    pub fn info(&self, backend: &Arc<dyn Backend>) -> Result<ModelInfo> {
        let loader = Loader::plan(backend, self.checkpoint.as_ref(), self.held);
        self.architecture.load(&loader)?;
        loader.check()?;
        let outline = self.architecture.outline();
        let (ignored_tensors, unknown_tensors) = self.leftovers(&loader);
        Ok(ModelInfo {
            family: self.family.model_type,
            n_layers: outline.base.n_layers,
            hidden: outline.base.hidden,
            vocab_size: outline.base.vocab_size,
            context: outline.base.context,
            attention: outline.attention,
            moe: outline.moe,
            cache_bytes_per_token: outline.base.cache().bytes_per_token(),
            eos_token_ids: outline.base.eos_token_ids,
            bos_token_id: outline.base.bos_token_id,
            tally: loader.tally(),
            ignored_tensors,
            unknown_tensors,
            unknown_keys: self.unknown_keys.clone(),
        })
    }

    /// Gives the weights to `backend`. `progress` is told how many stored bytes were loaded so far, from any
    /// thread.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`]; [`Error::Tensors`] naming everything when there is no checkpoint; a
    /// weight that holds a NaN or an infinity.
    pub fn load(&self, backend: &Arc<dyn Backend>, progress: Progress<'_>) -> Result<Box<dyn Model>> {
        let Some(checkpoint) = &self.checkpoint else {
            let name = "model.safetensors".into();
            return Err(Error::Tensors(vec![TensorProblem::Missing { name, shape: Vec::new() }]));
        };
        let plan = Loader::plan(backend, Some(checkpoint), self.held);
        self.architecture.load(&plan)?;
        plan.check()?;
        self.architecture.load(&Loader::real(backend, checkpoint, self.held, progress))
    }

    /// Tensors that nothing asked for: those known not to matter, and the rest.
    fn leftovers(&self, loader: &Loader<'_>) -> (Vec<String>, Vec<String>) {
        let asked = loader.asked();
        let names = self.checkpoint.iter().flat_map(Checkpoint::names).map(String::from);
        names.filter(|name| !asked.contains(name)).partition(|name| is_ignorable(name))
    }
}

/// The directory and its configuration: `path` may name either.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if path.is_dir() {
        return Ok((path.into(), path.join("config.json")));
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "json") {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((dir.into(), path.into()));
    }
    Err(Error::NotFound { what: "model directory", path: path.into() })
}

/// Tensors that checkpoints carry and inference does not need: stored rotary frequencies, heads for
/// multi-token prediction, and a copy of a tied output projection. Decoder layers beyond the configured
/// number are not among them: they may mean that the configuration is another model's.
fn is_ignorable(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name.starts_with("mtp.")
        || name.starts_with("model.mtp_")
        || name == "lm_head.weight"
}
