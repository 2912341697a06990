//! Decoders as most families build them: every layer has attention and a feed-forward, each behind a norm.
//!
//! `x += attention(norm(x)); x += feed_forward(norm(x))`, attention over heads or over latents, feed-forwards dense or
//! with experts. A family that is nothing else reads its configuration into a [`UsualDecoder`].

use moebius_router::{Renormalize, RouterConfig};

use super::{Architecture, Outline, first_dense_after, routed_experts, shared_experts_or};
use crate::Result;
use crate::config::Config;
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Decoder, DecoderLayer, DecoderNames, LatentAttention,
    LatentConfig, MoeNames, MoeStack, Multipliers, QkNorm,
};
use crate::loader::Loader;
use crate::model::Model;

/// A decoder of usual layers.
pub(super) struct UsualDecoder {
    /// Its sizes.
    pub(super) base: BaseConfig,
    /// Its attention.
    pub(super) attention: UsualAttention,
    /// Its feed-forwards.
    pub(super) stack: MoeStack,
    /// What its tensors are called.
    pub(super) names: LayerNames,
    /// Whether its output projection has a bias.
    pub(super) head_bias: bool,
    /// Layers after the last one that predict further tokens, which are left out.
    pub(super) mtp_layers: usize,
}

/// The attention of all layers.
pub(super) enum UsualAttention {
    /// With keys and values.
    Heads {
        /// That of a layer whose queries have the window, if there is one.
        config: AttentionConfig,
        /// Which layers have it.
        windowed: Vec<bool>,
    },
    /// With latents.
    Latent(LatentConfig),
}

impl UsualAttention {
    /// The same heads in each of `n_layers` layers.
    pub(super) fn alike(config: AttentionConfig, n_layers: usize) -> Self {
        UsualAttention::Heads { config, windowed: vec![true; n_layers] }
    }

    /// In words.
    fn describe(&self, base: &BaseConfig) -> String {
        let (config, windowed) = match self {
            UsualAttention::Latent(config) => return config.describe(),
            UsualAttention::Heads { config, windowed } => (config, windowed),
        };
        let mut words = base.describe_attention();
        words += match config.qk_norm {
            QkNorm::None => "",
            QkNorm::Whole => ", q/k norm over all heads",
            _ => ", q/k norm per head",
        };
        if let Some(clip) = config.clip {
            words += &format!(", clipped at {clip}");
        }
        if base.rope.rotary_dim < base.head_dim {
            words += &format!(", {} elements rotated", base.rope.rotary_dim);
        }
        words + &describe_window(config.window, windowed)
    }
}

/// A window in words, with which layers have it.
pub(super) fn describe_window(window: Option<usize>, windowed: &[bool]) -> String {
    let (with, all) = (windowed.iter().filter(|w| **w).count(), windowed.len());
    match window {
        Some(window) if with == all => format!(", window of {window}"),
        Some(window) if with > 0 => format!(", window of {window} in {with} of {all} layers"),
        _ => String::new(),
    }
}

/// What the parts of a decoder of usual layers are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerNames {
    /// What is outside the layers.
    pub(super) decoder: DecoderNames,
    /// The layers, up to their numbers.
    pub(super) layers: &'static str,
    /// The attention, below a layer.
    pub(super) attention: &'static str,
    /// The feed-forward, below a layer.
    pub(super) feed_forward: &'static str,
}

impl LayerNames {
    /// What most families call them.
    pub(super) const USUAL: LayerNames = LayerNames {
        decoder: DecoderNames::USUAL,
        layers: "model.layers",
        attention: "self_attn",
        feed_forward: "mlp",
    };

    /// The same below `language_model`, as in multimodal models that wrap a whole language model.
    pub(super) const WRAPPED: LayerNames = LayerNames {
        decoder: DecoderNames {
            embedding: "language_model.model.embed_tokens",
            norm: "language_model.model.norm",
            head: "language_model.lm_head",
        },
        layers: "language_model.model.layers",
        ..LayerNames::USUAL
    };
}

