//! What metadata needs beside what the tables say, architecture by architecture: the other direction of [`super::more`].

mod kinds;

use super::{Facts, Pairs};
use crate::checkpoint::gguf::value::GgufValue;
use crate::layers::RopeScaling;
use crate::{Error, Result};

pub(super) use kinds::{afmoe, delta_net, gemma4, granite_hybrid, jamba, llama4, nemotron, tiled_delta_net};

/// The tables are all.
pub(super) fn nothing_else(_: &Facts<'_>, _: &mut Pairs) -> Result<()> {
    Ok(())
}

/// Factors that count as one where config.json says none.
pub(super) fn granite(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    for (theirs, ours) in [
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        pairs.number(theirs, facts.number(ours).unwrap_or(1.0));
    }
    Ok(())
}

/// Latent attention has one key head, of latents.
pub(super) fn latent(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    let rope = facts.base.head_dim;
    let size = |key: &str| facts.count(key).ok_or_else(|| Error::config(key, "missing"));
    let (rank, nope, value) = (size("kv_lora_rank")?, size("qk_nope_head_dim")?, size("v_head_dim")?);
    for (key, size) in [
        ("attention.head_count_kv", 1),
        ("attention.key_length", rank + rope),
        ("attention.value_length", rank),
        ("attention.key_length_mla", nope + rope),
        ("attention.value_length_mla", value),
        ("attention.kv_lora_rank", rank),
        ("rope.dimension_count", rope),
    ] {
        pairs.count(key, size);
    }
    if let Some(rank) = facts.rows("attn_q_a.weight") {
        pairs.count("attention.q_lora_rank", rank);
    }
    if (facts.shape)("blk.0.attn_kv_b.weight").is_none() && facts.rows("ffn_up_shexp.weight").is_none() {
        pairs.count("expert_shared_count", 0);
    }
    if let RopeScaling::Yarn { mscale_all, factor, .. } = facts.base.rope.scaling {
        // The slope of attention's own factor; that of the angles follows from it.
        let slope = if factor > 1.0 { (mscale_all - 1.0) / factor.ln() } else { 0.0 };
        if slope > 0.0 {
            pairs.number("rope.scaling.yarn_log_multiplier", slope);
        }
        pairs.unsay("rope.scaling.attn_factor");
    }
    Ok(())
}

/// Which layers have experts.
pub(super) fn ernie(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    pairs.count("interleave_moe_layer_step", facts.count("moe_layer_interval").unwrap_or(1));
    Ok(())
}

/// Layers without keys have a convolution in place of attention.
pub(super) fn lfm2(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    let has_keys = |layer: usize| (facts.shape)(&format!("blk.{layer}.attn_k.weight")).is_some();
    let heads = |layer: usize| if has_keys(layer) { facts.base.kv_heads as u32 } else { 0 };
    let heads: Vec<u32> = (0..facts.base.n_layers).map(heads).collect();
    pairs.set("attention.head_count_kv", GgufValue::Counts(heads));
    Ok(())
}

/// A window in every second layer.
pub(super) fn window(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    if let Some(window) = facts.count("sliding_window") {
        pairs.count("attention.sliding_window", window);
    }
    Ok(())
}

/// LongRoPE has one factor on cosine and sine, and the tables are tensors.
pub(super) fn phimoe(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    pairs.count("feed_forward_length", facts.banks.first().map_or(0, |bank| bank.intermediate));
    pairs.count("attention.sliding_window", facts.count("sliding_window").unwrap_or(0));
    match facts.base.rope.length_factors() {
        Some([short, long]) if short == long => pairs.number("rope.scaling.attn_factor", short.into()),
        Some(_) => {
            let reason = "GGUF has one factor for short and for long sequences, this model two";
            return Err(Error::NotInGguf {
                what: "the scaling of its positions".into(),
                reason: reason.into(),
            });
        }
        None => {}
    }
    Ok(())
}

pub(super) fn dbrx(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    pairs.unsay("attention.layer_norm_rms_epsilon");
    pairs.number("attention.layer_norm_epsilon", 1e-5);
    pairs.count("feed_forward_length", facts.banks.first().map_or(0, |bank| bank.intermediate));
    let clip = facts.keys.get("attn_config").and_then(|config| config.get("clip_qkv")?.as_f64());
    let missing = || Error::NotInGguf {
        what: "this model".into(),
        reason: "its architecture clips queries, keys and values, and the model does not".into(),
    };
    pairs.number("attention.clamp_kqv", clip.ok_or_else(missing)?);
    Ok(())
}
