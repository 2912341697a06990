//! Qwen3-MoE (arXiv 2505.09388): small experts, per-head norms on queries and keys.
//!
//! Router: softmax over all experts, the `k` largest, renormalised in the released models. Some layers may
//! be dense. Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, GATE_UP_DOWN, Outline, experts, layouts, softmax_router, sparse_layers};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, Mlp, MlpConfig, MoeConfig,
    MoeExtras, MoeLayer, Multipliers, QkNorm,
};
use crate::loader::Loader;
use crate::model::Model;

struct Qwen3Moe {
    base: BaseConfig,
    dense_intermediate: usize,
    moe_intermediate: usize,
    n_experts: usize,
    top_k: usize,
    renormalize: bool,
    sparse: Vec<bool>,
    attention_bias: bool,
    window: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e4, norm_eps: 1e-6, context: 32_768, kv_heads: Some(4), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    config.irrelevant(&["max_window_layers", "layer_types", "sliding_window"]);
    let window = match config.flag_or("use_sliding_window", false)? {
        true if config.is_null("sliding_window") => None,
        true => config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.or(Some(4096)),
        false => None,
    };
    Ok(Box::new(Qwen3Moe {
        sparse: sparse_layers(config, base.n_layers)?,
        base,
        dense_intermediate: config.width("intermediate_size")?,
        moe_intermediate: config.width("moe_intermediate_size")?,
        n_experts,
        top_k,
        renormalize: config.flag_or("norm_topk_prob", false)?,
        attention_bias: config.flag_or("attention_bias", false)?,
        window,
    }))
}

impl Qwen3Moe {
    fn router(&self) -> RouterConfig {
        softmax_router(self.n_experts, self.top_k, self.renormalize)
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            qk_norm: QkNorm::PerHead,
            window: self.window,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
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
        Ok(FeedForward::Moe(MoeLayer::load(loader, moe, None)?))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let feed_forward = self.feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        DecoderLayer::load(loader, &prefix, self.attention(), feed_forward)
    }
}

impl Architecture for Qwen3Moe {
    fn outline(&self) -> Outline {
        let window = self.window.map(|w| format!(", window of {w}")).unwrap_or_default();
        let sparse_layers = self.sparse.iter().filter(|s| **s).count();
        let moe = MoeInfo::new(&self.router(), sparse_layers, self.moe_intermediate);
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + ", q/k norm per head" + &window,
            moe: (sparse_layers > 0).then_some(moe),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
