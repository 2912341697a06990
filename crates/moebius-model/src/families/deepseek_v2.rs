//! DeepSeek-V2, V2.5, V2-Lite and Coder-V2 (arXiv 2405.04434): latent attention, fine experts beside shared ones.
//!
//! Router: softmax over all experts; the `k` largest probabilities, of all experts (`greedy`) or inside the groups with
//! the largest ones (`group_limited_greedy`); they are the weights, times a constant and never renormalised.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use moebius_router::RouterConfig;

use super::usual::{StackDefaults, UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers, routed_experts};
use crate::config::Config;
use crate::layers::{BaseConfig, Defaults, Keys, LatentConfig, MoeNames};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        keys: Keys { head_dim: "qk_rope_head_dim", ..Keys::USUAL },
        pairing: moebius_backend::Pairing::Interleaved,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    config.expect_text("scoring_func", &["softmax"])?;
    // The reference has no use for the weights' sum, whatever this says.
    config.irrelevant(&["norm_topk_prob", "aux_loss_alpha", "ep_size", "seq_aux"]);
    let defaults =
        StackDefaults { first_dense: 0, shared: 2, groups: 1, keep: 1, renormalize: false, scale: 1.0 };
    let mut stack = defaults.stack(config, &base, ("n_shared_experts", router(config)?))?;
    stack.names = MoeNames::USUAL;
    stack.bias = config.flag_or("mlp_bias", false)?;
    let attention = UsualAttention::Latent(LatentConfig::read(config, &base, 1536)?);
    Ok(Box::new(UsualDecoder {
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}

fn router(config: &Config) -> Result<RouterConfig> {
    let (n_experts, top_k) = routed_experts(config)?;
    let groups = config.opt_size_of(&["n_group"], n_experts)?;
    let keep = config.opt_size_of(&["topk_group"], groups.unwrap_or(n_experts))?;
    config.expect_text("topk_method", &["greedy", "group_limited_greedy"])?;
    let router = match (config.opt_text("topk_method")?, groups, keep) {
        (Some("group_limited_greedy"), Some(groups), Some(keep)) => {
            RouterConfig::softmax_grouped_max(n_experts, top_k, groups, keep)
        }
        (Some("group_limited_greedy"), ..) => {
            let reason = "expected `n_group` and `topk_group` with `group_limited_greedy`";
            return Err(Error::config("topk_method", reason));
        }
        _ => RouterConfig::softmax_probabilities(n_experts, top_k),
    };
    Ok(router.with_scale(config.opt_number("routed_scaling_factor")?.unwrap_or(1.0) as f32))
}
