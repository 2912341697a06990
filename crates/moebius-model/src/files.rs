//! A model directory: what it says, what it holds, and loading it.

mod gguf;
mod plain;
mod routers;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moebius_backend::{Backend, ExpertSpec, Unsupported};

use crate::cache::LayerCacheSpec;
use crate::checkpoint::{Asked, Checkpoint, FP8_BLOCK, Gguf, GgufMetadata, PackedFile, is_gguf, open_gguf};
use crate::config::Config;
use crate::error::TensorProblem;
use crate::families::{self, Architecture, Family, Outline};
use crate::formats::HeldFormats;
use crate::info::{LayerMemory, ModelInfo, Setting};
use crate::loader::{Loader, Progress};
use crate::model::Model;
use crate::planned::PlannedRouter;
use crate::rules::{Rerouting, RoutingRules};
use crate::{Error, Result};

pub use routers::{LayerRouter, NamedTensor, Routers, StoredTensor};

/// A model directory whose configuration was read, and whose weights were found if they are there.
pub struct ModelFiles {
    dir: PathBuf,
    config: PathBuf,
    family: Family,
    architecture: Box<dyn Architecture>,
    checkpoint: Option<Checkpoint>,
    /// The weights of `checkpoint` as they are held, packed.
    copy: Option<Checkpoint>,
    held: HeldFormats,
    rules: RoutingRules,
    text_part_of: Option<String>,
    settings: Vec<Setting>,
    unknown_keys: Vec<String>,
    /// What a GGUF file says, and the config.json that it stands for.
    gguf: Option<(GgufMetadata, String)>,
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
    /// nothing else; or a GGUF file, of a split one any part. `top_k` replaces the configured experts per token.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a config.json; errors of the configuration; errors of a checkpoint that
    /// is there but damaged.
    pub fn open(path: &Path, top_k: Option<usize>) -> Result<Self> {
        if is_gguf(path) {
            return ModelFiles::open_gguf(path, top_k);
        }
        let (dir, config_path) = locate(path)?;
        let config = Config::read(&config_path)?.into_text_part().with_top_k(top_k);
        let checkpoint = || match Checkpoint::open(&dir, config.fp8_block()?) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(Error::NotFound { what, .. }) if what.contains("model.safetensors") => Ok(None),
            Err(error) => Err(error),
        };
        let files = ModelFiles::of_config(&config)?;
        Ok(ModelFiles { checkpoint: checkpoint()?, dir, config: config_path, ..files })
    }

    fn open_gguf(path: &Path, top_k: Option<usize>) -> Result<Self> {
        let Gguf { metadata, config: keys, checkpoint } = open_gguf(path)?;
        let text = serde_json::to_string_pretty(&keys).expect("plain data can be written");
        let files = ModelFiles::of_config(&Config::from_map(keys).with_top_k(top_k))?;
        let config = checkpoint.paths()[0].clone();
        let (checkpoint, gguf) = (Some(checkpoint), Some((metadata, text)));
        Ok(ModelFiles { checkpoint, dir: directory_of(path), config, gguf, ..files })
    }

    /// A model without files.
    fn of_config(config: &Config) -> Result<Self> {
        let family = families::find(config)?;
        let architecture = (family.read)(config)?;
        config.fp8_block()?;
        Ok(ModelFiles {
            dir: PathBuf::new(),
            config: PathBuf::new(),
            family,
            architecture,
            checkpoint: None,
            copy: None,
            held: HeldFormats::AsStored,
            rules: RoutingRules::default(),
            text_part_of: config.text_part_of().map(str::to_owned),
            settings: config.settings(),
            unknown_keys: config.unused(),
            gguf: None,
        })
    }

    /// A model of the configuration `config`, the text of a config.json, without weights. `top_k` replaces the configured
    /// experts per token.
    ///
    /// # Errors
    /// Errors of the configuration.
    pub fn described(config: &str, top_k: Option<usize>) -> Result<Self> {
        ModelFiles::of_config(&Config::parse(config)?.into_text_part().with_top_k(top_k))
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
        let config = Config::parse(config)?.into_text_part().with_top_k(top_k);
        let config = config.with_context(weights.context.max(1));
        let config = match weights.layers {
            Some(layers) => config.with_layers(layers),
            None => config,
        };
        let files = ModelFiles::of_config(&config)?;
        let inventory = Loader::inventory(backend);
        files.architecture.load(&inventory)?;
        let checkpoint = Some(Checkpoint::random(inventory.into_inventory(), weights.seed)?);
        Ok(ModelFiles { checkpoint, ..files })
    }

    /// Chooses what weights are held in; without this, as they are stored. Weights that are packed already are held in
    /// what they are packed in: another choice is an error when they are planned or loaded. Forgets a copy.
    #[must_use]
    pub fn hold(self, formats: HeldFormats) -> Self {
        ModelFiles { held: formats, copy: None, ..self }
    }

    /// Changes what the routers do; weights are the same.
    #[must_use]
    pub fn reroute(self, rules: RoutingRules) -> Self {
        ModelFiles { rules, ..self }
    }

    /// From now on takes the weights from the packed copy in `dir`, which [`ModelFiles::write_packed`] has written; what
    /// the model is and leaves unused is still said of the original.
    ///
    /// # Errors
    /// A copy that is damaged or does not hold what would be packed now; the weights are then still the original's.
    pub fn map_copy(&mut self, dir: &Path, backend: &Arc<dyn Backend>) -> Result<()> {
        let expected = self.plan(backend)?.0.tally();
        let copy = Checkpoint::open(dir, FP8_BLOCK)?;
        let differs = |reason: String| Err(Error::InvalidFile { path: dir.into(), reason });
        if copy.packing() != Some(self.held) {
            let got = copy.packing().map_or("none".into(), |held| held.to_string());
            return differs(format!("expected weights packed as `{}`, got `{got}`", self.held));
        }
        let before = self.copy.replace(copy);
        let tally = self.plan(backend).map(|(plan, _)| plan.tally());
        if tally.as_ref().is_ok_and(|tally| *tally == expected) {
            return Ok(());
        }
        self.copy = before;
        tally?;
        differs("its weights are held in other formats than they would be now".into())
    }

    /// The directory that the files are in; empty for random weights.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a GGUF file says, if the model is one.
    pub fn gguf(&self) -> Option<&GgufMetadata> {
        self.gguf.as_ref().map(|(metadata, _)| metadata)
    }

    /// The text of the config.json that a GGUF file stands for.
    pub fn gguf_config(&self) -> Option<&str> {
        self.gguf.as_ref().map(|(_, config)| config.as_str())
    }

    /// The configuration's file; empty for random weights.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Bytes of the checkpoint as stored, if one lies beside the configuration; those of its copy when that is used.
    pub fn checkpoint_bytes(&self) -> Option<u64> {
        self.weights().map(Checkpoint::size_bytes)
    }

    /// The checkpoint's files; none for random weights.
    pub fn checkpoint_paths(&self) -> &[PathBuf] {
        self.checkpoint.as_ref().map_or(&[], Checkpoint::paths)
    }

    /// What weights are to be held in.
    pub fn formats(&self) -> HeldFormats {
        self.held
    }

    /// Whether there are weights in files that are not packed.
    pub fn is_packable(&self) -> bool {
        self.checkpoint.as_ref().is_some_and(|c| c.packing().is_none() && !c.paths().is_empty())
    }

    /// What the model is. Reads no weights.
    ///
    /// # Errors
    /// [`Error::Tensors`] when the checkpoint does not fit the configuration; [`Error::PackedOtherwise`]; a backend
    /// that cannot hold it.
    pub fn info(&self, backend: &Arc<dyn Backend>) -> Result<ModelInfo> {
        let (plan, model) = self.plan(backend)?;
        let mut outline = self.architecture.outline();
        let routers = plan.routers();
        if let (Some(moe), false) = (&mut outline.moe, self.rules.is_empty()) {
            let most = routers.iter().max_by_key(|router| router.config.top_k);
            (moe.top_k, moe.formula) = most.map_or((moe.top_k, moe.formula.clone()), |router| {
                (router.config.top_k, router.config.formula())
            });
        }
        let tally = plan.tally();
        let (ignored_tensors, unknown_tensors) = self.leftovers(&plan.into_asked());
        Ok(ModelInfo {
            family: self.family.model_type,
            n_layers: outline.base.n_layers,
            hidden: outline.base.hidden,
            vocab_size: outline.base.vocab_size,
            context: outline.base.context,
            attention: outline.attention,
            moe: outline.moe,
            routed_layers: routers.iter().map(PlannedRouter::routed_layer).collect(),
            mtp_layers: outline.mtp_layers,
            text_part_of: self.text_part_of.clone(),
            cache_bytes_per_token: model.cache_spec().bytes_per_token(),
            cache_bytes_per_sequence: model.cache_spec().bytes_per_sequence(),
            memory: memory(model.as_ref()),
            eos_token_ids: outline.base.eos_token_ids,
            bos_token_id: outline.base.bos_token_id,
            tally,
            packed: self.checkpoint.as_ref().and_then(Checkpoint::packing),
            ignored_tensors,
            unknown_tensors,
            unknown_keys: self.unknown_keys.clone(),
        })
    }

    /// The experts of each layer that has some, as they would be held.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`].
    pub fn expert_banks(&self, backend: &Arc<dyn Backend>) -> Result<Vec<ExpertSpec>> {
        Ok(self.plan(backend)?.0.banks())
    }

    /// Gives the weights to `backend`. `progress` is told how many stored bytes were loaded so far, from any
    /// thread.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`]; [`Error::Tensors`] naming everything when there is no checkpoint; a
    /// weight that holds a NaN or an infinity.
    pub fn load(&self, backend: &Arc<dyn Backend>, progress: Progress<'_>) -> Result<Box<dyn Model>> {
        let Some(checkpoint) = self.weights() else { return Err(no_checkpoint()) };
        self.plan(backend)?;
        let mut loader = Loader::real(backend, checkpoint, self.held()?, progress);
        loader.rerouting = Rerouting::new(&self.rules);
        self.architecture.load(&loader)
    }

    /// A model that counts what it does as the real one would, and computes nothing: no weight is read, so that any size
    /// will do. Projections give zeros, and routers choose by chance.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`].
    pub fn dry(&self, backend: &Arc<dyn Backend>) -> Result<Box<dyn Model>> {
        self.plan(backend)?;
        self.architecture.load(&Loader::dry(backend, self.weights(), self.held()?))
    }

    /// Writes the weights as `backend` would hold them, as a model.safetensors that is loaded without being copied; and
    /// says how many bytes were read for it. `progress` is told how many were read so far and will be in all, after
    /// every matrix; `None` when it said to stop, and what was written then is no checkpoint.
    ///
    /// # Errors
    /// Those of [`ModelFiles::load`]; [`Error::PackedAlready`]; [`Error::Output`] when `out` refuses; a backend that
    /// does not pack.
    pub fn write_packed(
        &self,
        backend: &Arc<dyn Backend>,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Option<u64>> {
        let Some(checkpoint) = &self.checkpoint else { return Err(no_checkpoint()) };
        if let Some(held) = self.weights().and_then(Checkpoint::packing) {
            return Err(Error::PackedAlready { held: held.to_string() });
        }
        let packer = backend.packer().ok_or_else(|| no_panels(backend))?;
        let asked = self.plan(backend)?.0.into_asked();
        let file = PackedFile::new(checkpoint, &asked, self.held)?;
        let (mut read, total) = (0, file.source_bytes());
        let written = file.write(packer, out, &mut |bytes| {
            read += bytes as u64;
            progress(read, total)
        })?;
        Ok(written.is_continue().then_some(total))
    }

    /// Bytes of the file that [`ModelFiles::write_packed`] would write.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`], and [`Error::Tensors`] when there is no checkpoint.
    pub fn packed_bytes(&self, backend: &Arc<dyn Backend>) -> Result<u64> {
        let Some(checkpoint) = &self.checkpoint else { return Err(no_checkpoint()) };
        let asked = self.plan(backend)?.0.into_asked();
        PackedFile::new(checkpoint, &asked, self.held)?.size_bytes()
    }

    /// Where weights come from, if there are any.
    fn weights(&self) -> Option<&Checkpoint> {
        self.copy.as_ref().or(self.checkpoint.as_ref())
    }

    /// A plan that found the weights whole, and the model without values that came of it.
    fn plan<'a>(&'a self, backend: &'a Arc<dyn Backend>) -> Result<(Loader<'a>, Box<dyn Model>)> {
        if self.weights().is_some_and(|c| c.packing().is_some()) && backend.packer().is_none() {
            return Err(no_panels(backend));
        }
        let mut plan = Loader::plan(backend, self.weights(), self.held()?);
        plan.rerouting = Rerouting::new(&self.rules);
        let model = self.architecture.load(&plan)?;
        plan.check()?;
        self.rules.check(&plan.routers())?;
        Ok((plan, model))
    }

    /// What weights are held in. Those that are packed are held as they are stored, and that may be asked for.
    fn held(&self) -> Result<HeldFormats> {
        match self.weights().and_then(Checkpoint::packing) {
            None => Ok(self.held),
            Some(packed) if [HeldFormats::AsStored, packed].contains(&self.held) => Ok(HeldFormats::AsStored),
            Some(packed) => {
                Err(Error::PackedOtherwise { held: packed.to_string(), wanted: self.held.to_string() })
            }
        }
    }

    /// Tensors that nothing asked for: those known not to matter, and the rest.
    fn leftovers(&self, asked: &BTreeMap<String, Asked>) -> (Vec<String>, Vec<String>) {
        let Some(checkpoint) = &self.checkpoint else { return Default::default() };
        let outline = self.architecture.outline();
        let asked = |name: &&str| asked.contains_key(checkpoint.owner(name));
        let names = checkpoint.names().filter(|name| !asked(name)).map(String::from);
        names.partition(|name| self.is_ignorable(&outline, name))
    }

    /// Whether inference does not need a tensor: stored rotary frequencies, layers and heads for multi-token
    /// prediction, a copy of a tied output projection, and in a multimodal model whatever is not about text. Other
    /// decoder layers beyond the configured number are not among them: they may mean that the configuration is another
    /// model's.
    fn is_ignorable(&self, outline: &Outline, name: &str) -> bool {
        /// What the parts of multimodal models that are not about text are called.
        const NOT_TEXT: [&str; 5] = ["vis", "audio", "embed_", "mm_", "multi_modal"];
        let layer = || name.split_once("layers.")?.1.split('.').next()?.parse::<usize>().ok();
        let mtp = outline.base.n_layers..outline.base.n_layers + outline.mtp_layers;
        let inner = name.strip_prefix("model.").unwrap_or(name);
        name.ends_with("rotary_emb.inv_freq")
            || inner.starts_with("mtp.")
            || inner.starts_with("mtp_")
            || name == "lm_head.weight"
            || layer().is_some_and(|layer| mtp.contains(&layer))
            || (self.text_part_of.is_some() && NOT_TEXT.iter().any(|part| inner.starts_with(part)))
    }
}

/// What each layer of a model remembers.
fn memory(model: &dyn Model) -> Vec<LayerMemory> {
    let (caches, attention) = (&model.cache_spec().layers, model.attention());
    let layer = |(cache, attention): (&LayerCacheSpec, _)| LayerMemory { cache: cache.clone(), attention };
    caches.iter().zip(attention).map(layer).collect()
}

fn no_checkpoint() -> Error {
    let name = "model.safetensors".into();
    Error::Tensors(vec![TensorProblem::Missing { name, shape: Vec::new() }])
}

fn no_panels(backend: &Arc<dyn Backend>) -> Error {
    let reason = "it does not hold weights in panels".into();
    let unsupported = Unsupported { backend: backend.info().name, what: "packed weights".into(), reason };
    Error::Backend(unsupported.into())
}

/// The directory and its configuration: `path` may name either.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if path.is_dir() {
        return Ok((path.into(), path.join("config.json")));
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "json") {
        return Ok((directory_of(path), path.into()));
    }
    Err(Error::NotFound { what: "model directory", path: path.into() })
}

/// The directory that a file is in.
fn directory_of(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}
