//! The other direction of [`super::super::more`] where layers are of several kinds.

use super::super::{Facts, Pairs};
use super::granite;
use crate::checkpoint::gguf::value::GgufValue;
use crate::layers::RopeConfig;
use crate::{Error, Result};

/// Whether a layer of the file has a tensor.
fn has(facts: &Facts<'_>, layer: usize, rest: &str) -> bool {
    (facts.shape)(&format!("blk.{layer}.{rest}")).is_some()
}

/// The number of key heads of each layer: none where there is no attention.
fn say_key_heads(facts: &Facts<'_>, pairs: &mut Pairs) {
    let heads =
        |layer: usize| if has(facts, layer, "attn_k.weight") { facts.base.kv_heads as u32 } else { 0 };
    pairs.set("attention.head_count_kv", GgufValue::Counts((0..facts.base.n_layers).map(heads).collect()));
}

/// Whether a layer slides where one in every `usual` does not.
fn slides_by_number(layer: usize, usual: usize) -> bool {
    !(layer + 1).is_multiple_of(usual)
}

/// Which layers slide.
fn say_pattern(facts: &Facts<'_>, pairs: &mut Pairs, usual: usize, sliding: &str) -> Vec<bool> {
    let named = facts.keys.get("layer_types").and_then(|kinds| kinds.as_array());
    let slides = |layer: usize| match named.and_then(|kinds| kinds.get(layer)) {
        Some(kind) => kind.as_str() == Some(sliding),
        None => slides_by_number(layer, usual),
    };
    let pattern: Vec<bool> = (0..facts.base.n_layers).map(slides).collect();
    pairs.set("attention.sliding_window_pattern", GgufValue::Flags(pattern.clone()));
    pattern
}

pub(in super::super) fn afmoe(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    /// One layer in so many has no window, and knows no positions.
    const USUAL: usize = 4;
    let every = facts.count("global_attn_every_n_layers").unwrap_or(USUAL).max(1);
    pairs.count("attention.sliding_window", facts.count("sliding_window").unwrap_or(1024));
    let pattern = say_pattern(facts, pairs, every, "sliding_attention");
    match (0..).zip(pattern).find(|&(layer, slides)| slides != slides_by_number(layer, USUAL)) {
        None => Ok(()),
        Some((layer, _)) => Err(Error::NotInGguf {
            what: format!("another layer without positions than every fourth (here layer {layer} differs)"),
            reason: "no key says which they are".into(),
        }),
    }
}

pub(in super::super) fn llama4(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    if let Some(width) = facts.rows("ffn_up.weight").or_else(|| facts.count("intermediate_size_mlp")) {
        pairs.count("feed_forward_length", width);
    }
    let first = facts.routers.first().map_or(1, |router| router.layer + 1);
    pairs.count("interleave_moe_layer_step", facts.count("interleave_moe_layer_step").unwrap_or(first));
    let every = facts.count("no_rope_layer_interval").unwrap_or(4).max(1);
    let kinds = facts.keys.get("layer_types").and_then(|kinds| kinds.as_array());
    if kinds.is_some_and(|kinds| kinds.iter().all(|kind| kind == "full_attention")) {
        pairs.count("attention.sliding_window", 0);
    } else {
        say_pattern(facts, pairs, every, "chunked_attention");
    }
    Ok(())
}

pub(in super::super) fn jamba(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    say_key_heads(facts, pairs);
    say_state_space(facts, pairs, "ssm_x.weight");
    pairs.count("feed_forward_length", facts.banks.first().map_or(0, |bank| bank.intermediate));
    if let Some(rank) =
        (0..facts.base.n_layers).find_map(|layer| (facts.shape)(&format!("blk.{layer}.ssm_dt.weight")))
    {
        pairs.count("ssm.time_step_rank", rank[1]);
    }
    Ok(())
}

/// Sizes of state spaces that tensors have.
fn say_state_space(facts: &Facts<'_>, pairs: &mut Pairs, of: &str) {
    let shape =
        |rest: &str| (0..facts.base.n_layers).find_map(|layer| (facts.shape)(&format!("blk.{layer}.{rest}")));
    if let Some(kernel) = shape("ssm_conv1d.weight").and_then(|shape| shape.last().copied()) {
        pairs.count("ssm.conv_kernel", kernel);
    }
    if let Some(inner) = shape("ssm_out.weight").and_then(|shape| shape.last().copied()) {
        pairs.count("ssm.inner_size", inner);
    }
    if let (true, Some(states)) = (of == "ssm_x.weight", shape("ssm_a")) {
        pairs.count("ssm.state_size", states[1]);
    }
}

