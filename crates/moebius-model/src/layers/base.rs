//! What the configurations of decoder families have in common.

use moebius_backend::Activation;

use crate::cache::CacheSpec;
use crate::config::{Config, MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, shown};
use crate::layers::{AttentionConfig, DecoderConfig, Multipliers, QkNorm, RopeConfig};
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
        let hidden = config.width("hidden_size")?;
        let heads = config.width("num_attention_heads")?;
        let kv_heads = config.opt_size_of(&["num_key_value_heads"], heads)?;
        let kv_heads = kv_heads.or(defaults.kv_heads).unwrap_or(heads);
        if heads % kv_heads != 0 {
            let reason = format!("expected a divisor of {heads} attention heads, got {kv_heads}");
            return Err(Error::config("num_key_value_heads", reason));
        }
        let head_dim = match config.opt_size_of(&["head_dim"], MAX_WIDTH)? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let reason = format!("expected a multiple of {heads} attention heads, got {hidden}");
                return Err(Error::config("hidden_size", reason));
            }
        };
        if heads * head_dim > MAX_WIDTH {
            let reason =
                format!("expected at most {MAX_WIDTH} over {heads} attention heads, got {head_dim} each");
            return Err(Error::config("head_dim", reason));
        }
        let context = config.opt_size_of(&["max_position_embeddings"], MAX_CONTEXT)?;
        let context = context.unwrap_or(defaults.context);
        Ok(BaseConfig {
            vocab_size: config.size_of(&["vocab_size"], MAX_VOCAB)?,
            hidden,
            n_layers: config.size_of(&["num_hidden_layers"], MAX_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            activation: activation(config)?,
            norm_eps: config.opt_positive("rms_norm_eps")?.unwrap_or(defaults.norm_eps),
            context,
            tied: config.flag_or("tie_word_embeddings", false)?,
            rope: RopeConfig::read(config, head_dim, defaults.rope_theta, context)?,
            eos_token_ids: token_ids(config, "eos_token_id")?,
            bos_token_id: token_ids(config, "bos_token_id")?.first().copied(),
        })
    }

    /// Attention with these sizes, scaled by `1 / sqrt(head_dim)`, without norms, window or biases.
    pub(crate) fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: (self.head_dim as f64).powf(-0.5),
            window: None,
            qk_norm: QkNorm::None,
            clip: None,
            qkv_bias: false,
            output_bias: false,
            norm_eps: self.norm_eps,
        }
    }

    /// A decoder around `n_layers` layers of these sizes.
    pub(crate) fn decoder(&self, multipliers: Multipliers) -> DecoderConfig {
        DecoderConfig {
            vocab_size: self.vocab_size,
            hidden: self.hidden,
            tied: self.tied,
            norm_eps: self.norm_eps,
            rope: self.rope.clone(),
            multipliers,
            cache: self.cache(),
        }
    }

    /// What the cache holds for such a decoder.
    pub(crate) fn cache(&self) -> CacheSpec {
        CacheSpec { layers: vec![self.attention().cache(); self.n_layers], context: self.context }
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

/// `hidden_act`, in the spellings of the Hugging Face configurations.
fn activation(config: &Config) -> Result<Activation> {
    match config.opt_text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_python_tanh") => Ok(Activation::GeluTanh),
        Some(other) => {
            let reason = format!("expected `silu` or `gelu_pytorch_tanh`, got `{other}`");
            Err(Error::config("hidden_act", reason))
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
