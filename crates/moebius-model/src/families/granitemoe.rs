//! Granite MoE (IBM Granite 3 a400m and a800m, PowerMoE): fused experts and four constant multipliers.
//!
//! Router: the `k` largest logits, softmax over them. `h0 = m_e embed`, `h += m_r branch(norm(h))`,
//! attention scores times `attention_multiplier` in place of `1/sqrt(head_dim)`, logits over
//! `logits_scaling`.
//! Shapes: `input_linear: [experts, 2 intermediate, hidden]`, `output_linear: [experts, hidden, intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, Outline, experts};
use crate::Result;
use crate::config::Config;
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, MlpConfig, MlpNames,
    MoeConfig, MoeExtras, MoeLayer, Multipliers, SharedExpert,
};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;

struct GraniteMoe {
    base: BaseConfig,
    intermediate: usize,
    n_experts: usize,
    top_k: usize,
    attention_bias: bool,
    attention_multiplier: f64,
    multipliers: Multipliers,
    shared_intermediate: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    read_with_shared(config, None)
}

/// Reads a configuration whose layers have a shared expert of this width, if they have one.
pub(super) fn read_with_shared(
    config: &Config,
    shared_intermediate: Option<usize>,
) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { rope_theta: 1e4, norm_eps: 1e-6, context: 2048, ..Defaults::USUAL };
    let (n_experts, top_k) = experts(config, &["num_local_experts"])?;
    let multiplier = |key: &str| Ok::<_, crate::Error>(config.opt_number(key)?.unwrap_or(1.0));
    Ok(Box::new(GraniteMoe {
        base: BaseConfig::read(config, defaults)?,
        intermediate: config.width("intermediate_size")?,
        n_experts,
        top_k,
        attention_bias: config.flag_or("attention_bias", false)?,
        attention_multiplier: multiplier("attention_multiplier")?,
        multipliers: Multipliers {
            embedding: multiplier("embedding_multiplier")?,
            residual: multiplier("residual_multiplier")?,
            logits_divisor: config.opt_positive("logits_scaling")?.unwrap_or(1.0),
        },
        shared_intermediate,
    }))
}

impl GraniteMoe {
    fn router(&self) -> RouterConfig {
        RouterConfig::top_k_softmax(self.n_experts, self.top_k)
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            scale: self.attention_multiplier,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn shared(&self, loader: &Loader<'_>, layer: &str) -> Result<Option<SharedExpert>> {
        let Some(intermediate) = self.shared_intermediate else { return Ok(None) };
        let names = MlpNames::Fused(["input_linear", "output_linear"]);
        let mlp =
            MlpConfig { names, ..MlpConfig::gated(self.base.hidden, intermediate, self.base.activation) };
        SharedExpert::load(loader, &format!("{layer}.shared_mlp"), mlp).map(Some)
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let moe = format!("{prefix}.block_sparse_moe");
        let fused = |gate_up: &str, down: &str| {
            ExpertLayout::fused(format!("{moe}.{gate_up}"), format!("{moe}.{down}"))
        };
        let gate = match loader.has(&format!("{moe}.router.weight")) {
            true => format!("{moe}.router"),
            false => format!("{moe}.router.layer"),
        };
        let moe = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: self.intermediate,
            activation: self.base.activation,
            router: self.router(),
            gate,
            layouts: vec![
                fused("input_linear.weight", "output_linear.weight"),
                fused("experts.gate_up_proj", "experts.down_proj"),
            ],
            extras: MoeExtras::default(),
        };
        let moe = FeedForward::Moe(MoeLayer::load(loader, moe, self.shared(loader, &prefix)?)?);
        DecoderLayer::load(loader, &prefix, self.attention(), moe)
    }
}

impl Architecture for GraniteMoe {
    fn outline(&self) -> Outline {
        let moe = MoeInfo::new(&self.router(), self.base.n_layers, self.intermediate);
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention(),
            moe: Some(MoeInfo { shared_intermediate: self.shared_intermediate, ..moe }),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(self.multipliers), layers)?))
    }
}
