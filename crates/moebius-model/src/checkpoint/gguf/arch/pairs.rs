//! The metadata that a model is written with: the other direction of [`super::config`].
//!
//! What every model has comes from how its family has read it, defaults included; what only some architectures say comes
//! from the configuration, by the tables that are read with.

use moebius_backend::ExpertSpec;
use moebius_router::{Renormalize, Score, Selection};
use serde_json::Value;

use super::list::{KEYS, architectures};
use super::{Arch, Keys};
use crate::checkpoint::gguf::value::GgufValue;
use crate::layers::{BaseConfig, RopeConfig, RopeScaling};
use crate::planned::PlannedRouter;
use crate::{Error, Result};

/// What is known of a model that is to be written.
pub(in crate::checkpoint::gguf) struct Facts<'a> {
    /// Its config.json.
    pub(in crate::checkpoint::gguf) keys: &'a Keys,
    /// Its sizes.
    pub(in crate::checkpoint::gguf) base: &'a BaseConfig,
    /// All of its rotations.
    pub(in crate::checkpoint::gguf) ropes: &'a [RopeConfig],
    /// Its routers.
    pub(in crate::checkpoint::gguf) routers: &'a [PlannedRouter],
    /// Its experts.
    pub(in crate::checkpoint::gguf) banks: &'a [ExpertSpec],
    /// The shape of a tensor of the file, outermost first.
    pub(in crate::checkpoint::gguf) shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
}

impl Facts<'_> {
    /// A whole number of config.json.
    pub(super) fn count(&self, key: &str) -> Option<usize> {
        self.keys.get(key)?.as_u64().map(|n| n as usize)
    }

    /// A number of config.json.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.keys.get(key)?.as_f64()
    }

    /// The number of rows of the first tensor with this name in a layer.
    pub(super) fn rows(&self, rest: &str) -> Option<usize> {
        let shape = (0..self.base.n_layers).find_map(|layer| (self.shape)(&format!("blk.{layer}.{rest}")))?;
        shape.get(shape.len().checked_sub(2)?).copied()
    }
}

/// Pairs of a file, in the order in which they are written; a key is there once.
pub(in crate::checkpoint::gguf) struct Pairs {
    arch: &'static str,
    list: Vec<(String, GgufValue)>,
}

impl Pairs {
    /// Says `{arch}.{key}`, in place of what was said before.
    pub(super) fn set(&mut self, key: &str, value: GgufValue) {
        self.unsay(key);
        self.list.push((format!("{}.{key}", self.arch), value));
    }

    /// Says `{arch}.{key}` of a size.
    pub(super) fn count(&mut self, key: &str, size: usize) {
        self.set(key, GgufValue::Count(u32::try_from(size).unwrap_or(u32::MAX)));
    }

    /// Says `{arch}.{key}` of a number.
    pub(super) fn number(&mut self, key: &str, number: f64) {
        self.set(key, GgufValue::Number(number as f32));
    }

    /// Says nothing of `{arch}.{key}`.
    pub(super) fn unsay(&mut self, key: &str) {
        let key = format!("{}.{key}", self.arch);
        self.list.retain(|(known, _)| *known != key);
    }
}

/// The architecture that models of a family are written as.
///
/// # Errors
/// [`Error::NotInGguf`] for a family that has none.
pub(in crate::checkpoint::gguf) fn for_family(
    model_type: &str,
    routers: &[PlannedRouter],
) -> Result<&'static Arch> {
    let sigmoid = routers.first().map(|router| router.config.score == Score::Sigmoid);
    let known = |arch: &&Arch| {
        let named = arch.model_type == model_type || arch.also.contains(&model_type);
        named && (arch.sigmoid.is_none() || sigmoid.is_none() || arch.sigmoid == sigmoid)
    };
    architectures().find(known).ok_or_else(|| Error::NotInGguf {
        what: format!("models of the family `{model_type}`"),
        reason: "GGUF has no architecture for them".into(),
    })
}

/// What a file says about the model.
pub(in crate::checkpoint::gguf) fn pairs(
    arch: &'static Arch,
    facts: &Facts<'_>,
) -> Result<Vec<(String, GgufValue)>> {
    let mut pairs = Pairs { arch: arch.name, list: Vec::new() };
    for (theirs, ours) in KEYS.iter().chain(arch.keys) {
        if let Some(value) = facts.keys.get(*ours).and_then(|value| written(theirs, value)) {
            pairs.set(theirs, value);
        }
    }
    // Layers that predict further tokens are not written.
    pairs.unsay("nextn_predict_layers");
    say_base(&mut pairs, facts);
    say_experts(&mut pairs, arch, facts)?;
    say_scaling(&mut pairs, facts)?;
    (arch.write)(facts, &mut pairs)?;
    Ok(pairs.list)
}

/// A value of config.json as the file has it; `None` for what is no number and no list of them.
fn written(key: &str, value: &Value) -> Option<GgufValue> {
    /// Keys whose values are numbers that may have a fraction.
    const REAL: [&str; 8] =
        ["epsilon", "freq_base", "clamp_kqv", "scale", "factor", "softcapping", "base_swa", "norm_eps"];
    let real = REAL.iter().any(|end| key.ends_with(end));
    match value {
        Value::Bool(flag) => Some(GgufValue::Flag(*flag)),
        Value::Number(n) if real => Some(GgufValue::Number(n.as_f64()? as f32)),
        Value::Number(n) => Some(GgufValue::Count(u32::try_from(n.as_u64()?).ok()?)),
        Value::Array(items) => {
            let counts = items.iter().map(|item| u32::try_from(item.as_u64()?).ok());
            counts.collect::<Option<Vec<_>>>().map(GgufValue::Counts)
        }
        _ => None,
    }
}

