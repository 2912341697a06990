//! Causal self-attention with grouped keys (GQA, arXiv 2305.13245), and what families vary about it.
//!
//! `softmax(scale * q kᵀ + mask) v`, each group of `heads / kv_heads` query heads sharing a key head.
//! Shapes: `x: [tokens, hidden]` in and out; queries `[tokens, heads, head_dim]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{AttentionSpan, AttentionSpec, Linear};
use moebius_metering::{Part, Stage, Work};

use super::{Mixer, Norm, NormConfig, Pass, sigmoid};
use crate::Result;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::info::{AttentionShape, Place};
use crate::layout::Stored;
use crate::loader::Loader;

/// Whether and how queries and keys are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself, one weight for all heads, before rotation.
    PerHead,
    /// Each head by itself, one weight for all heads, after rotation.
    PerHeadRotated,
    /// Each head by itself without a weight, after rotation.
    WeightlessRotated,
    /// The whole projection at once, before rotation.
    Whole,
}

/// What the attended values are multiplied with before the output projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputGate {
    /// Nothing.
    None,
    /// `sigmoid` of a second half of every query head (Qwen3-Next).
    InQuery,
    /// `sigmoid(gate_proj x)` (AFMoE).
    Projected,
}

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// A projection of their own.
    Projected,
    /// A projection of their own, then RMSNorm over each head without a weight.
    Normed,
    /// The key projection before norm and rotation, then RMSNorm over each head without a weight.
    NormedKeys,
}

/// Names of the projections and norms, below the attention's prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionNames {
    /// Query, key and value, or one for all of them in this order.
    pub(crate) inputs: InputNames,
    /// The output projection.
    pub(crate) output: &'static str,
    /// Norms of queries and keys.
    pub(crate) norms: [&'static str; 2],
}

