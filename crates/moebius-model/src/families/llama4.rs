//! Llama 4 Scout and Maverick (Meta), the part that reads text: one routed expert beside a shared one.
//!
//! Router: the `k` largest logits; their sigmoids multiply the experts' inputs. Most layers rotate interleaved pairs,
//! normalise queries and keys after that, and see a chunk of positions; the others see everything without positions,
//! with queries that grow slowly along the sequence.
//! Shapes: experts `gate_up_proj: [experts, hidden, 2 intermediate]`, `down_proj: [experts, intermediate, hidden]`.

use moebius_backend::Pairing;
use moebius_router::RouterConfig;

use super::{Architecture, Outline};
use crate::config::{Config, MAX_CONTEXT, MAX_EXPERTS, MAX_WIDTH};
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderConfig, DecoderLayer, DecoderNames, Defaults, MoeNames,
    MoeStack, Multipliers, QkNorm, Shared,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// Tensors outside the layers of a model that also sees.
const WRAPPED: DecoderNames = DecoderNames {
    embedding: "language_model.model.embed_tokens",
    norm: "language_model.model.norm",
    head: "language_model.lm_head",
};

struct Llama4 {
    base: BaseConfig,
    /// Whether it is the text part of a model that also sees.
    is_wrapped: bool,
    stack: MoeStack,
    attention_bias: bool,
    qk_norm: bool,
    /// Whether a layer has positions, one entry a layer.
    rotates: Vec<bool>,
    /// Positions of a chunk, one entry a layer.
    chunks: Vec<Option<usize>>,
    /// Growth of queries without positions.
    temperature: Option<(f64, f64)>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 5e5,
        norm_eps: 1e-5,
        context: 131_072,
        kv_heads: Some(8),
        head_dim: (!config.is_null("head_dim")).then_some(128),
        pairing: Pairing::Interleaved,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    config.irrelevant(&["router_jitter_noise", "for_llm_compressor", "cache_implementation"]);
    let rotates = rotates(config, base.n_layers)?;
    Ok(Box::new(Llama4 {
        is_wrapped: config.text_part_of().is_some(),
        stack: stack(config, &base)?,
        attention_bias: config.flag_or("attention_bias", false)?,
        qk_norm: config.flag_or("use_qk_norm", true)?,
        chunks: chunks(config, &rotates)?,
        rotates,
        temperature: temperature(config)?,
        base,
    }))
}

fn stack(config: &Config, base: &BaseConfig) -> Result<MoeStack> {
    let n_experts = config.opt_size_of(&["num_local_experts", "num_experts"], MAX_EXPERTS)?.unwrap_or(16);
    let top_k = config.opt_size_of(&["num_experts_per_tok"], n_experts)?.unwrap_or(1);
    let intermediate = config.width("intermediate_size")?;
    Ok(MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: sparse_layers(config, base.n_layers)?,
        dense_intermediate: config.opt_size_of(&["intermediate_size_mlp"], MAX_WIDTH)?.unwrap_or(16_384),
        intermediate,
        shared: Some(Shared { intermediate, name: "shared_expert", gate: None }),
        router: RouterConfig::sigmoid_on_input(n_experts, config.overridden_top_k(top_k, n_experts)?),
        names: MoeNames { router: "router", transposed: true, ..MoeNames::USUAL },
        bias: false,
    })
}

/// `moe_layers`, or every `interleave_moe_layer_step`-th layer.
fn sparse_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let step = config.opt_size_of(&["interleave_moe_layer_step"], usize::MAX)?.unwrap_or(1);
    let index = |value: &serde_json::Value| value.as_u64();
    Ok(match config.list("moe_layers", "layer indices", index)? {
        Some(layers) => (0..n_layers).map(|layer| layers.contains(&(layer as u64))).collect(),
        None => (0..n_layers).map(|layer| (layer + 1) % step == 0).collect(),
    })
}

/// `no_rope_layers`, where 1 stands for a layer that has positions, or all but every `no_rope_layer_interval`-th.
fn rotates(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let interval = config.opt_size_of(&["no_rope_layer_interval"], usize::MAX)?.unwrap_or(4);
    let flag = |value: &serde_json::Value| value.as_u64().filter(|n| *n <= 1).map(|n| n == 1);
    match config.list("no_rope_layers", "0 and 1", flag)?.filter(|layers| !layers.is_empty()) {
        None => Ok((0..n_layers).map(|layer| (layer + 1) % interval != 0).collect()),
        Some(layers) if layers.len() < n_layers => {
            let reason = format!("expected at least {n_layers} entries, got {}", layers.len());
            Err(Error::config("no_rope_layers", reason))
        }
        Some(layers) => Ok(layers[..n_layers].to_vec()),
    }
}

/// Chunks in the layers that `layer_types` says, or in those with positions.
fn chunks(config: &Config, rotates: &[bool]) -> Result<Vec<Option<usize>>> {
    let size = match config.is_null("attention_chunk_size") {
        true => None,
        false => config.opt_size_of(&["attention_chunk_size"], MAX_CONTEXT)?.or(Some(8192)),
    };
    let kinds = config.per_layer("layer_types", rotates.len(), &["full_attention", "chunked_attention"])?;
    let chunked =
        kinds.map_or_else(|| rotates.to_vec(), |kinds| kinds.into_iter().map(|kind| kind == 1).collect());
    Ok(chunked.into_iter().map(|chunked| size.filter(|_| chunked)).collect())
}

fn temperature(config: &Config) -> Result<Option<(f64, f64)>> {
    let span = config.opt_positive("floor_scale")?.unwrap_or(8192.0);
    let scale = config.opt_number("attn_scale")?.unwrap_or(0.1);
    Ok(config.flag_or("attn_temperature_tuning", true)?.then_some((span, scale)))
}

impl Llama4 {
    fn attention(&self, layer: usize) -> AttentionConfig {
        let rotates = self.rotates[layer];
        AttentionConfig {
            rope: rotates.then_some(0),
            chunk: self.chunks[layer],
            qk_norm: if self.qk_norm && rotates { QkNorm::WeightlessRotated } else { QkNorm::None },
            temperature: self.temperature.filter(|_| !rotates),
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = if self.is_wrapped { "language_model.model" } else { "model" };
        let prefix = format!("{prefix}.layers.{layer}");
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.feed_forward"))?;
        DecoderLayer::load(loader, &prefix, self.attention(layer), feed_forward)
    }
}

impl Architecture for Llama4 {
    fn outline(&self) -> Outline {
        let chunked = self.chunks.iter().flatten().count();
        let chunks = match self.chunks.iter().flatten().next() {
            Some(size) => format!(", chunks of {size} in {chunked} of {} layers", self.base.n_layers),
            None => String::new(),
        };
        let without = self.rotates.iter().filter(|rotates| !**rotates).count();
        Outline {
            base: self.base.clone(),
            attention: format!(
                "{}{chunks}, {without} layers without positions",
                self.base.describe_attention()
            ),
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let names = if self.is_wrapped { WRAPPED } else { DecoderNames::USUAL };
        let decoder = DecoderConfig { names, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
