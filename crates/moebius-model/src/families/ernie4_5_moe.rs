//! ERNIE 4.5 (Baidu's technical report of June 2025): rotation of neighbours over whole heads, experts beside shared ones
//! in part of the layers.
//!
//! Router: `p = softmax(W x)`, the `k` largest of `p` + bias; their probabilities, over their sum or a least value.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`; the bias is one row.

use moebius_backend::Pairing;
use moebius_router::{Renormalize, RouterConfig};

use super::usual::{UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers, shared_experts_or};
use crate::config::{Config, MAX_EXPERTS, MAX_LAYERS};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeNames, MoeStack, Vector};
use crate::{Error, Result};

const MOE_NAMES: MoeNames = MoeNames {
    selection_bias: Some(Vector { name: "moe_statics.e_score_correction_bias", is_row: true }),
    ..MoeNames::USUAL
};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 500_000.0,
        norm_eps: 1e-5,
        context: 131_072,
        kv_heads: Some(4),
        tied: true,
        pairing: Pairing::Interleaved,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    let bias = config.flag_or("use_bias", false)?;
    let intermediate = config.width("moe_intermediate_size")?;
    let stack = MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: sparse(config, base.n_layers)?,
        dense_intermediate: config.width("intermediate_size")?,
        intermediate,
        shared: shared_experts_or(2, config, "moe_num_shared_experts", intermediate)?,
        router: router(config)?,
        names: MOE_NAMES,
        bias,
    };
    let attention = AttentionConfig { qkv_bias: bias, output_bias: bias, ..base.attention() };
    let attention = UsualAttention::alike(attention, base.n_layers);
    Ok(Box::new(UsualDecoder {
        head_bias: bias,
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}

fn router(config: &Config) -> Result<RouterConfig> {
    config.expect_text("moe_gate", &["topk"])?;
    config.expect_text("moe_gate_act", &["softmax"])?;
    if !config.flag_or("moe_use_aux_free", true)? {
        return Err(Error::config("moe_use_aux_free", "expected true, got false"));
    }
    // Capacities drop tokens in training alone.
    config.irrelevant(&["moe_capacity"]);
    let n_experts = config.size_of(&["moe_num_experts", "num_experts"], MAX_EXPERTS)?;
    let key = if config.value("moe_k").is_some() { "moe_k" } else { "num_experts_per_tok" };
    let min = config.opt_number("moe_norm_min")?.unwrap_or(1e-12) as f32;
    let router = RouterConfig::softmax_biased(n_experts, config.top_k(key, n_experts)?);
    Ok(router.with_renormalize(Renormalize::SumAtLeast { min }))
}

/// Layers with experts: every `moe_layer_interval`-th from `moe_layer_start_index` to `moe_layer_end_index`.
fn sparse(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    const END: &str = "moe_layer_end_index";
    let start = config.opt_count("moe_layer_start_index")?.unwrap_or(1);
    let step = config.opt_size_of(&["moe_layer_interval"], MAX_LAYERS)?.unwrap_or(1);
    let end = match config.opt_number(END)? {
        None | Some(-1.0) => n_layers - 1,
        Some(end) if end >= 0.0 && end.fract() == 0.0 => end as usize,
        Some(end) => return Err(Error::config(END, format!("expected a layer's index or -1, got {end}"))),
    };
    Ok((0..n_layers).map(|layer| (layer + 1) % step == 0 && (start..=end).contains(&layer)).collect())
}
