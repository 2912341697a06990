//! Qwen2-MoE and Qwen1.5-MoE (arXiv 2407.10671): routed experts plus one that every token goes through,
//! scaled by a gate of its own.
//!
//! `y = Σ w_e expert_e(x) + sigmoid(g · x) shared(x)`; router: softmax over all experts, the `k` largest,
//! as a rule not renormalised. Some layers may be dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::usual::{UsualAttention, UsualDecoder, sliding_layers};
use super::{Architecture, experts, softmax_router, sparse_layers};
use crate::config::{Config, MAX_CONTEXT};
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeStack, Shared};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults =
        Defaults { rope_theta: 1e4, norm_eps: 1e-6, context: 32_768, kv_heads: Some(16), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts"])?;
    config.irrelevant(&["attention_bias"]);
    let router = softmax_router(n_experts, top_k, config.flag_or("norm_topk_prob", false)?);
    let shared = config.width("shared_expert_intermediate_size")?;
    let stack = MoeStack {
        sparse: sparse_layers(config, base.n_layers)?,
        dense_intermediate: config.width("intermediate_size")?,
        shared: Some(Shared {
            intermediate: shared,
            name: "shared_expert",
            gate: Some("shared_expert_gate"),
        }),
        ..MoeStack::experts_alone(&base, config.width("moe_intermediate_size")?, router)
    };
    let attention = attention(config, &base)?;
    Ok(Box::new(UsualDecoder::new(base, attention, stack)))
}

/// With `use_sliding_window`, the layers of `layer_types` have a window, or every second one below `max_window_layers`.
fn attention(config: &Config, base: &BaseConfig) -> Result<UsualAttention> {
    let enabled = config.flag_or("use_sliding_window", false)?;
    let below = config.opt_count("max_window_layers")?.unwrap_or(28);
    let by_number = |layer| enabled && layer % 2 == 0 && layer < below;
    let windowed = sliding_layers(config, base.n_layers, by_number)?;
    config.irrelevant(&["sliding_window"]);
    let window = match windowed.contains(&true) {
        true if !enabled => {
            return Err(Error::config("layer_types", "sliding attention needs `use_sliding_window`: true"));
        }
        true => config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.or(Some(4096)),
        false => None,
    };
    let qkv_bias = config.flag_or("qkv_bias", true)?;
    Ok(UsualAttention::Heads { config: AttentionConfig { window, qkv_bias, ..base.attention() }, windowed })
}
