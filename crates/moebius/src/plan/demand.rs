//! What a model asks of a machine: bytes by part, bytes and operations of a step.
//!
//! Experts that `B` tokens touch in a layer, each choosing `k` of `N` by chance: `N (1 - (1 - k/N)^B)`. A step reads what
//! every token uses, the experts touched, and the cache of its sequences; two operations a multiply-add.
//! The cache of a sequence of `n` tokens: `n` rows a layer, `min(n, window)` where attention has a window, a latent and
//! a rotary key where it is latent (MLA, arXiv 2405.04434), and states that do not grow.

use std::path::Path;

use moebius_model::{HeldFormats, LayerMemory, ModelFiles, ModelInfo, Place, RandomWeights};

use super::weights::Weights;
use crate::bench::{Shape, expected_distinct};
use crate::{BackendOptions, Needs, Result, WeightFormat, locate_model, open_backend};

/// Rows of a prompt that are read together.
pub(super) const CHUNK: u64 = 512;
/// Positions that a sequence of this program has room for at first.
const FIRST_POSITIONS: u64 = 64;

/// How numbers of the cache are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// 32 bits, every position, room doubling: what this program does.
    Own,
    /// 32 bits, windows kept as windows.
    F32,
    /// 16 bits, windows kept as windows: what most servers do.
    F16,
    /// Blocks of 32 with eight bits and a scale of 16, windows kept as windows.
    Q8,
}

impl CacheFormat {
    /// Every format with its name.
    pub const NAMES: [(&'static str, CacheFormat); 4] = [
        ("f16", CacheFormat::F16),
        ("f32", CacheFormat::F32),
        ("q8_0", CacheFormat::Q8),
        ("own", CacheFormat::Own),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        CacheFormat::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// Bytes of so many numbers.
    fn bytes(self, numbers: u64) -> u64 {
        match self {
            CacheFormat::Own | CacheFormat::F32 => numbers.saturating_mul(4),
            CacheFormat::F16 => numbers.saturating_mul(2),
            CacheFormat::Q8 => numbers.div_ceil(32).saturating_mul(34),
        }
    }
}

/// One part of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct PartDemand {
    /// Where it works.
    pub place: Place,
    /// Its parameters.
    pub parameters: u64,
    /// Parameters that one token uses.
    pub active: u64,
    /// Bytes as held.
    pub bytes: u64,
    /// Formats, most bytes first.
    pub formats: Vec<String>,
}

/// What one model asks for.
#[derive(Clone, Debug)]
pub struct Demand {
    /// A name for tables.
    pub name: String,
    /// What the model is.
    pub info: ModelInfo,
    /// What weights are held in.
    pub weights: Weights,
    /// Whether that was assumed, because neither files nor the caller say it.
    pub is_assumed: bool,
    /// Weights by part.
    pub parts: Vec<PartDemand>,
}

impl Demand {
    /// Of the model that `name` stands for: a directory, a config.json, a hub's model in the cache or the name of a [`Shape`]. `experts` replaces the
    /// configured experts per token. Without weights and without a choice, bf16 is assumed.
    ///
    /// # Errors
    /// [`crate::Error::UnknownName`] for a name that is none of these; those of [`ModelFiles::open`].
    pub fn find(name: &str, experts: Option<usize>, weights: Option<Weights>) -> Result<Self> {
        let path = Path::new(name);
        let (files, called) = match path.exists() {
            true => {
                let dir = path.to_path_buf();
                let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                let is_config = full.extension().is_some_and(|extension| extension == "json");
                let named = if is_config { full.parent() } else { Some(full.as_path()) };
                let called = named.and_then(Path::file_name).map(|part| part.to_string_lossy().into_owned());
                (ModelFiles::open(&dir, experts)?, called.unwrap_or_else(|| name.into()))
            }
            false if name.contains(['/', ':']) => {
                let dir = locate_model(name, Needs::Description)?;
                (ModelFiles::open(&dir, experts)?, name.to_owned())
            }
            false => {
                let shape = Shape::find(name)?;
                (ModelFiles::described(shape.config(), experts)?, name.to_owned())
            }
        };
        Demand::of(called, files, weights)
    }

