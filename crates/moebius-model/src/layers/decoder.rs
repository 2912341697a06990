//! A decoder with norms before attention and feed-forward: what most families are.
//!
//! `x += m * attention(norm(x)); x += m * feed_forward(norm(x))`, then a final norm and the output
//! projection. `m` and the other multipliers are 1 except in Granite.
//! Shapes: residual stream `[tokens, hidden]`, logits `[output rows, vocab]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Backend, Linear, Ops};
use moebius_metering::{Part, Stage};

use super::{Attention, AttentionConfig, FeedForward, Norm, Pass, RopeConfig, project};
use crate::batch::TokenBatch;
use crate::cache::{CacheSpec, KvCache};
use crate::info::Place;
use crate::loader::Loader;
use crate::model::{Model, Watch};
use crate::{Error, Result};

/// Constant factors of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Multipliers {
    /// On the embeddings.
    pub(crate) embedding: f64,
    /// On what each half layer adds to the stream.
    pub(crate) residual: f64,
    /// The logits are divided by this.
    pub(crate) logits_divisor: f64,
}

impl Multipliers {
    /// No factor anywhere.
    pub(crate) const NONE: Multipliers = Multipliers { embedding: 1.0, residual: 1.0, logits_divisor: 1.0 };
}

/// What a decoder is besides its layers.
#[derive(Clone, Debug)]
pub(crate) struct DecoderConfig {
    /// Rows of the embedding table.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Whether the output projection is the embedding table.
    pub(crate) tied: bool,
    /// Added to the mean square under the norms' root.
    pub(crate) norm_eps: f64,
    /// Positions.
    pub(crate) rope: RopeConfig,
    /// Constant factors.
    pub(crate) multipliers: Multipliers,
    /// Keys and values.
    pub(crate) cache: CacheSpec,
}

/// One layer.
pub(crate) struct DecoderLayer {
    input_norm: Norm,
    attention: Attention,
    post_attention_norm: Norm,
    feed_forward: FeedForward,
}

impl DecoderLayer {
    /// Loads `{prefix}.self_attn` and its two norms under their usual names, around `feed_forward`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        prefix: &str,
        attention: AttentionConfig,
        feed_forward: FeedForward,
    ) -> Result<Self> {
        let norm = |name: &str| {
            let name = format!("{prefix}.{name}");
            Norm::load(loader, Place::Norm, &name, attention.hidden, attention.norm_eps)
        };
        Ok(DecoderLayer {
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
            attention: Attention::load(loader, &format!("{prefix}.self_attn"), attention)?,
            feed_forward,
        })
    }

    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        (layer, residual_multiplier): (usize, f64),
        x: Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let attended = self.input_norm.forward(pass.ops, &x)?;
        pass.watch.meter.lap(Stage::Norms);
        let attended = self.attention.forward(pass, layer, &attended, cache)?;
        let x = (x + scaled(attended, residual_multiplier)?)?;
        pass.watch.meter.lap(Stage::Other);
        let normed = self.post_attention_norm.forward(pass.ops, &x)?;
        pass.watch.meter.lap(Stage::Norms);
        let mixed = self.feed_forward.forward(pass, &normed)?;
        let x = (x + scaled(mixed, residual_multiplier)?)?;
        pass.watch.meter.lap(Stage::Other);
        Ok(x)
    }
}

/// A whole model.
pub(crate) struct Decoder {
    backend: Arc<dyn Backend>,
    config: DecoderConfig,
    embedding: Arc<dyn Linear>,
    layers: Vec<DecoderLayer>,
    norm: Norm,
    head: Arc<dyn Linear>,
}

impl Decoder {
    /// Loads `model.embed_tokens`, `model.norm` and `lm_head` around `layers`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: DecoderConfig,
        layers: Vec<DecoderLayer>,
    ) -> Result<Self> {
        let (embedding, head) = embedding_and_head(loader, (config.vocab_size, config.hidden), config.tied)?;
        let norm = Norm::load(loader, Place::Norm, "model.norm", config.hidden, config.norm_eps)?;
        Ok(Decoder { backend: loader.backend().clone(), embedding, layers, norm, head, config })
    }

    fn embed(&self, batch: &TokenBatch) -> Result<Tensor> {
        let vocab_size = self.config.vocab_size;
        if let Some(&id) = batch.tokens().iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenId { id, vocab_size });
        }
        scaled(self.embedding.rows(batch.tokens())?, self.config.multipliers.embedding)
    }

    fn logits(&self, ops: &dyn Ops, batch: &TokenBatch, x: &Tensor, watch: &Watch<'_>) -> Result<Tensor> {
        let rows = batch.output_rows();
        let device = &self.backend.info().device;
        if rows.is_empty() {
            return Ok(Tensor::zeros((0, self.config.vocab_size), candle_core::DType::F32, device)?);
        }
        let count = rows.len();
        let x = x.index_select(&Tensor::from_vec(rows, count, device)?, 0)?;
        let x = self.norm.forward(ops, &x)?;
        watch.meter.lap(Stage::Norms);
        let logits = project(watch.meter, Part::LmHead, self.head.as_ref(), &x)?;
        scaled(logits, 1.0 / self.config.multipliers.logits_divisor)
    }
}

impl Model for Decoder {
    fn cache_spec(&self) -> &CacheSpec {
        &self.config.cache
    }

    fn forward(&self, batch: &TokenBatch, cache: &mut KvCache, watch: &mut Watch<'_>) -> Result<Tensor> {
        watch.batch(batch);
        let mut x = self.embed(batch)?;
        watch.meter.lap(Stage::Embedding);
        for span in batch.spans() {
            cache.reserve(span.sequence, span.first_position + span.rows.len())?;
        }
        let ops = self.backend.ops();
        let rope = self.config.rope.table(batch.positions(), &self.backend.info().device)?;
        watch.meter.lap(Stage::Positions);
        for (idx, layer) in self.layers.iter().enumerate() {
            watch.hidden(idx, &x)?;
            let mut pass = Pass { ops, batch, rope: &rope, watch };
            x = layer.forward(&mut pass, (idx, self.config.multipliers.residual), x, cache)?;
        }
        watch.hidden(self.layers.len(), &x)?;
        let logits = self.logits(ops, batch, &x, watch)?;
        for span in batch.spans() {
            cache.commit(span.sequence, span.first_position + span.rows.len());
        }
        Ok(logits)
    }
}

/// The embedding table and the output projection, one weight if they are tied.
///
/// A tied checkpoint may carry a second copy of the table; one that differs is no copy and is used, as in
/// the reference implementation.
fn embedding_and_head(
    loader: &Loader<'_>,
    shape: (usize, usize),
    tied: bool,
) -> Result<(Arc<dyn Linear>, Arc<dyn Linear>)> {
    const TABLE: &str = "model.embed_tokens";
    const HEAD: &str = "lm_head";
    let (table_weight, head_weight) = (format!("{TABLE}.weight"), format!("{HEAD}.weight"));
    let only_head = loader.has(&head_weight) && !loader.has(&table_weight);
    let table = if tied && only_head { HEAD } else { TABLE };
    let embedding = loader.linear(Place::Embedding, table, shape, false)?;
    let shared = !loader.has(&head_weight) || only_head || loader.same_bytes(&table_weight, &head_weight);
    if tied && shared {
        return Ok((embedding.clone(), embedding));
    }
    Ok((embedding, loader.linear(Place::LmHead, HEAD, shape, false)?))
}

fn scaled(x: Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { Ok((x * factor)?) }
}
