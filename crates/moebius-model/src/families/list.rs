//! The list of families: what each is in words, and who reads its configurations.

use std::fmt;

use super::Architecture;
use super::{
    afmoe, bailing_moe, dbrx, deepseek_v2, deepseek_v3, dots1, ernie4_5_moe, flex_olmo, gemma4, glm4_moe,
    glm4_moe_lite, gpt_oss, granitemoe, granitemoehybrid, granitemoeshared, hunyuan_v1_moe, jamba, lfm2_moe,
    llama4, minimax_m2, mixtral, nemotron_h, olmoe, pangu_pro_moe, phimoe, qwen2_moe, qwen3_5_moe, qwen3_moe,
    qwen3_next,
};
use crate::Result;
use crate::config::Config;

/// A family of models that share a `model_type`.
#[derive(Clone, Copy)]
pub struct Family {
    /// As in config.json.
    pub model_type: &'static str,
    /// Other names of it: of the text part of a multimodal model, or of a model that shares the architecture.
    pub aliases: &'static [&'static str],
    /// What sets it apart, in a phrase.
    pub about: &'static str,
    /// How experts are chosen and weighed.
    pub router: &'static str,
    /// How tokens look at each other.
    pub attention: &'static str,
    /// What its outputs are compared with.
    pub checked: Checked,
    /// Reads a configuration of the family.
    pub(crate) read: fn(&Config) -> Result<Box<dyn Architecture>>,
}

/// What the outputs of a family are compared with, in the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Hugging Face transformers.
    Transformers,
    /// An implementation of our own in float64, after the authors' published code: transformers has no such model.
    PublishedCode,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Checked::Transformers => "transformers 5.23: every layer, routing, logits, greedy text",
            Checked::PublishedCode => {
                "the authors' code, rewritten: every layer, routing, logits, greedy text"
            }
        })
    }
}

