//! What a model is, in numbers: the answer to `moebius show`.

use std::collections::BTreeMap;

use moebius_backend::WeightFormat;
use moebius_router::RouterConfig;

use crate::cache::LayerCacheSpec;
use crate::formats::HeldFormats;

/// Where in a model a weight works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The token table, and the output projection when the two are tied.
    Embedding,
    /// Projections, norms and biases of attention.
    Attention,
    /// Router projections and their biases.
    Router,
    /// Routed experts.
    Experts,
    /// Experts that every token goes through.
    SharedExperts,
    /// Feed-forward layers without a router.
    Dense,
    /// Norms of the residual stream.
    Norm,
    /// The output projection.
    LmHead,
}

impl Place {
    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Place::Embedding => "embedding",
            Place::Attention => "attention",
            Place::Router => "router",
            Place::Experts => "experts",
            Place::SharedExperts => "shared experts",
            Place::Dense => "dense layers",
            Place::Norm => "norms",
            Place::LmHead => "lm_head",
        }
    }
}

/// Parameters and bytes of one [`Place`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All parameters.
    pub total: u64,
    /// Parameters that one token uses.
    pub active: u64,
    /// Bytes as held; `None` when neither weights nor a format to hold them in are known.
    pub bytes: Option<u64>,
    /// Formats that weights are held in and the bytes in each, most bytes first. Empty where bytes are `None`.
    pub formats: Vec<(WeightFormat, u64)>,
}

impl Tally {
    /// The format that most bytes are held in.
    pub fn format(&self) -> Option<WeightFormat> {
        self.formats.first().map(|&(format, _)| format)
    }

    /// Counts `bytes` that are held in `format`.
    pub(crate) fn hold(&mut self, format: WeightFormat, bytes: u64) {
        self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(bytes));
        match self.formats.iter_mut().find(|(known, _)| *known == format) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.formats.push((format, bytes)),
        }
        self.formats.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    }
}

/// A key of config.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value as JSON, or the kind of a long one; `None` where it is absent or null.
    pub value: Option<String>,
    /// What the family does with it.
    pub role: SettingRole,
}

/// What a family does with a key of config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingRole {
    /// Reads it, and takes a default of its own where it is absent.
    Used,
    /// Reads nothing from it, and refuses a value that contradicts what it does.
    Fixed,
    /// Knows that it does not matter.
    Irrelevant,
    /// Never asks for it.
    Unknown,
}

/// What one decoder layer remembers of a sequence, and what its attention computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerMemory {
    /// What the cache holds for it.
    pub cache: LayerCacheSpec,
    /// Its attention; `None` where the layer has none.
    pub attention: Option<AttentionShape>,
}

/// Attention in numbers: what a query reads and computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// A query sees at most this many keys, itself included; `None` for all before it. Of attention in chunks, the
    /// chunk's length.
    pub window: Option<usize>,
    /// Multiply-adds for each pair of a query and a key, over all heads: scores and weighted sum.
    pub macs_per_pair: u64,
    /// The same where keys and values of all heads are made from the latent first; equal where there is no latent.
    pub expanded_macs_per_pair: u64,
}

/// The routed experts of a model. Layers without a router are not counted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoeInfo {
    /// Decoder layers with a router.
    pub layers: usize,
    /// Experts in each of them.
    pub n_experts: usize,
    /// Experts that a token goes through; the most that any layer allows.
    pub top_k: usize,
    /// Width of an expert.
    pub intermediate: usize,
    /// The router's formula in words.
    pub formula: String,
    /// Width of the shared expert, if there is one.
    pub shared_intermediate: Option<usize>,
}

/// What a layer's router chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutedLayer {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Its experts.
    pub n_experts: usize,
    /// Experts that a token goes through, at most.
    pub top_k: usize,
}

impl MoeInfo {
    /// Experts of `intermediate` behind `router`, in `layers` layers, none of them shared.
    pub fn new(router: &RouterConfig, layers: usize, intermediate: usize) -> Self {
        MoeInfo {
            layers,
            n_experts: router.n_experts,
            top_k: router.top_k,
            intermediate,
            formula: router.formula(),
            shared_intermediate: None,
        }
    }
}

/// What a model is.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `model_type` of its configuration.
    pub family: &'static str,
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Most positions of a sequence.
    pub context: usize,
    /// Attention in words.
    pub attention: String,
    /// Its experts; `None` for a model whose layers are all dense.
    pub moe: Option<MoeInfo>,
    /// The layers with a router, ascending.
    pub routed_layers: Vec<RoutedLayer>,
    /// Layers after the last one that predict further tokens (MTP, arXiv 2412.19437) and are left out.
    pub mtp_layers: usize,
    /// `model_type` of the multimodal model that this is the text part of.
    pub text_part_of: Option<String>,
    /// End-of-sequence ids of config.json.
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence id of config.json.
    pub bos_token_id: Option<u32>,
    /// Parameters and bytes by place.
    pub tally: BTreeMap<Place, Tally>,
    /// The choice that weights were packed with, if they lie packed in the checkpoint.
    pub packed: Option<HeldFormats>,
    /// Cache bytes that one token takes.
    pub cache_bytes_per_token: u64,
    /// Cache bytes that one sequence takes whatever its length: states of recurrences and convolutions.
    pub cache_bytes_per_sequence: u64,
    /// The same by decoder layer, and what attention computes.
    pub memory: Vec<LayerMemory>,
    /// Tensors in the checkpoint that are known not to matter.
    pub ignored_tensors: Vec<String>,
    /// Tensors in the checkpoint that nothing asked for.
    pub unknown_tensors: Vec<String>,
    /// Configuration keys that nothing asked for.
    pub unknown_keys: Vec<String>,
}

impl ModelInfo {
    /// Parameters of the whole model.
    pub fn total_parameters(&self) -> u64 {
        self.tally.values().map(|t| t.total).sum()
    }

    /// Parameters that one token uses, the embedding table included.
    pub fn active_parameters(&self) -> u64 {
        self.tally.values().map(|t| t.active).sum()
    }

    /// Parameters that one token uses, without an embedding table of which it reads one row: some authors publish this
    /// number, most [`ModelInfo::active_parameters`]. A table that is the output projection too is used whole.
    pub fn active_without_embedding(&self) -> u64 {
        let table = match self.tally.contains_key(&Place::LmHead) {
            true => self.tally.get(&Place::Embedding).map_or(0, |tally| tally.active),
            false => 0,
        };
        self.active_parameters() - table
    }

    /// How most weights are held: the experts', or else the dense layers'. `None` if not known.
    pub fn weight_format(&self) -> Option<WeightFormat> {
        let format = |place| self.tally.get(&place).and_then(Tally::format);
        format(Place::Experts).or_else(|| format(Place::Dense))
    }

    /// Formats that weights are held in and the bytes in each, most bytes first. Empty if not known.
    pub fn formats(&self) -> Vec<(WeightFormat, u64)> {
        let mut whole = Tally::default();
        let parts = self.tally.values().flat_map(|tally| &tally.formats);
        parts.for_each(|&(format, bytes)| whole.hold(format, bytes));
        whole.formats
    }

    /// Bytes of all weights as held, if known.
    pub fn weight_bytes(&self) -> Option<u64> {
        self.tally.values().map(|t| t.bytes).sum()
    }
}
