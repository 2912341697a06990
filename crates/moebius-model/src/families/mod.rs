//! The families that can be run: one file each, one entry in [`FAMILIES`].

mod afmoe;
mod bailing_moe;
mod dbrx;
mod deepseek_v2;
mod deepseek_v3;
mod dots1;
mod ernie4_5_moe;
mod flex_olmo;
mod gemma4;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt_oss;
mod granitemoe;
mod granitemoehybrid;
mod granitemoeshared;
mod hunyuan_v1_moe;
mod jamba;
mod lfm2_moe;
mod list;
mod llama4;
mod minimax_m2;
mod mixtral;
mod nemotron_h;
mod olmoe;
mod pangu_pro_moe;
mod phimoe;
mod qwen2_moe;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod usual;

use std::collections::BTreeSet;

use moebius_router::RouterConfig;

use crate::config::{Config, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH};
use crate::info::MoeInfo;
use crate::layers::{BaseConfig, Shared};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};
use usual::StackDefaults;

pub use list::{Checked, FAMILIES, Family};

/// A configuration that was read: what the model is, and how to load it.
pub(crate) trait Architecture {
    /// Its sizes.
    fn outline(&self) -> Outline;

    /// Asks for every weight by name and builds the model from them.
    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>>;
}

/// What a configuration says without any weight.
pub(crate) struct Outline {
    pub(crate) base: BaseConfig,
    pub(crate) attention: String,
    pub(crate) moe: Option<MoeInfo>,
    /// Layers after the last one that predict further tokens, which are left out.
    pub(crate) mtp_layers: usize,
}

/// Finds the family of a configuration.
pub(crate) fn find(config: &Config) -> Result<Family> {
    let model_type = config.opt_text("model_type")?.ok_or_else(|| Error::config("model_type", "missing"))?;
    let named = |name: &str| FAMILIES.iter().find(|f| f.model_type == name || f.aliases.contains(&name));
    let family = named(model_type).or_else(|| named(config.text_part_of()?));
    family.copied().ok_or_else(|| Error::UnknownFamily {
        model_type: model_type.chars().take(80).collect(),
        known: FAMILIES.iter().map(|f| format!("`{}`", f.model_type)).collect::<Vec<_>>().join(", "),
    })
}

/// Number of experts under the first of `keys` that is present, and experts per token.
fn experts(config: &Config, keys: &[&str]) -> Result<(usize, usize)> {
    let n_experts = config.size_of(keys, MAX_EXPERTS)?;
    Ok((n_experts, config.top_k("num_experts_per_tok", n_experts)?))
}

/// Layers whose feed-forward is routed: every `decoder_sparse_step`-th, except `mlp_only_layers`.
fn sparse_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let step = config.opt_size_of(&["decoder_sparse_step"], usize::MAX)?.unwrap_or(1);
    let index = |value: &serde_json::Value| value.as_u64();
    let dense = config.list("mlp_only_layers", "layer indices", index)?.unwrap_or_default();
    let dense: BTreeSet<u64> = dense.into_iter().collect();
    Ok((0..n_layers).map(|layer| (layer + 1) % step == 0 && !dense.contains(&(layer as u64))).collect())
}

/// Which layers have attention, in families whose other layers have a recurrence, in the spellings of the hub and of
/// transformers.
fn attention_layers(config: &Config, n_layers: usize) -> Result<Option<Vec<bool>>> {
    const KINDS: [&str; 4] = ["linear_attention", "full_attention", "mamba", "attention"];
    let [ours, other] =
        ["layer_types", "layers_block_type"].map(|key| config.per_layer(key, n_layers, &KINDS));
    let (ours, other) = (ours?, other?);
    Ok(ours.or(other).map(|kinds| kinds.into_iter().map(|kind| kind % 2 == 1).collect()))
}

/// Number of routed experts under the names of the DeepSeek line, and experts per token.
fn routed_experts(config: &Config) -> Result<(usize, usize)> {
    experts(config, &["n_routed_experts", "num_experts", "num_local_experts"])
}

/// Layers whose feed-forward is routed: those that `mlp_layer_types` calls sparse, or every `moe_layer_freq`-th after
/// the first `first_k_dense_replace`, or `default`.
fn first_dense_after(default: usize, config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let first = config.opt_count("first_k_dense_replace")?.unwrap_or(default);
    let step = config.opt_size_of(&["moe_layer_freq"], usize::MAX)?.unwrap_or(1);
    let by_number = || (0..n_layers).map(|layer| layer >= first && layer % step == 0).collect();
    Ok(config
        .per_layer("mlp_layer_types", n_layers, &["dense", "sparse"])?
        .map_or_else(by_number, |kinds| kinds.into_iter().map(|kind| kind == 1).collect()))
}

/// As [`shared_experts_or`] where there is none unless the configuration says so.
fn shared_experts(config: &Config, key: &str, intermediate: usize) -> Result<Option<Shared>> {
    shared_experts_or(0, config, key, intermediate)
}

/// Shared experts of `intermediate` each, side by side in one unit; `key` says how many, or `default`.
fn shared_experts_or(
    default: usize,
    config: &Config,
    key: &str,
    intermediate: usize,
) -> Result<Option<Shared>> {
    let count = config.opt_count(key)?.unwrap_or(default);
    let Some(intermediate) = intermediate.checked_mul(count).filter(|&width| width <= MAX_WIDTH) else {
        return Err(Error::config(
            key,
            format!("expected at most {MAX_WIDTH} in width, got {count} times that"),
        ));
    };
    Ok((count > 0).then_some(Shared { intermediate, name: "shared_experts", gate: None }))
}

/// The router of DeepSeek-V3 and its many followers, without its correction bias and without groups or scale unless
/// the configuration says so.
fn sigmoid_router(config: &Config, n_experts: usize, top_k: usize) -> Result<RouterConfig> {
    let defaults =
        StackDefaults { first_dense: 0, shared: 0, groups: 1, keep: 1, renormalize: true, scale: 1.0 };
    defaults.router(config, n_experts, top_k)
}

/// Softmax over all experts, the `top_k` largest probabilities, renormalised or not.
fn softmax_router(n_experts: usize, top_k: usize, renormalize: bool) -> RouterConfig {
    if renormalize {
        RouterConfig::softmax_top_k(n_experts, top_k)
    } else {
        RouterConfig::softmax_probabilities(n_experts, top_k)
    }
}

/// Layers after the last one that predict further tokens and are left out: `num_nextn_predict_layers`, which newer files
/// call `num_mtp_layers`.
fn mtp_layers(config: &Config) -> Result<usize> {
    let newer = config.opt_count("num_mtp_layers")?;
    Ok(config.opt_count("num_nextn_predict_layers")?.or(newer).unwrap_or(0).min(MAX_LAYERS))
}
