//! Ling and Ring: the first generation (Ling-lite, Ling-plus, arXiv 2503.05139) and the second (Ling 2.0, arXiv
//! 2510.22115), which share a `model_type`.
//!
//! First: softmax over all experts, the `k` largest, renormalised. Second: sigmoid with a correction bias, the best
//! groups, the `k` best experts inside them, renormalised, times a constant; per-head norms on queries and keys, half
//! of every head rotated. Shared experts beside them.
//! Shapes: queries, keys and values above one another in one tensor; experts `gate, up: [moe_intermediate, hidden]`,
//! `down: [hidden, moe_intermediate]`.

use super::usual::{LayerNames, StackDefaults, UsualAttention, UsualDecoder};
use super::{Architecture, mtp_layers, routed_experts, softmax_router};
use crate::config::{Config, MAX_WIDTH};
use crate::layers::{
    AttentionConfig, AttentionNames, BaseConfig, DecoderNames, Defaults, InputNames, MoeNames, MoeStack,
    QkNorm, Vector,
};
use crate::{Error, Result};

const NAMES: LayerNames = LayerNames {
    decoder: DecoderNames { embedding: "model.word_embeddings", ..DecoderNames::USUAL },
    attention: "attention",
    ..LayerNames::USUAL
};

const ATTENTION_NAMES: AttentionNames = AttentionNames {
    inputs: InputNames::Fused("query_key_value"),
    output: "dense",
    norms: ["query_layernorm", "key_layernorm"],
};

const SECOND_MOE_NAMES: MoeNames =
    MoeNames { selection_bias: Some(Vector { name: "gate.expert_bias", is_row: false }), ..MoeNames::USUAL };

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let second = is_second(config)?;
    let base = BaseConfig::read(config, if second { second_defaults(config)? } else { first_defaults() })?;
    refuse(config)?;
    let attention = AttentionConfig {
        qk_norm: if config.flag_or("use_qk_norm", second)? { QkNorm::PerHead } else { QkNorm::None },
        qkv_bias: config.flag_or("use_qkv_bias", false)?,
        output_bias: config.flag_or("use_bias", !second)?,
        names: ATTENTION_NAMES,
        ..base.attention()
    };
    let stack = if second { second_stack(config, &base)? } else { first_stack(config, &base)? };
    check_shared(config, &stack)?;
    let attention = UsualAttention::alike(attention, base.n_layers);
    Ok(Box::new(UsualDecoder {
        names: NAMES,
        mtp_layers: mtp_layers(config)?,
        ..UsualDecoder::new(base, attention, stack)
    }))
}

/// Whether a configuration is of the second generation: it says so, or how its router scores.
fn is_second(config: &Config) -> Result<bool> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let architectures = config.list("architectures", "names", text)?.unwrap_or_default();
    let named = architectures.iter().any(|name| name.starts_with("BailingMoeV2"));
    config.expect_text("score_function", &["sigmoid"])?;
    let scored = config.opt_text("score_function")?.is_some()
        || config.value("moe_router_enable_expert_bias").is_some();
    Ok(named || scored || config.opt_text("model_type")? == Some("bailing_moe_v2"))
}

fn first_defaults() -> Defaults {
    Defaults { rope_theta: 1e4, norm_eps: 1e-5, context: 16_384, ..Defaults::USUAL }
}

fn second_defaults(config: &Config) -> Result<Defaults> {
    let head_dim = config.opt_size_of(&["head_dim"], MAX_WIDTH)?.unwrap_or(128);
    let rotary_dim = config.opt_size_of(&["rotary_dim"], head_dim)?;
    let partial = rotary_dim.map_or(1.0, |rotary| rotary as f64 / head_dim as f64);
    if let Some(factor) =
        config.opt_positive("partial_rotary_factor")?.filter(|f| rotary_dim.is_some() && *f != partial)
    {
        return Err(Error::config(
            "rotary_dim",
            format!("expected {factor} of {head_dim} elements, got {partial}"),
        ));
    }
    Ok(Defaults {
        rope_theta: 600_000.0,
        context: 32_768,
        kv_heads: Some(4),
        head_dim: Some(head_dim),
        partial_rotary: Some(partial),
        ..Defaults::USUAL
    })
}

/// Fails for what no released model has.
fn refuse(config: &Config) -> Result<()> {
    let known =
        [("norm_head", false), ("multi_gate", false), ("use_sliding_window", false), ("use_rmsnorm", true)];
    for (key, expected) in known {
        let got = config.flag_or(key, expected)?;
        if got != expected {
            return Err(Error::config(key, format!("expected {expected}, got {got}")));
        }
    }
    config.irrelevant(&[
        "embedding_dropout",
        "output_dropout",
        "max_window_layers",
        "sliding_window",
        "norm_softmax",
    ]);
    config.irrelevant(&["router_dtype", "mtp_loss_scaling_factor"]);
    Ok(())
}

fn first_stack(config: &Config, base: &BaseConfig) -> Result<MoeStack> {
    let (n_experts, top_k) = routed_experts(config)?;
    let router = softmax_router(n_experts, top_k, config.flag_or("norm_topk_prob", true)?);
    let defaults =
        StackDefaults { first_dense: 0, shared: 0, groups: 1, keep: 1, renormalize: true, scale: 1.0 };
    let stack = defaults.stack(config, base, ("num_shared_experts", router))?;
    Ok(MoeStack { names: MoeNames::USUAL, ..stack })
}

fn second_stack(config: &Config, base: &BaseConfig) -> Result<MoeStack> {
    let defaults =
        StackDefaults { first_dense: 1, shared: 1, groups: 8, keep: 4, renormalize: true, scale: 1.0 };
    let stack = defaults.sigmoid(config, base, "num_shared_experts")?;
    let biased = config.flag_or("moe_router_enable_expert_bias", true)?;
    Ok(MoeStack { names: if biased { SECOND_MOE_NAMES } else { MoeNames::USUAL }, ..stack })
}

/// Fails when shared experts are said to be of another width than the routed ones.
fn check_shared(config: &Config, stack: &MoeStack) -> Result<()> {
    const KEY: &str = "moe_shared_expert_intermediate_size";
    let got = config.opt_size_of(&[KEY], MAX_WIDTH)?;
    let known = [Some(stack.intermediate), stack.shared.map(|shared| shared.intermediate)];
    match got {
        Some(width) if !known.contains(&got) => Err(Error::config(
            KEY,
            format!("expected {} as for routed experts, got {width}", stack.intermediate),
        )),
        _ => Ok(()),
    }
}
