//! GLM-4.7-Flash (arXiv 2508.06471 describes its larger siblings): latent attention with the experts of DeepSeek-V3.
//!
//! Router: sigmoid with a correction bias, the `k` best experts, renormalised, times a constant; a shared expert beside
//! them, the first layer dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{StackDefaults, UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers};
use crate::config::Config;
use crate::layers::{BaseConfig, Defaults, Keys, LatentConfig};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        norm_eps: 1e-5,
        context: 202_752,
        keys: Keys { head_dim: "qk_rope_head_dim", ..Keys::USUAL },
        partial_rotary: Some(1.0),
        pairing: LatentConfig::pairing(config)?,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    if base.rope.rotary_dim != base.head_dim {
        return Err(Error::config("partial_rotary_factor", "expected 1 with latent attention"));
    }
    config.expect_text("scoring_func", &["sigmoid"])?;
    config.expect_text("topk_method", &["noaux_tc"])?;
    let defaults =
        StackDefaults { first_dense: 1, shared: 1, groups: 1, keep: 1, renormalize: true, scale: 1.8 };
    let attention = UsualAttention::Latent(LatentConfig::read(config, &base, 768)?);
    let stack = defaults.sigmoid(config, &base, "n_shared_experts")?;
    Ok(Box::new(UsualDecoder {
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}
