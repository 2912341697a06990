//! Gemma 4 with experts (Google): windows of attention with a full layer here and there, experts beside a dense unit.
//!
//! `x += norm(attention(norm(x))); x += norm(dense and experts); x *= layer_scalar`. Queries, keys and values are
//! normalised and dot products not scaled; full layers have heads of their own size, and keys may be their values.
//! Router: looks at the residual stream under its own norm; softmax, the `k` largest, renormalised, times a learned
//! scale of the expert. Shapes: experts `gate_up_proj: [experts, 2 moe_intermediate, hidden]`.

use moebius_backend::Activation;
use moebius_router::RouterConfig;
use serde_json::Value;

use super::{Architecture, Outline};
use crate::config::{Config, MAX_CONTEXT, MAX_EXPERTS, MAX_WIDTH};
use crate::info::Place;
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Branch, Decoder, DecoderConfig, DecoderLayer, DecoderNames,
    Defaults, DenseBesideExperts, Keys, Mlp, MlpConfig, MoeNames, MoeStack, Multipliers, Norm, QkNorm,
    RopeConfig, RopeForm, RopeScaling, Values, Vector,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// Tensors outside the layers of a model that also sees.
const WRAPPED: DecoderNames = DecoderNames {
    embedding: "model.language_model.embed_tokens",
    norm: "model.language_model.norm",
    head: "lm_head",
};

struct Gemma4 {
    base: BaseConfig,
    /// Whether it is the text part of a model that also sees.
    is_wrapped: bool,
    /// `None` where all layers are dense.
    stack: Option<MoeStack>,
    dense_intermediate: usize,
    layers: Vec<Heads>,
    /// Of full layers.
    full_rope: RopeConfig,
    window: usize,
    keys_are_values: bool,
    attention_bias: bool,
    softcap: Option<f64>,
}

/// The attention of a layer.
#[derive(Clone, Copy, Debug)]
struct Heads {
    slides: bool,
    head_dim: usize,
    kv_heads: usize,
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        context: 131_072,
        kv_heads: Some(4),
        tied: true,
        rope_form: RopeForm::OfLayers(SLIDING),
        activation: Activation::GeluTanh,
        head_dim: Some(256),
        keys: Keys { activation: "hidden_activation", ..Keys::USUAL },
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    refuse_other_parts(config)?;
    let keys_are_values = config.flag_or("attention_k_eq_v", false)?;
    let layers = heads(config, &base, keys_are_values)?;
    Ok(Box::new(Gemma4 {
        is_wrapped: config.text_part_of().is_some(),
        stack: stack(config, &base)?,
        dense_intermediate: config.width("intermediate_size")?,
        full_rope: full_rope(config, &base, defaults, &layers)?,
        layers,
        window: config.opt_size_of(&["sliding_window"], MAX_CONTEXT)?.unwrap_or(512),
        keys_are_values,
        attention_bias: config.flag_or("attention_bias", false)?,
        softcap: config.opt_positive("final_logit_softcapping")?,
        base,
    }))
}

/// What other models of the line have and this one has not.
fn refuse_other_parts(config: &Config) -> Result<()> {
    match config.opt_count("hidden_size_per_layer_input")? {
        Some(0) => {}
        // What it means to say nothing.
        got => {
            let reason = format!("expected 0, no embeddings for single layers, got {}", got.unwrap_or(256));
            return Err(Error::config("hidden_size_per_layer_input", reason));
        }
    }
    config.expect("num_kv_shared_layers", &0.into())?;
    config.expect("use_double_wide_mlp", &Value::Bool(false))?;
    // Pictures alone are seen both ways.
    config.expect_text("use_bidirectional_attention", &["vision"])?;
    config.irrelevant(&["vocab_size_per_layer_input"]);
    Ok(())
}

