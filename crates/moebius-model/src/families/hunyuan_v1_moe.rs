//! Hunyuan-A13B (Tencent): routed experts beside a shared one, queries and keys normalised after rotation.
//!
//! Router: softmax over all experts, the `k` largest, renormalised. How many experts there are, how wide, and how many
//! serve a token may differ from layer to layer; the shared expert is as wide as so many of them.
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`.

use moebius_router::RouterConfig;
use serde_json::Value;

use super::{Architecture, Outline};
use crate::config::{Config, MAX_EXPERTS, MAX_WIDTH};
use crate::layers::{
    AttentionConfig, AttentionNames, BaseConfig, Decoder, DecoderLayer, Defaults, MoeNames, MoeStack,
    Multipliers, QkNorm, RopeForm, Shared,
};
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

struct HunyuanV1Moe {
    base: BaseConfig,
    attention_bias: bool,
    qk_norm: bool,
    /// One entry a layer.
    stacks: Vec<MoeStack>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let defaults = Defaults {
        rope_theta: 1e4,
        norm_eps: 1e-5,
        context: 2048,
        rope_form: RopeForm::NtkAlpha,
        ..Defaults::USUAL
    };
    let base = BaseConfig::read(config, defaults)?;
    refuse_other_parts(config)?;
    Ok(Box::new(HunyuanV1Moe {
        attention_bias: config.flag_or("attention_bias", false)?,
        qk_norm: config.flag_or("use_qk_norm", true)?,
        stacks: stacks(config, &base)?,
        base,
    }))
}

/// What the line's larger models have and this family does not.
fn refuse_other_parts(config: &Config) -> Result<()> {
    for key in ["use_cla", "use_mla", "mlp_bias", "position_embedding_xdrope", "group_limited_greedy"] {
        config.expect(key, &Value::Bool(false))?;
    }
    config.expect("norm_topk_prob", &Value::Bool(true))?;
    config.expect_text("norm_type", &["rms"])?;
    // The same as `head_dim`, settings of what is refused above, and of training, vision and storage.
    config.irrelevant(&[
        "attention_head_dim",
        "cla_share_factor",
        "moe_drop_tokens",
        "moe_random_routing_dropped_token",
        "capacity_factor",
        "eod_token_id",
        "sep_token_id",
        "mask_init_id",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "n_group",
        "topk_group",
        "routed_scaling_factor",
    ]);
    Ok(())
}

/// The feed-forward of every layer.
fn stacks(config: &Config, base: &BaseConfig) -> Result<Vec<MoeStack>> {
    let n_layers = base.n_layers;
    let sizes = |keys: [&str; 2], limit: usize| -> Result<Option<Vec<usize>>> {
        let [first, second] = keys.map(|key| config.opt_sizes(key, n_layers, limit));
        match (first?, second?) {
            (Some(a), Some(b)) if a != b => {
                Err(Error::config(keys[1], format!("expected the same as in `{}`", keys[0])))
            }
            (a, b) => Ok(a.or(b)),
        }
    };
    let missing = |key: &str| Error::config(key, "missing");
    let n_experts =
        sizes(["num_experts", "num_local_experts"], MAX_EXPERTS)?.ok_or_else(|| missing("num_experts"))?;
    let top_k =
        sizes(["moe_topk", "num_experts_per_tok"], MAX_EXPERTS)?.ok_or_else(|| missing("moe_topk"))?;
    let dense_intermediate = config.width("intermediate_size")?;
    let widths = config.opt_sizes("moe_intermediate_size", n_layers, MAX_WIDTH)?;
    let widths = widths.unwrap_or_else(|| vec![dense_intermediate; n_layers]);
    let shared = match config.flag_or("use_mixed_mlp_moe", true)? {
        true => {
            config.opt_sizes("num_shared_expert", n_layers, MAX_EXPERTS)?.unwrap_or_else(|| vec![1; n_layers])
        }
        false => {
            config.irrelevant(&["num_shared_expert"]);
            vec![0; n_layers]
        }
    };
    let skipped = config.opt_count("moe_layer_num_skipped")?.unwrap_or(0);
    let stack = |layer: usize| {
        let (n_experts, configured) = (n_experts[layer], top_k[layer]);
        if configured > n_experts {
            let reason = format!("expected at most {n_experts} experts in layer {layer}, got {configured}");
            return Err(Error::config("moe_topk", reason));
        }
        let shared = Shared { intermediate: widths[layer] * shared[layer], name: "shared_mlp", gate: None };
        if shared.intermediate > MAX_WIDTH {
            let reason = format!("expected at most {MAX_WIDTH} in width, got {}", shared.intermediate);
            return Err(Error::config("num_shared_expert", reason));
        }
        Ok(MoeStack {
            hidden: base.hidden,
            activation: base.activation,
            sparse: (0..n_layers).map(|layer| layer >= skipped).collect(),
            dense_intermediate,
            intermediate: widths[layer],
            shared: (shared.intermediate > 0).then_some(shared),
            router: RouterConfig::softmax_top_k(n_experts, config.overridden_top_k(configured, n_experts)?),
            names: MoeNames { router: "gate.wg", ..MoeNames::USUAL },
            bias: false,
        })
    };
    (0..n_layers).map(stack).collect()
}

impl HunyuanV1Moe {
    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            qk_norm: if self.qk_norm { QkNorm::PerHeadRotated } else { QkNorm::None },
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            names: AttentionNames { norms: ["query_layernorm", "key_layernorm"], ..AttentionNames::USUAL },
            ..self.base.attention()
        }
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("model.layers.{layer}");
        let feed_forward = self.stacks[layer].feed_forward(loader, layer, &format!("{prefix}.mlp"))?;
        DecoderLayer::load(loader, &prefix, self.attention(), feed_forward)
    }
}

impl Architecture for HunyuanV1Moe {
    fn outline(&self) -> Outline {
        let norm = if self.qk_norm { ", q/k norm per head after rotation" } else { "" };
        Outline {
            base: self.base.clone(),
            attention: self.base.describe_attention() + norm,
            // Of the last layer, where layers differ.
            moe: self.stacks.last().and_then(MoeStack::info),
            mtp_layers: 0,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        Ok(Box::new(Decoder::load(loader, self.base.decoder(Multipliers::NONE), layers)?))
    }
}
