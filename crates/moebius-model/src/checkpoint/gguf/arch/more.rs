//! What is more than a renaming, architecture by architecture.

mod kinds;

use serde_json::{Value, json};

use super::{Keys, Source};
use crate::Result;

pub(super) use kinds::{afmoe, delta_net, gemma4, granite_hybrid, jamba, llama4, nemotron, tiled_delta_net};

/// `expert_gating_func` of a sigmoid.
const SIGMOID: u64 = 2;

/// The renaming is all.
pub(super) fn nothing(_: &Source<'_>, _: &mut Keys) -> Result<()> {
    Ok(())
}

/// `rope_scaling`, if positions are scaled.
pub(super) fn rope_scaling(source: &Source<'_>) -> Result<Option<Value>> {
    let text = |key: &str| source.metadata.text(&format!("{}.{key}", source.arch));
    let factor = source.number("rope.scaling.factor")?;
    let original = source.count("rope.scaling.original_context_length")?;
    if let Some(factors) = (source.values)("rope_freqs.weight") {
        return Ok(Some(json!({"rope_type": "factors", "factors": factors})));
    }
    match (text("rope.scaling.type")?, factor) {
        (None | Some("none"), _) | (Some("linear" | "yarn"), None) => Ok(None),
        (Some("linear"), Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        (Some("yarn"), Some(factor)) => {
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            for (theirs, ours) in [
                ("yarn_beta_fast", "beta_fast"),
                ("yarn_beta_slow", "beta_slow"),
                ("yarn_attn_factor", "attention_factor"),
            ] {
                if let Some(number) = source.number(&format!("rope.scaling.{theirs}"))? {
                    scaling[ours] = number.into();
                }
            }
            if let Some(own) = source.number("rope.scaling.attn_factor")? {
                let usual = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                scaling["attention_factor"] = (own * usual).into();
            }
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            Ok(Some(scaling))
        }
        (Some("longrope"), _) => Ok(None),
        (Some(other), _) => {
            let reason =
                format!("`rope.scaling.type`: expected none, linear, yarn or longrope, got `{other}`");
            Err(source.metadata.invalid(reason))
        }
    }
}

/// Files made before the key was there tell the width of an expert by its matrices alone.
pub(super) fn width_of_experts(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    if let (None, Some(shape)) =
        (keys.get("moe_intermediate_size"), (source.shape)("blk.0.ffn_gate_exps.weight"))
        && let [_, width, _] = shape[..]
    {
        keys.insert("moe_intermediate_size".into(), width.into());
    }
    if !keys.contains_key("intermediate_size") {
        let width = keys.get("moe_intermediate_size").cloned();
        keys.extend(width.map(|width| ("intermediate_size".to_owned(), width)));
    }
    Ok(())
}

/// LongRoPE, whose tables are tensors.
pub(super) fn phimoe(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let tables = ["short", "long"].map(|name| (source.values)(&format!("rope_factors_{name}.weight")));
    if let [Some(short), Some(long)] = tables {
        let scale = source.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let mut scaling = json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long,
            "short_mscale": scale, "long_mscale": scale,
        });
        if let Some(original) = source.count("rope.scaling.original_context_length")? {
            scaling["original_max_position_embeddings"] = original.into();
        }
        keys.insert("rope_scaling".into(), scaling);
    }
    let window = source.count("attention.sliding_window")?.filter(|&window| window > 0);
    keys.insert("sliding_window".into(), window.map_or(Value::Null, Value::from));
    keys.insert("attention_bias".into(), (source.shape)("blk.0.attn_q.bias").is_some().into());
    keys.insert("lm_head_bias".into(), (source.shape)("output.bias").is_some().into());
    Ok(())
}

pub(super) fn dbrx(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let heads = source.need("attention.head_count_kv")?;
    let mut attention = json!({"kv_n_heads": heads});
    if let Some(clip) = source.number("attention.clamp_kqv")? {
        attention["clip_qkv"] = clip.into();
    }
    let experts = json!({
        "ffn_hidden_size": source.need("feed_forward_length")?,
        "moe_num_experts": source.need("expert_count")?,
        "moe_top_k": source.need("expert_used_count")?,
    });
    keys.insert("attn_config".into(), attention);
    keys.insert("ffn_config".into(), experts);
    for key in ["intermediate_size", "num_experts_per_tok", "rms_norm_eps"] {
        keys.remove(key);
    }
    Ok(())
}

/// The first generation of Ling, whose projections have biases where there are some.
pub(super) fn bailing_first(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.insert("use_qkv_bias".into(), (source.shape)("blk.0.attn_q.bias").is_some().into());
    keys.insert("use_bias".into(), (source.shape)("blk.0.attn_output.bias").is_some().into());
    Ok(())
}

