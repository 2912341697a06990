//! Opening a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_constrained::{ConstrainedBackend, LayerResidency};
use moebius_engine::{Engine, EngineOptions, SamplingParams};
use moebius_model::{HeldFormats, ModelFiles, ModelInfo, Place, RoutingRules};

use crate::backend::{BackendOptions, Opened, open, open_backend};
use crate::budget::{Asked, MemoryPlan};
use crate::cache::{Cache, CacheUse};
use crate::declared::{self, Declared, Modelled};
use crate::generation_config::GenerationConfig;
use crate::hybrid::HybridPlan;
use crate::text::{ChatTemplate, TextError, Tokenizer, gguf_stop_tokens};
use crate::trace::TraceRecorder;
use crate::{Error, MemoryLimit, Result, budget, memory, spill};

/// Most prompt tokens of a pass, unless told otherwise: enough to share each expert's weights among many
/// rows, few enough that activations stay small.
const CHUNK: usize = 512;

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where it runs.
    pub backend: BackendOptions,
    /// Experts per token in place of the configured number.
    pub experts: Option<usize>,
    /// What routers do otherwise than configured.
    pub routing: RoutingRules,
    /// What weights are held in, whatever they are stored in; each is rounded while it is loaded.
    pub format: HeldFormats,
    /// Where packed copies are looked for before anything is packed. Opening a model writes none: see [`Cache::pack`].
    pub cache: Option<Cache>,
    /// Most positions of a sequence; at most the model's own.
    pub context: Option<usize>,
    /// Most prompt tokens of one pass. Results do not depend on it.
    pub chunk: Option<usize>,
}

impl OpenOptions {
    /// Most prompt tokens of one pass.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk.unwrap_or(CHUNK).max(1)
    }
}

/// A model that is ready to run.
pub struct Model {
    pub(crate) engine: Engine,
    info: ModelInfo,
    cache_use: CacheUse,
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    constrained: Option<Arc<ConstrainedBackend>>,
    declared: Option<Declared>,
    plan: Option<MemoryPlan>,
    tokenizer: std::result::Result<Tokenizer, Arc<TextError>>,
    chat_template: Option<ChatTemplate>,
    generation: Option<GenerationConfig>,
    pub(crate) tracer: Option<TraceRecorder>,
}

