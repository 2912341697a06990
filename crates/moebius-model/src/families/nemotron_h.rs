//! Nemotron-H with experts (NVIDIA Nemotron 3 Nano and Super): each layer is one mixer, Mamba-2, attention without
//! positions, experts or a dense unit.
//!
//! Router: as in DeepSeek-V3, sigmoid with a correction bias and groups. Experts are `down(relu(up(x))²)`, in some models
//! between two projections that all experts share; beside them an expert that every token goes through.
//! Shapes: `up: [moe_intermediate, hidden]`, `down: [hidden, moe_intermediate]`.

use moebius_backend::Activation;
use moebius_router::RouterConfig;
use serde_json::Value;

use super::{Architecture, Outline, mtp_layers, routed_experts, sigmoid_router};
use crate::config::{Config, MAX_LAYERS, MAX_WIDTH};
use crate::info::{MoeInfo, Place};
use crate::layers::{
    Attention, AttentionConfig, BaseConfig, Branch, Decoder, DecoderConfig, DecoderLayer, DecoderNames,
    Defaults, Keys, LatentExperts, MAX_KERNEL, Mamba2, Mamba2Config, Mixer, Mlp, MlpConfig, MlpNames,
    MoeConfig, MoeExtras, MoeLayer, Multipliers, Norm, PerExpert, SharedExpert, activation,
};
use crate::layout::ExpertLayout;
use crate::loader::Loader;
use crate::model::Model;
use crate::{Error, Result};

/// What a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Experts,
    Dense,
}

struct NemotronH {
    base: BaseConfig,
    kinds: Vec<Kind>,
    mamba: Mamba2Config,
    experts: Option<Experts>,
    intermediate: usize,
    bias: bool,
    mtp_layers: usize,
}

struct Experts {
    router: RouterConfig,
    intermediate: usize,
    shared_intermediate: usize,
    latent: Option<usize>,
}

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    let kinds = kinds(config)?;
    let defaults = Defaults {
        norm_eps: 1e-5,
        context: 4096,
        kv_heads: Some(8),
        head_dim: Some(128),
        n_layers: Some(kinds.len()),
        activation: Activation::ReluSquared,
        rotates: false,
        keys: Keys { activation: "mlp_hidden_act", norm_eps: "layer_norm_epsilon", ..Keys::USUAL },
        ..Defaults::USUAL
    };
    // Attention has no biases and no window, and the state spaces' width is that of their heads, whatever is said here;
    // the rest is about training and about how the reference computes.
    config.irrelevant(&[
        "attention_bias",
        "chunk_size",
        "expand",
        "mamba_chunk_size",
        "mamba_dt_init_floor",
        "mamba_dt_limit",
        "mamba_dt_max",
        "mamba_expand",
        "mamba_proj_bias",
        "mamba_ssm_cache_dtype",
        "moe_shared_expert_overlap",
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
        "n_shared_experts",
        "num_logits_to_keep",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "sliding_window",
        "time_step_floor",
        "time_step_limit",
        "time_step_max",
        "use_mamba_kernels",
    ]);
    let base = BaseConfig::read(config, defaults)?;
    let experts = kinds.contains(&Kind::Experts).then(|| read_experts(config)).transpose()?;
    Ok(Box::new(NemotronH {
        mamba: mamba(config, &base)?,
        experts,
        intermediate: config.opt_size_of(&["intermediate_size"], MAX_WIDTH)?.unwrap_or(21_504),
        bias: config.flag_or("mlp_bias", false)?,
        mtp_layers: mtp_layers(config)?,
        kinds,
        base,
    }))
}

/// What each layer is: by name, or by a letter in a pattern.
fn kinds(config: &Config) -> Result<Vec<Kind>> {
    const NAMES: &str = "`linear_attention`, `full_attention`, `moe` and `mlp`";
    let named = |value: &Value| match value.as_str()? {
        "linear_attention" | "mamba" => Some(Kind::Mamba),
        "full_attention" | "attention" => Some(Kind::Attention),
        "moe" => Some(Kind::Experts),
        "mlp" => Some(Kind::Dense),
        _ => None,
    };
    let lists = (config.list("layers_block_type", NAMES, named)?, config.list("layer_types", NAMES, named)?);
    let pattern = config.opt_text("hybrid_override_pattern")?;
    let kinds = match (lists, pattern) {
        ((Some(kinds), _) | (None, Some(kinds)), _) => kinds,
        (_, Some(pattern)) => pattern.chars().map(of_letter).collect::<Result<_>>()?,
        (_, None) => return Err(Error::config("hybrid_override_pattern", "missing")),
    };
    let n_layers = kinds.len();
    if !(1..=MAX_LAYERS).contains(&n_layers) {
        let reason = format!("expected from 1 to {MAX_LAYERS} layers, got {n_layers}");
        return Err(Error::config("hybrid_override_pattern", reason));
    }
    match config.opt_count("num_hidden_layers")? {
        Some(other) if other != n_layers => {
            let reason = format!("expected {n_layers} as there are kinds of layers, got {other}");
            Err(Error::config("num_hidden_layers", reason))
        }
        _ => Ok(kinds),
    }
}

fn of_letter(letter: char) -> Result<Kind> {
    match letter {
        'M' => Ok(Kind::Mamba),
        '*' => Ok(Kind::Attention),
        'E' => Ok(Kind::Experts),
        '-' => Ok(Kind::Dense),
        other => {
            let reason = format!("expected `M`, `*`, `E` or `-`, got `{other}`");
            Err(Error::config("hybrid_override_pattern", reason))
        }
    }
}

