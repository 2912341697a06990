//! Phi-3.5-MoE, Phi-mini-MoE and Phi-tiny-MoE (arXiv 2404.14219, 2506.18349): two experts from a sparse mixer.
//!
//! Router: SparseMixer, whose weights do not add up to one. LayerNorm with biases everywhere, LongRoPE: a sequence longer
//! than the trained context takes other angles at all of its positions.
//! Shapes: experts `w1, w3: [intermediate, hidden]` (gate and up), `w2: [hidden, intermediate]`.

use moebius_router::RouterConfig;

use super::{Architecture, Outline};
use crate::config::{Config, MAX_CONTEXT, MAX_EXPERTS};
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderConfig, DecoderLayer, Defaults, MoeNames, MoeStack,
    Multipliers, NormConfig, NormKind, RopeForm,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// What a sparse mixer chooses.
const TOP_K: usize = 2;

struct Phimoe {
    base: BaseConfig,
    stack: MoeStack,
    attention_bias: bool,
    head_bias: bool,
    window: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 1e6,
        norm_eps: 1e-5,
        context: 131_072,
        kv_heads: Some(8),
        rope_form: RopeForm::Long,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    let n_experts = config.size_of(&["num_local_experts", "num_experts"], MAX_EXPERTS)?;
    let top_k = config.opt_size_of(&["num_experts_per_tok"], n_experts)?.unwrap_or(TOP_K);
    let top_k = config.overridden_top_k(top_k, n_experts)?;
    if top_k != TOP_K || n_experts < TOP_K {
        let reason = format!("expected {TOP_K} of at least {TOP_K} experts, got {top_k} of {n_experts}");
        return Err(Error::config("num_experts_per_tok", reason));
    }
    // A factor on the stream in training; the other one decides which experts the router compares.
    config.irrelevant(&["input_jitter_noise"]);
    let jitter = config.opt_number("router_jitter_noise")?.unwrap_or(0.01);
    if jitter < 0.0 {
        return Err(Error::config(
            "router_jitter_noise",
            format!("expected a number of at least 0, got {jitter}"),
        ));
    }
    let router = RouterConfig::sparse_mixer(n_experts, jitter as f32);
    let stack = MoeStack {
        names: MoeNames { matrices: ["w1", "w3", "w2"], ..MoeNames::USUAL },
        ..MoeStack::experts_alone(&base, config.width("intermediate_size")?, router)
    };
    Ok(Box::new(Phimoe {
        attention_bias: config.flag_or("attention_bias", false)?,
        head_bias: config.flag_or("lm_head_bias", false)?,
        window: config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?,
        stack,
        base,
    }))
}

impl Phimoe {
    fn norm(&self) -> NormConfig {
        NormConfig { kind: NormKind::Layer { bias: true }, eps: self.base.norm_eps }
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            norm: self.norm(),
            window: self.window,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        // Transformers' own name for the block, which it writes when told to keep it.
        let kept = loader.has(&format!("{prefix}.mlp.router.weight"));
        let (block, router) = if kept { ("mlp", "router") } else { ("block_sparse_moe", "gate") };
        let stack = MoeStack { names: MoeNames { router, ..self.stack.names }, ..self.stack.clone() };
        let feed_forward = stack.feed_forward(loader, layer, &format!("{prefix}.{block}"))?;
        DecoderLayer::load(loader, &prefix, self.attention(), feed_forward)
    }
}

impl Architecture for Phimoe {
    fn outline(&self) -> Outline {
        let window = self.window.map(|w| format!(", window of {w}")).unwrap_or_default();
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &window,
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let decoder = DecoderConfig {
            head_bias: self.head_bias,
            norm: self.norm(),
            ..self.base.decoder(Multipliers::NONE)
        };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
