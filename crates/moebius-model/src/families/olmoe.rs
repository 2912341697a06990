//! OLMoE (arXiv 2409.02060): many small experts, eight of which serve a token.
//!
//! Router: softmax over all experts, the `k` largest, as a rule not renormalised. Queries and keys are
//! normalised over the whole projection, then optionally clipped together with the values.
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`.

use super::usual::{UsualAttention, UsualDecoder};
use super::{Architecture, experts, softmax_router};
use crate::Result;
use crate::config::Config;
use crate::layers::{AttentionConfig, BaseConfig, Defaults, MoeStack, QkNorm};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { rope_theta: 1e4, norm_eps: 1e-5, context: 4096, ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    let router = softmax_router(n_experts, top_k, config.flag_or("norm_topk_prob", false)?);
    let bias = config.flag_or("attention_bias", false)?;
    let attention = AttentionConfig {
        qk_norm: QkNorm::Whole,
        clip: config.opt_positive("clip_qkv")?,
        qkv_bias: bias,
        output_bias: bias,
        ..base.attention()
    };
    let attention = UsualAttention::alike(attention, base.n_layers);
    let stack = MoeStack::experts_alone(&base, config.width("intermediate_size")?, router);
    Ok(Box::new(UsualDecoder::new(base, attention, stack)))
}
