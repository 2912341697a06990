//! What the configurations of decoder families have in common.

use moebius_backend::{Activation, Pairing};

use crate::config::{Config, MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, shown};
use crate::layers::{
    AttentionConfig, DecoderConfig, DecoderNames, Multipliers, NormConfig, RopeConfig, RopeDefaults, RopeForm,
};
use crate::{Error, Result};

/// What a family takes when a key is absent. Never borrowed from a neighbour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// `rope_theta`.
    pub(crate) rope_theta: f64,
    /// `rms_norm_eps`.
    pub(crate) norm_eps: f64,
    /// `max_position_embeddings`.
    pub(crate) context: usize,
    /// `num_key_value_heads`; `None` is one for every query head.
    pub(crate) kv_heads: Option<usize>,
    /// Width of a head; `None` is what the heads share of the width of the stream.
    pub(crate) head_dim: Option<usize>,
    /// `num_hidden_layers`, in families that say it in another way.
    pub(crate) n_layers: Option<usize>,
    /// `hidden_act`.
    pub(crate) activation: Activation,
    /// `tie_word_embeddings`.
    pub(crate) tied: bool,
    /// `partial_rotary_factor`, in families that have one.
    pub(crate) partial_rotary: Option<f64>,
    /// Which elements of a head turn together.
    pub(crate) pairing: Pairing,
    /// What the family says about rotations beside the usual.
    pub(crate) rope_form: RopeForm,
    /// Whether anything is rotated at all.
    pub(crate) rotates: bool,
    /// What keys are called.
    pub(crate) keys: Keys,
}

impl Defaults {
    /// What a family with the usual keys, an output projection of its own and rotation of whole heads in halves has to
    /// change. The numbers are no family's.
    pub(crate) const USUAL: Defaults = Defaults {
        rope_theta: 1e4,
        norm_eps: 1e-6,
        context: 2048,
        kv_heads: None,
        head_dim: None,
        n_layers: None,
        activation: Activation::Silu,
        tied: false,
        partial_rotary: None,
        pairing: Pairing::HalfSplit,
        rope_form: RopeForm::Usual,
        rotates: true,
        keys: Keys::USUAL,
    };

    /// The same for rotations of heads of `head_dim`.
    pub(crate) fn rope(&self, head_dim: usize, context: usize) -> RopeDefaults {
        let Defaults { rope_theta: theta, partial_rotary: partial, pairing, rope_form: form, .. } = *self;
        RopeDefaults { head_dim, theta, context, partial, pairing, form }
    }
}

/// What families call what they all have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    /// Width of the residual stream, in any of these spellings.
    pub(crate) hidden: &'static [&'static str],
    /// Decoder layers.
    pub(crate) layers: &'static [&'static str],
    /// Query heads.
    pub(crate) heads: &'static [&'static str],
    /// Most positions of a sequence.
    pub(crate) context: &'static [&'static str],
    /// The non-linearity.
    pub(crate) activation: &'static str,
    /// Width of a head.
    pub(crate) head_dim: &'static str,
    /// What is added under the norms' root.
    pub(crate) norm_eps: &'static str,
    /// Whether the output projection is the embedding table.
    pub(crate) tied: &'static str,
}

impl Keys {
    /// What most call it.
    pub(crate) const USUAL: Keys = Keys {
        hidden: &["hidden_size"],
        layers: &["num_hidden_layers"],
        heads: &["num_attention_heads"],
        context: &["max_position_embeddings"],
        activation: "hidden_act",
        head_dim: "head_dim",
        norm_eps: "rms_norm_eps",
        tied: "tie_word_embeddings",
    };
}

/// Sizes that every decoder has.
#[derive(Clone, Debug)]
pub(crate) struct BaseConfig {
    /// Rows of the embedding table.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Decoder layers.
    pub(crate) n_layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// The gate's non-linearity in every feed-forward.
    pub(crate) activation: Activation,
    /// Added to the mean square under the norms' root.
    pub(crate) norm_eps: f64,
    /// Most positions of a sequence.
    pub(crate) context: usize,
    /// Whether the output projection is the embedding table.
    pub(crate) tied: bool,
    /// Positions.
    pub(crate) rope: RopeConfig,
    /// End-of-sequence ids.
    pub(crate) eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence id.
    pub(crate) bos_token_id: Option<u32>,
}

