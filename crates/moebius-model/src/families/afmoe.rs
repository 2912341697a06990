//! AFMoE (Arcee's Trinity): gated attention, windows with positions and full layers without, norms at both ends.
//!
//! `x += norm(attention(norm(x))); x += norm(moe(norm(x)))`. Router: sigmoid, the `k` best with a bias that only selects,
//! renormalised, times a constant; shared experts beside them, the first layers dense.
//! Shapes: experts `gate, up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use moebius_router::RouterConfig;
use serde_json::Value;

use super::usual::sliding_layers;
use super::{Architecture, Outline, experts, shared_experts};
use crate::Result;
use crate::config::{Config, MAX_CONTEXT};
use crate::info::Place;
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Branch, Decoder, DecoderLayer, Defaults, MoeNames, MoeStack,
    Multipliers, Norm, OutputGate, QkNorm, Vector,
};
use crate::loader::Loader;
use crate::model::Model;

struct Afmoe {
    base: BaseConfig,
    stack: MoeStack,
    attention_bias: bool,
    /// Factor on the embeddings.
    embedding: f64,
    /// Whether a layer sees a window alone and has positions, one entry a layer.
    slides: Vec<bool>,
    window: usize,
}

/// What is added to the sum of the chosen scores.
const ROUTER_EPS: f32 = 1e-20;

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { norm_eps: 1e-5, context: 16_384, head_dim: Some(128), ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    config.expect_text("score_func", &["sigmoid"])?;
    config.expect("route_norm", &Value::Bool(true))?;
    for groups in ["n_group", "topk_group", "num_expert_groups", "num_limited_groups"] {
        config.expect(groups, &1.into())?;
    }
    config.irrelevant(&["load_balance_coeff", "use_grouped_mm"]);
    let (n_experts, top_k) = experts(config, &["num_experts"])?;
    let intermediate = config.width("moe_intermediate_size")?;
    let dense = config.opt_count("num_dense_layers")?.unwrap_or(1);
    let router = RouterConfig::sigmoid_top_k(n_experts, top_k, ROUTER_EPS);
    let stack = MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: (0..base.n_layers).map(|layer| layer >= dense).collect(),
        dense_intermediate: config.width("intermediate_size")?,
        intermediate,
        shared: shared_experts(config, "num_shared_experts", intermediate)?,
        router: router.with_scale(config.opt_number("route_scale")?.unwrap_or(1.0) as f32),
        names: MoeNames {
            router: "router.gate",
            selection_bias: Some(Vector { name: "expert_bias", is_row: false }),
            ..MoeNames::USUAL
        },
        bias: false,
    };
    Ok(Box::new(Afmoe {
        attention_bias: config.flag_or("attention_bias", false)?,
        embedding: if config.flag_or("mup_enabled", false)? { (base.hidden as f64).sqrt() } else { 1.0 },
        slides: slides(config, base.n_layers)?,
        window: config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.unwrap_or(1024),
        stack,
        base,
    }))
}

/// `layer_types`, or full attention in every `global_attn_every_n_layers`-th layer.
fn slides(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let every = config.opt_size_of(&["global_attn_every_n_layers"], usize::MAX)?.unwrap_or(4);
    sliding_layers(config, n_layers, |layer| (layer + 1) % every != 0)
}

impl Afmoe {
    fn attention(&self, layer: usize) -> AttentionConfig {
        let slides = self.slides[layer];
        AttentionConfig {
            rope: slides.then_some(0),
            window: slides.then_some(self.window),
            qk_norm: QkNorm::PerHead,
            gate: OutputGate::Projected,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let norm = |name: &str| {
            Norm::load(loader, Place::Norm, &format!("{prefix}.{name}"), self.base.hidden, self.base.norm())
                .map(Some)
        };
        let attention = Attention::load(loader, &format!("{prefix}.self_attn"), self.attention(layer))?;
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        Ok(DecoderLayer::of(vec![
            Branch {
                before: norm("input_layernorm")?,
                mixer: Box::new(attention),
                after: norm("post_attention_layernorm")?,
            },
            Branch {
                before: norm("pre_mlp_layernorm")?,
                mixer: Box::new(feed_forward),
                after: norm("post_mlp_layernorm")?,
            },
        ]))
    }
}

impl Architecture for Afmoe {
    fn outline(&self) -> Outline {
        let (sliding, layers) = (self.slides.iter().filter(|slides| **slides).count(), self.base.n_layers);
        let window = format!(
            ", window of {} in {sliding} of {layers} layers, the others without positions",
            self.window
        );
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + ", gated, q/k norm per head" + &window,
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let multipliers = Multipliers { embedding: self.embedding, ..Multipliers::NONE };
        Ok(Box::new(Decoder::load(loader, self.base.decoder(multipliers), layers)?))
    }
}
