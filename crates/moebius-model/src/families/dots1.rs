//! dots.llm1 (arXiv 2506.05767): per-head norms on queries and keys, windows in the last layers, the experts of
//! DeepSeek-V3.
//!
//! Router: sigmoid with a correction bias, the `k` best experts, renormalised, times a constant; shared experts beside
//! them, the first layers dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{StackDefaults, UsualAttention, UsualDecoder, sliding_layers};
use super::{Architecture, mtp_layers};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, QkNorm};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { kv_heads: Some(32), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    // Not the function that scores, in spite of the key: how the best are chosen.
    config.expect_text("scoring_func", &["noaux_tc", "sigmoid"])?;
    let bias = config.flag_or("attention_bias", false)?;
    let window = match config.opt_size_of(&["sliding_window"], MAX_CONTEXT)? {
        None if config.is_null("sliding_window") => None,
        window => window.or(Some(4096)),
    };
    let from = config.opt_count("max_window_layers")?.unwrap_or(62);
    let attention = AttentionConfig {
        qk_norm: QkNorm::PerHead,
        window,
        qkv_bias: bias,
        output_bias: bias,
        ..base.attention()
    };
    let windowed = sliding_layers(config, base.n_layers, |layer| layer >= from)?;
    let defaults =
        StackDefaults { first_dense: 0, shared: 0, groups: 1, keep: 1, renormalize: false, scale: 1.0 };
    let stack = defaults.sigmoid(config, &base, "n_shared_experts")?;
    Ok(Box::new(UsualDecoder {
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, UsualAttention::Heads { config: attention, windowed }, stack)
    }))
}
