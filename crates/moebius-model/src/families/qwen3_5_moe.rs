//! Qwen3.5-MoE: the layers of Qwen3-Next with the projections of DeltaNet in tensors of their own.
//!
//! Router: softmax over all experts, the `k` largest, always renormalised; beside them a shared expert times
//! `sigmoid(gate · x)`. Released as the text part of a multimodal model, whose rotary sections are all the same
//! position in text.
//! Shapes: `gate_up_proj: [experts, 2 moe_intermediate, hidden]`, `down_proj: [experts, hidden, moe_intermediate]`.

use super::Architecture;
use super::qwen3_next::{Qwen3Next, base, mixers, stack};
use crate::config::{Config, MAX_LAYERS};
use crate::layers::{DecoderNames, DeltaNetConfig};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    // Every layer has experts and every router renormalises, whatever is said here.
    config.irrelevant(&[
        "decoder_sparse_step",
        "intermediate_size",
        "mamba_ssm_dtype",
        "mlp_only_layers",
        "mtp_use_dedicated_embeddings",
        "norm_topk_prob",
    ]);
    if !config.flag_or("attn_output_gate", true)? {
        return Err(Error::config("attn_output_gate", "expected true, got false"));
    }
    let base = base(config)?;
    let (layers, names) = match config.text_part_of() {
        Some(_) => ("model.language_model.layers", DecoderNames::TEXT_PART),
        None => ("model.layers", DecoderNames::USUAL),
    };
    Ok(Box::new(Qwen3Next {
        attention: mixers(config, base.n_layers)?,
        attention_bias: config.flag_or("attention_bias", false)?,
        delta_net: DeltaNetConfig::read(config, &base, false)?,
        stack: stack(config, &base, true)?,
        mtp_layers: config.opt_count("mtp_num_hidden_layers")?.unwrap_or(0).min(MAX_LAYERS),
        layers,
        names,
        base,
    }))
}
