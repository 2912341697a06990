//! DBRX (Databricks): sixteen experts, four of which serve a token.
//!
//! Router: softmax over all experts, the `k` largest, over their sum. Queries, keys and values come from one projection
//! and are clipped; LayerNorm without a bias.
//! Shapes: experts `w1, v1, w2: [experts * intermediate, hidden]` (gate, up, and down transposed).

use moebius_router::RouterConfig;
use serde_json::Value;

use super::{Architecture, Outline, softmax_router};
use crate::config::{Config, MAX_EXPERTS, MAX_WIDTH};
use crate::info::MoeInfo;
use crate::layers::{
    Attention, AttentionConfig, AttentionNames, BaseConfig, Decoder, DecoderConfig, DecoderLayer,
    DecoderNames, Defaults, InputNames, Keys, MoeConfig, MoeExtras, MoeLayer, Multipliers, NormConfig,
    NormKind, activation,
};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// Every norm: no key says otherwise.
const NORM: NormConfig = NormConfig { kind: NormKind::Layer { bias: false }, eps: 1e-5 };

const NAMES: DecoderNames =
    DecoderNames { embedding: "transformer.wte", norm: "transformer.norm_f", head: "lm_head" };

/// What transformers writes into every object of a configuration.
const OF_ANY_OBJECT: [&str; 5] =
    ["model_type", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id"];

struct Dbrx {
    base: BaseConfig,
    intermediate: usize,
    router: RouterConfig,
    clip: Option<f64>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let attention = config.opt_object("attn_config")?.unwrap_or_else(|| Config::from_map(Default::default()));
    let experts = config.opt_object("ffn_config")?.unwrap_or_else(|| Config::from_map(Default::default()));
    let kv_heads = attention.opt_size_of(&["kv_n_heads"], MAX_WIDTH)?.unwrap_or(1);
    config.expect("num_key_value_heads", &kv_heads.into())?;
    config.expect("tie_word_embeddings", &Value::Bool(false))?;
    let defaults = Defaults {
        // Released configurations say it here; beside `attn_config` it takes precedence.
        rope_theta: attention.opt_positive("rope_theta")?.unwrap_or(1e4),
        kv_heads: Some(kv_heads),
        keys: Keys {
            hidden: &["d_model", "hidden_size"],
            layers: &["n_layers", "num_hidden_layers"],
            heads: &["n_heads", "num_attention_heads"],
            context: &["max_seq_len", "max_position_embeddings"],
            ..Keys::USUAL
        },
        ..Defaults::USUAL
    };
    let mut base = BaseConfig::read(config, defaults)?;
    if let Some(function) = experts.opt_object("ffn_act_fn")? {
        base.activation = activation(&function, "name", base.activation)?;
    }
    config.irrelevant(&["resid_pdrop", "emb_pdrop"]);
    attention.irrelevant(&["attn_pdrop"]);
    experts.irrelevant(&["hidden_size", "moe_jitter_eps", "moe_loss_weight"]);
    for part in [&attention, &experts] {
        part.irrelevant(&OF_ANY_OBJECT);
    }
    experts.expect("uniform_expert_assignment", &Value::Bool(false))?;
    let model = Dbrx {
        intermediate: experts.opt_size_of(&["ffn_hidden_size"], MAX_WIDTH)?.unwrap_or(3584),
        router: router(config, &experts)?,
        clip: attention.opt_positive("clip_qkv")?,
        base,
    };
    config.report_unused("attn_config", &attention);
    config.report_unused("ffn_config", &experts);
    Ok(Box::new(model))
}

/// Weights are divided by their sum, the only norm that is known, or not at all.
fn router(config: &Config, experts: &Config) -> Result<RouterConfig> {
    const NORM_KEY: &str = "moe_normalize_expert_weights";
    let n_experts = experts.opt_size_of(&["moe_num_experts"], MAX_EXPERTS)?.unwrap_or(4);
    let top_k = experts.opt_size_of(&["moe_top_k"], n_experts)?.unwrap_or(1);
    let norm = experts.opt_number(NORM_KEY)?.or((!experts.is_null(NORM_KEY)).then_some(1.0));
    if let Some(norm) = norm.filter(|norm| *norm != 1.0) {
        return Err(Error::config(NORM_KEY, format!("expected 1 or null, got {norm}")));
    }
    Ok(softmax_router(n_experts, config.overridden_top_k(top_k, n_experts)?, norm.is_some()))
}

impl Dbrx {
    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            clip: self.clip,
            names: AttentionNames {
                inputs: InputNames::Fused("Wqkv"),
                output: "out_proj",
                ..AttentionNames::USUAL
            },
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("transformer.blocks.{layer}");
        let inner = format!("{prefix}.norm_attn_norm");
        let moe = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: self.intermediate,
            activation: self.base.activation,
            router: self.router.clone(),
            gate: format!("{prefix}.ffn.router.layer"),
            layouts: vec![ExpertLayout::Stacked {
                names: ["w1", "v1", "w2"].map(|name| format!("{prefix}.ffn.experts.mlp.{name}")),
            }],
            extras: MoeExtras::default(),
        };
        let attention = Attention::load(loader, &format!("{inner}.attn"), self.attention())?;
        let (norms, moe) = ((inner.as_str(), ["norm_1", "norm_2"]), MoeLayer::load(loader, moe, None)?);
        DecoderLayer::behind(loader, norms, (self.base.hidden, NORM), attention, moe)
    }
}

impl Architecture for Dbrx {
    fn outline(&self) -> Outline {
        let clip = self.clip.map(|c| format!(", clipped at {c}")).unwrap_or_default();
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + &clip,
            moe: Some(MoeInfo::new(&self.router, self.base.n_layers, self.intermediate)),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let decoder = DecoderConfig { norm: NORM, names: NAMES, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
