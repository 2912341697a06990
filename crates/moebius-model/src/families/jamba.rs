//! Jamba (arXiv 2403.19887): Mamba in most layers, attention without positions in a few, experts in every second.
//!
//! Router: softmax over all experts, the `k` largest, not renormalised.
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`, dense layers likewise.

use moebius_router::RouterConfig;

use super::{Architecture, Outline};
use crate::config::{Config, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH};
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Decoder, DecoderConfig, DecoderLayer, DecoderNames, Defaults,
    MAX_KERNEL, Mamba, MambaConfig, Mixer, MoeNames, MoeStack, Multipliers,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

struct Jamba {
    base: BaseConfig,
    /// Which layers have attention; the others have a state space.
    attention: Vec<bool>,
    mamba: MambaConfig,
    stack: MoeStack,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { context: 262_144, kv_heads: Some(8), rotates: false, ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    // How the reference computes; and lists that say what periods and offsets say.
    config.irrelevant(&[
        "use_mamba_kernels",
        "use_mambapy",
        "use_associative_scan",
        "layer_types",
        "layers_block_type",
        "layers_num_experts",
        "num_logits_to_keep",
        "calc_logits_for_entire_prompt",
        "sliding_window",
    ]);
    let attention = every(config, ["attn_layer_period", "attn_layer_offset"], (8, 4), base.n_layers)?;
    Ok(Box::new(Jamba { attention, mamba: mamba(config, &base)?, stack: stack(config, &base)?, base }))
}

/// The layers from `offset` on, one in every `period`.
fn every(
    config: &Config,
    [period_key, offset_key]: [&str; 2],
    (period, offset): (usize, usize),
    n_layers: usize,
) -> Result<Vec<bool>> {
    let period = config.opt_size_of(&[period_key], MAX_LAYERS)?.unwrap_or(period);
    let offset = config.opt_count(offset_key)?.unwrap_or(offset);
    if offset >= period {
        return Err(Error::config(
            offset_key,
            format!("expected less than a period of {period}, got {offset}"),
        ));
    }
    Ok((0..n_layers).map(|layer| layer % period == offset).collect())
}

fn mamba(config: &Config, base: &BaseConfig) -> Result<MambaConfig> {
    let size =
        |key: &str, default: usize| Ok::<_, Error>(config.opt_size_of(&[key], MAX_WIDTH)?.unwrap_or(default));
    let channels = size("mamba_expand", 2)?.saturating_mul(base.hidden);
    if channels > MAX_WIDTH / 2 {
        let reason = format!("expected at most {} in width, got {channels}", MAX_WIDTH / 2);
        return Err(Error::config("mamba_expand", reason));
    }
    let automatic = config.value("mamba_dt_rank").is_none_or(|rank| rank.as_str() == Some("auto"));
    Ok(MambaConfig {
        hidden: base.hidden,
        channels,
        state_dim: size("mamba_d_state", 16)?,
        step_rank: if automatic { base.hidden.div_ceil(16) } else { config.width("mamba_dt_rank")? },
        kernel: config.opt_size_of(&["mamba_d_conv"], MAX_KERNEL)?.unwrap_or(4),
        activation: base.activation,
        conv_bias: config.flag_or("mamba_conv_bias", true)?,
        bias: config.flag_or("mamba_proj_bias", false)?,
        norm: base.norm(),
    })
}

/// A single expert is a dense layer.
fn stack(config: &Config, base: &BaseConfig) -> Result<MoeStack> {
    let n_experts = config.opt_size_of(&["num_experts", "num_local_experts"], MAX_EXPERTS)?.unwrap_or(16);
    let sparse = every(config, ["expert_layer_period", "expert_layer_offset"], (2, 1), base.n_layers)?;
    let top_k = if n_experts > 1 { config.top_k("num_experts_per_tok", n_experts)? } else { 1 };
    config.irrelevant(&["num_experts_per_tok"]);
    let intermediate = config.width("intermediate_size")?;
    Ok(MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: sparse.into_iter().map(|sparse| sparse && n_experts > 1).collect(),
        dense_intermediate: intermediate,
        intermediate,
        shared: None,
        router: RouterConfig::softmax_probabilities(n_experts, top_k),
        names: MoeNames { router: "router", ..MoeNames::USUAL },
        bias: false,
    })
}

impl Jamba {
    fn mixer(&self, loader: &Loader<'_>, layer: usize, prefix: &str) -> Result<Box<dyn Mixer>> {
        if !self.attention[layer] {
            return Ok(Box::new(Mamba::load(loader, &format!("{prefix}.mamba"), self.mamba)?));
        }
        let config = AttentionConfig { rope: None, ..self.base.attention() };
        Ok(Box::new(Attention::load(loader, &format!("{prefix}.self_attn"), config)?))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.feed_forward"))?;
        let mixer = self.mixer(loader, layer, &prefix)?;
        let norms = (prefix.as_str(), ["input_layernorm", "pre_ff_layernorm"]);
        DecoderLayer::behind(loader, norms, (self.base.hidden, self.base.norm()), mixer, feed_forward)
    }
}

impl Architecture for Jamba {
    fn outline(&self) -> Outline {
        let attention = self.attention.iter().filter(|attention| **attention).count();
        let (heads, mamba) = (self.base.describe_attention(), self.mamba.describe());
        let others = self.attention.len() - attention;
        Outline {
            attention: format!("{heads}, without positions, in {attention} layers; {mamba} in {others}"),
            base: self.base.clone(),
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let names = DecoderNames { norm: "model.final_layernorm", ..DecoderNames::USUAL };
        let decoder = DecoderConfig { names, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
