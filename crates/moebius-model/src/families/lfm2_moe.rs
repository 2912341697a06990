//! LFM2-MoE (arXiv 2511.23404): short convolutions in most layers, attention in a few, small experts.
//!
//! Router: sigmoid; with a bias the `k` best experts; their scores without the bias over their sum + 1e-6, times a
//! constant. The first layers are dense.
//! Shapes: experts `w1, w3: [moe_intermediate, hidden]`, `w2: [hidden, moe_intermediate]`.

use moebius_router::{Renormalize, RouterConfig};

use super::{Architecture, Outline, experts};
use crate::config::Config;
use crate::layers::{
    Attention, AttentionConfig, AttentionNames, BaseConfig, Decoder, DecoderConfig, DecoderLayer,
    DecoderNames, Defaults, Keys, MAX_KERNEL, Mixer, MoeNames, MoeStack, Multipliers, QkNorm, ShortConv,
    Vector,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// What the router adds to the sum of the chosen scores.
const SUM_EPS: f32 = 1e-6;

struct Lfm2Moe {
    base: BaseConfig,
    /// Which layers have attention; the others have a convolution.
    attention: Vec<bool>,
    kernel: usize,
    conv_bias: bool,
    stack: MoeStack,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 1e6,
        norm_eps: 1e-5,
        context: 128_000,
        kv_heads: Some(8),
        tied: config.flag_or("tie_word_embeddings", true)?,
        keys: Keys { norm_eps: "norm_eps", tied: "tie_embedding", ..Keys::USUAL },
        ..Defaults::USUAL
    };
    config.expect_text("hidden_act", &["silu", "swish"])?;
    // The dense variant of the family has these; here they change nothing.
    config.irrelevant(&[
        "block_auto_adjust_ff_dim",
        "block_dim",
        "block_ff_dim",
        "block_ffn_dim_multiplier",
        "block_mlp_init_scale",
        "block_multiple_of",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_swiglu",
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
        "use_pos_enc",
    ]);
    let base = BaseConfig::read(config, defaults)?;
    let layer_types = config.per_layer("layer_types", base.n_layers, &["conv", "full_attention"])?;
    let layer_types = layer_types.ok_or_else(|| Error::config("layer_types", "missing"))?;
    Ok(Box::new(Lfm2Moe {
        attention: layer_types.into_iter().map(|kind| kind == 1).collect(),
        kernel: config.opt_size_of(&["conv_L_cache"], MAX_KERNEL)?.unwrap_or(3),
        conv_bias: config.flag_or("conv_bias", false)?,
        stack: stack(config, &base)?,
        base,
    }))
}

fn stack(config: &Config, base: &BaseConfig) -> Result<MoeStack> {
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    let first_sparse = config.opt_count("num_dense_layers")?.unwrap_or(2);
    let bias = Vector { name: "expert_bias", is_row: false };
    Ok(MoeStack {
        hidden: base.hidden,
        activation: base.activation,
        sparse: (0..base.n_layers).map(|layer| layer >= first_sparse).collect(),
        dense_intermediate: config.width("intermediate_size")?,
        intermediate: config.width("moe_intermediate_size")?,
        shared: None,
        router: router(config, n_experts, top_k)?,
        names: MoeNames {
            selection_bias: config.flag_or("use_expert_bias", true)?.then_some(bias),
            matrices: ["w1", "w3", "w2"],
            ..MoeNames::USUAL
        },
        bias: false,
    })
}

fn router(config: &Config, n_experts: usize, top_k: usize) -> Result<RouterConfig> {
    let router = RouterConfig::sigmoid_top_k(n_experts, top_k, SUM_EPS);
    let router = match config.flag_or("norm_topk_prob", true)? {
        true => router,
        false => router.with_renormalize(Renormalize::No),
    };
    Ok(router.with_scale(config.opt_number("routed_scaling_factor")?.unwrap_or(1.0) as f32))
}

impl Lfm2Moe {
    fn mixer(&self, loader: &Loader<'_>, layer: usize, prefix: &str) -> Result<Box<dyn Mixer>> {
        if !self.attention[layer] {
            let sizes = (self.base.hidden, self.kernel);
            return Ok(Box::new(ShortConv::load(loader, &format!("{prefix}.conv"), sizes, self.conv_bias)?));
        }
        let names = AttentionNames {
            output: "out_proj",
            norms: ["q_layernorm", "k_layernorm"],
            ..AttentionNames::USUAL
        };
        let config = AttentionConfig { qk_norm: QkNorm::PerHead, names, ..self.base.attention() };
        Ok(Box::new(Attention::load(loader, &format!("{prefix}.self_attn"), config)?))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let feed_forward = self.stack.feed_forward(loader, layer, &format!("{prefix}.feed_forward"))?;
        let mixer = self.mixer(loader, layer, &prefix)?;
        let norms = (prefix.as_str(), ["operator_norm", "ffn_norm"]);
        DecoderLayer::behind(loader, norms, (self.base.hidden, self.base.norm()), mixer, feed_forward)
    }
}

impl Architecture for Lfm2Moe {
    fn outline(&self) -> Outline {
        let attention = self.attention.iter().filter(|attention| **attention).count();
        let convolutions = self.attention.len() - attention;
        let heads = self.base.describe_attention();
        Outline {
            attention: format!(
                "{heads}, q/k norm per head, in {attention} layers; convolution over {} tokens in {convolutions}",
                self.kernel
            ),
            base: self.base.clone(),
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let names = DecoderNames { norm: "model.embedding_norm", ..DecoderNames::USUAL };
        let decoder = DecoderConfig { names, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
