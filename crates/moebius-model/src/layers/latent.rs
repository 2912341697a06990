//! Multi-head latent attention (MLA, arXiv 2405.04434): the cache keeps one short row for each token.
//!
//! With `c = norm(A x)` the latent and `r` the rotary key of a token, head `h` has the key `[K_h c | r]` and the value
//! `V_h c`. So `q · key = (K_hᵀ q_nope) · c + q_rope · r`, and what is attended is `V_h Σ p c`: both projections are
//! moved to the query and to the result, and rows `[c | r]` serve as keys and, up to the latent's width, as values of
//! all heads.
//!
//! Shapes: `x: [tokens, hidden]` in and out; queries `[tokens, heads, latent + rope]`, rows `[tokens, latent + rope]`.
//! Invariants: prompts are computed in the same way as single tokens, so that bits do not depend on chunks.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{AttentionSpan, AttentionSpec, HeadLinear, Linear, Pairing};
use moebius_metering::{Part as Share, Stage, Work};

use super::{BaseConfig, Mixer, Norm, NormConfig, Pass, count_attention};
use crate::Result;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::checkpoint::Part;
use crate::config::{Config, MAX_WIDTH};
use crate::info::{AttentionShape, Place};
use crate::layout::Stored;
use crate::loader::Loader;

/// What the reference adds under the root of the two inner norms, whatever the configuration says.
const INNER_NORM: NormConfig = NormConfig { kind: super::NormKind::Rms, eps: 1e-6 };

/// One layer's latent attention in numbers.
#[derive(Clone, Debug)]
pub(crate) struct LatentConfig {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Width that queries are squeezed through; `None` where they are projected at once.
    pub(crate) query_rank: Option<usize>,
    /// Width of the latent.
    pub(crate) rank: usize,
    /// Elements of a head without positions.
    pub(crate) nope: usize,
    /// Elements of a head that are rotated.
    pub(crate) rope: usize,
    /// Width of a head's value.
    pub(crate) value: usize,
    /// Factor on the dot products.
    pub(crate) scale: f64,
    /// Whether the projections from and to the stream have biases.
    pub(crate) bias: bool,
}

impl LatentConfig {
    /// Reads the keys of the DeepSeek line of models. The rotated part of a head is `base.head_dim`; without a word on it,
    /// queries are squeezed through `query_rank`, and with `null` they are not.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a missing or impossible value.
    pub(crate) fn read(config: &Config, base: &BaseConfig, query_rank: usize) -> Result<Self> {
        config.irrelevant(&["head_dim", "qk_head_dim"]);
        let (nope, rope) = (config.width("qk_nope_head_dim")?, base.head_dim);
        let query_rank = match config.opt_size_of(&["q_lora_rank"], MAX_WIDTH)? {
            None if config.is_null("q_lora_rank") => None,
            rank => rank.or(Some(query_rank)),
        };
        Ok(LatentConfig {
            hidden: base.hidden,
            heads: base.heads,
            query_rank,
            rank: config.width("kv_lora_rank")?,
            nope,
            rope,
            value: config.width("v_head_dim")?,
            scale: ((nope + rope) as f64).powf(-0.5) * base.rope.latent_scale(),
            bias: config.flag_or("attention_bias", false)?,
        })
    }

    /// Which of the rotated elements turn together: neighbours, unless `rope_interleave` says otherwise.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a value that is no truth value.
    pub(crate) fn pairing(config: &Config) -> Result<Pairing> {
        Ok(if config.flag_or("rope_interleave", true)? { Pairing::Interleaved } else { Pairing::HalfSplit })
    }

    /// Width of what the cache keeps for a token.
    pub(crate) fn row(&self) -> usize {
        self.rank + self.rope
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let LatentConfig { heads, rank, rope, .. } = self;
        format!("{heads} heads over a latent of {rank} and a rotary key of {rope}")
    }
}

/// One layer's latent attention.
pub(crate) struct LatentAttention {
    config: LatentConfig,
    spec: AttentionSpec,
    squeeze: Option<(Arc<dyn Linear>, Norm)>,
    query: Arc<dyn Linear>,
    latent: Arc<dyn Linear>,
    latent_norm: Norm,
    /// `K_hᵀ: [rank, nope]` of each head.
    keys: Box<dyn HeadLinear>,
    /// `V_h: [value, rank]` of each head.
    values: Box<dyn HeadLinear>,
    output: Arc<dyn Linear>,
}