/// All families, by name.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "afmoe",
        aliases: &[],
        about: "Arcee's Trinity: gated attention, windows with positions and full layers without",
        router: "sigmoid, best by score plus a learned bias, weights renormalised and scaled",
        attention: "grouped heads with gated output: windows with rotation in most layers, all positions without rotation in the others",
        checked: Checked::Transformers,
        read: afmoe::read,
    },
    Family {
        model_type: "bailing_moe",
        aliases: &["bailing_moe_v2"],
        about: "Ling and Ring: queries, keys and values in one tensor, experts chosen in groups",
        router: "softmax (Ling 1) or sigmoid with a correction bias and groups (Ling 2), renormalised and scaled",
        attention: "grouped heads, normalised queries and keys, heads rotated in part",
        checked: Checked::PublishedCode,
        read: bailing_moe::read,
    },
    Family {
        model_type: "dbrx",
        aliases: &[],
        about: "Databricks' DBRX: sixteen experts stacked in one tensor, clipped queries, keys and values",
        router: "softmax over all, best four, weights divided by their norm",
        attention: "grouped heads, clipped queries, keys and values",
        checked: Checked::Transformers,
        read: dbrx::read,
    },
    Family {
        model_type: "deepseek_v2",
        aliases: &[],
        about: "DeepSeek-V2 and Coder-V2: latent attention, softmax over fine experts",
        router: "softmax, best of all or of the best groups by their best expert, scaled, never renormalised",
        attention: "latent (MLA)",
        checked: Checked::Transformers,
        read: deepseek_v2::read,
    },
    Family {
        model_type: "deepseek_v3",
        aliases: &["kimi_k2"],
        about: "DeepSeek-V3 and R1, Kimi-K2, Moonlight: latent attention, experts chosen in groups",
        router: "sigmoid with a correction bias, best groups by their two best experts, renormalised and scaled",
        attention: "latent (MLA)",
        checked: Checked::Transformers,
        read: deepseek_v3::read,
    },
    Family {
        model_type: "dots1",
        aliases: &[],
        about: "dots.llm1: per-head norms, sigmoid router with a correction bias",
        router: "sigmoid with a correction bias, renormalised and scaled",
        attention: "normalised queries and keys, windows in the last layers if configured",
        checked: Checked::Transformers,
        read: dots1::read,
    },
    Family {
        model_type: "ernie4_5_moe",
        aliases: &[],
        about: "Baidu's ERNIE 4.5: softmax router with a correction bias, experts in part of the layers",
        router: "softmax, best by probability plus a correction bias, renormalised",
        attention: "grouped heads, whole heads rotated in pairs of neighbours",
        checked: Checked::Transformers,
        read: ernie4_5_moe::read,
    },
    Family {
        model_type: "flex_olmo",
        aliases: &[],
        about: "Ai2's FlexOlmo: one wide expert for each body of data, norms after attention and experts",
        router: "softmax over all, renormalised or not",
        attention: "heads normalised over the whole projection",
        checked: Checked::Transformers,
        read: flex_olmo::read,
    },
    Family {
        model_type: "gemma4",
        aliases: &["gemma4_text"],
        about: "Google's Gemma 4: experts beside a dense unit, routed by the residual stream itself",
        router: "softmax of the normalised residual stream, renormalised, times a learned factor of each expert",
        attention: "windows in most layers; wide heads whose keys are values in the others",
        checked: Checked::Transformers,
        read: gemma4::read,
    },
    Family {
        model_type: "glm4_moe",
        aliases: &[],
        about: "GLM-4.5 to 4.7: partly rotated heads, sigmoid router with a correction bias",
        router: "sigmoid with a correction bias, groups, renormalised and scaled",
        attention: "grouped heads rotated in half",
        checked: Checked::Transformers,
        read: glm4_moe::read,
    },
    Family {
        model_type: "glm4_moe_lite",
        aliases: &[],
        about: "GLM-4.7-Flash: latent attention, sigmoid router with a correction bias",
        router: "sigmoid with a correction bias, groups, renormalised and scaled",
        attention: "latent (MLA)",
        checked: Checked::Transformers,
        read: glm4_moe_lite::read,
    },
    Family {
        model_type: "gpt_oss",
        aliases: &[],
        about: "OpenAI's gpt-oss: attention sinks, windows in every other layer, experts in MXFP4",
        router: "best logits, a bias among them, softmax over the chosen",
        attention: "grouped heads with sinks, windows in every other layer",
        checked: Checked::Transformers,
        read: gpt_oss::read,
    },
    Family {
        model_type: "granitemoe",
        aliases: &[],
        about: "IBM Granite MoE: softmax over the chosen experts, scaled residuals and logits",
        router: "best logits, softmax over the chosen",
        attention: "grouped heads, own factor on the scores",
        checked: Checked::Transformers,
        read: granitemoe::read,
    },
    Family {
        model_type: "granitemoehybrid",
        aliases: &[],
        about: "IBM Granite 4 hybrids: Mamba-2 between attention layers, with experts or without",
        router: "best logits, softmax over the chosen",
        attention: "Mamba-2 in most layers, grouped heads without positions in the others",
        checked: Checked::Transformers,
        read: granitemoehybrid::read,
    },
    Family {
        model_type: "granitemoeshared",
        aliases: &[],
        about: "IBM Granite MoE with a shared expert",
        router: "best logits, softmax over the chosen",
        attention: "grouped heads, own factor on the scores",
        checked: Checked::Transformers,
        read: granitemoeshared::read,
    },
    Family {
        model_type: "hunyuan_v1_moe",
        aliases: &[],
        about: "Tencent's Hunyuan-A13B: a shared expert beside the routed ones, norms after rotation",
        router: "softmax over all, renormalised",
        attention: "grouped heads, normalised after rotation",
        checked: Checked::Transformers,
        read: hunyuan_v1_moe::read,
    },
    Family {
        model_type: "jamba",
        aliases: &[],
        about: "AI21's Jamba: Mamba between attention layers without positions, some layers with experts",
        router: "softmax over all, not renormalised",
        attention: "Mamba in most layers, grouped heads without positions in the others",
        checked: Checked::Transformers,
        read: jamba::read,
    },
    Family {
        model_type: "lfm2_moe",
        aliases: &[],
        about: "Liquid AI's LFM2-MoE: short convolutions between attention layers, biased selection",
        router: "sigmoid, best by score plus a learned bias, renormalised",
        attention: "short convolutions in most layers, grouped heads in the others",
        checked: Checked::Transformers,
        read: lfm2_moe::read,
    },
    Family {
        model_type: "llama4",
        aliases: &["llama4_text"],
        about: "Meta's Llama 4: one expert whose input is weighed, attention in chunks",
        router: "best logits, whose sigmoids multiply what the experts read",
        attention: "grouped heads in chunks; in some layers all positions without rotation",
        checked: Checked::Transformers,
        read: llama4::read,
    },
    Family {
        model_type: "minimax_m2",
        aliases: &[],
        about: "MiniMax-M2: norms over all heads, sigmoid router with a correction bias",
        router: "sigmoid with a correction bias, renormalised",
        attention: "grouped heads normalised over the whole projection, rotated in half",
        checked: Checked::Transformers,
        read: minimax_m2::read,
    },
    Family {
        model_type: "mixtral",
        aliases: &[],
        about: "Mistral's Mixtral: a few wide experts, softmax over the chosen ones",
        router: "softmax over all, best two, renormalised",
        attention: "grouped heads, a window in early releases",
        checked: Checked::Transformers,
        read: mixtral::read,
    },
    Family {
        model_type: "nemotron_h",
        aliases: &[],
        about: "NVIDIA's Nemotron-H: Mamba-2, attention and experts without gates in layers of their own",
        router: "sigmoid with a correction bias, groups, renormalised and scaled",
        attention: "Mamba-2, grouped heads without positions and experts in layers of their own",
        checked: Checked::Transformers,
        read: nemotron_h::read,
    },
    Family {
        model_type: "olmoe",
        aliases: &[],
        about: "Ai2's OLMoE: many narrow experts, normalised queries and keys",
        router: "softmax over all, not renormalised",
        attention: "heads normalised over the whole projection",
        checked: Checked::Transformers,
        read: olmoe::read,
    },
    Family {
        model_type: "PanguProMoE",
        aliases: &[],
        about: "Huawei's Pangu Pro MoE: one expert of every group, so that all devices have the same load",
        router: "softmax over all, the best of each group, times a learned factor of each expert (MoGE)",
        attention: "grouped heads",
        checked: Checked::PublishedCode,
        read: pangu_pro_moe::read,
    },
    Family {
        model_type: "phimoe",
        aliases: &[],
        about: "Microsoft's Phi-3.5-MoE: a sparse mixer of two experts, angles by the length of a sequence",
        router: "two argmaxes, each with a softmax over the experts that come near it (SparseMixer)",
        attention: "grouped heads; angles that change with the length (LongRoPE)",
        checked: Checked::Transformers,
        read: phimoe::read,
    },
    Family {
        model_type: "qwen2_moe",
        aliases: &[],
        about: "Qwen1.5-MoE and Qwen2-MoE: routed experts beside a gated shared one",
        router: "softmax over all, not renormalised in the releases",
        attention: "grouped heads, windows in part of the layers if configured",
        checked: Checked::Transformers,
        read: qwen2_moe::read,
    },
    Family {
        model_type: "qwen3_5_moe",
        aliases: &["qwen3_5_moe_text"],
        about: "Qwen3.5-MoE: as Qwen3-Next, text part of a multimodal model",
        router: "softmax over all, renormalised",
        attention: "gated delta rule in three of four layers, grouped heads with gated output in the fourth",
        checked: Checked::Transformers,
        read: qwen3_5_moe::read,
    },
    Family {
        model_type: "qwen3_moe",
        aliases: &[],
        about: "Qwen3-MoE: many narrow experts, renormalised weights, no shared expert",
        router: "softmax over all, renormalised in the releases",
        attention: "grouped heads, queries and keys normalised per head",
        checked: Checked::Transformers,
        read: qwen3_moe::read,
    },
    Family {
        model_type: "qwen3_next",
        aliases: &[],
        about: "Qwen3-Next: gated DeltaNet between gated attention layers, many narrow experts",
        router: "softmax over all, renormalised",
        attention: "gated delta rule in three of four layers, grouped heads with gated output in the fourth",
        checked: Checked::Transformers,
        read: qwen3_next::read,
    },
];