impl Model {
    /// Opens the model in the directory or GGUF file `path`.
    ///
    /// # Errors
    /// Files that are missing or wrong, a model that does not fit into memory, a backend that does not start.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Model::open_with_progress(path, options, &|_, _| {})
    }

    /// As [`Model::open`]; `progress` is told the bytes loaded so far and in all, from any thread.
    ///
    /// # Errors
    /// Those of [`Model::open`].
    pub fn open_with_progress(
        path: impl AsRef<Path>,
        options: &OpenOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        let mut files = open_files(path.as_ref(), options)?;
        let text = TextFiles::of(&files)?;
        let opened = open(&options.backend)?;
        let Loaded { engine, info, cache_use, plan } = load(&mut files, &opened, options, (0, progress))?;
        let Opened { backend, constrained, declared, .. } = opened;
        let TextFiles { tokenizer, chat_template, generation } = text;
        let dir = if files.gguf().is_some() { files.config_path() } else { files.dir() }.into();
        let tracer = None;
        Ok(Model {
            engine,
            info,
            cache_use,
            dir,
            backend,
            constrained,
            declared,
            plan,
            tokenizer,
            chat_template,
            generation,
            tracer,
        })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the cache had for it.
    pub fn cache_use(&self) -> &CacheUse {
        &self.cache_use
    }

    /// Its directory or GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// What the parts of the model get of a budget of memory, if there is one.
    pub fn memory_plan(&self) -> Option<&MemoryPlan> {
        self.plan.as_ref()
    }

    /// How many experts of each layer are in memory now; empty where all of them always are.
    pub fn residency(&self) -> Vec<LayerResidency> {
        self.constrained.as_ref().map_or_else(Vec::new, |constrained| constrained.residency())
    }

    /// The hardware that it stands for, if some is declared.
    pub fn declared(&self) -> Option<&Declared> {
        self.declared.as_ref()
    }

    /// The account of declared hardware so far: what it would have taken for all that ran, a model and no measurement.
    pub fn modelled(&self) -> Option<Modelled> {
        self.declared.as_ref().map(|declared| declared.snapshot(self.info.n_layers))
    }

    /// Most positions of a sequence.
    pub fn context(&self) -> usize {
        self.engine.context()
    }

    /// Bytes that keys and values take now.
    pub fn cache_bytes(&self) -> u64 {
        self.engine.cache_bytes()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::NeedsTokenizer`] when there is none that can be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().map_err(|error| Error::NeedsTokenizer(error.clone()))
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Ids that end a sequence: those of generation_config.json, or of config.json without that file.
    pub fn stop_tokens(&self) -> Vec<u32> {
        match &self.generation {
            Some(config) => config.stop_tokens.clone(),
            None => self.info.eos_token_ids.clone(),
        }
    }

    /// How the model's authors sample; else temperature 0.8, top-k 40, top-p 0.95, min-p 0.05.
    pub fn default_sampling(&self) -> SamplingParams {
        self.generation.as_ref().and_then(|config| config.sampling.clone()).unwrap_or(SamplingParams {
            temperature: 0.8,
            top_k: Some(40),
            top_p: 0.95,
            min_p: 0.05,
            ..SamplingParams::default()
        })
    }
}

/// The files of a model that has weights.
pub(crate) fn open_files(path: &Path, options: &OpenOptions) -> Result<ModelFiles> {
    if let Some(got @ 0) = options.context {
        return Err(Error::InvalidOption { name: "context", expected: "at least 1 token", got });
    }
    let files = ModelFiles::open(path, options.experts)?;
    if files.checkpoint_bytes().is_none() {
        return Err(Error::NoWeights(path.into()));
    }
    Ok(files.hold(options.format).reroute(options.routing.clone()))
}

/// A model in an engine.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) info: ModelInfo,
    pub(crate) cache_use: CacheUse,
    pub(crate) plan: Option<MemoryPlan>,
}

/// Loads `files`, from the cache if it has them, if they and `working_bytes` fit into memory or into the budget.
pub(crate) fn load(
    files: &mut ModelFiles,
    opened: &Opened,
    options: &OpenOptions,
    (working_bytes, progress): (u64, &(dyn Fn(u64, u64) + Sync)),
) -> Result<Loaded> {
    let backend = &opened.backend;
    let info = files.info(backend)?;
    let cache_use = options.cache.as_ref().map_or(CacheUse::NotAsked, |cache| cache.attach(files, backend));
    let total_bytes = files.checkpoint_bytes().unwrap_or(0);
    let plan = divide(files, &info, opened, options, working_bytes)?;
    let is_packed = info.packed.is_some() || matches!(cache_use, CacheUse::Mapped(_));
    if opened.constrained.is_some() && !is_packed {
        spill::check_room(info.tally.get(&Place::Experts).and_then(|tally| tally.bytes).unwrap_or(0))?;
    }
    if let Some(machine) = &options.backend.profile {
        let budget = plan.as_ref().map(|plan| plan.budget_bytes);
        declared::check_fits(machine, &info, options.context, budget)?;
    }
    let divided = divide_layers(files, &info, opened, options, working_bytes)?;
    match (&plan, &divided) {
        (Some(plan), _) => memory::check_fits(plan.held_bytes(), None)?,
        (None, Some(divided)) => {
            memory::check_fits(divided.gpu_bytes(), backend.info().free_bytes)?;
            memory::check_fits(divided.cpu_weight_bytes, None)?;
        }
        (None, None) => {
            let weights = info.weight_bytes().unwrap_or(total_bytes);
            memory::check_fits(weights.saturating_add(working_bytes), backend.info().free_bytes)?;
        }
    }
    let model = files.load(backend, &|bytes| progress(bytes, total_bytes))?;
    let context = plan.as_ref().map(|plan| plan.context).or(options.context).unwrap_or(usize::MAX);
    let chunk = plan.as_ref().map_or(options.chunk(), |plan| plan.chunk);
    let engine_options = EngineOptions { context, chunk };
    let engine = Engine::new(model, &backend.info().device, engine_options);
    Ok(Loaded { engine, info, cache_use, plan })
}

/// Divides the layers of experts between a GPU and the processor, if that is asked for, and tells the backend.
fn divide_layers(
    files: &ModelFiles,
    info: &ModelInfo,
    opened: &Opened,
    options: &OpenOptions,
    working_bytes: u64,
) -> Result<Option<HybridPlan>> {
    let Some(hybrid) = &opened.hybrid else { return Ok(None) };
    let offload = &options.backend.offload;
    let banks = files.expert_banks(&opened.backend)?;
    let working_bytes = working_bytes.max(budget::working_bytes(info, &banks, options));
    let plan = HybridPlan::new(offload, (info, &banks), working_bytes)?;
    hybrid.divide(plan);
    Ok(Some(plan))
}

/// Divides a budget of memory, if there is one, and tells the backend.
fn divide(
    files: &ModelFiles,
    info: &ModelInfo,
    opened: &Opened,
    options: &OpenOptions,
    working_bytes: u64,
) -> Result<Option<MemoryPlan>> {
    let Some(constrained) = &opened.constrained else { return Ok(None) };
    let constraint = &options.backend.constraint;
    let banks = files.expert_banks(&opened.backend)?;
    let positions = working_bytes.checked_div(info.cache_bytes_per_token).unwrap_or(0);
    let OpenOptions { context, chunk, .. } = *options;
    let asked = Asked { info, banks: &banks, context, chunk, positions, resident: constraint.resident };
    let unlimited = constraint.memory.is_none();
    let budget = constraint.memory.map_or(Ok(u64::MAX / 2), MemoryLimit::bytes)?;
    let plan = MemoryPlan::new(budget, &asked, !constraint.no_prefetch)?;
    constrained.constrain(plan.options(constraint, &banks)?);
    Ok(Some(plan).filter(|_| !unlimited))
}

/// What a directory says without its weights being read, with or without weights in it. Of the options `experts`,
/// `routing` and `format` matter: bytes are those that [`Model::open`] would hold.
///
/// # Errors
/// Files that are missing or do not fit together.
pub fn inspect(path: impl AsRef<Path>, options: &OpenOptions) -> Result<(ModelInfo, TextSummary)> {
    let files = ModelFiles::open(path.as_ref(), options.experts)?;
    let files = files.hold(options.format).reroute(options.routing.clone());
    let backend = open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() })?;
    let info = files.info(&backend)?;
    let summary = match files.gguf() {
        // Its vocabulary need not be put together to be counted, which would take longer than all the rest.
        Some(metadata) => TextSummary {
            tokens: if_readable(Tokenizer::size_in_gguf(metadata))?.ok(),
            chat_template: ChatTemplate::from_gguf(metadata)?.is_some(),
        },
        None => {
            let text = TextFiles::of(&files)?;
            let tokens = text.tokenizer.as_ref().ok().map(Tokenizer::vocab_size);
            TextSummary { tokens, chat_template: text.chat_template.is_some() }
        }
    };
    Ok((info, summary))
}

/// What a directory has for turning text into ids.
#[derive(Clone, Copy, Debug)]
pub struct TextSummary {
    /// Entries of the tokenizer, if there is one.
    pub tokens: Option<usize>,
    /// Whether conversations can be laid out.
    pub chat_template: bool,
}

/// The files of a model that concern text.
struct TextFiles {
    tokenizer: std::result::Result<Tokenizer, Arc<TextError>>,
    chat_template: Option<ChatTemplate>,
    generation: Option<GenerationConfig>,
}

impl TextFiles {
    /// A model without a tokenizer is fine, one with a broken tokenizer is not.
    fn of(files: &ModelFiles) -> Result<Self> {
        let (dir, gguf) = (files.dir(), files.gguf());
        let tokenizer = if_readable(gguf.map_or_else(|| Tokenizer::from_dir(dir), Tokenizer::from_gguf))?;
        let chat_template = gguf.map_or_else(|| ChatTemplate::from_dir(dir), ChatTemplate::from_gguf)?;
        let generation = match gguf {
            Some(metadata) => {
                Some(GenerationConfig { stop_tokens: gguf_stop_tokens(metadata)?, sampling: None })
            }
            None => GenerationConfig::read(dir)?,
        };
        Ok(TextFiles { tokenizer, chat_template, generation })
    }
}

/// A tokenizer that is missing or of another kind is no error before it is needed; a broken one is.
fn if_readable<T>(read: std::result::Result<T, TextError>) -> Result<std::result::Result<T, Arc<TextError>>> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(
            error @ (TextError::NoTokenizer { .. }
            | TextError::ForeignTokenizer { .. }
            | TextError::UnsupportedTokenizer { .. }),
        ) => Ok(Err(Arc::new(error))),
        Err(error) => Err(error.into()),
    }
}