pub(in super::super) fn granite_hybrid(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    granite(facts, pairs)?;
    say_key_heads(facts, pairs);
    say_state_space(facts, pairs, "");
    for (theirs, ours, usual) in [
        ("ssm.state_size", "mamba_d_state", 256),
        ("ssm.group_count", "mamba_n_groups", 1),
        ("ssm.time_step_rank", "mamba_n_heads", 128),
    ] {
        pairs.count(theirs, facts.count(ours).unwrap_or(usual));
    }
    let rotates = facts.base.rope.rotary_dim > 0;
    pairs.set("rope.scaling.finetuned", GgufValue::Flag(rotates));
    if !rotates {
        pairs.count("rope.dimension_count", facts.base.head_dim);
    }
    Ok(())
}

pub(in super::super) fn nemotron(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    say_key_heads(facts, pairs);
    say_state_space(facts, pairs, "");
    for (theirs, ours, usual) in [
        ("ssm.state_size", "ssm_state_size", 128),
        ("ssm.group_count", "n_groups", 8),
        ("ssm.time_step_rank", "mamba_num_heads", 128),
    ] {
        pairs.count(theirs, facts.count(ours).unwrap_or(usual));
    }
    let routed = facts.banks.first().map_or(0, |bank| bank.intermediate) as u32;
    let width = |layer: usize| match (facts.shape)(&format!("blk.{layer}.ffn_up.weight")) {
        Some(shape) => shape[0] as u32,
        None if has(facts, layer, "ffn_gate_inp.weight") => routed,
        None => 0,
    };
    pairs.set("feed_forward_length", GgufValue::Counts((0..facts.base.n_layers).map(width).collect()));
    pairs.number("attention.layer_norm_epsilon", facts.base.norm_eps);
    pairs.count("expert_shared_count", 1);
    pairs.count("rope.dimension_count", facts.base.head_dim);
    Ok(())
}

pub(in super::super) fn delta_net(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    for (theirs, ours, usual) in [
        ("ssm.conv_kernel", "linear_conv_kernel_dim", 4),
        ("ssm.state_size", "linear_key_head_dim", 128),
        ("ssm.group_count", "linear_num_key_heads", 16),
        ("ssm.time_step_rank", "linear_num_value_heads", 32),
    ] {
        pairs.count(theirs, facts.count(ours).unwrap_or(usual));
    }
    say_state_space(facts, pairs, "");
    let recurrent = |layer: usize| has(facts, layer, "ssm_conv1d.weight");
    let layers = (0..facts.base.n_layers).map(recurrent).collect();
    pairs.set("attention.recurrent_layers", GgufValue::Flags(layers));
    pairs.count("full_attention_interval", facts.count("full_attention_interval").unwrap_or(4));
    Ok(())
}

pub(in super::super) fn tiled_delta_net(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    let sections = |name: &str| {
        let list = facts.keys.get(name)?.get("mrope_section")?.as_array()?;
        list.iter().map(|section| section.as_i64().map(|n| n as i32)).collect::<Option<Vec<_>>>()
    };
    let mut sections = sections("rope_parameters").unwrap_or_else(|| vec![11, 11, 10]);
    sections.resize(4, 0);
    pairs.set("rope.dimension_sections", GgufValue::Integers(sections));
    delta_net(facts, pairs)
}

pub(in super::super) fn gemma4(facts: &Facts<'_>, pairs: &mut Pairs) -> Result<()> {
    let base = facts.base;
    let shape = |layer: usize, rest: &str| (facts.shape)(&format!("blk.{layer}.{rest}"));
    let width = |layer: usize| shape(layer, "attn_q_norm.weight").and_then(|shape| shape.last().copied());
    let full_dim = width(base.n_layers.saturating_sub(1)).unwrap_or(base.head_dim);
    let kv_heads = |layer: usize| {
        let rows = shape(layer, "attn_k.weight").map_or(0, |shape| shape[0]);
        (rows / width(layer).unwrap_or(1).max(1)) as u32
    };
    pairs.set("attention.head_count_kv", GgufValue::Counts((0..base.n_layers).map(kv_heads).collect()));
    say_pattern(facts, pairs, 6, "sliding_attention");
    for (key, size) in [
        ("attention.key_length", full_dim),
        ("attention.value_length", full_dim),
        ("attention.key_length_swa", base.head_dim),
        ("attention.value_length_swa", base.head_dim),
        ("rope.dimension_count", full_dim),
        ("rope.dimension_count_swa", base.rope.rotary_dim),
        ("attention.sliding_window", facts.count("sliding_window").unwrap_or(512)),
        ("attention.shared_kv_layers", 0),
        ("embedding_length_per_layer_input", 0),
    ] {
        pairs.count(key, size);
    }
    pairs.number("rope.freq_base_swa", base.rope.theta);
    pairs.number("rope.freq_base", facts.ropes.get(1).map_or(1e6, |rope: &RopeConfig| rope.theta));
    Ok(())
}
