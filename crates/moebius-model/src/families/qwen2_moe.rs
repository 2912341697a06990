//! Qwen2-MoE and Qwen1.5-MoE (arXiv 2407.10671): routed experts plus one that every token goes through,
//! scaled by a gate of its own.
//!
//! `y = Σ w_e expert_e(x) + sigmoid(g · x) shared(x)`; router: softmax over all experts, the `k` largest,
//! as a rule not renormalised. Some layers may be dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, GATE_UP_DOWN, Outline, experts, layouts, softmax_router, sparse_layers};
use crate::config::{Config, MAX_CONTEXT};
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, Mlp, MlpConfig, MoeConfig,
    MoeExtras, MoeLayer, Multipliers, SharedExpert,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

struct Qwen2Moe {
    base: BaseConfig,
    dense_intermediate: usize,
    moe_intermediate: usize,
    shared_intermediate: usize,
    n_experts: usize,
    top_k: usize,
    renormalize: bool,
    sparse: Vec<bool>,
    qkv_bias: bool,
    /// One entry a layer.
    windows: Vec<Option<usize>>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e4, norm_eps: 1e-6, context: 32_768, kv_heads: Some(16), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts"])?;
    config.irrelevant(&["attention_bias"]);
    Ok(Box::new(Qwen2Moe {
        sparse: sparse_layers(config, base.n_layers)?,
        windows: windows(config, base.n_layers)?,
        base,
        dense_intermediate: config.width("intermediate_size")?,
        moe_intermediate: config.width("moe_intermediate_size")?,
        shared_intermediate: config.width("shared_expert_intermediate_size")?,
        n_experts,
        top_k,
        renormalize: config.flag_or("norm_topk_prob", false)?,
        qkv_bias: config.flag_or("qkv_bias", true)?,
    }))
}

const LAYER_TYPES: &str = "`sliding_attention` and `full_attention`";

/// With `use_sliding_window`, the layers of `layer_types`, or every second one below `max_window_layers`.
fn windows(config: &Config, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let enabled = config.flag_or("use_sliding_window", false)?;
    let below = config.opt_count("max_window_layers")?.unwrap_or(28);
    let kinds = config.list("layer_types", LAYER_TYPES, |kind| match kind.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    })?;
    let slides = match kinds {
        Some(kinds) if kinds.len() != n_layers => {
            let reason = format!("expected {n_layers} entries, got {}", kinds.len());
            return Err(Error::config("layer_types", reason));
        }
        Some(kinds) => kinds,
        None => (0..n_layers).map(|layer| enabled && layer % 2 == 0 && layer < below).collect(),
    };
    config.irrelevant(&["sliding_window"]);
    if !slides.contains(&true) {
        return Ok(vec![None; n_layers]);
    }
    if !enabled {
        return Err(Error::config("layer_types", "sliding attention needs `use_sliding_window`: true"));
    }
    let window = config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.unwrap_or(4096);
    Ok(slides.into_iter().map(|slides| slides.then_some(window)).collect())
}

impl Qwen2Moe {
    fn router(&self) -> RouterConfig {
        softmax_router(self.n_experts, self.top_k, self.renormalize)
    }

    fn attention(&self, layer: usize) -> AttentionConfig {
        AttentionConfig { window: self.windows[layer], qkv_bias: self.qkv_bias, ..self.base.attention() }
    }

    fn feed_forward(&self, loader: &Loader<'_>, layer: usize, mlp: &str) -> Result<FeedForward> {
        let BaseConfig { hidden, activation, .. } = self.base;
        if !self.sparse[layer] {
            let dense = MlpConfig::gated(hidden, self.dense_intermediate, activation);
            return Ok(FeedForward::Dense(Mlp::load(loader, mlp, dense)?));
        }
        let moe = MoeConfig {
            layer,
            hidden,
            intermediate: self.moe_intermediate,
            activation,
            router: self.router(),
            gate: format!("{mlp}.gate"),
            layouts: layouts(&format!("{mlp}.experts"), GATE_UP_DOWN),
            extras: MoeExtras::default(),
        };
        let shared = SharedExpert::load_gated(
            loader,
            &format!("{mlp}.shared_expert"),
            &format!("{mlp}.shared_expert_gate"),
            MlpConfig::gated(hidden, self.shared_intermediate, activation),
        )?;
        Ok(FeedForward::Moe(MoeLayer::load(loader, moe, Some(shared))?))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let feed_forward = self.feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        DecoderLayer::load(loader, &prefix, self.attention(layer), feed_forward)
    }
}

impl Architecture for Qwen2Moe {
    fn outline(&self) -> Outline {
        let sliding = self.windows.iter().flatten().count();
        let window = match self.windows.iter().flatten().next() {
            Some(window) => format!(", window of {window} in {sliding} of {} layers", self.base.n_layers),
            None => String::new(),
        };
        let sparse_layers = self.sparse.iter().filter(|s| **s).count();
        let moe = MoeInfo {
            shared_intermediate: Some(self.shared_intermediate),
            ..MoeInfo::new(&self.router(), sparse_layers, self.moe_intermediate)
        };
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &window,
            moe: (sparse_layers > 0).then_some(moe),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