impl UsualDecoder {
    /// One whose tensors have the usual names, without a bias on its head or further layers.
    pub(super) fn new(base: BaseConfig, attention: UsualAttention, stack: MoeStack) -> Self {
        UsualDecoder { base, attention, stack, names: LayerNames::USUAL, head_bias: false, mtp_layers: 0 }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let LayerNames { layers, attention, feed_forward, .. } = self.names;
        let prefix = format!("{layers}.{layer}");
        let attention = format!("{prefix}.{attention}");
        let feed_forward = || self.stack.feed_forward(loader, layer, &format!("{prefix}.{feed_forward}"));
        let sizes = (self.base.hidden, self.base.norm());
        match &self.attention {
            UsualAttention::Latent(config) => {
                let attention = LatentAttention::load(loader, &attention, config.clone())?;
                DecoderLayer::around(loader, &prefix, sizes, attention, feed_forward()?)
            }
            UsualAttention::Heads { config, windowed } => {
                let window = config.window.filter(|_| windowed[layer]);
                let attention =
                    Attention::load(loader, &attention, AttentionConfig { window, ..config.clone() })?;
                DecoderLayer::around(loader, &prefix, sizes, attention, feed_forward()?)
            }
        }
    }
}

impl Architecture for UsualDecoder {
    fn outline(&self) -> Outline {
        Outline {
            base: self.base.clone(),
            attention: self.attention.describe(&self.base),
            moe: self.stack.info(),
            mtp_layers: self.mtp_layers,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let mut config = self.base.decoder(Multipliers::NONE);
        (config.names, config.head_bias) = (self.names.decoder, self.head_bias);
        Ok(Box::new(Decoder::load(loader, config, layers)?))
    }
}

/// What a follower of DeepSeek takes when a key is absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackDefaults {
    /// `first_k_dense_replace`.
    pub(super) first_dense: usize,
    /// `n_shared_experts`.
    pub(super) shared: usize,
    /// `n_group`.
    pub(super) groups: usize,
    /// `topk_group`.
    pub(super) keep: usize,
    /// `norm_topk_prob`.
    pub(super) renormalize: bool,
    /// `routed_scaling_factor`.
    pub(super) scale: f64,
}

impl StackDefaults {
    /// The feed-forwards of DeepSeek-V3 and its followers: a sigmoid router with a correction bias, shared experts under
    /// `shared_key`, dense layers first.
    pub(super) fn sigmoid(self, config: &Config, base: &BaseConfig, shared_key: &str) -> Result<MoeStack> {
        let (n_experts, top_k) = routed_experts(config)?;
        self.stack(config, base, (shared_key, self.router(config, n_experts, top_k)?))
    }

    /// The feed-forwards around `router`.
    pub(super) fn stack(
        self,
        config: &Config,
        base: &BaseConfig,
        (shared_key, router): (&str, RouterConfig),
    ) -> Result<MoeStack> {
        let intermediate = config.width("moe_intermediate_size")?;
        let sparse = first_dense_after(self.first_dense, config, base.n_layers)?;
        let all_sparse = sparse.iter().all(|sparse| *sparse);
        Ok(MoeStack {
            hidden: base.hidden,
            activation: base.activation,
            // A model without dense layers need not say how wide they are.
            dense_intermediate: match config.value("intermediate_size") {
                None if all_sparse => intermediate,
                _ => config.width("intermediate_size")?,
            },
            sparse,
            intermediate,
            shared: shared_experts_or(self.shared, config, shared_key, intermediate)?,
            router,
            names: MoeNames::WITH_CORRECTION_BIAS,
            bias: false,
        })
    }

    /// The router of DeepSeek-V3, without its correction bias.
    pub(super) fn router(self, config: &Config, n_experts: usize, top_k: usize) -> Result<RouterConfig> {
        let groups = config.opt_size_of(&["n_group"], n_experts)?.unwrap_or(self.groups);
        let keep = config.opt_size_of(&["topk_group"], groups)?.unwrap_or(self.keep.min(groups));
        let router = RouterConfig::sigmoid_grouped(n_experts, top_k, groups, keep);
        let router = match config.flag_or("norm_topk_prob", self.renormalize)? {
            true => router,
            false => router.with_renormalize(Renormalize::No),
        };
        Ok(router.with_scale(config.opt_number("routed_scaling_factor")?.unwrap_or(self.scale) as f32))
    }
}

/// Layers whose attention has a window: those that `layer_types` calls sliding, or else those that `by_number` names.
pub(super) fn sliding_layers(
    config: &Config,
    n_layers: usize,
    by_number: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let kinds = config.per_layer("layer_types", n_layers, &["full_attention", "sliding_attention"])?;
    Ok(match kinds {
        Some(kinds) => kinds.into_iter().map(|kind| kind == 1).collect(),
        None => (0..n_layers).map(by_number).collect(),
    })
}
