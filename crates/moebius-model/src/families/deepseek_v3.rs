//! DeepSeek-V3 and R1 (arXiv 2412.19437), Kimi-K2 and Moonlight: latent attention, many experts chosen in groups.
//!
//! Router: sigmoid; with a correction bias the best groups by their two best experts, the `k` best experts inside them;
//! their scores without the bias, renormalised, times a constant. Shared experts beside them, the first layers dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{LayerNames, StackDefaults, UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers};
use crate::Result;
use crate::config::Config;
use crate::layers::{BaseConfig, Defaults, Keys, LatentConfig};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        context: 4096,
        keys: Keys { head_dim: "qk_rope_head_dim", ..Keys::USUAL },
        pairing: LatentConfig::pairing(config)?,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    config.expect_text("scoring_func", &["sigmoid"])?;
    config.expect_text("topk_method", &["noaux_tc"])?;
    config.irrelevant(&["aux_loss_alpha", "ep_size", "seq_aux"]);
    let defaults =
        StackDefaults { first_dense: 3, shared: 1, groups: 8, keep: 4, renormalize: true, scale: 2.5 };
    let attention = UsualAttention::Latent(LatentConfig::read(config, &base, 1536)?);
    let stack = defaults.sigmoid(config, &base, "n_shared_experts")?;
    Ok(Box::new(UsualDecoder {
        // Kimi-K2.5 and Kimi-VL wrap the whole model.
        names: if config.text_part_of().is_some() { LayerNames::WRAPPED } else { LayerNames::USUAL },
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}
