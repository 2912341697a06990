//! Architectures whose layers are of several kinds, which a file tells by lists of numbers for each layer, or by which
//! tensors a layer has.

use serde_json::{Value, json};

use super::super::{Keys, Source};
use crate::Result;
use crate::config::MAX_LAYERS;

/// Decoder layers, which are as many as lists of them may have.
fn n_layers(keys: &Keys) -> usize {
    keys.get("num_hidden_layers").and_then(Value::as_u64).map_or(0, |n| (n as usize).min(MAX_LAYERS))
}

/// For each layer the number that `{arch}.{key}` says: a list, or the same for all.
fn of_layers(source: &Source<'_>, key: &str, n_layers: usize) -> Result<Vec<u64>> {
    let whole = format!("{}.{key}", source.arch);
    if !source.metadata.is_list(&whole) {
        return Ok(vec![source.need(key)?; n_layers]);
    }
    let numbers = source.metadata.numbers(&whole)?.unwrap_or_default();
    if numbers.len() < n_layers {
        let reason = format!("metadata `{whole}`: expected {n_layers} numbers, got {}", numbers.len());
        return Err(source.metadata.invalid(reason));
    }
    Ok(numbers[..n_layers].iter().map(|&n| n as u64).collect())
}

/// Whether each layer has keys and values of its own. The number of heads is that of those which do.
fn attention(source: &Source<'_>, keys: &mut Keys) -> Result<Vec<bool>> {
    let heads = of_layers(source, "attention.head_count_kv", n_layers(keys))?;
    let most = heads.iter().copied().max().unwrap_or(0);
    keys.insert("num_key_value_heads".into(), most.max(1).into());
    Ok(heads.into_iter().map(|heads| heads > 0).collect())
}

/// What `layer_types` says where some layers have attention and the others a recurrence.
fn mixers(attention: &[bool]) -> Value {
    attention.iter().map(|&attends| if attends { "full_attention" } else { "linear_attention" }).collect()
}

/// Which layers slide: a list, one in every so many that does not, or one in every `usual`.
fn slides(source: &Source<'_>, layers: usize, usual: u64) -> Result<Vec<bool>> {
    const KEY: &str = "attention.sliding_window_pattern";
    if source.metadata.is_list(&format!("{}.{KEY}", source.arch)) {
        return Ok(of_layers(source, KEY, layers)?.into_iter().map(|slides| slides != 0).collect());
    }
    let every = source.count(KEY)?.unwrap_or(usual).max(1);
    Ok((1..=layers as u64).map(|layer| !layer.is_multiple_of(every)).collect())
}

/// The period and the offset of the layers that are marked, if any such numbers give them.
fn period(marked: &[bool]) -> Option<(usize, usize)> {
    let offset = marked.iter().position(|marked| *marked).unwrap_or(marked.len());
    let next = marked.iter().skip(offset + 1).position(|marked| *marked).map(|more| more + 1);
    let period = next.unwrap_or(marked.len() + 1).max(offset + 1);
    let fits = marked.iter().enumerate().all(|(layer, marked)| (layer % period == offset) == *marked);
    fits.then_some((period, offset))
}

pub(in super::super) fn afmoe(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let slides = slides(source, n_layers(keys), 4)?;
    let kind = |&slides: &bool| if slides { "sliding_attention" } else { "full_attention" };
    keys.insert("layer_types".into(), slides.iter().map(kind).collect());
    keys.insert("attention_bias".into(), has(source, "attn_q.bias", keys).into());
    Ok(())
}

/// Whether any layer has a tensor.
pub(super) fn has(source: &Source<'_>, rest: &str, keys: &Keys) -> bool {
    (0..n_layers(keys)).any(|layer| (source.shape)(&format!("blk.{layer}.{rest}")).is_some())
}

pub(in super::super) fn llama4(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    /// The number of experts of the model that does not normalise queries and keys.
    const WITHOUT_NORM: u64 = 128;
    let layers = n_layers(keys);
    if source.count("attention.sliding_window")? == Some(0) {
        keys.insert("attention_chunk_size".into(), Value::Null);
        keys.insert("no_rope_layers".into(), vec![1; layers].into());
        keys.insert("attn_temperature_tuning".into(), false.into());
        keys.insert("layer_types".into(), vec!["full_attention"; layers].into());
    } else {
        let kind = |chunked: bool| if chunked { "chunked_attention" } else { "full_attention" };
        let chunked = slides(source, layers, 4)?;
        keys.insert("layer_types".into(), chunked.into_iter().map(kind).collect());
    }
    let normed = keys.get("num_local_experts").and_then(Value::as_u64) != Some(WITHOUT_NORM);
    keys.insert("use_qk_norm".into(), normed.into());
    Ok(())
}