pub(super) fn mixtral(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    if keys.get("num_local_experts").and_then(Value::as_u64).unwrap_or(0) == 0 {
        let reason = "architecture: expected `llama` with experts (`llama.expert_count`), got a dense model";
        return Err(source.metadata.invalid(reason.into()));
    }
    Ok(())
}

/// Projections with biases where there are some.
pub(super) fn qwen2(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.insert("qkv_bias".into(), (source.shape)("blk.0.attn_q.bias").is_some().into());
    width_of_experts(source, keys)
}

pub(super) fn granite(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.insert("attention_bias".into(), (source.shape)("blk.0.attn_q.bias").is_some().into());
    if let Some(width) = source.count("expert_shared_feed_forward_length")?.filter(|&width| width > 0) {
        keys.insert("shared_intermediate_size".into(), width.into());
        keys.insert("model_type".into(), "granitemoeshared".into());
    }
    Ok(())
}

pub(super) fn gpt_oss(_: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let layers = keys.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
    let kind = |layer| if layer % 2 == 0 { "sliding_attention" } else { "full_attention" };
    keys.insert("layer_types".into(), (0..layers).map(kind).collect());
    if let Some(scaling) = keys.get_mut("rope_scaling") {
        scaling["truncate"] = false.into();
    }
    Ok(())
}

/// DeepSeek-V2, V3 and what is built like them. Newer files keep one key head of latents.
pub(super) fn latent(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let rope = source.need("rope.dimension_count")?;
    let [key, value] = ["key_length", "value_length"].map(|name| {
        let own = source.count(&format!("attention.{name}_mla"))?;
        own.map_or_else(|| source.need(&format!("attention.{name}")), Ok)
    });
    keys.insert("qk_nope_head_dim".into(), key?.saturating_sub(rope).into());
    keys.insert("v_head_dim".into(), value?.into());
    if let Some(heads) = keys.get("num_attention_heads").cloned() {
        keys.insert("num_key_value_heads".into(), heads);
    }
    keys.entry("q_lora_rank").or_insert(Value::Null);
    // Files that do not say it are of the softmax models that came first, or of GLM-4.7-Flash, which corrects its choice.
    let corrects = kinds::has(source, "exp_probs_b.bias", keys);
    let sigmoid = source.count("expert_gating_func")?.map_or(corrects, |function| function == SIGMOID);
    let groups = keys.get("n_group").and_then(Value::as_u64).unwrap_or(1);
    let method = match (sigmoid, groups) {
        (true, _) => "noaux_tc",
        (false, 0 | 1) => "greedy",
        (false, _) => "group_limited_greedy",
    };
    keys.insert("model_type".into(), if sigmoid { "deepseek_v3" } else { "deepseek_v2" }.into());
    keys.insert("topk_method".into(), method.into());
    if sigmoid && !keys.contains_key("n_group") {
        // Files older than the key are of models with 256 experts in eight groups, or without groups.
        let grouped = keys.get("n_routed_experts").and_then(Value::as_u64) == Some(256);
        let (groups, used) = if grouped { (8, 4) } else { (1, 1) };
        keys.insert("n_group".into(), groups.into());
        keys.insert("topk_group".into(), used.into());
    }
    if let Some(scaling) = keys.get_mut("rope_scaling") {
        // The file tells the slope of attention's own factor; that of the angles cancels out.
        let all = source.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) * 10.0;
        if all > 0.0 {
            (scaling["mscale"], scaling["mscale_all_dim"]) = (all.into(), all.into());
        }
    }
    Ok(())
}

/// The share of a head that is rotated.
fn partly_rotated(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let (head, rotated) = (source.count("attention.key_length")?, source.count("rope.dimension_count")?);
    if let (Some(head @ 1..), Some(rotated)) = (head, rotated) {
        keys.insert("partial_rotary_factor".into(), (rotated as f64 / head as f64).into());
    }
    Ok(())
}

pub(super) fn glm(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.insert("use_qk_norm".into(), (source.shape)("blk.0.attn_q_norm.weight").is_some().into());
    partly_rotated(source, keys)
}

pub(super) fn bailing(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    partly_rotated(source, keys)
}

pub(super) fn ernie(_: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.remove("num_experts_per_tok");
    keys.insert("use_bias".into(), false.into());
    Ok(())
}

pub(super) fn hunyuan(_: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.remove("num_experts_per_tok");
    Ok(())
}

pub(super) fn lfm2(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let key = format!("{}.attention.head_count_kv", source.arch);
    let heads = source.metadata.numbers(&key)?.unwrap_or_default();
    let kind = |&heads: &f64| if heads > 0.0 { "full_attention" } else { "conv" };
    keys.insert("layer_types".into(), heads.iter().map(kind).collect());
    keys.insert("num_key_value_heads".into(), source.need("attention.head_count_kv")?.into());
    keys.remove("rms_norm_eps");
    Ok(())
}