/// Names of the query, key and value projections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputNames {
    /// One tensor each.
    Separate([&'static str; 3]),
    /// One tensor, rows of queries first, then keys, then values.
    Fused(&'static str),
}

impl AttentionNames {
    /// What most families call them.
    pub(crate) const USUAL: AttentionNames = AttentionNames {
        inputs: InputNames::Separate(["q_proj", "k_proj", "v_proj"]),
        output: "o_proj",
        norms: ["q_norm", "k_norm"],
    };
}

/// One layer's attention in numbers.
#[derive(Clone, Debug)]
pub(crate) struct AttentionConfig {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Factor on the dot products.
    pub(crate) scale: f64,
    /// Which of the decoder's rotations turns queries and keys; `None` for attention without positions.
    pub(crate) rope: Option<usize>,
    /// A query sees at most this many keys, itself included.
    pub(crate) window: Option<usize>,
    /// A query sees keys of its own chunk of this many positions alone.
    pub(crate) chunk: Option<usize>,
    /// Normalisation of queries and keys.
    pub(crate) qk_norm: QkNorm,
    /// Its form.
    pub(crate) norm: NormConfig,
    /// Queries, keys and values are clamped to `[-clip, clip]` after that norm.
    pub(crate) clip: Option<f64>,
    /// Queries at position `p` are multiplied with `1 + scale * ln(1 + floor((p + 1) / span))`: `(span, scale)`.
    pub(crate) temperature: Option<(f64, f64)>,
    /// Where values come from.
    pub(crate) values: Values,
    /// Whether every head has a logit without a value in its softmax.
    pub(crate) sinks: bool,
    /// What multiplies the attended values.
    pub(crate) gate: OutputGate,
    /// Whether the query, key and value projections have a bias.
    pub(crate) qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub(crate) output_bias: bool,
    /// What its tensors are called.
    pub(crate) names: AttentionNames,
}

impl AttentionConfig {
    /// Attention scaled by `1 / sqrt(head_dim)` and rotated by the decoder's first rotation, without anything that
    /// only some families have.
    pub(crate) fn plain(
        hidden: usize,
        (heads, kv_heads, head_dim): (usize, usize, usize),
        norm: NormConfig,
    ) -> Self {
        AttentionConfig {
            hidden,
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            rope: Some(0),
            window: None,
            chunk: None,
            qk_norm: QkNorm::None,
            norm,
            clip: None,
            temperature: None,
            values: Values::Projected,
            sinks: false,
            gate: OutputGate::None,
            qkv_bias: false,
            output_bias: false,
            names: AttentionNames::USUAL,
        }
    }

    /// Output rows of the query, key and value projections.
    fn outputs(&self) -> [usize; 3] {
        let queries = self.heads * self.head_dim;
        let keys = self.kv_heads * self.head_dim;
        [if self.gate == OutputGate::InQuery { 2 * queries } else { queries }, keys, keys]
    }
}

/// One layer's attention.
pub(crate) struct Attention {
    config: AttentionConfig,
    spec: AttentionSpec,
    query: Arc<dyn Linear>,
    key: Arc<dyn Linear>,
    /// `None` where values are keys.
    value: Option<Arc<dyn Linear>>,
    output: Arc<dyn Linear>,
    gate: Option<Arc<dyn Linear>>,
    norms: Option<(Norm, Norm)>,
    value_norm: Option<Norm>,
}

impl Attention {
    /// Loads the projections, norms and sinks that the configuration names, below `prefix`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: AttentionConfig) -> Result<Self> {
        loader.portray(&config);
        let queries = config.heads * config.head_dim;
        let linear = |name: &str, shape: (usize, usize), bias: bool| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), shape, bias)
        };
        let sinks = match config.sinks {
            true => Some(loader.tensor(Place::Attention, &format!("{prefix}.sinks"), &[config.heads])?),
            false => None,
        };
        let (scale, window, chunk) = (config.scale as f32, config.window, config.chunk);
        let weightless = || Norm::weightless(loader, config.head_dim, config.norm.eps);
        let [query, key, value] = load_inputs(loader, prefix, &config)?;
        Ok(Attention {
            spec: AttentionSpec { scale, window, chunk, sinks },
            query: query.expect("queries are always projected"),
            key: key.expect("keys are always projected"),
            value,
            output: linear(config.names.output, (config.hidden, queries), config.output_bias)?,
            gate: match config.gate {
                OutputGate::Projected => Some(linear("gate_proj", (queries, config.hidden), false)?),
                OutputGate::None | OutputGate::InQuery => None,
            },
            norms: load_norms(loader, prefix, &config)?,
            value_norm: if config.values == Values::Projected { None } else { Some(weightless()?) },
            config,
        })
    }

    /// Queries `[tokens, heads, head_dim]`, ready to be compared, and the gate `[tokens, heads * head_dim]` that lies
    /// beside them.
    fn queries(&self, pass: &Pass<'_, '_>, projected: Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let AttentionConfig { heads, head_dim, gate, .. } = self.config;
        let tokens = projected.dim(0)?;
        let (projected, gate) = match gate {
            OutputGate::InQuery => {
                let both = projected.reshape((tokens, heads, 2, head_dim))?;
                let half =
                    |index| both.narrow(2, index, 1)?.contiguous()?.reshape((tokens, heads * head_dim));
                (half(0)?, Some(half(1)?))
            }
            OutputGate::None | OutputGate::Projected => (projected, None),
        };
        let query = self.heads(pass, projected, self.norms.as_ref().map(|(q, _)| q), heads)?;
        match self.config.temperature {
            None => Ok((query, gate)),
            Some((span, scale)) => {
                let factor = |p: usize| (1.0 + scale * (1.0 + ((p + 1) as f64 / span).floor()).ln()) as f32;
                let factors: Vec<f32> = pass.batch.positions().map(factor).collect();
                let factors = Tensor::from_vec(factors, (tokens, 1, 1), query.device())?;
                Ok((query.broadcast_mul(&factors)?, gate))
            }
        }
    }

    /// Keys and values, `[tokens, kv_heads, head_dim]` each.
    fn keys_and_values(&self, pass: &Pass<'_, '_>, keys: Tensor, values: Tensor) -> Result<(Tensor, Tensor)> {
        let AttentionConfig { kv_heads, head_dim, .. } = self.config;
        let split = (values.dim(0)?, kv_heads, head_dim);
        let values = match &self.value_norm {
            Some(norm) => norm.forward(pass.ops, &values.reshape(split)?)?,
            None => clipped(values.reshape(split)?, self.config.clip)?,
        };
        Ok((self.heads(pass, keys, self.norms.as_ref().map(|(_, k)| k), kv_heads)?, values))
    }

    /// `[tokens, heads * head_dim]` to `[tokens, heads, head_dim]`: normalised, clipped and rotated.
    fn heads(&self, pass: &Pass<'_, '_>, x: Tensor, norm: Option<&Norm>, heads: usize) -> Result<Tensor> {
        let split = (x.dim(0)?, heads, self.config.head_dim);
        let rotate = |x: Tensor| match self.config.rope {
            Some(rope) => pass.ops.rope(&x, &pass.ropes[rope]),
            None => Ok(x),
        };
        let x = match (norm, self.config.qk_norm) {
            (Some(norm), QkNorm::Whole) => norm.forward(pass.ops, &x)?.reshape(split)?,
            (Some(norm), QkNorm::PerHead) => norm.forward(pass.ops, &x.reshape(split)?)?,
            (Some(norm), _) => {
                return norm.forward(pass.ops, &rotate(clipped(x.reshape(split)?, self.config.clip)?)?);
            }
            (None, _) => x.reshape(split)?,
        };
        pass.watch.meter.lap(Stage::Norms);
        let x = rotate(clipped(x, self.config.clip)?)?;
        pass.watch.meter.lap(Stage::Positions);
        Ok(x)
    }

    fn attend(&self, pass: &Pass<'_, '_>, layer: usize, query: &Tensor, cache: &KvCache) -> Result<Tensor> {
        let spans: Vec<AttentionSpan<'_>> = (pass.batch.spans().iter())
            .map(|span| {
                let (keys, values) = cache.layer(span.sequence, layer);
                AttentionSpan { rows: span.rows.clone(), first_position: span.first_position, keys, values }
            })
            .collect();
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config;
        count_attention(pass, &self.spec, 2 * heads * head_dim, 2 * kv_heads * head_dim);
        Ok(pass.ops.attention(query, &spans, &self.spec)?)
    }
}

