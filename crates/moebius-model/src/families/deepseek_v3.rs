//! DeepSeek-V3 and R1 (arXiv 2412.19437), Kimi-K2 and Moonlight: latent attention, many experts chosen in groups.
//!
//! Router: sigmoid; with a correction bias the best groups by their two best experts, the `k` best experts inside them;
//! their scores without the bias, renormalised, times a constant. Shared experts beside them, the first layers dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::{Architecture, Outline, first_dense, mtp_layers, routed_experts, shared_experts, sigmoid_router};
use crate::Result;
use crate::config::Config;
use crate::layers::{
    BaseConfig, Decoder, DecoderLayer, Defaults, Keys, LatentAttention, LatentConfig, MoeNames, MoeStack,
    Multipliers,
};
use crate::loader::Loader;
use crate::model::Model;

struct DeepseekV3 {
    base: BaseConfig,
    attention: LatentConfig,
    stack: MoeStack,
    mtp_layers: usize,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        context: 4096,
        keys: Keys { head_dim: "qk_rope_head_dim", ..Keys::USUAL },
        pairing: moebius_backend::Pairing::Interleaved,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    config.expect_text("scoring_func", &["sigmoid"])?;
    config.expect_text("topk_method", &["noaux_tc"])?;
    let (n_experts, top_k) = routed_experts(config)?;
    let intermediate = config.width("moe_intermediate_size")?;
    let stack = MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: first_dense(config, base.n_layers)?,
        dense_intermediate: config.width("intermediate_size")?,
        intermediate,
        shared: shared_experts(config, "n_shared_experts", intermediate)?,
        router: sigmoid_router(config, n_experts, top_k)?,
        names: MoeNames::WITH_CORRECTION_BIAS,
        bias: false,
    };
    let attention = LatentConfig::read(config, &base)?;
    Ok(Box::new(DeepseekV3 { attention, stack, mtp_layers: mtp_layers(config)?, base }))
}

impl DeepseekV3 {
    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let attention = LatentAttention::load(loader, &format!("{prefix}.self_attn"), self.attention.clone())?;
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        DecoderLayer::around(loader, &prefix, (self.base.hidden, self.base.norm()), attention, feed_forward)
    }
}

impl Architecture for DeepseekV3 {
    fn outline(&self) -> Outline {
        Outline {
            base: self.base.clone(),
            attention: self.attention.describe(),
            moe: self.stack.info(),
            mtp_layers: self.mtp_layers,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
