//! MiniMax-M2: norms over all heads of queries and keys together, part of every head rotated, experts alone.
//!
//! Router: sigmoid with a correction bias, the `k` best experts, renormalised.
//! Shapes: experts `w1, w3: [intermediate, hidden]` (gate and up), `w2: [hidden, intermediate]` (down).

use moebius_router::RouterConfig;

use super::usual::{LayerNames, UsualAttention, UsualDecoder};
use super::{Architecture, experts};
use crate::config::{Config, MAX_LAYERS, MAX_WIDTH};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeNames, MoeStack, QkNorm, Vector};
use crate::{Error, Result};

const NAMES: LayerNames = LayerNames { feed_forward: "block_sparse_moe", ..LayerNames::USUAL };

const MOE_NAMES: MoeNames = MoeNames {
    selection_bias: Some(Vector { name: "e_score_correction_bias", is_row: false }),
    matrices: ["w1", "w3", "w2"],
    ..MoeNames::USUAL
};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let head_dim = config.opt_size_of(&["head_dim"], MAX_WIDTH)?.unwrap_or(128);
    let rotary_dim = config.opt_size_of(&["rotary_dim"], head_dim)?.unwrap_or(head_dim);
    let defaults = Defaults {
        rope_theta: 5e6,
        context: 196_608,
        kv_heads: Some(8),
        head_dim: Some(head_dim),
        partial_rotary: Some(rotary_dim as f64 / head_dim as f64),
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    refuse(config)?;
    let (n_experts, top_k) = experts(config, &["num_local_experts", "num_experts"])?;
    let router = RouterConfig::sigmoid_top_k(n_experts, top_k, 0.0);
    let stack = MoeStack {
        names: MOE_NAMES,
        ..MoeStack::experts_alone(&base, config.width("intermediate_size")?, router)
    };
    let attention = AttentionConfig { qk_norm: QkNorm::Whole, ..base.attention() };
    let attention = UsualAttention::alike(attention, base.n_layers);
    Ok(Box::new(UsualDecoder {
        names: NAMES,
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}

/// Fails for what no released model has.
fn refuse(config: &Config) -> Result<()> {
    config.expect_text("scoring_func", &["sigmoid"])?;
    config.expect_text("qk_norm_type", &["per_layer"])?;
    for key in ["use_qk_norm", "use_routing_bias"] {
        if !config.flag_or(key, true)? {
            return Err(Error::config(key, "expected true, got false"));
        }
    }
    if let Some(width) = config.opt_count("shared_intermediate_size")?.filter(|width| *width > 0) {
        return Err(Error::config("shared_intermediate_size", format!("expected 0, got {width}")));
    }
    // Layers of its predecessor, MiniMax-Text-01, could have linear attention: those are numbered 0.
    let is_full = |value: &serde_json::Value| value.as_u64().filter(|kind| *kind == 1);
    config.list("attn_type_list", "1 for full attention", is_full)?;
    config.irrelevant(&["router_jitter_noise"]);
    Ok(())
}

/// Layers after the last one that predict further tokens.
fn mtp_layers(config: &Config) -> Result<usize> {
    let modules = config.opt_count("num_mtp_modules")?.unwrap_or(0).min(MAX_LAYERS);
    let layers = config.opt_count("mtp_transformer_layers")?.unwrap_or(1).min(MAX_LAYERS);
    Ok(if config.flag_or("use_mtp", modules > 0)? { modules * layers } else { 0 })
}
