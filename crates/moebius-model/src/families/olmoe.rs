//! OLMoE (arXiv 2409.02060): many small experts, eight of which serve a token.
//!
//! Router: softmax over all experts, the `k` largest, as a rule not renormalised. Queries and keys are
//! normalised over the whole projection, then optionally clipped together with the values.
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, GATE_UP_DOWN, Outline, experts, layouts, softmax_router};
use crate::Result;
use crate::config::Config;
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, MoeConfig, MoeExtras,
    MoeLayer, Multipliers, QkNorm,
};
use crate::loader::Loader;
use crate::model::Model;

struct Olmoe {
    base: BaseConfig,
    intermediate: usize,
    n_experts: usize,
    top_k: usize,
    renormalize: bool,
    attention_bias: bool,
    clip_qkv: Option<f64>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { rope_theta: 1e4, norm_eps: 1e-5, context: 4096, ..Defaults::USUAL };
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    Ok(Box::new(Olmoe {
        base: BaseConfig::read(config, defaults)?,
        intermediate: config.width("intermediate_size")?,
        n_experts,
        top_k,
        renormalize: config.flag_or("norm_topk_prob", false)?,
        attention_bias: config.flag_or("attention_bias", false)?,
        clip_qkv: config.opt_positive("clip_qkv")?,
    }))
}

impl Olmoe {
    fn router(&self) -> RouterConfig {
        softmax_router(self.n_experts, self.top_k, self.renormalize)
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            qk_norm: QkNorm::Whole,
            clip: self.clip_qkv,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let moe = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: self.intermediate,
            activation: self.base.activation,
            router: self.router(),
            gate: format!("{prefix}.mlp.gate"),
            layouts: layouts(&format!("{prefix}.mlp.experts"), GATE_UP_DOWN),
            extras: MoeExtras::default(),
        };
        let moe = FeedForward::Moe(MoeLayer::load(loader, moe, None)?);
        DecoderLayer::load(loader, &prefix, self.attention(), moe)
    }
}

impl Architecture for Olmoe {
    fn outline(&self) -> Outline {
        let clip = self.clip_qkv.map(|c| format!(", clipped at {c}")).unwrap_or_default();
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + ", q/k norm over the projection" + &clip,
            moe: Some(MoeInfo::new(&self.router(), self.base.n_layers, self.intermediate)),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