fn stack(config: &Config, base: &BaseConfig) -> Result<Option<MoeStack>> {
    if !config.flag_or("enable_moe_block", false)? {
        config.irrelevant(&["num_experts", "top_k_experts", "moe_intermediate_size"]);
        return Ok(None);
    }
    let n_experts = config.size_of(&["num_experts"], MAX_EXPERTS)?;
    let top_k = config.top_k("top_k_experts", n_experts)?;
    let router = RouterConfig::softmax_top_k(n_experts, top_k);
    Ok(Some(MoeStack {
        names: MoeNames {
            router: "router.proj",
            expert_scale: Some(Vector { name: "router.per_expert_scale", is_row: false }),
            ..MoeNames::USUAL
        },
        ..MoeStack::experts_alone(base, config.width("moe_intermediate_size")?, router)
    }))
}

/// `layer_types`, or every sixth layer full; the last one always is. Full layers have the head size and the number of
/// heads that `global_head_dim` and `num_global_key_value_heads` say, or any layer those of `per_layer_config`.
fn heads(config: &Config, base: &BaseConfig, keys_are_values: bool) -> Result<Vec<Heads>> {
    let n_layers = base.n_layers;
    let kinds = config.per_layer("layer_types", n_layers, &[FULL, SLIDING])?;
    let kinds =
        kinds.unwrap_or_else(|| (0..n_layers).map(|layer| usize::from((layer + 1) % 6 != 0)).collect());
    let slides = |layer: usize| kinds[layer] == 1 && layer + 1 != n_layers;
    let own = Heads { slides: true, head_dim: base.head_dim, kv_heads: base.kv_heads };
    let layers: Vec<Heads> = match config.opt_object("per_layer_config")? {
        Some(overrides) => {
            config.irrelevant(&["global_head_dim", "num_global_key_value_heads"]);
            let of = |layer| overridden(&overrides, layer, Heads { slides: slides(layer), ..own });
            let layers = (0..n_layers).map(of).collect::<Result<_>>()?;
            if let [unused, ..] = overrides.unused().as_slice() {
                return Err(Error::config(
                    "per_layer_config",
                    format!("expected layers below {n_layers}, got `{unused}`"),
                ));
            }
            layers
        }
        None => {
            let head_dim = config.opt_size_of(&["global_head_dim"], MAX_WIDTH)?.unwrap_or(512);
            let kv_heads = config.opt_size_of(&["num_global_key_value_heads"], base.heads)?;
            let kv_heads = kv_heads.filter(|_| keys_are_values).unwrap_or(base.kv_heads);
            let full = Heads { slides: false, head_dim, kv_heads };
            (0..n_layers).map(|layer| if slides(layer) { own } else { full }).collect()
        }
    };
    for (layer, Heads { head_dim, kv_heads, slides }) in layers.iter().copied().enumerate() {
        let first = layers.iter().find(|first| first.slides == slides).expect("it is among them");
        let fits = base.heads.is_multiple_of(kv_heads)
            && base.heads * head_dim <= MAX_WIDTH
            && head_dim == first.head_dim;
        if !fits || (slides && head_dim != base.head_dim) {
            let reason = format!(
                "expected heads of one size in all layers of a kind and a divisor of {} heads, got {kv_heads} of \
                 {head_dim} in layer {layer}",
                base.heads
            );
            return Err(Error::config("per_layer_config", reason));
        }
    }
    Ok(layers)
}

/// What `per_layer_config` says of `layer`, whose heads are otherwise `heads`.
fn overridden(overrides: &Config, layer: usize, heads: Heads) -> Result<Heads> {
    let Some(own) = overrides.opt_object(&layer.to_string())? else { return Ok(heads) };
    let head_dim = own.opt_size_of(&["head_dim"], MAX_WIDTH)?.unwrap_or(heads.head_dim);
    let kv_heads = own.opt_size_of(&["num_key_value_heads"], MAX_WIDTH)?.unwrap_or(heads.kv_heads);
    match own.unused().as_slice() {
        [] => Ok(Heads { head_dim, kv_heads, ..heads }),
        [key, ..] => {
            let reason =
                format!("expected `head_dim` and `num_key_value_heads`, got `{key}` in layer {layer}");
            Err(Error::config("per_layer_config", reason))
        }
    }
}

