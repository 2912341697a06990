//! Causal self-attention with grouped keys (GQA, arXiv 2305.13245).
//!
//! `softmax(scale * q kᵀ + mask) v`, each group of `heads / kv_heads` query heads sharing a key head.
//! Shapes: `x: [tokens, hidden]` in and out; queries `[tokens, heads, head_dim]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{AttentionSpan, AttentionSpec, Linear};
use moebius_metering::{Part, Stage, Work};

use super::{Norm, Pass};
use crate::Result;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::info::Place;
use crate::loader::Loader;

/// Whether and how queries and keys are normalised before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself, one weight for all heads.
    PerHead,
    /// The whole projection at once.
    Whole,
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
    /// A query sees at most this many keys, itself included.
    pub(crate) window: Option<usize>,
    /// Normalisation of queries and keys.
    pub(crate) qk_norm: QkNorm,
    /// Queries, keys and values are clamped to `[-clip, clip]` after that norm.
    pub(crate) clip: Option<f64>,
    /// Whether the query, key and value projections have a bias.
    pub(crate) qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub(crate) output_bias: bool,
    /// Added to the mean square under the norms' root.
    pub(crate) norm_eps: f64,
}

impl AttentionConfig {
    /// What the layer keeps in the cache.
    pub(crate) fn cache(&self) -> LayerCacheSpec {
        LayerCacheSpec { kv_heads: self.kv_heads, head_dim: self.head_dim, value_dim: self.head_dim }
    }
}

/// One layer's attention.
pub(crate) struct Attention {
    config: AttentionConfig,
    query: Arc<dyn Linear>,
    key: Arc<dyn Linear>,
    value: Arc<dyn Linear>,
    output: Arc<dyn Linear>,
    norms: Option<(Norm, Norm)>,
}

impl Attention {
    /// Loads `{prefix}.{q,k,v,o}_proj` and, if configured, `{prefix}.{q,k}_norm`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: AttentionConfig) -> Result<Self> {
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |name: &str, shape: (usize, usize), bias: bool| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), shape, bias)
        };
        let norm = |name: &str, dim: usize| {
            Norm::load(loader, Place::Attention, &format!("{prefix}.{name}"), dim, config.norm_eps)
        };
        let norms = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((norm("q_norm", config.head_dim)?, norm("k_norm", config.head_dim)?)),
            QkNorm::Whole => Some((norm("q_norm", queries)?, norm("k_norm", keys)?)),
        };
        Ok(Attention {
            query: linear("q_proj", (queries, config.hidden), config.qkv_bias)?,
            key: linear("k_proj", (keys, config.hidden), config.qkv_bias)?,
            value: linear("v_proj", (keys, config.hidden), config.qkv_bias)?,
            output: linear("o_proj", (config.hidden, queries), config.output_bias)?,
            norms,
            config,
        })
    }

    /// Attends within each sequence of the batch, over its cache and the new tokens.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let projections = [&self.query, &self.key, &self.value];
        let [query, key, value] = pass.project_each(Part::Attention, projections, x)?;
        let norms = self.norms.as_ref();
        let query = self.heads(pass, query, norms.map(|(q, _)| q), self.config.heads)?;
        let key = self.heads(pass, key, norms.map(|(_, k)| k), self.config.kv_heads)?;
        let value = self.heads(pass, value, None, self.config.kv_heads)?;
        let query = pass.ops.rope(&query, pass.rope)?;
        let key = pass.ops.rope(&key, pass.rope)?;
        for span in pass.batch.spans() {
            let rows = |t: &Tensor| t.narrow(0, span.rows.start, span.rows.len());
            cache.write(span.sequence, layer, span.first_position, (&rows(&key)?, &rows(&value)?))?;
        }
        pass.watch.meter.lap(Stage::Positions);
        let attended = self.attend(pass, layer, &query, cache)?;
        pass.watch.meter.lap(Stage::Attention);
        pass.project(Part::Attention, &self.output, &attended)
    }

    fn attend(&self, pass: &Pass<'_, '_>, layer: usize, query: &Tensor, cache: &KvCache) -> Result<Tensor> {
        let spans: Vec<AttentionSpan<'_>> = (pass.batch.spans().iter())
            .map(|span| {
                let (keys, values) = cache.layer(span.sequence, layer);
                AttentionSpan { rows: span.rows.clone(), first_position: span.first_position, keys, values }
            })
            .collect();
        let spec = AttentionSpec { scale: self.config.scale as f32, window: self.config.window };
        self.count(pass);
        Ok(pass.ops.attention(query, &spans, &spec)?)
    }

    /// `[tokens, heads * head_dim]` to `[tokens, heads, head_dim]`, normalised and clipped.
    fn heads(&self, pass: &Pass<'_, '_>, x: Tensor, norm: Option<&Norm>, heads: usize) -> Result<Tensor> {
        let split = (x.dim(0)?, heads, self.config.head_dim);
        let x = match (norm, self.config.qk_norm) {
            (Some(norm), QkNorm::Whole) => norm.forward(pass.ops, &x)?.reshape(split)?,
            (Some(norm), _) => norm.forward(pass.ops, &x.reshape(split)?)?,
            (None, _) => x.reshape(split)?,
        };
        pass.watch.meter.lap(Stage::Norms);
        match self.config.clip {
            Some(clip) => Ok(x.clamp(-clip, clip)?),
            None => Ok(x),
        }
    }

    /// Counts scores and weighted sums, and the cache rows that they read.
    fn count(&self, pass: &Pass<'_, '_>) {
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config;
        let seen = |position: usize| (position + 1).min(self.config.window.unwrap_or(usize::MAX)) as u64;
        let pairs: u64 = pass.batch.positions().map(seen).sum();
        let last_rows = pass.batch.spans().iter().filter(|s| !s.rows.is_empty());
        let cached: u64 = last_rows.map(|s| seen(s.first_position + s.rows.len() - 1)).sum();
        pass.watch.meter.add(
            Part::Attention,
            Work {
                macs: pairs * 2 * (heads * head_dim) as u64,
                weight_bytes: 0,
                cache_bytes: cached * 2 * (kv_heads * head_dim * size_of::<f32>()) as u64,
            },
        );
    }
}