impl Mixer for Attention {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let inputs = [Some(&self.query), Some(&self.key), self.value.as_ref(), self.gate.as_ref()];
        let [query, key, value, gate] = pass.project_each(Part::Attention, inputs, x)?;
        let (query, key) = query.zip(key).expect("queries and keys are always projected");
        let (query, gate_in_query) = self.queries(pass, query)?;
        let value = value.unwrap_or_else(|| key.clone());
        let (key, value) = self.keys_and_values(pass, key, value)?;
        for span in pass.batch.spans() {
            let (keys, values) = cache.layer(span.sequence, layer);
            for (cached, new) in [(keys, &key), (values, &value)] {
                let new = new.narrow(0, span.rows.start, span.rows.len())?;
                pass.ops.write_rows(cached, &new, span.first_position)?;
            }
        }
        pass.watch.meter.lap(Stage::Positions);
        let attended = self.attend(pass, layer, &query, cache)?;
        pass.watch.meter.lap(Stage::Attention);
        let attended = match gate.or(gate_in_query) {
            Some(gate) => (attended * sigmoid(&gate)?)?,
            None => attended,
        };
        pass.project(Part::Attention, &self.output, &attended)
    }

    fn attention(&self) -> Option<AttentionShape> {
        let AttentionConfig { heads, head_dim, window, chunk, .. } = self.config;
        let macs_per_pair = (2 * heads * head_dim) as u64;
        let window = window.into_iter().chain(chunk).min();
        Some(AttentionShape { window, macs_per_pair, expanded_macs_per_pair: macs_per_pair })
    }

    fn cache(&self) -> LayerCacheSpec {
        let AttentionConfig { kv_heads, head_dim, .. } = self.config;
        LayerCacheSpec::KeysAndValues { kv_heads, head_dim, value_dim: head_dim }
    }
}