/// Rotation of full layers: by default only a quarter of the pairs turn.
fn full_rope(config: &Config, base: &BaseConfig, defaults: Defaults, layers: &[Heads]) -> Result<RopeConfig> {
    let head_dim = layers.last().map_or(base.head_dim, |last| last.head_dim);
    let defaults = Defaults { rope_theta: 1e6, rope_form: RopeForm::OfLayers(FULL), ..defaults };
    let rope = RopeConfig::read(config, defaults.rope(head_dim, base.context))?;
    Ok(match config.value("rope_parameters") {
        Some(_) => rope,
        None => {
            RopeConfig { scaling: RopeScaling::Proportional { pairs: head_dim / 8, factor: 1.0 }, ..rope }
        }
    })
}

impl Gemma4 {
    fn attention(&self, layer: usize) -> AttentionConfig {
        let Heads { slides, head_dim, kv_heads } = self.layers[layer];
        let keys_are_values = self.keys_are_values && !slides;
        AttentionConfig {
            scale: 1.0,
            rope: Some(usize::from(!slides)),
            window: slides.then_some(self.window),
            qk_norm: QkNorm::PerHead,
            values: if keys_are_values { Values::NormedKeys } else { Values::Normed },
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..AttentionConfig::plain(
                self.base.hidden,
                (self.base.heads, kv_heads, head_dim),
                self.base.norm(),
            )
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = if self.is_wrapped { "model.language_model" } else { "model" };
        let prefix = format!("{prefix}.layers.{layer}");
        let (hidden, norm) = (self.base.hidden, self.base.norm());
        let load =
            |name: &str| Norm::load(loader, Place::Norm, &format!("{prefix}.{name}"), hidden, norm).map(Some);
        let attention = Attention::load(loader, &format!("{prefix}.self_attn"), self.attention(layer))?;
        let attention = Branch {
            before: load("input_layernorm")?,
            mixer: Box::new(attention),
            after: load("post_attention_layernorm")?,
        };
        let dense = MlpConfig::gated(hidden, self.dense_intermediate, self.base.activation);
        let after = load("post_feedforward_layernorm")?;
        let feed_forward = match &self.stack {
            Some(stack) => {
                let mixer = DenseBesideExperts::load(loader, (layer, &prefix), dense, stack, norm)?;
                Branch { before: None, mixer: Box::new(mixer), after }
            }
            None => {
                let mixer = Mlp::load(loader, &format!("{prefix}.mlp"), dense)?;
                Branch { before: load("pre_feedforward_layernorm")?, mixer: Box::new(mixer), after }
            }
        };
        // A plan has no values.
        let scale = loader.values(Place::Norm, &format!("{prefix}.layer_scalar"), 1)?;
        let scale = scale.first().copied().unwrap_or(1.0).into();
        Ok(DecoderLayer { branches: vec![attention, feed_forward], scale })
    }
}

impl Architecture for Gemma4 {
    fn outline(&self) -> Outline {
        let sliding = self.layers.iter().filter(|heads| heads.slides).count();
        let full = self.layers.last().map_or(self.base.head_dim, |heads| heads.head_dim);
        let rest = format!(
            ", q/k/v norm per head, window of {} in {sliding} of {} layers, the others with heads of {full}",
            self.window, self.base.n_layers
        );
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &rest,
            moe: self.stack.as_ref().and_then(MoeStack::info),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let multipliers = Multipliers { embedding: (self.base.hidden as f64).sqrt(), ..Multipliers::NONE };
        let decoder = DecoderConfig {
            ropes: vec![self.base.rope.clone(), self.full_rope.clone()],
            softcap: self.softcap,
            names: if self.is_wrapped { WRAPPED } else { DecoderNames::USUAL },
            ..self.base.decoder(multipliers)
        };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