    /// Of the first `layers` decoder layers of a shape, with weights as if they were there.
    ///
    /// # Errors
    /// Those of [`ModelFiles::random`].
    pub(super) fn cut(shape: &Shape, layers: usize, weights: Weights) -> Result<Self> {
        let backend = open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() })?;
        let random = RandomWeights { layers: Some(layers), ..RandomWeights::default() };
        let files = ModelFiles::random(shape.config(), &random, None, &backend)?;
        Demand::of(format!("{}:{layers}L", shape.name()), files, Some(weights))
    }

    /// Of files that are open, or of a configuration alone.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`].
    pub(super) fn of(name: String, files: ModelFiles, weights: Option<Weights>) -> Result<Self> {
        let backend = open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() })?;
        let is_assumed = weights.is_none() && files.checkpoint_bytes().is_none();
        let weights = match weights {
            None if is_assumed => Weights::Held(HeldFormats::Uniform(WeightFormat::Bf16)),
            weights => weights.unwrap_or_default(),
        };
        let held = if let Weights::Held(held) = weights { held } else { HeldFormats::AsStored };
        let info = files.hold(held).info(&backend)?;
        Ok(Demand { is_assumed, ..Demand::from_info(name, info, weights) })
    }

    /// Of a model that was planned already, with weights held as it says if `weights` are formats of this program.
    pub(crate) fn from_info(name: String, info: ModelInfo, weights: Weights) -> Self {
        let parts = info.tally.iter().map(|(&place, tally)| weights.part(place, tally)).collect();
        Demand { name, info, weights, is_assumed: false, parts }
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of all routed experts.
    pub fn expert_bytes(&self) -> u64 {
        self.parts.iter().filter(|part| part.place == Place::Experts).map(|part| part.bytes).sum()
    }

    /// Bytes of weights that every step reads, whatever its tokens: all but experts and the table of tokens, unless that
    /// is the output projection.
    pub fn common_bytes(&self) -> u64 {
        self.parts.iter().filter(|part| self.is_common(part.place)).map(|part| part.bytes).sum()
    }

    fn is_common(&self, place: Place) -> bool {
        let untied = self.info.tally.contains_key(&Place::LmHead);
        place != Place::Experts && !(untied && place == Place::Embedding)
    }

    /// Experts of a layer that `rows` tokens touch by chance; `None` for a model without a router.
    pub fn distinct_experts(&self, rows: f64) -> Option<f64> {
        self.info.moe.as_ref().map(|moe| expected_distinct(moe.n_experts, moe.top_k, rows))
    }

    /// Bytes of the experts that `rows` tokens touch by chance, over all layers.
    pub fn touched_expert_bytes(&self, rows: f64) -> f64 {
        let share = self.info.moe.as_ref().map(|moe| moe.n_experts as f64);
        match (self.distinct_experts(rows), share) {
            (Some(distinct), Some(n_experts)) => self.expert_bytes() as f64 * distinct / n_experts,
            _ => 0.0,
        }
    }

    /// Bytes of weights that one step of `rows` tokens reads by chance.
    pub fn step_weight_bytes(&self, rows: f64) -> f64 {
        self.common_bytes() as f64 + self.touched_expert_bytes(rows)
    }

    /// Bytes of one sequence's cache once it has `tokens` tokens.
    pub fn cache_bytes(&self, tokens: u64, format: CacheFormat) -> u64 {
        let rows = match format {
            CacheFormat::Own => {
                let context = self.info.context as u64;
                tokens
                    .max(FIRST_POSITIONS)
                    .checked_next_power_of_two()
                    .unwrap_or(tokens)
                    .min(context.max(tokens))
            }
            _ => tokens,
        };
        let states: u64 = self.info.memory.iter().map(|layer| layer.cache.numbers_per_sequence()).sum();
        let layer = |layer: &LayerMemory| {
            let window = layer.attention.and_then(|attention| attention.window).map(|window| window as u64);
            let kept = if format == CacheFormat::Own { rows } else { rows.min(window.unwrap_or(u64::MAX)) };
            format.bytes(layer.cache.numbers_per_position().saturating_mul(kept))
        };
        let grown = self.info.memory.iter().map(layer).fold(0, u64::saturating_add);
        grown.saturating_add(states.saturating_mul(size_of::<f32>() as u64))
    }

    /// Bytes that a sequence's cache grows by with a token that comes after every window is full.
    pub fn cache_bytes_per_token(&self, format: CacheFormat) -> u64 {
        let grows = |layer: &&LayerMemory| {
            format == CacheFormat::Own || layer.attention.is_none_or(|attention| attention.window.is_none())
        };
        let numbers = self.info.memory.iter().filter(grows).map(|layer| layer.cache.numbers_per_position());
        format.bytes(numbers.sum())
    }

    /// Bytes that one token of a sequence of `tokens` tokens reads of its cache.
    pub fn cache_read_bytes(&self, tokens: u64, format: CacheFormat) -> u64 {
        // Windows bound what is read whether or not they bound what is kept.
        let read = if format == CacheFormat::Own { CacheFormat::F32 } else { format };
        self.cache_bytes(tokens, read)
    }

    /// Operations of one generated token in matrix products with weights.
    pub fn weight_flops(&self) -> f64 {
        let counts = |part: &&PartDemand| {
            part.place != Place::Norm && (self.is_common(part.place) || part.place == Place::Experts)
        };
        2.0 * self.parts.iter().filter(counts).map(|part| part.active as f64).sum::<f64>()
    }

    /// The same of a token of a prompt: without the output projection, and in the last layer without what only the
    /// prompt's last token needs.
    pub fn prompt_weight_flops(&self) -> f64 {
        let layers = self.info.n_layers.max(1) as f64;
        let share = |place| match place {
            Place::Attention => 1.0,
            Place::Experts | Place::SharedExperts | Place::Router | Place::Dense => 1.0 - 1.0 / layers,
            Place::Embedding | Place::LmHead | Place::Norm => 0.0,
        };
        2.0 * self.parts.iter().map(|part| share(part.place) * part.active as f64).sum::<f64>()
    }

    /// Operations of one token in attention over `keys` earlier ones. Latent attention is `absorbed` when tokens are
    /// generated; servers expand keys and values for prompts, which takes fewer operations there.
    pub fn attention_flops(&self, keys: f64, absorbed: bool) -> f64 {
        let layers = self.info.memory.iter().filter_map(|layer| layer.attention);
        let flops = layers.map(|attention| {
            let seen = attention.window.map_or(keys, |window| keys.min(window as f64));
            let macs = if absorbed { attention.macs_per_pair } else { attention.expanded_macs_per_pair };
            2.0 * macs as f64 * seen
        });
        flops.sum()
    }

    /// About how many bytes activations take while `rows` tokens are under way, and logits of `outputs` of them.
    pub fn activation_bytes(&self, rows: u64, outputs: u64) -> u64 {
        let info = &self.info;
        let heads = info.memory.iter().filter_map(|layer| layer.attention).map(|a| a.macs_per_pair).max();
        let experts = info.moe.as_ref().map_or(0, |moe| {
            2 * (moe.top_k * moe.intermediate) as u64 + moe.shared_intermediate.unwrap_or(0) as u64
        });
        // The stream, its normed copy, a branch's output and a sum; queries, keys, values and what was attended.
        let numbers = 4 * info.hidden as u64 + 2 * heads.unwrap_or(0) + experts;
        let bytes =
            rows.saturating_mul(numbers).saturating_add(outputs.saturating_mul(info.vocab_size as u64));
        bytes.saturating_mul(size_of::<f32>() as u64)
    }
}
