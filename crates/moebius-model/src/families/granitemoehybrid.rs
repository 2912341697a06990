//! Granite 4 hybrids (IBM Granite 4.0 h-tiny and h-small): Mamba-2 in most layers, attention in a few, fused experts.
//!
//! Router: the `k` largest logits, softmax over them; a shared expert beside them, or alone where there are no others.
//! `h0 = m_e embed`, `h += m_r branch(norm(h))`, attention scores times `attention_multiplier`, logits over
//! `logits_scaling`. Attention has no positions unless `position_embedding_type` is `rope`.
//! Shapes: `input_linear: [experts, 2 intermediate, hidden]`, `output_linear: [experts, hidden, intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, Outline, attention_layers, experts};
use crate::config::{Config, MAX_WIDTH};
use crate::info::MoeInfo;
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, MAX_KERNEL, Mamba2,
    Mamba2Config, Mlp, MlpConfig, MlpNames, MoeConfig, MoeExtras, MoeLayer, Multipliers, SharedExpert,
    step_limits,
};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

struct GraniteMoeHybrid {
    base: BaseConfig,
    /// Which layers have attention; the others have a state space.
    attention: Vec<bool>,
    rotates: bool,
    attention_bias: bool,
    attention_multiplier: f64,
    mamba: Mamba2Config,
    experts: Option<Experts>,
    shared_intermediate: usize,
    multipliers: Multipliers,
}

struct Experts {
    router: RouterConfig,
    intermediate: usize,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    config.expect_text("position_embedding_type", &["rope", "nope"])?;
    config.expect_text("normalization_function", &["rmsnorm"])?;
    config.irrelevant(&["init_method", "mamba_chunk_size"]);
    let rotates = config.opt_text("position_embedding_type")? == Some("rope");
    let base = BaseConfig::read(config, Defaults { rotates, ..Defaults::USUAL })?;
    let multiplier = |key: &str| Ok::<_, Error>(config.opt_number(key)?.unwrap_or(1.0));
    let attention = attention_layers(config, base.n_layers)?;
    Ok(Box::new(GraniteMoeHybrid {
        attention: attention.unwrap_or_else(|| vec![false; base.n_layers]),
        rotates,
        attention_bias: config.flag_or("attention_bias", false)?,
        attention_multiplier: multiplier("attention_multiplier")?,
        mamba: mamba(config, &base)?,
        experts: read_experts(config)?,
        shared_intermediate: config.opt_size_of(&["shared_intermediate_size"], MAX_WIDTH)?.unwrap_or(1024),
        multipliers: Multipliers {
            embedding: multiplier("embedding_multiplier")?,
            residual: multiplier("residual_multiplier")?,
            logits_divisor: config.opt_positive("logits_scaling")?.unwrap_or(1.0),
        },
        base,
    }))
}

/// No experts are said by their number: zero.
fn read_experts(config: &Config) -> Result<Option<Experts>> {
    if config.opt_count("num_local_experts")? == Some(0) {
        config.irrelevant(&["num_experts_per_tok", "intermediate_size"]);
        return Ok(None);
    }
    let (n_experts, top_k) = experts(config, &["num_local_experts"])?;
    let router = RouterConfig::top_k_softmax(n_experts, top_k);
    Ok(Some(Experts { router, intermediate: config.width("intermediate_size")? }))
}

fn mamba(config: &Config, base: &BaseConfig) -> Result<Mamba2Config> {
    let size =
        |key: &str, default: usize| Ok::<_, Error>(config.opt_size_of(&[key], MAX_WIDTH)?.unwrap_or(default));
    let heads = size("mamba_n_heads", 128)?;
    let width = size("mamba_expand", 2)?.saturating_mul(base.hidden);
    let head_dim = match config.value("mamba_d_head").is_none_or(|head_dim| head_dim.as_str() == Some("auto"))
    {
        true => width / heads,
        false => config.width("mamba_d_head")?,
    };
    if heads * head_dim != width {
        let reason = format!("expected {width} in width over all heads, got {heads} of {head_dim}");
        return Err(Error::config("mamba_n_heads", reason));
    }
    let mamba = Mamba2Config {
        hidden: base.hidden,
        heads,
        head_dim,
        groups: size("mamba_n_groups", 1)?,
        state_dim: size("mamba_d_state", 256)?,
        kernel: config.opt_size_of(&["mamba_d_conv"], MAX_KERNEL)?.unwrap_or(4),
        activation: base.activation,
        conv_bias: config.flag_or("mamba_conv_bias", true)?,
        bias: config.flag_or("mamba_proj_bias", false)?,
        norm_eps: base.norm_eps,
        steps: step_limits(config)?,
    };
    mamba.check(["mamba_n_heads", "mamba_n_groups"])?;
    Ok(mamba)
}

impl GraniteMoeHybrid {
    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            scale: self.attention_multiplier,
            rope: self.rotates.then_some(0),
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn feed_forward(&self, loader: &Loader<'_>, layer: usize, prefix: &str) -> Result<FeedForward> {
        let BaseConfig { hidden, activation, .. } = self.base;
        let names = MlpNames::Fused(["input_linear", "output_linear"]);
        let shared = MlpConfig { names, ..MlpConfig::gated(hidden, self.shared_intermediate, activation) };
        let shared_prefix = format!("{prefix}.shared_mlp");
        let Some(experts) = &self.experts else {
            return Ok(FeedForward::Dense(Mlp::load(loader, &shared_prefix, shared)?));
        };
        let moe = format!("{prefix}.block_sparse_moe");
        let fused = |gate_up: &str, down: &str| {
            ExpertLayout::fused(format!("{moe}.{gate_up}"), format!("{moe}.{down}"))
        };
        let config = MoeConfig {
            layer,
            hidden,
            intermediate: experts.intermediate,
            activation,
            router: experts.router.clone(),
            gate: match loader.has(&format!("{moe}.router.weight")) {
                true => format!("{moe}.router"),
                false => format!("{moe}.router.layer"),
            },
            layouts: vec![
                fused("input_linear.weight", "output_linear.weight"),
                fused("experts.gate_up_proj", "experts.down_proj"),
            ],
            extras: MoeExtras::default(),
        };
        let shared = SharedExpert::load(loader, &shared_prefix, shared)?;
        Ok(FeedForward::Moe(MoeLayer::load(loader, config, Some(shared))?))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let norms = (self.base.hidden, self.base.norm());
        let feed_forward = self.feed_forward(loader, layer, &prefix)?;
        if self.attention[layer] {
            let mixer = Attention::load(loader, &format!("{prefix}.self_attn"), self.attention())?;
            return DecoderLayer::around(loader, &prefix, norms, mixer, feed_forward);
        }
        let mixer = Mamba2::load(loader, &format!("{prefix}.mamba"), self.mamba)?;
        DecoderLayer::around(loader, &prefix, norms, mixer, feed_forward)
    }
}

impl Architecture for GraniteMoeHybrid {
    fn outline(&self) -> Outline {
        let attention = self.attention.iter().filter(|attention| **attention).count();
        let positions = if self.rotates { "" } else { ", without positions" };
        let (heads, mamba) = (self.base.describe_attention(), self.mamba.describe());
        let others = self.attention.len() - attention;
        let moe = self.experts.as_ref().map(|experts| MoeInfo {
            shared_intermediate: Some(self.shared_intermediate),
            ..MoeInfo::new(&experts.router, self.base.n_layers, experts.intermediate)
        });
        Outline {
            attention: format!("{heads}{positions}, in {attention} layers; {mamba} in {others}"),
            base: self.base.clone(),
            moe,
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(self.multipliers), layers)?))
    }
}