impl LatentAttention {
    /// Loads `{prefix}.{q_proj or q_a_proj, q_a_layernorm, q_b_proj}`, `{prefix}.{kv_a_proj_with_mqa, kv_a_layernorm,
    /// kv_b_proj}` and `{prefix}.o_proj`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: LatentConfig) -> Result<Self> {
        loader.portray(&config);
        let LatentConfig { hidden, heads, rank, nope, rope, value, bias, .. } = config;
        let linear = |name: &str, shape: (usize, usize), bias: bool| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), shape, bias)
        };
        let norm = |name: &str, dim: usize| {
            Norm::load(loader, Place::Attention, &format!("{prefix}.{name}"), dim, INNER_NORM)
        };
        let queries = heads * (nope + rope);
        let (squeeze, query) = match config.query_rank {
            None => (None, linear("q_proj", (queries, hidden), false)?),
            Some(rank) => {
                let squeeze = (linear("q_a_proj", (rank, hidden), bias)?, norm("q_a_layernorm", rank)?);
                (Some(squeeze), linear("q_b_proj", (queries, rank), false)?)
            }
        };
        // Keys and values of a head in one tensor, or in GGUF files in two, of which that of the keys is transposed.
        let split = loader.has(&format!("{prefix}.k_b_proj.weight"));
        let whole = |part| Stored {
            name: format!("{prefix}.kv_b_proj.weight"),
            shape: vec![heads * (nope + value), rank],
            part,
        };
        let own = |name: &str, head: usize, (rows, cols): (usize, usize)| Stored {
            name: format!("{prefix}.{name}.weight"),
            shape: vec![heads, rows, cols],
            part: Part::Rows { first: head * rows, step: 1 },
        };
        let key = |head: usize| match split {
            true => own("k_b_proj", head, (rank, nope)),
            false => whole(Part::Columns { from_row: head * (nope + value), first: 0, step: 1 }),
        };
        let value_part = |head: usize| match split {
            true => own("v_b_proj", head, (value, rank)),
            false => whole(Part::Rows { first: head * (nope + value) + nope, step: 1 }),
        };
        Ok(LatentAttention {
            spec: AttentionSpec { scale: config.scale as f32, window: None, chunk: None, sinks: None },
            squeeze,
            query,
            latent: linear("kv_a_proj_with_mqa", (rank + rope, hidden), bias)?,
            latent_norm: norm("kv_a_layernorm", rank)?,
            keys: loader.heads(Place::Attention, heads, (rank, nope), key)?,
            values: loader.heads(Place::Attention, heads, (value, rank), value_part)?,
            output: linear("o_proj", (hidden, heads * value), bias)?,
            config,
        })
    }

    /// `[tokens, heads, rank + rope]`.
    fn queries(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let LatentConfig { heads, nope, rope, .. } = self.config;
        let squeezed = match &self.squeeze {
            None => None,
            Some((projection, norm)) => {
                Some(norm.forward(pass.ops, &pass.project(Share::Attention, projection, x)?)?)
            }
        };
        let query = pass.project(Share::Attention, &self.query, squeezed.as_ref().unwrap_or(x))?;
        let query = query.reshape((x.dim(0)?, heads, nope + rope))?;
        let fixed = query.narrow(2, 0, nope)?.contiguous()?;
        let turned = pass.ops.rope(&query.narrow(2, nope, rope)?.contiguous()?, &pass.ropes[0])?;
        let fixed = self.per_head(pass, self.keys.as_ref(), &fixed)?;
        Ok(Tensor::cat(&[fixed, turned], 2)?)
    }

    /// `[tokens, rank + rope]`: what the cache keeps.
    fn rows(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let LatentConfig { rank, rope, .. } = self.config;
        let both = pass.project(Share::Attention, &self.latent, x)?;
        let tokens = both.dim(0)?;
        let latent = self.latent_norm.forward(pass.ops, &both.narrow(1, 0, rank)?.contiguous()?)?;
        pass.watch.meter.lap(Stage::Norms);
        let key = both.narrow(1, rank, rope)?.contiguous()?.reshape((tokens, 1, rope))?;
        let key = pass.ops.rope(&key, &pass.ropes[0])?.reshape((tokens, rope))?;
        Ok(Tensor::cat(&[latent, key], 1)?)
    }

    /// Every head's own projection, counted.
    fn per_head(&self, pass: &Pass<'_, '_>, heads: &dyn HeadLinear, x: &Tensor) -> Result<Tensor> {
        let (spec, count) = (heads.spec(), heads.heads() as u64);
        let work = Work {
            macs: x.dim(0)? as u64 * spec.macs_per_token() * count,
            weight_bytes: spec.weight_bytes() * count,
            cache_bytes: 0,
        };
        pass.count(Share::Attention, work);
        let y = heads.forward(x)?;
        pass.watch.meter.lap(Share::Attention.into());
        Ok(y)
    }
}

impl Mixer for LatentAttention {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let LatentConfig { heads, rank, value, .. } = self.config;
        let query = self.queries(pass, x)?;
        let rows = self.rows(pass, x)?;
        for span in pass.batch.spans() {
            let rows = rows.narrow(0, span.rows.start, span.rows.len())?;
            cache.write_latent(span.sequence, layer, span.first_position, &rows)?;
        }
        pass.watch.meter.lap(Stage::Positions);
        let kept: Vec<(&Tensor, Tensor)> = (pass.batch.spans().iter())
            .map(|span| {
                let keys = cache.latent(span.sequence, layer);
                Ok((keys, keys.narrow(2, 0, rank)?))
            })
            .collect::<Result<_>>()?;
        let spans: Vec<AttentionSpan<'_>> = (pass.batch.spans().iter().zip(&kept))
            .map(|(span, (keys, values))| AttentionSpan {
                rows: span.rows.clone(),
                first_position: span.first_position,
                keys,
                values,
            })
            .collect();
        count_attention(pass, &self.spec, heads * (self.config.row() + rank), self.config.row());
        let attended = pass.ops.attention(&query, &spans, &self.spec)?;
        pass.watch.meter.lap(Stage::Attention);
        let tokens = x.dim(0)?;
        let attended =
            self.per_head(pass, self.values.as_ref(), &attended.reshape((tokens, heads, rank))?)?;
        pass.project(Share::Attention, &self.output, &attended.reshape((tokens, heads * value))?)
    }

    fn attention(&self) -> Option<AttentionShape> {
        let LatentConfig { heads, rank, nope, rope, value, .. } = self.config;
        Some(AttentionShape {
            window: None,
            macs_per_pair: (heads * (self.config.row() + rank)) as u64,
            expanded_macs_per_pair: (heads * (nope + rope + value)) as u64,
        })
    }

    fn cache(&self) -> LayerCacheSpec {
        LayerCacheSpec::Latent { width: self.config.row() }
    }
}