pub(in super::super) fn jamba(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let layers = n_layers(keys);
    let attention = attention(source, keys)?;
    let has_experts = |layer| (source.shape)(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some();
    let experts: Vec<bool> = (0..layers).map(has_experts).collect();
    for (marked, name) in [(attention, "attn_layer"), (experts, "expert_layer")] {
        let Some((period, offset)) = period(&marked) else {
            let reason = format!("expected layers at equal distances for `{name}_period`, got others");
            return Err(source.metadata.invalid(reason));
        };
        keys.insert(format!("{name}_period"), period.into());
        keys.insert(format!("{name}_offset"), offset.into());
    }
    expansion(source, keys)?;
    keys.insert("mamba_conv_bias".into(), has(source, "ssm_conv1d.bias", keys).into());
    keys.insert("mamba_proj_bias".into(), has(source, "ssm_in.bias", keys).into());
    keys.remove("rope_theta");
    Ok(())
}

/// How many times wider than the stream a state space is.
fn expansion(source: &Source<'_>, keys: &mut Keys) -> Result<u64> {
    let (inner, hidden) = (source.need("ssm.inner_size")?, source.need("embedding_length")?);
    if hidden == 0 || inner % hidden != 0 {
        let reason = format!("metadata `ssm.inner_size`: expected a multiple of {hidden}, got {inner}");
        return Err(source.metadata.invalid(reason));
    }
    keys.insert("mamba_expand".into(), (inner / hidden).into());
    Ok(inner)
}

pub(in super::super) fn granite_hybrid(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let attention = attention(source, keys)?;
    keys.insert("layer_types".into(), mixers(&attention));
    let (inner, heads) = (expansion(source, keys)?, source.need("ssm.time_step_rank")?.max(1));
    keys.insert("mamba_d_head".into(), (inner / heads).into());
    let rotates = source.metadata.flag(&format!("{}.rope.scaling.finetuned", source.arch))?;
    let positions = if rotates == Some(false) { "nope" } else { "rope" };
    keys.insert("position_embedding_type".into(), positions.into());
    keys.insert("mamba_conv_bias".into(), has(source, "ssm_conv1d.bias", keys).into());
    keys.insert("attention_bias".into(), has(source, "attn_q.bias", keys).into());
    if rotates == Some(false) {
        keys.remove("rope_theta");
    }
    if keys.get("num_local_experts").and_then(Value::as_u64).unwrap_or(0) == 0 {
        keys.insert("num_local_experts".into(), 0.into());
        // A model without experts calls its only feed-forward a shared one.
        let width = keys.get("intermediate_size").cloned();
        keys.extend(width.map(|width| ("shared_intermediate_size".to_owned(), width)));
    }
    Ok(())
}

pub(in super::super) fn nemotron(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let layers = n_layers(keys);
    let attention = attention(source, keys)?;
    let routed = |layer: usize| (source.shape)(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some();
    let widths = of_layers(source, "feed_forward_length", layers)?;
    let kind = |layer: usize| match (attention[layer], routed(layer), widths[layer]) {
        (true, ..) => "full_attention",
        (_, true, _) => "moe",
        (_, _, 0) => "linear_attention",
        _ => "mlp",
    };
    keys.insert("layers_block_type".into(), (0..layers).map(kind).collect());
    let dense = (0..layers).find(|&layer| kind(layer) == "mlp").map(|layer| widths[layer]);
    keys.remove("intermediate_size");
    keys.extend(dense.map(|width| ("intermediate_size".to_owned(), width.into())));
    let (inner, heads) = (source.need("ssm.inner_size")?, source.need("ssm.time_step_rank")?.max(1));
    keys.insert("mamba_head_dim".into(), (inner / heads).into());
    keys.insert("use_conv_bias".into(), has(source, "ssm_conv1d.bias", keys).into());
    keys.insert("use_bias".into(), has(source, "ssm_in.bias", keys).into());
    keys.insert("mlp_bias".into(), has(source, "ffn_up_shexp.bias", keys).into());
    keys.remove("rms_norm_eps");
    keys.remove("rope_theta");
    Ok(())
}

pub(in super::super) fn delta_net(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let layers = n_layers(keys);
    let recurrent = format!("{}.attention.recurrent_layers", source.arch);
    let attention: Vec<bool> = if source.metadata.is_list(&recurrent) {
        of_layers(source, "attention.recurrent_layers", layers)?.iter().map(|&n| n == 0).collect()
    } else {
        let every = source.count("full_attention_interval")?.unwrap_or(4).max(1);
        (1..=layers as u64).map(|layer| layer.is_multiple_of(every)).collect()
    };
    keys.insert("layer_types".into(), mixers(&attention));
    let (inner, heads) = (source.need("ssm.inner_size")?, source.need("ssm.time_step_rank")?.max(1));
    keys.insert("linear_value_head_dim".into(), (inner / heads).into());
    super::partly_rotated(source, keys)
}

/// The same, where value heads that share a key head do not stand together.
pub(in super::super) fn tiled_delta_net(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    keys.insert("linear_value_heads_tiled".into(), true.into());
    delta_net(source, keys)
}

pub(in super::super) fn gemma4(source: &Source<'_>, keys: &mut Keys) -> Result<()> {
    let layers = n_layers(keys);
    let slides = slides(source, layers, 6)?;
    let heads = of_layers(source, "attention.head_count_kv", layers)?;
    let full_dim = source.need("attention.key_length")?;
    let kind = |&slides: &bool| if slides { "sliding_attention" } else { "full_attention" };
    keys.insert("layer_types".into(), slides.iter().map(kind).collect());
    let own = (0..layers).find(|&layer| slides[layer]).map_or(1, |layer| heads[layer]);
    keys.insert("num_key_value_heads".into(), own.into());
    let full = (0..layers).filter(|&layer| !slides[layer]);
    let of_layer = |layer: usize| {
        (layer.to_string(), json!({"head_dim": full_dim, "num_key_value_heads": heads[layer]}))
    };
    keys.insert("per_layer_config".into(), Value::Object(full.clone().map(of_layer).collect()));
    let own_values = |layer: usize| (source.shape)(&format!("blk.{layer}.attn_v.weight")).is_some();
    keys.insert("attention_k_eq_v".into(), full.clone().any(|layer| !own_values(layer)).into());
    let theta = |key: &str, usual: f64| Ok::<_, crate::Error>(source.number(key)?.unwrap_or(usual));
    let mut rotation = json!({"rope_type": "default", "rope_theta": theta("rope.freq_base", 1e6)?});
    if let Some(factors) = (source.values)("rope_freqs.weight") {
        // Pairs that do not turn are divided by something enormous.
        let turning = factors.iter().filter(|factor| **factor < 1e9).count();
        rotation["rope_type"] = "proportional".into();
        rotation["partial_rotary_factor"] = (turning as f64 / factors.len().max(1) as f64).into();
    }
    let sliding = json!({"rope_type": "default", "rope_theta": theta("rope.freq_base_swa", 1e4)?});
    keys.insert("rope_parameters".into(), json!({"full_attention": rotation, "sliding_attention": sliding}));
    for key in ["rope_theta", "rope_scaling", "num_experts_per_tok"] {
        keys.remove(key);
    }
    keys.insert("enable_moe_block".into(), has(source, "ffn_gate_inp.weight", keys).into());
    keys.entry("hidden_size_per_layer_input").or_insert(0.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::period;

    #[test]
    fn layers_at_equal_distances_have_a_period() {
        let marks = |text: &str| text.chars().map(|mark| mark == 'x').collect::<Vec<_>>();
        assert_eq!(period(&marks("..x...x.")), Some((4, 2)));
        assert_eq!(period(&marks(".x.x")), Some((2, 1)));
        assert_eq!(period(&marks("xxxx")), Some((1, 0)));
        assert_eq!(period(&marks("...x....")), Some((9, 3)));
        assert_eq!(period(&marks("....")), Some((5, 4)));
        assert_eq!(period(&marks("x..x.x")), None);
    }
}
