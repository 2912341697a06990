//! The families that can be run: one file each, one entry in [`FAMILIES`].

mod bailing_moe;
mod deepseek_v2;
mod deepseek_v3;
mod dots1;
mod ernie4_5_moe;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt_oss;
mod granitemoe;
mod granitemoeshared;
mod minimax_m2;
mod mixtral;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;
mod usual;

use std::collections::BTreeSet;

use moebius_router::RouterConfig;

use crate::config::{Config, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH};
use crate::info::MoeInfo;
use crate::layers::{BaseConfig, Shared};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};
use usual::StackDefaults;

/// A family of models that share a `model_type`.
#[derive(Clone, Copy)]
pub struct Family {
    /// As in config.json.
    pub model_type: &'static str,
    /// Other names of it: of the text part of a multimodal model, or of a model that shares the architecture.
    pub aliases: &'static [&'static str],
    /// What sets it apart, in a phrase.
    pub about: &'static str,
    /// Reads a configuration of the family.
    pub(crate) read: fn(&Config) -> Result<Box<dyn Architecture>>,
}

/// All families, by name.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "bailing_moe",
        aliases: &["bailing_moe_v2"],
        about: "Ling and Ring: queries, keys and values in one tensor, experts chosen in groups",
        read: bailing_moe::read,
    },
    Family {
        model_type: "deepseek_v2",
        aliases: &[],
        about: "DeepSeek-V2 and Coder-V2: latent attention, softmax over fine experts",
        read: deepseek_v2::read,
    },
    Family {
        model_type: "deepseek_v3",
        aliases: &["kimi_k2"],
        about: "DeepSeek-V3 and R1, Kimi-K2, Moonlight: latent attention, experts chosen in groups",
        read: deepseek_v3::read,
    },
    Family {
        model_type: "dots1",
        aliases: &[],
        about: "dots.llm1: per-head norms, sigmoid router with a correction bias",
        read: dots1::read,
    },
    Family {
        model_type: "ernie4_5_moe",
        aliases: &[],
        about: "Baidu's ERNIE 4.5: softmax router with a correction bias, experts in part of the layers",
        read: ernie4_5_moe::read,
    },
    Family {
        model_type: "glm4_moe",
        aliases: &[],
        about: "GLM-4.5 to 4.7: partly rotated heads, sigmoid router with a correction bias",
        read: glm4_moe::read,
    },
    Family {
        model_type: "glm4_moe_lite",
        aliases: &[],
        about: "GLM-4.7-Flash: latent attention, sigmoid router with a correction bias",
        read: glm4_moe_lite::read,
    },
    Family {
        model_type: "gpt_oss",
        aliases: &[],
        about: "OpenAI's gpt-oss: attention sinks, windows in every other layer, experts in MXFP4",
        read: gpt_oss::read,
    },
    Family {
        model_type: "granitemoe",
        aliases: &[],
        about: "IBM Granite MoE: softmax over the chosen experts, scaled residuals and logits",
        read: granitemoe::read,
    },
    Family {
        model_type: "granitemoeshared",
        aliases: &[],
        about: "IBM Granite MoE with a shared expert",
        read: granitemoeshared::read,
    },
    Family {
        model_type: "minimax_m2",
        aliases: &[],
        about: "MiniMax-M2: norms over all heads, sigmoid router with a correction bias",
        read: minimax_m2::read,
    },
    Family {
        model_type: "mixtral",
        aliases: &[],
        about: "Mistral's Mixtral: a few wide experts, softmax over the chosen ones",
        read: mixtral::read,
    },
    Family {
        model_type: "olmoe",
        aliases: &[],
        about: "Ai2's OLMoE: many narrow experts, normalised queries and keys",
        read: olmoe::read,
    },
    Family {
        model_type: "qwen2_moe",
        aliases: &[],
        about: "Qwen1.5-MoE and Qwen2-MoE: routed experts beside a gated shared one",
        read: qwen2_moe::read,
    },
    Family {
        model_type: "qwen3_moe",
        aliases: &[],
        about: "Qwen3-MoE: many narrow experts, renormalised weights, no shared expert",
        read: qwen3_moe::read,
    },
];

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

/// Names of an expert's matrices in most families.
const GATE_UP_DOWN: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Softmax over all experts, the `top_k` largest probabilities, renormalised or not.
fn softmax_router(n_experts: usize, top_k: usize, renormalize: bool) -> RouterConfig {
    if renormalize {
        RouterConfig::softmax_top_k(n_experts, top_k)
    } else {
        RouterConfig::softmax_probabilities(n_experts, top_k)
    }
}

/// Layouts of experts below `{prefix}` with a tensor for each matrix, or fused as transformers keeps them.
fn layouts(prefix: &str, names: [&'static str; 3]) -> Vec<ExpertLayout> {
    vec![
        ExpertLayout::PerExpert { prefix: prefix.into(), names },
        ExpertLayout::fused(format!("{prefix}.gate_up_proj"), format!("{prefix}.down_proj")),
    ]
}

/// Layers after the last one that predict further tokens and are left out: `num_nextn_predict_layers`, which newer files
/// call `num_mtp_layers`.
fn mtp_layers(config: &Config) -> Result<usize> {
    let newer = config.opt_count("num_mtp_layers")?;
    Ok(config.opt_count("num_nextn_predict_layers")?.or(newer).unwrap_or(0).min(MAX_LAYERS))
}
