//! The families that can be run: one file each, one entry in [`FAMILIES`].

mod afmoe;
mod dbrx;
mod deepseek_v3;
mod flex_olmo;
mod gemma4;
mod granitemoe;
mod hunyuan_v1_moe;
mod llama4;
mod mixtral;
mod olmoe;
mod pangu_pro_moe;
mod phimoe;
mod qwen2_moe;
mod qwen3_moe;

use std::collections::BTreeSet;

use moebius_router::{Renormalize, RouterConfig};

use crate::config::{Config, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH};
use crate::info::MoeInfo;
use crate::layers::{BaseConfig, Shared};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

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
        model_type: "afmoe",
        aliases: &[],
        about: "Arcee's Trinity: gated attention, windows with positions and full layers without",
        read: afmoe::read,
    },
    Family {
        model_type: "dbrx",
        aliases: &[],
        about: "Databricks' DBRX: sixteen experts stacked in one tensor, clipped queries, keys and values",
        read: dbrx::read,
    },
    Family {
        model_type: "deepseek_v3",
        aliases: &["kimi_k2"],
        about: "DeepSeek-V3 and R1, Kimi-K2, Moonlight: latent attention, experts chosen in groups",
        read: deepseek_v3::read,
    },
    Family {
        model_type: "flex_olmo",
        aliases: &[],
        about: "Ai2's FlexOlmo: one wide expert for each body of data, norms after attention and experts",
        read: flex_olmo::read,
    },
    Family {
        model_type: "gemma4",
        aliases: &["gemma4_text"],
        about: "Google's Gemma 4: experts beside a dense unit, routed by the residual stream itself",
        read: gemma4::read,
    },
    Family {
        model_type: "granitemoe",
        aliases: &[],
        about: "IBM Granite MoE: softmax over the chosen experts, scaled residuals and logits",
        read: granitemoe::read,
    },
    Family {
        model_type: "hunyuan_v1_moe",
        aliases: &[],
        about: "Tencent's Hunyuan-A13B: a shared expert beside the routed ones, norms after rotation",
        read: hunyuan_v1_moe::read,
    },
    Family {
        model_type: "llama4",
        aliases: &["llama4_text"],
        about: "Meta's Llama 4: one expert whose input is weighed, attention in chunks",
        read: llama4::read,
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
        model_type: "PanguProMoE",
        aliases: &[],
        about: "Huawei's Pangu Pro MoE: one expert of every group, so that all devices have the same load",
        read: pangu_pro_moe::read,
    },
    Family {
        model_type: "phimoe",
        aliases: &[],
        about: "Microsoft's Phi-3.5-MoE: a sparse mixer of two experts, angles by the length of a sequence",
        read: phimoe::read,
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
/// the first `first_k_dense_replace`.
fn first_dense(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let first = config.opt_count("first_k_dense_replace")?.unwrap_or(0);
    let step = config.opt_size_of(&["moe_layer_freq"], usize::MAX)?.unwrap_or(1);
    let by_number = || (0..n_layers).map(|layer| layer >= first && layer % step == 0).collect();
    Ok(config
        .per_layer("mlp_layer_types", n_layers, &["dense", "sparse"])?
        .map_or_else(by_number, |kinds| kinds.into_iter().map(|kind| kind == 1).collect()))
}

/// Shared experts of `intermediate` each, side by side in one unit; `key` says how many.
fn shared_experts(config: &Config, key: &str, intermediate: usize) -> Result<Option<Shared>> {
    let count = config.opt_count(key)?.unwrap_or(0);
    let Some(intermediate) = intermediate.checked_mul(count).filter(|&width| width <= MAX_WIDTH) else {
        return Err(Error::config(
            key,
            format!("expected at most {MAX_WIDTH} in width, got {count} times that"),
        ));
    };
    Ok((count > 0).then_some(Shared { intermediate, name: "shared_experts", gate: None }))
}

/// The router of DeepSeek-V3 and its many followers, without its correction bias.
fn sigmoid_router(config: &Config, n_experts: usize, top_k: usize) -> Result<RouterConfig> {
    let groups = config.opt_size_of(&["n_group"], n_experts)?.unwrap_or(1);
    let keep = config.opt_size_of(&["topk_group"], groups)?.unwrap_or(groups);
    let router = RouterConfig::sigmoid_grouped(n_experts, top_k, groups, keep);
    let router = match config.flag_or("norm_topk_prob", true)? {
        true => router,
        false => router.with_renormalize(Renormalize::No),
    };
    Ok(router.with_scale(config.opt_number("routed_scaling_factor")?.unwrap_or(1.0) as f32))
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

/// Layers after the last one that predict further tokens and are left out: `num_nextn_predict_layers`.
fn mtp_layers(config: &Config) -> Result<usize> {
    Ok(config.opt_count("num_nextn_predict_layers")?.unwrap_or(0).min(MAX_LAYERS))
}
