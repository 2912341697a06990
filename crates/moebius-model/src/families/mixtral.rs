//! Mixtral (arXiv 2401.04088): every feed-forward is a bank of experts, two of which serve a token.
//!
//! Router: softmax over all experts, the `k` largest, renormalised.
//! Shapes: experts `w1, w3: [intermediate, hidden]` (gate and up), `w2: [hidden, intermediate]`.

use super::{Architecture, Outline, experts, softmax_router};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, MoeNames, MoeStack, Multipliers,
};
use crate::loader::Loader;
use crate::model::Model;

struct Mixtral {
    base: BaseConfig,
    stack: MoeStack,
    window: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e6, norm_eps: 1e-5, context: 131_072, kv_heads: Some(8), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_local_experts", "num_experts"])?;
    config.irrelevant(&["router_jitter_noise", "use_sliding_window", "max_window_layers"]);
    let router = softmax_router(n_experts, top_k, true);
    let stack = MoeStack {
        names: MoeNames { matrices: ["w1", "w3", "w2"], ..MoeNames::USUAL },
        ..MoeStack::experts_alone(&base, config.width("intermediate_size")?, router)
    };
    let window = config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?;
    Ok(Box::new(Mixtral { base, stack, window }))
}

impl Mixtral {
    fn attention(&self) -> AttentionConfig {
        AttentionConfig { window: self.window, ..self.base.attention() }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        // The reference implementation's own name for the block, which it writes when told to keep it.
        let kept = loader.has(&format!("{prefix}.mlp.gate.weight"));
        let block = if kept { "mlp" } else { "block_sparse_moe" };
        let moe = self.stack.feed_forward(loader, layer, &format!("{prefix}.{block}"))?;
        DecoderLayer::load(loader, &prefix, self.attention(), moe)
    }
}

impl Architecture for Mixtral {
    fn outline(&self) -> Outline {
        let window = self.window.map(|w| format!(", window of {w}")).unwrap_or_default();
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &window,
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
