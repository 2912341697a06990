//! Pangu Pro MoE (arXiv 2505.21411): experts in as many groups as a token chooses, the best of each.
//!
//! Router: softmax over all experts, the best of every group, its probability times a learned scale of the expert, not
//! renormalised. A shared expert of its own width beside them; all attention projections have biases.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`, scales `[1, experts]`.

use moebius_router::RouterConfig;

use super::usual::{UsualAttention, UsualDecoder};
use super::{Architecture, experts, sparse_layers};
use crate::config::{Config, MAX_WIDTH};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeNames, MoeStack, Shared, Vector};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { rope_theta: 1.6e7, norm_eps: 1e-5, context: 131_072, ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts"])?;
    if !n_experts.is_multiple_of(top_k) {
        let reason = format!("expected a divisor of {n_experts} experts, one group for each, got {top_k}");
        return Err(Error::config("num_experts_per_tok", reason));
    }
    // Probabilities are weights as they are, whatever this says.
    config.irrelevant(&["norm_topk_prob"]);
    let sparse = sparse_layers(config, base.n_layers)?;
    let dense = config.opt_size_of(&["intermediate_size"], MAX_WIDTH)?;
    let Some(dense_intermediate) = dense.or(sparse.iter().all(|sparse| *sparse).then_some(1)) else {
        return Err(Error::config("intermediate_size", "missing"));
    };
    let shared = config.width("shared_expert_intermediate_size")?;
    let router = RouterConfig::one_per_group(n_experts, top_k, vec![1.0; n_experts]);
    let stack = MoeStack {
        sparse,
        dense_intermediate,
        shared: Some(Shared { intermediate: shared, name: "shared_expert", gate: None }),
        names: MoeNames {
            expert_scale: Some(Vector { name: "router_scale", is_row: true }),
            ..MoeNames::USUAL
        },
        ..MoeStack::experts_alone(&base, config.width("moe_intermediate_size")?, router)
    };
    let bias = config.flag_or("attention_bias", true)?;
    let attention = AttentionConfig { qkv_bias: bias, output_bias: bias, ..base.attention() };
    let attention = UsualAttention::alike(attention, base.n_layers);
    Ok(Box::new(UsualDecoder::new(base, attention, stack)))
}