impl BaseConfig {
    /// Reads the common keys.
    ///
    /// # Errors
    /// [`Error::Config`] for a missing or impossible value.
    pub(crate) fn read(config: &Config, defaults: Defaults) -> Result<Self> {
        let keys = defaults.keys;
        let hidden = config.size_of(keys.hidden, MAX_WIDTH)?;
        let heads = config.size_of(keys.heads, MAX_WIDTH)?;
        let kv_heads = config.opt_size_of(&["num_key_value_heads"], heads)?;
        let kv_heads = kv_heads.or(defaults.kv_heads).unwrap_or(heads);
        if heads % kv_heads != 0 {
            let reason = format!("expected a divisor of {heads} attention heads, got {kv_heads}");
            return Err(Error::config("num_key_value_heads", reason));
        }
        let head_dim = match config.opt_size_of(&[keys.head_dim], MAX_WIDTH)?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let reason = format!("expected a multiple of {heads} attention heads, got {hidden}");
                return Err(Error::config(keys.hidden[0], reason));
            }
        };
        if heads * head_dim > MAX_WIDTH {
            let reason =
                format!("expected at most {MAX_WIDTH} over {heads} attention heads, got {head_dim} each");
            return Err(Error::config("head_dim", reason));
        }
        let context = config.opt_size_of(keys.context, MAX_CONTEXT)?;
        let context = context.unwrap_or(defaults.context);
        Ok(BaseConfig {
            vocab_size: config.size_of(&["vocab_size"], MAX_VOCAB)?,
            hidden,
            n_layers: match defaults.n_layers {
                Some(n_layers) => n_layers,
                None => config.size_of(keys.layers, MAX_LAYERS)?,
            },
            heads,
            kv_heads,
            head_dim,
            activation: activation(config, keys.activation, defaults.activation)?,
            norm_eps: config.opt_positive(keys.norm_eps)?.unwrap_or(defaults.norm_eps),
            context,
            tied: config.flag_or(keys.tied, defaults.tied)?,
            rope: match defaults.rotates {
                true => RopeConfig::read(config, defaults.rope(head_dim, context))?,
                false => RopeConfig::none(config),
            },
            eos_token_ids: token_ids(config, "eos_token_id")?,
            bos_token_id: token_ids(config, "bos_token_id")?.first().copied(),
        })
    }

    /// Attention with these sizes, see [`AttentionConfig::plain`].
    pub(crate) fn attention(&self) -> AttentionConfig {
        AttentionConfig::plain(self.hidden, (self.heads, self.kv_heads, self.head_dim), self.norm())
    }

    /// The form of every norm.
    pub(crate) fn norm(&self) -> NormConfig {
        NormConfig::rms(self.norm_eps)
    }

    /// A decoder around layers of these sizes.
    pub(crate) fn decoder(&self, multipliers: Multipliers) -> DecoderConfig {
        DecoderConfig {
            vocab_size: self.vocab_size,
            hidden: self.hidden,
            context: self.context,
            tied: self.tied,
            head_bias: false,
            norm: self.norm(),
            ropes: vec![self.rope.clone()],
            multipliers,
            softcap: None,
            names: DecoderNames::USUAL,
        }
    }

    /// The attention in words.
    pub(crate) fn describe_attention(&self) -> String {
        let BaseConfig { heads, kv_heads, head_dim, .. } = self;
        if heads == kv_heads {
            format!("{heads} heads of {head_dim}")
        } else {
            format!("{heads} heads of {head_dim} sharing {kv_heads} key/value heads")
        }
    }
}

/// The non-linearity under `key`, in the spellings of the Hugging Face configurations.
pub(crate) fn activation(config: &Config, key: &str, default: Activation) -> Result<Activation> {
    match config.opt_text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_python_tanh") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::Gelu),
        Some("relu2") => Ok(Activation::ReluSquared),
        Some(other) => {
            let reason = format!("expected `silu`, `gelu`, `gelu_pytorch_tanh` or `relu2`, got `{other}`");
            Err(Error::config(key, reason))
        }
    }
}

/// One id or a list of ids.
fn token_ids(config: &Config, key: &str) -> Result<Vec<u32>> {
    let id = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    match config.value(key) {
        None => Ok(Vec::new()),
        Some(serde_json::Value::Array(_)) => Ok(config.list(key, "token ids", id)?.unwrap_or_default()),
        Some(value) => match id(value) {
            Some(id) => Ok(vec![id]),
            None => {
                let reason = format!("expected a token id or a list of them, got {}", shown(value));
                Err(Error::config(key, reason))
            }
        },
    }
}
