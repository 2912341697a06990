//! FlexOlmo (arXiv 2507.07024): one wide expert for each body of data, norms behind attention and feed-forward.
//!
//! `x += norm(attention(x)); x += norm(moe(x))`. Router: softmax over all experts, the `k` largest, as a rule not
//! renormalised. Queries and keys are normalised over the whole projection.
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`.

use super::{Architecture, Outline, experts, softmax_router};
use crate::Result;
use crate::config::Config;
use crate::info::Place;
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Branch, Decoder, DecoderLayer, Defaults, MoeStack, Multipliers,
    Norm, QkNorm,
};
use crate::loader::Loader;
use crate::model::Model;

struct FlexOlmo {
    base: BaseConfig,
    stack: MoeStack,
    attention_bias: bool,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults { rope_theta: 5e5, context: 4096, ..Defaults::USUAL };
    let base = BaseConfig::read(config, defaults)?;
    let (n_experts, top_k) = experts(config, &["num_experts", "num_local_experts"])?;
    let router = softmax_router(n_experts, top_k, config.flag_or("norm_topk_prob", false)?);
    let stack = MoeStack::experts_alone(&base, config.width("intermediate_size")?, router);
    let attention_bias = config.flag_or("attention_bias", false)?;
    Ok(Box::new(FlexOlmo { base, stack, attention_bias }))
}

impl FlexOlmo {
    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            qk_norm: QkNorm::Whole,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let norm = |name: &str| {
            Norm::load(loader, Place::Norm, &format!("{prefix}.{name}"), self.base.hidden, self.base.norm())
        };
        let attention = Attention::load(loader, &format!("{prefix}.self_attn"), self.attention())?;
        let moe = self.stack.moe(loader, layer, &format!("{prefix}.mlp"))?;
        let after = |norm, mixer| Branch { before: None, mixer, after: Some(norm) };
        Ok(DecoderLayer::of(vec![
            after(norm("post_attention_layernorm")?, Box::new(attention)),
            after(norm("post_feedforward_layernorm")?, Box::new(moe)),
        ]))
    }
}

impl Architecture for FlexOlmo {
    fn outline(&self) -> Outline {
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + ", q/k norm over all heads",
            moe: self.stack.info(),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
