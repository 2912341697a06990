//! Qwen3-MoE (arXiv 2505.09388): small experts, per-head norms on queries and keys.
//!
//! Router: softmax over all experts, the `k` largest, renormalised in the released models. Some layers may
//! be dense. Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{UsualAttention, UsualDecoder};
use super::{Architecture, experts, softmax_router, sparse_layers};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeStack, QkNorm};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e4, norm_eps: 1e-6, context: 32_768, kv_heads: Some(4), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    config.irrelevant(&["max_window_layers", "layer_types", "sliding_window"]);
    // What is always so, and some releases say.
    config.expect("use_qk_norm", &true.into())?;
    config.expect("qkv_bias", &false.into())?;
    config.expect("shared_expert_intermediate_size", &0.into())?;
    let window = match config.flag_or("use_sliding_window", false)? {
        true if config.is_null("sliding_window") => None,
        true => config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.or(Some(4096)),
        false => None,
    };
    let bias = config.flag_or("attention_bias", false)?;
    let attention = AttentionConfig {
        qk_norm: QkNorm::PerHead,
        window,
        qkv_bias: bias,
        output_bias: bias,
        ..base.attention()
    };
    let router = softmax_router(n_experts, top_k, config.flag_or("norm_topk_prob", false)?);
    let stack = MoeStack {
        sparse: sparse_layers(config, base.n_layers)?,
        dense_intermediate: config.width("intermediate_size")?,
        ..MoeStack::experts_alone(&base, config.width("moe_intermediate_size")?, router)
    };
    let attention = UsualAttention::alike(attention, base.n_layers);
    Ok(Box::new(UsualDecoder::new(base, attention, stack)))
}