/// What every decoder has.
fn say_base(pairs: &mut Pairs, facts: &Facts<'_>) {
    let base = facts.base;
    for (key, size) in [
        ("block_count", base.n_layers),
        ("context_length", base.context),
        ("embedding_length", base.hidden),
        ("attention.head_count", base.heads),
        ("attention.head_count_kv", base.kv_heads),
        ("attention.key_length", base.head_dim),
        ("attention.value_length", base.head_dim),
        ("vocab_size", base.vocab_size),
    ] {
        pairs.count(key, size);
    }
    pairs.number("attention.layer_norm_rms_epsilon", base.norm_eps);
    if base.rope.rotary_dim > 0 {
        pairs.count("rope.dimension_count", base.rope.rotary_dim);
        pairs.number("rope.freq_base", base.rope.stretched_theta());
    }
}

/// Routers and experts, which are alike in all layers that have them.
fn say_experts(pairs: &mut Pairs, arch: &Arch, facts: &Facts<'_>) -> Result<()> {
    let (Some(router), Some(bank)) = (facts.routers.first(), facts.banks.first()) else { return Ok(()) };
    let config = &router.config;
    let says = |key: &str| arch.keys.iter().any(|(theirs, _)| *theirs == key);
    say_sizes(pairs, facts)?;
    match config.score {
        Score::Softmax => pairs.count("expert_gating_func", 1),
        Score::Sigmoid => pairs.count("expert_gating_func", 2),
        Score::SoftmaxOverTopK => pairs.count("expert_gating_func", 3),
        Score::SparseMixer { .. } => {}
    }
    pairs.set("expert_weights_norm", GgufValue::Flag(config.renormalize != Renormalize::No));
    if says("expert_weights_scale") {
        pairs.number("expert_weights_scale", config.scale.into());
    }
    if says("expert_group_count") {
        let (groups, keep) = match config.selection {
            Selection::GroupLimited { n_groups, keep, .. } => (n_groups, keep),
            Selection::TopK | Selection::OnePerGroup => (1, 1),
        };
        pairs.count("expert_group_count", groups);
        pairs.count("expert_group_used_count", keep);
    }
    if says("leading_dense_block_count") {
        pairs.count("leading_dense_block_count", router.layer);
    }
    if let Some(width) = facts.rows("ffn_up_shexp.weight") {
        pairs.count("expert_shared_feed_forward_length", width);
        if says("expert_shared_count") {
            pairs.count("expert_shared_count", (width / bank.intermediate).max(1));
        }
    }
    Ok(())
}

/// How many experts there are, how many of them a token has, and how wide they are.
fn say_sizes(pairs: &mut Pairs, facts: &Facts<'_>) -> Result<()> {
    let of_banks = |size: fn(&ExpertSpec) -> usize| facts.banks.iter().map(size).collect::<Vec<_>>();
    let used = facts.routers.iter().map(|router| router.config.top_k).collect();
    for (what, key, sizes) in [
        ("experts", "expert_count", of_banks(|bank| bank.n_experts)),
        ("experts per token", "expert_used_count", used),
        ("rows of an expert", "expert_feed_forward_length", of_banks(|bank| bank.intermediate)),
    ] {
        if let Some(other) = sizes.iter().find(|size| **size != sizes[0]) {
            return Err(Error::NotInGguf {
                what: format!("layers with other numbers of {what} (here {} and {other})", sizes[0]),
                reason: format!("files have one `{key}` for all layers"),
            });
        }
        pairs.count(key, sizes[0]);
    }
    Ok(())
}

/// How positions are scaled, where numbers say it. Tables of factors are tensors.
fn say_scaling(pairs: &mut Pairs, facts: &Facts<'_>) -> Result<()> {
    let text = |words: &str| GgufValue::Text(words.into());
    match &facts.base.rope.scaling {
        RopeScaling::Linear { factor } => {
            pairs.set("rope.scaling.type", text("linear"));
            pairs.number("rope.scaling.factor", *factor);
        }
        &RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, .. } => {
            pairs.set("rope.scaling.type", text("yarn"));
            pairs.number("rope.scaling.factor", factor);
            pairs.count("rope.scaling.original_context_length", original as usize);
            pairs.number("rope.scaling.yarn_beta_fast", beta_fast);
            pairs.number("rope.scaling.yarn_beta_slow", beta_slow);
            // What a reader multiplies cosine and sine with, unless it is told another factor.
            let usual = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            if (attention_factor / usual - 1.0).abs() > 1e-6 {
                pairs.number("rope.scaling.attn_factor", attention_factor / usual);
            }
        }
        RopeScaling::None | RopeScaling::NtkAlpha { .. } | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Proportional { .. } | RopeScaling::Factors { .. } => {}
        RopeScaling::Long { original, .. } => {
            pairs.set("rope.scaling.type", text("longrope"));
            pairs.count("rope.scaling.original_context_length", *original as usize);
        }
    }
    Ok(())
}
