//! Qwen3-Next: gated DeltaNet (arXiv 2412.06464) in most layers, gated attention in the others, many narrow experts.
//!
//! Router: softmax over all experts, the `k` largest, renormalised in the released models; beside them a shared expert
//! times `sigmoid(gate · x)`. Norms multiply with one more than their weights.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use super::{Architecture, Outline, attention_layers, experts, softmax_router, sparse_layers};
use crate::Result;
use crate::config::{Config, MAX_LAYERS, MAX_WIDTH};
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Decoder, DecoderConfig, DecoderLayer, DecoderNames, Defaults,
    DeltaNet, DeltaNetConfig, MoeNames, MoeStack, Multipliers, NormConfig, NormKind, OutputGate, QkNorm,
    Shared,
};
use crate::loader::Loader;
use crate::model::Model;

/// DeltaNet and gated attention in turns, over experts: also Qwen3.5.
pub(super) struct Qwen3Next {
    pub(super) base: BaseConfig,
    /// Which layers have attention; the others have a DeltaNet.
    pub(super) attention: Vec<bool>,
    pub(super) attention_bias: bool,
    pub(super) delta_net: DeltaNetConfig,
    pub(super) stack: MoeStack,
    pub(super) mtp_layers: usize,
    /// Where its layers are, without the dot.
    pub(super) layers: &'static str,
    pub(super) names: DecoderNames,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let base = base(config)?;
    let stack = MoeStack {
        sparse: sparse_layers(config, base.n_layers)?,
        dense_intermediate: config.opt_size_of(&["intermediate_size"], MAX_WIDTH)?.unwrap_or(5632),
        ..stack(config, &base, config.flag_or("norm_topk_prob", true)?)?
    };
    Ok(Box::new(Qwen3Next {
        attention: mixers(config, base.n_layers)?,
        attention_bias: config.flag_or("attention_bias", false)?,
        delta_net: DeltaNetConfig::read(config, &base, true)?,
        stack,
        mtp_layers: 0,
        layers: "model.layers",
        names: DecoderNames::USUAL,
        base,
    }))
}

/// The sizes of both generations.
pub(super) fn base(config: &Config) -> Result<BaseConfig> {
    let defaults = Defaults {
        context: 32_768,
        kv_heads: Some(2),
        head_dim: Some(256),
        partial_rotary: Some(0.25),
        ..Defaults::USUAL
    };
    BaseConfig::read(config, defaults)
}

/// Which layers have attention: by name, or every `full_attention_interval`-th.
pub(super) fn mixers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let interval = config.opt_size_of(&["full_attention_interval"], MAX_LAYERS)?.unwrap_or(4);
    let by_number = || (1..=n_layers).map(|layer| layer.is_multiple_of(interval)).collect();
    Ok(attention_layers(config, n_layers)?.unwrap_or_else(by_number))
}

/// The experts, in all layers.
pub(super) fn stack(config: &Config, base: &BaseConfig, renormalize: bool) -> Result<MoeStack> {
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    let shared = config.width("shared_expert_intermediate_size")?;
    Ok(MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: vec![true; base.n_layers],
        dense_intermediate: 0,
        intermediate: config.width("moe_intermediate_size")?,
        shared: Some(Shared {
            intermediate: shared,
            name: "shared_expert",
            gate: Some("shared_expert_gate"),
        }),
        router: softmax_router(n_experts, top_k, renormalize),
        names: MoeNames::USUAL,
        bias: false,
    })
}

impl Qwen3Next {
    fn norm(&self) -> NormConfig {
        NormConfig { kind: NormKind::RmsPlusOne, eps: self.base.norm_eps }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("{}.{layer}", self.layers);
        let norms = (self.base.hidden, self.norm());
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        if !self.attention[layer] {
            let mixer = DeltaNet::load(loader, &format!("{prefix}.linear_attn"), self.delta_net)?;
            return DecoderLayer::around(loader, &prefix, norms, mixer, feed_forward);
        }
        let config = AttentionConfig {
            norm: self.norm(),
            qk_norm: QkNorm::PerHead,
            gate: OutputGate::InQuery,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        };
        let mixer = Attention::load(loader, &format!("{prefix}.self_attn"), config)?;
        DecoderLayer::around(loader, &prefix, norms, mixer, feed_forward)
    }
}

impl Architecture for Qwen3Next {
    fn outline(&self) -> Outline {
        let attention = self.attention.iter().filter(|attention| **attention).count();
        let (heads, delta_net) = (self.base.describe_attention(), self.delta_net.describe());
        let others = self.attention.len() - attention;
        Outline {
            attention: format!(
                "{heads}, q/k norm per head, gated, in {attention} layers; {delta_net} in {others}"
            ),
            base: self.base.clone(),
            moe: self.stack.info(),
            mtp_layers: self.mtp_layers,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let decoder =
            DecoderConfig { norm: self.norm(), names: self.names, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