/// The query, key and value projections; no value projection where values are keys.
fn load_inputs(
    loader: &Loader<'_>,
    prefix: &str,
    config: &AttentionConfig,
) -> Result<[Option<Arc<dyn Linear>>; 3]> {
    let (outputs, hidden) = (config.outputs(), config.hidden);
    let wanted = [true, true, config.values != Values::NormedKeys];
    let all: usize = outputs.iter().sum();
    let fused_bias = match (config.names.inputs, config.qkv_bias) {
        (InputNames::Fused(name), true) => {
            loader.values(Place::Attention, &format!("{prefix}.{name}.bias"), all)?
        }
        _ => Vec::new(),
    };
    let mut first = 0;
    let mut inputs = [None, None, None];
    for (idx, input) in inputs.iter_mut().enumerate().filter(|(idx, _)| wanted[*idx]) {
        let rows = first..first + outputs[idx];
        first = rows.end;
        let shape = (outputs[idx], hidden);
        *input = Some(match config.names.inputs {
            InputNames::Separate(names) => {
                let prefix = format!("{prefix}.{}", names[idx]);
                loader.linear(Place::Attention, &prefix, shape, config.qkv_bias)?
            }
            InputNames::Fused(name) => {
                let stored = Stored::rows_from(format!("{prefix}.{name}.weight"), (all, hidden), rows.start);
                let bias = config.qkv_bias.then(|| fused_bias.get(rows).unwrap_or_default().to_vec());
                loader.linear_of(Place::Attention, &stored, shape, bias)?
            }
        });
    }
    Ok(inputs)
}

fn load_norms(loader: &Loader<'_>, prefix: &str, config: &AttentionConfig) -> Result<Option<(Norm, Norm)>> {
    let AttentionConfig { heads, kv_heads, head_dim, norm, .. } = *config;
    let dims = match config.qk_norm {
        QkNorm::None => return Ok(None),
        QkNorm::WeightlessRotated => {
            let norm = || Norm::weightless(loader, head_dim, norm.eps);
            return Ok(Some((norm()?, norm()?)));
        }
        QkNorm::PerHead | QkNorm::PerHeadRotated => [head_dim; 2],
        QkNorm::Whole => [heads * head_dim, kv_heads * head_dim],
    };
    let load = |idx: usize| {
        let name = format!("{prefix}.{}", config.names.norms[idx]);
        Norm::load(loader, Place::Attention, &name, dims[idx], norm)
    };
    Ok(Some((load(0)?, load(1)?)))
}

fn clipped(x: Tensor, clip: Option<f64>) -> Result<Tensor> {
    match clip {
        Some(clip) => Ok(x.clamp(-clip, clip)?),
        None => Ok(x),
    }
}

/// Counts scores and weighted sums, `macs` for each pair of a query and a key, and the cache rows of `row_width` numbers
/// that they read.
pub(crate) fn count_attention(pass: &Pass<'_, '_>, spec: &AttentionSpec, macs: usize, row_width: usize) {
    let seen = |position: usize| (position + 1 - spec.first_visible(position)) as u64;
    let pairs: u64 = pass.batch.positions().map(seen).sum();
    let last_rows = pass.batch.spans().iter().filter(|s| !s.rows.is_empty());
    let cached: u64 = last_rows.map(|s| seen(s.first_position + s.rows.len() - 1)).sum();
    pass.count(
        Part::Attention,
        Work {
            macs: pairs * macs as u64,
            weight_bytes: 0,
            cache_bytes: cached * (row_width * size_of::<f32>()) as u64,
        },
    );
}
