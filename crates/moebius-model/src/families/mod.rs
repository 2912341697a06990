//! The families that can be run: one file each, one entry in [`FAMILIES`].

mod granitemoe;
mod mixtral;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;

use std::collections::BTreeSet;

use moebius_router::RouterConfig;

use crate::config::{Config, MAX_EXPERTS};
use crate::info::MoeInfo;
use crate::layers::BaseConfig;
use crate::loader::{ExpertLayout, Loader};
use crate::model::Model;
use crate::{Error, Result};

/// A family of models that share a `model_type`.
#[derive(Clone, Copy)]
pub struct Family {
    /// As in config.json.
    pub model_type: &'static str,
    /// What sets it apart, in a phrase.
    pub about: &'static str,
    /// Reads a configuration of the family.
    pub(crate) read: fn(&Config) -> Result<Box<dyn Architecture>>,
}

/// All families, by name.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "granitemoe",
        about: "IBM Granite MoE: softmax over the chosen experts, scaled residuals and logits",
        read: granitemoe::read,
    },
    Family {
        model_type: "mixtral",
        about: "Mistral's Mixtral: a few wide experts, softmax over the chosen ones",
        read: mixtral::read,
    },
    Family {
        model_type: "olmoe",
        about: "Ai2's OLMoE: many narrow experts, normalised queries and keys",
        read: olmoe::read,
    },
    Family {
        model_type: "qwen2_moe",
        about: "Qwen1.5-MoE and Qwen2-MoE: routed experts beside a gated shared one",
        read: qwen2_moe::read,
    },
    Family {
        model_type: "qwen3_moe",
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
}

/// Finds the family of a configuration.
pub(crate) fn find(config: &Config) -> Result<Family> {
    let model_type = config.opt_text("model_type")?.ok_or_else(|| Error::config("model_type", "missing"))?;
    let family = FAMILIES.iter().find(|f| f.model_type == model_type);
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
        ExpertLayout::Fused {
            gate_up: format!("{prefix}.gate_up_proj"),
            down: format!("{prefix}.down_proj"),
        },
    ]
}
