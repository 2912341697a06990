//! Mixtral (arXiv 2401.04088): every feed-forward is a bank of experts, two of which serve a token.
//!
//! Router: softmax over all experts, the `k` largest, renormalised.
//! Shapes: experts `w1, w3: [intermediate, hidden]` (gate and up), `w2: [hidden, intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, Outline, experts, layouts};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, MoeConfig, MoeExtras,
    MoeLayer, Multipliers,
};
use crate::loader::Loader;
use crate::model::Model;

struct Mixtral {
    base: BaseConfig,
    intermediate: usize,
    n_experts: usize,
    top_k: usize,
    window: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e6, norm_eps: 1e-5, context: 131_072, kv_heads: Some(8), ..Defaults::USUAL };
    let (n_experts, top_k) = experts(config, &["num_local_experts", "num_experts"])?;
    config.irrelevant(&["router_jitter_noise", "use_sliding_window", "max_window_layers"]);
    Ok(Box::new(Mixtral {
        base: BaseConfig::read(config, defaults)?,
        intermediate: config.width("intermediate_size")?,
        n_experts,
        top_k,
        window: config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?,
    }))
}

impl Mixtral {
    fn router(&self) -> RouterConfig {
        RouterConfig::softmax_top_k(self.n_experts, self.top_k)
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig { window: self.window, ..self.base.attention() }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        // The reference implementation's own name for the block, which it writes when told to keep it.
        let block = match loader.has(&format!("{prefix}.mlp.gate.weight")) {
            true => format!("{prefix}.mlp"),
            false => format!("{prefix}.block_sparse_moe"),
        };
        let moe = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: self.intermediate,
            activation: self.base.activation,
            router: self.router(),
            gate: format!("{block}.gate"),
            layouts: layouts(&format!("{block}.experts"), ["w1", "w3", "w2"]),
            extras: MoeExtras::default(),
        };
        let moe = FeedForward::Moe(MoeLayer::load(loader, moe, None)?);
        DecoderLayer::load(loader, &prefix, self.attention(), moe)
    }
}

impl Architecture for Mixtral {
    fn outline(&self) -> Outline {
        let window = self.window.map(|w| format!(", window of {w}")).unwrap_or_default();
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &window,
            moe: Some(MoeInfo::new(&self.router(), self.base.n_layers, self.intermediate)),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