fn mamba(config: &Config, base: &BaseConfig) -> Result<Mamba2Config> {
    let size = |keys: &[&str], default: usize| {
        Ok::<_, Error>(config.opt_size_of(keys, MAX_WIDTH)?.unwrap_or(default))
    };
    let least = match config.opt_number("mamba_dt_min")? {
        Some(least) => Some(least),
        None => config.opt_number("time_step_min")?,
    };
    config.irrelevant(&["time_step_min"]);
    let conv_bias = config.flag_or("use_conv_bias", true)?;
    let mamba = Mamba2Config {
        hidden: base.hidden,
        heads: size(&["mamba_num_heads"], 128)?,
        head_dim: size(&["mamba_head_dim"], 64)?,
        groups: size(&["n_groups", "mamba_n_groups"], 8)?,
        state_dim: size(&["ssm_state_size"], 128)?,
        kernel: config.opt_size_of(&["conv_kernel", "mamba_d_conv"], MAX_KERNEL)?.unwrap_or(4),
        activation: activation(config, "mamba_hidden_act", Activation::Silu)?,
        conv_bias: config.flag_or("mamba_conv_bias", conv_bias)?,
        bias: config.flag_or("use_bias", false)?,
        norm_eps: base.norm_eps,
        steps: (least.unwrap_or(0.001), f64::INFINITY),
    };
    mamba.check(["mamba_num_heads", "n_groups"])?;
    Ok(mamba)
}

fn read_experts(config: &Config) -> Result<Experts> {
    let (n_experts, top_k) = routed_experts(config)?;
    Ok(Experts {
        router: sigmoid_router(config, n_experts, top_k)?,
        intermediate: config.width("moe_intermediate_size")?,
        shared_intermediate: config.width("moe_shared_expert_intermediate_size")?,
        latent: config.opt_size_of(&["moe_latent_size"], MAX_WIDTH)?,
    })
}

impl NemotronH {
    fn mlp(&self, intermediate: usize) -> MlpConfig {
        let names = MlpNames::Ungated(["up_proj", "down_proj"]);
        let gated = MlpConfig::gated(self.base.hidden, intermediate, self.base.activation);
        MlpConfig { names, bias: self.bias, ..gated }
    }

    fn experts(
        &self,
        loader: &Loader<'_>,
        layer: usize,
        prefix: &str,
        experts: &Experts,
    ) -> Result<MoeLayer> {
        let latent = experts.latent.map(|width| LatentExperts {
            width,
            names: [format!("{prefix}.fc1_latent_proj"), format!("{prefix}.fc2_latent_proj")],
            bias: self.bias,
        });
        let selection_bias = Some(PerExpert {
            name: format!("{prefix}.gate.e_score_correction_bias"),
            shape: vec![experts.router.n_experts],
        });
        let config = MoeConfig {
            layer,
            hidden: self.base.hidden,
            intermediate: experts.intermediate,
            activation: self.base.activation,
            router: experts.router.clone(),
            gate: format!("{prefix}.gate"),
            layouts: vec![ExpertLayout::PerExpert {
                prefix: format!("{prefix}.experts"),
                names: ["gate_proj", "up_proj", "down_proj"],
            }],
            extras: MoeExtras { selection_bias, ungated: true, latent, ..MoeExtras::default() },
        };
        let shared = self.mlp(experts.shared_intermediate);
        let shared = SharedExpert::load(loader, &format!("{prefix}.shared_experts"), shared)?;
        MoeLayer::load(loader, config, Some(shared))
    }

    fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<DecoderLayer> {
        let prefix = format!("backbone.layers.{layer}");
        let norm =
            Norm::load(loader, Place::Norm, &format!("{prefix}.norm"), self.base.hidden, self.base.norm())?;
        let prefix = format!("{prefix}.mixer");
        let attention = AttentionConfig { rope: None, ..self.base.attention() };
        let mixer: Box<dyn Mixer> = match (self.kinds[layer], &self.experts) {
            (Kind::Mamba, _) => Box::new(Mamba2::load(loader, &prefix, self.mamba)?),
            (Kind::Attention, _) => Box::new(Attention::load(loader, &prefix, attention)?),
            (Kind::Experts, Some(experts)) => Box::new(self.experts(loader, layer, &prefix, experts)?),
            _ => Box::new(Mlp::load(loader, &prefix, self.mlp(self.intermediate))?),
        };
        Ok(DecoderLayer::of(vec![Branch { before: Some(norm), mixer, after: None }]))
    }
}

impl Architecture for NemotronH {
    fn outline(&self) -> Outline {
        let count = |kind: Kind| self.kinds.iter().filter(|other| **other == kind).count();
        let (heads, mamba) = (self.base.describe_attention(), self.mamba.describe());
        let moe = self.experts.as_ref().map(|experts| MoeInfo {
            shared_intermediate: Some(experts.shared_intermediate),
            ..MoeInfo::new(&experts.router, count(Kind::Experts), experts.intermediate)
        });
        Outline {
            attention: format!(
                "{heads}, without positions, in {} layers; {mamba} in {}",
                count(Kind::Attention),
                count(Kind::Mamba)
            ),
            base: self.base.clone(),
            moe,
            mtp_layers: self.mtp_layers,
        }
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Box<dyn Model>> {
        let layers = (0..self.base.n_layers).map(|layer| self.layer(loader, layer)).collect::<Result<_>>()?;
        let names =
            DecoderNames { embedding: "backbone.embeddings", norm: "backbone.norm_f", ..DecoderNames::USUAL };
        let decoder = DecoderConfig { names, ..self.base.decoder(Multipliers::NONE) };
        Ok(Box::new(Decoder::load(loader, decoder, layers)?))
    }
}
