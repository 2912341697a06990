//! gpt-oss (OpenAI, arXiv 2508.10925): attention with sinks, every other layer in a window; experts with biases and a
//! clamped unit, published in MXFP4.
//!
//! Router: `l = W x + b`, the `k` largest logits, softmax over them. Experts: `(u + 1) * g * sigmoid(1.702 g)` with
//! `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`. Every head has a logit of its own in its softmax.
//! Shapes: gate and up are interleaved in one tensor, `[experts, 2 intermediate, hidden]` in MXFP4 and
//! `[experts, hidden, 2 intermediate]` otherwise; down likewise `[experts, hidden, intermediate]` or transposed.

use moebius_backend::Activation;
use moebius_router::RouterConfig;

use super::usual::{describe_window, sliding_layers};
use super::{Architecture, Outline, experts};
use crate::config::{Config, MAX_CONTEXT};
use crate::info::MoeInfo;
use crate::layers::{
    AttentionConfig, BaseConfig, Decoder, DecoderLayer, Defaults, FeedForward, MoeConfig, MoeExtras,
    MoeLayer, Multipliers, RopeScaling,
};
use crate::layout::{ExpertLayout, GateUp};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// The slope of the unit's sigmoid, which no configuration changes.
const ALPHA: f64 = 1.702;

struct GptOss {
    base: BaseConfig,
    intermediate: usize,
    n_experts: usize,
    top_k: usize,
    limit: f32,
    attention_bias: bool,
    window: Option<usize>,
    windowed: Vec<bool>,
    mxfp4: bool,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 150_000.0,
        norm_eps: 1e-5,
        context: 131_072,
        kv_heads: Some(8),
        head_dim: Some(64),
        ..Defaults::USUAL
    };
    let mut base = BaseConfig::read(config, defaults)?;
    if config.value("rope_scaling").is_none() && config.value("rope_parameters").is_none() {
        base.rope.scaling = default_scaling();
    }
    if let Some(alpha) = config.opt_number("swiglu_alpha")?.filter(|alpha| *alpha != ALPHA) {
        return Err(Error::config("swiglu_alpha", format!("expected {ALPHA}, got {alpha}")));
    }
    let (n_experts, top_k) = experts(config, &["num_local_experts", "num_experts"])?;
    // The same again under an older name; and what the rope scaling says, too.
    config.opt_size_of(&["num_experts_per_tok", "experts_per_token"], n_experts)?;
    config.irrelevant(&["initial_context_length"]);
    let windowed = sliding_layers(config, base.n_layers, |layer| layer % 2 == 0)?;
    let window = match config.opt_size_of(&["sliding_window"], MAX_CONTEXT)? {
        None if config.is_null("sliding_window") && windowed.contains(&true) => {
            return Err(Error::config(
                "sliding_window",
                "expected a number for the sliding layers, got null",
            ));
        }
        window => window.or(Some(128)),
    };
    let quantization = config.opt_object("quantization_config")?;
    let method = quantization.as_ref().map(|q| q.opt_text("quant_method")).transpose()?.flatten();
    Ok(Box::new(GptOss {
        base,
        intermediate: config.width("intermediate_size")?,
        n_experts,
        top_k,
        limit: config.opt_positive("swiglu_limit")?.unwrap_or(7.0) as f32,
        attention_bias: config.flag_or("attention_bias", true)?,
        window,
        windowed,
        mxfp4: method == Some("mxfp4"),
    }))
}

/// What counts when a configuration does not say how positions are scaled.
fn default_scaling() -> RopeScaling {
    let factor: f64 = 32.0;
    RopeScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original: 4096.0,
        truncate: false,
        attention_factor: 0.1 * factor.ln() + 1.0,
        mscale_all: 1.0,
    }
}

impl GptOss {
    fn router(&self) -> RouterConfig {
        RouterConfig::top_k_softmax(self.n_experts, self.top_k)
    }

    fn attention(&self, layer: usize) -> AttentionConfig {
        AttentionConfig {
            window: self.window.filter(|_| self.windowed[layer]),
            sinks: true,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let experts = format!("{prefix}.mlp.experts");
        let (gate_up, down) = (format!("{experts}.gate_up_proj"), format!("{experts}.down_proj"));
        let order = GateUp::Interleaved;
        let layout = match self.mxfp4 {
            true => ExpertLayout::Fused { gate_up, down, order },
            false => ExpertLayout::FusedTransposed { gate_up, down, order },
        };
        let moe = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: self.intermediate,
            activation: Activation::ClampedSwiglu { limit: self.limit },
            router: self.router(),
            gate: format!("{prefix}.mlp.router"),
            layouts: vec![layout],
            extras: MoeExtras { gate_bias: true, biases: true, ..MoeExtras::default() },
        };
        let moe = FeedForward::Moe(MoeLayer::load(loader, moe, None)?);
        DecoderLayer::load(loader, &prefix, self.attention(layer), moe)
    }
}

impl Architecture for GptOss {
    fn outline(&self) -> Outline {
        let window = describe_window(self.window, &self.windowed);
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + ", a sink for each" + &window,
            moe: Some(MoeInfo::new(&self.router(), self.base.n_layers, self.intermediate)),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
