//! GLM-4.5, 4.5-Air, 4.6 and 4.7 (arXiv 2508.06471): half of every head rotated, many experts beside a shared one.
//!
//! Router: sigmoid with a correction bias, the `k` best experts (of the best groups), renormalised, times a constant;
//! the first layers dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{StackDefaults, UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers};
use crate::Result;
use crate::config::Config;
use crate::layers::{AttentionConfig, BaseConfig, Defaults, QkNorm};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        norm_eps: 1e-5,
        context: 131_072,
        kv_heads: Some(8),
        partial_rotary: Some(0.5),
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    let attention = AttentionConfig {
        qk_norm: if config.flag_or("use_qk_norm", false)? { QkNorm::PerHead } else { QkNorm::None },
        qkv_bias: config.flag_or("attention_bias", false)?,
        ..base.attention()
    };
    let defaults =
        StackDefaults { first_dense: 1, shared: 1, groups: 1, keep: 1, renormalize: true, scale: 1.0 };
    let attention = UsualAttention::alike(attention, base.n_layers);
    let stack = defaults.sigmoid(config, &base, "n_shared_experts")?;
    Ok(Box::new(UsualDecoder {
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}
