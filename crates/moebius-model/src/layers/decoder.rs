//! A decoder: layers that add to a residual stream between an embedding and an output projection.
//!
//! Most layers are `x += m * attention(norm(x)); x += m * feed_forward(norm(x))`; each such summand is a [`Branch`],
//! whose norms may stand before it, after it or at both ends. Then a final norm and the output projection.
//! Shapes: residual stream `[tokens, hidden]`, logits `[output rows, vocab]`.
//!
//! Invariants: in the last layer, what looks at one token at a time is computed for those rows alone whose logits are
//! wanted, unless a probe looks on.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use moebius_backend::{Backend, Linear, Ops, RopeTable};
use moebius_metering::{Part, Stage, Work};

use super::{Attention, AttentionConfig, FeedForward, Mixer, Norm, NormConfig, Pass, RopeConfig, project};
use crate::batch::{Outputs, TokenBatch};
use crate::cache::{CacheSpec, KvCache, LayerCacheSpec};
use crate::info::{AttentionShape, Place};
use crate::loader::Loader;
use crate::model::{Model, Watch};
use crate::{Error, Result};

/// Rows of a pass over tokens that are read once more.
const READ_AGAIN_ROWS: usize = 256;

/// Constant factors of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Multipliers {
    /// On the embeddings.
    pub(crate) embedding: f64,
    /// On what each branch adds to the stream.
    pub(crate) residual: f64,
    /// The logits are divided by this.
    pub(crate) logits_divisor: f64,
}

impl Multipliers {
    /// No factor anywhere.
    pub(crate) const NONE: Multipliers = Multipliers { embedding: 1.0, residual: 1.0, logits_divisor: 1.0 };
}

/// Names of the tensors outside the layers, without `.weight`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderNames {
    /// The table of tokens.
    pub(crate) embedding: &'static str,
    /// The final norm.
    pub(crate) norm: &'static str,
    /// The output projection.
    pub(crate) head: &'static str,
}

impl DecoderNames {
    /// What most families call them.
    pub(crate) const USUAL: DecoderNames =
        DecoderNames { embedding: "model.embed_tokens", norm: "model.norm", head: "lm_head" };

    /// What the text parts of multimodal models call them.
    pub(crate) const TEXT_PART: DecoderNames = DecoderNames {
        embedding: "model.language_model.embed_tokens",
        norm: "model.language_model.norm",
        head: "lm_head",
    };
}

/// What a decoder is besides its layers.
#[derive(Clone, Debug)]
pub(crate) struct DecoderConfig {
    /// Rows of the embedding table.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Most positions of a sequence.
    pub(crate) context: usize,
    /// Whether the output projection is the embedding table.
    pub(crate) tied: bool,
    /// Whether the output projection has a bias.
    pub(crate) head_bias: bool,
    /// The form of the final norm.
    pub(crate) norm: NormConfig,
    /// Rotations by position; layers say which is theirs.
    pub(crate) ropes: Vec<RopeConfig>,
    /// Constant factors.
    pub(crate) multipliers: Multipliers,
    /// Logits are `cap * tanh(logits / cap)`.
    pub(crate) softcap: Option<f64>,
    /// What its tensors are called.
    pub(crate) names: DecoderNames,
}

/// A summand of the residual stream.
pub(crate) struct Branch {
    /// Normalises what goes in.
    pub(crate) before: Option<Norm>,
    /// What computes.
    pub(crate) mixer: Box<dyn Mixer>,
    /// Normalises what comes out.
    pub(crate) after: Option<Norm>,
}

impl Branch {
    /// `mixer(norm(x))`.
    pub(crate) fn after_norm(norm: Norm, mixer: impl Mixer + 'static) -> Self {
        Branch { before: Some(norm), mixer: Box::new(mixer), after: None }
    }

    /// What is to be added to `x`.
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let normed = self.before.as_ref().map(|norm| norm.forward(pass.ops, x)).transpose()?;
        pass.watch.meter.lap(Stage::Norms);
        let y = self.mixer.forward(pass, layer, normed.as_ref().unwrap_or(x), cache)?;
        let Some(norm) = &self.after else { return Ok(y) };
        pass.watch.meter.lap(Stage::Other);
        let y = norm.forward(pass.ops, &y)?;
        pass.watch.meter.lap(Stage::Norms);
        Ok(y)
    }
}

/// One layer.
pub(crate) struct DecoderLayer {
    /// Added one after the other.
    pub(crate) branches: Vec<Branch>,
    /// Factor on the stream when the layer is done.
    pub(crate) scale: f64,
}

impl DecoderLayer {
    /// Layers that only add.
    pub(crate) fn of(branches: Vec<Branch>) -> Self {
        DecoderLayer { branches, scale: 1.0 }
    }

    /// Loads `{prefix}.self_attn` and its two norms under their usual names, around `feed_forward`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        prefix: &str,
        attention: AttentionConfig,
        feed_forward: FeedForward,
    ) -> Result<Self> {
        let (hidden, norm) = (attention.hidden, attention.norm);
        let attention = Attention::load(loader, &format!("{prefix}.self_attn"), attention)?;
        DecoderLayer::around(loader, prefix, (hidden, norm), attention, feed_forward)
    }

    /// Loads two norms under their usual names, before `mixer` and before `feed_forward`.
    pub(crate) fn around(
        loader: &Loader<'_>,
        prefix: &str,
        sizes: (usize, NormConfig),
        mixer: impl Mixer + 'static,
        feed_forward: FeedForward,
    ) -> Result<Self> {
        let names = ["input_layernorm", "post_attention_layernorm"];
        DecoderLayer::behind(loader, (prefix, names), sizes, mixer, feed_forward)
    }

    /// Loads two norms under the given names, before `mixer` and before `feed_forward`.
    pub(crate) fn behind(
        loader: &Loader<'_>,
        (prefix, names): (&str, [&str; 2]),
        (hidden, norm): (usize, NormConfig),
        mixer: impl Mixer + 'static,
        feed_forward: impl Mixer + 'static,
    ) -> Result<Self> {
        let norm = |name: &str| Norm::load(loader, Place::Norm, &format!("{prefix}.{name}"), hidden, norm);
        let [first, second] = names;
        Ok(DecoderLayer::of(vec![
            Branch::after_norm(norm(first)?, mixer),
            Branch::after_norm(norm(second)?, feed_forward),
        ]))
    }

    /// What it remembers: one of its branches, at most.
    fn cache(&self) -> LayerCacheSpec {
        let specs = self.branches.iter().map(|branch| branch.mixer.cache());
        specs.into_iter().find(|spec| *spec != LayerCacheSpec::Nothing).unwrap_or(LayerCacheSpec::Nothing)
    }
}

/// A whole model.
pub(crate) struct Decoder {
    backend: Arc<dyn Backend>,
    config: DecoderConfig,
    cache: CacheSpec,
    embedding: Arc<dyn Linear>,
    layers: Vec<DecoderLayer>,
    norm: Norm,
    head: Arc<dyn Linear>,
    /// What the table of tokens lacks to be an output projection with a bias, `[vocab]`.
    tied_bias: Option<Tensor>,
}

impl Decoder {
    /// Loads the tensors that the configuration names, around `layers`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: DecoderConfig,
        layers: Vec<DecoderLayer>,
    ) -> Result<Self> {
        loader.note_ropes(&config.ropes);
        config.ropes.iter().for_each(|rope| loader.portray(&rope.portrait()));
        // What tensors are called is how they are stored.
        let names = DecoderNames::USUAL;
        loader.portray(&DecoderConfig { ropes: Vec::new(), names, ..config.clone() });
        let (embedding, head) = embedding_and_head(loader, &config)?;
        let tied_bias = match Arc::ptr_eq(&embedding, &head) && config.head_bias {
            true => {
                let name = format!("{}.bias", config.names.head);
                Some(loader.tensor(Place::LmHead, &name, &[config.vocab_size])?)
            }
            false => None,
        };
        let norm = Norm::load(loader, Place::Norm, config.names.norm, config.hidden, config.norm)?;
        let cache =
            CacheSpec { layers: layers.iter().map(DecoderLayer::cache).collect(), context: config.context };
        Ok(Decoder {
            backend: loader.backend().clone(),
            embedding,
            layers,
            norm,
            head,
            tied_bias,
            cache,
            config,
        })
    }

    fn embed(&self, batch: &TokenBatch) -> Result<Tensor> {
        let vocab_size = self.config.vocab_size;
        if let Some(&id) = batch.tokens().iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenId { id, vocab_size });
        }
        scaled(self.embedding.rows(batch.tokens())?, self.config.multipliers.embedding)
    }

    fn ropes(&self, batch: &TokenBatch) -> Result<Vec<RopeTable>> {
        let device = &self.backend.info().device;
        self.config.ropes.iter().map(|rope| rope.table(batch.positions_in_lengths(), device)).collect()
    }

    /// Whether a sequence of `length` positions takes other angles than a short one.
    fn is_long(&self, length: usize) -> bool {
        self.config.ropes.iter().any(|rope| rope.is_long(length))
    }

    /// Makes the cached rows of those sequences anew whose length asks for other angles than they were made with: the
    /// angles of all positions change, and with them what every layer saw.
    fn read_again(&self, batch: &TokenBatch, cache: &mut KvCache, watch: &mut Watch<'_>) -> Result<()> {
        for span in batch.spans() {
            let is_long = self.is_long(span.length);
            let Some(tokens) = cache.history(span.sequence).outdated(span.first_position, is_long) else {
                continue;
            };
            let tokens = tokens.to_vec();
            cache.history_mut(span.sequence).is_long = None;
            for (nth, chunk) in tokens.chunks(READ_AGAIN_ROWS).enumerate() {
                let mut again = TokenBatch::new();
                again.push(span.sequence, chunk, nth * READ_AGAIN_ROWS, Outputs::None);
                again.expect_length(span.length);
                self.compute(&again, cache, &mut Watch { meter: watch.meter, probe: None })?;
            }
            cache.history_mut(span.sequence).is_long = Some(is_long);
        }
        Ok(())
    }

    /// A pass without its end: the lengths of sequences stay as they are.
    fn compute(&self, batch: &TokenBatch, cache: &mut KvCache, watch: &mut Watch<'_>) -> Result<Tensor> {
        let x = self.embed(batch)?;
        let weight_bytes = batch.len() as u64 * self.embedding.spec().row_bytes();
        watch.meter.add(Part::Other, Work { weight_bytes, ..Work::default() });
        watch.meter.lap(Stage::Embedding);
        for span in batch.spans() {
            cache.reserve(span.sequence, span.first_position + span.rows.len())?;
        }
        let ops = self.backend.ops();
        let ropes = self.ropes(batch)?;
        watch.meter.lap(Stage::Positions);
        let mut pass = Pass { ops, batch, ropes: &ropes, watch, layer: None, unsettled: Vec::new() };
        let x = self.run(&mut pass, x, cache)?;
        let logits = self.logits(ops, &x, pass.watch)?;
        pass.settle()?;
        Ok(logits)
    }

    /// Runs all layers: the residual stream of all rows, or of those whose logits are wanted.
    fn run(&self, pass: &mut Pass<'_, '_>, mut x: Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let mut wanted_only = false;
        for (idx, layer) in self.layers.iter().enumerate() {
            pass.watch.hidden(idx, &x)?;
            pass.layer = Some(idx);
            let prunable = idx + 1 == self.layers.len() && pass.watch.probe.is_none();
            for (nth, branch) in layer.branches.iter().enumerate() {
                let rest = &layer.branches[nth..];
                let row_wise = || rest.iter().all(|branch| branch.mixer.cache() == LayerCacheSpec::Nothing);
                if prunable && !wanted_only && row_wise() {
                    x = self.wanted_rows(pass.batch, &x)?;
                    wanted_only = true;
                }
                if x.dim(0)? == 0 {
                    break;
                }
                let y = branch.forward(pass, idx, &x, cache)?;
                x = pass.ops.add(&x, &y, self.config.multipliers.residual as f32)?;
                pass.watch.meter.lap(Stage::Other);
            }
            x = scaled(x, layer.scale)?;
        }
        pass.watch.hidden(self.layers.len(), &x)?;
        Ok(if wanted_only { x } else { self.wanted_rows(pass.batch, &x)? })
    }

    /// The rows whose logits are wanted.
    fn wanted_rows(&self, batch: &TokenBatch, x: &Tensor) -> Result<Tensor> {
        let rows = batch.output_rows();
        if rows.len() == batch.len() {
            return Ok(x.clone());
        }
        let count = rows.len();
        if count == 0 {
            return Ok(x.narrow(0, 0, 0)?);
        }
        Ok(x.index_select(&Tensor::from_vec(rows, count, x.device())?, 0)?)
    }

    fn logits(&self, ops: &dyn Ops, x: &Tensor, watch: &Watch<'_>) -> Result<Tensor> {
        if x.dim(0)? == 0 {
            let device = &self.backend.info().device;
            return Ok(Tensor::zeros((0, self.config.vocab_size), DType::F32, device)?);
        }
        let x = self.norm.forward(ops, x)?;
        watch.meter.lap(Stage::Norms);
        let logits = project(watch.meter, Part::LmHead.into(), self.head.as_ref(), &x)?;
        let logits = match &self.tied_bias {
            None => logits,
            Some(bias) => logits.broadcast_add(bias)?,
        };
        let logits = scaled(logits, 1.0 / self.config.multipliers.logits_divisor)?;
        match self.config.softcap {
            None => Ok(logits),
            Some(cap) => Ok(((logits / cap)?.tanh()? * cap)?),
        }
    }
}

impl Model for Decoder {
    fn cache_spec(&self) -> &CacheSpec {
        &self.cache
    }

    fn attention(&self) -> Vec<Option<AttentionShape>> {
        let of = |layer: &DecoderLayer| layer.branches.iter().find_map(|branch| branch.mixer.attention());
        self.layers.iter().map(of).collect()
    }

    fn forward(&self, batch: &TokenBatch, cache: &mut KvCache, watch: &mut Watch<'_>) -> Result<Tensor> {
        let by_length = self.config.ropes.iter().any(RopeConfig::depends_on_length);
        if by_length {
            self.read_again(batch, cache, watch)?;
        }
        watch.batch(batch);
        let logits = self.compute(batch, cache, watch)?;
        for span in batch.spans() {
            if by_length {
                let history = cache.history_mut(span.sequence);
                history.remember(span.first_position, &batch.tokens()[span.rows.clone()]);
                history.is_long = Some(self.is_long(span.length));
            }
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
    config: &DecoderConfig,
) -> Result<(Arc<dyn Linear>, Arc<dyn Linear>)> {
    let DecoderNames { embedding: table, head, .. } = config.names;
    let shape = (config.vocab_size, config.hidden);
    let (table_weight, head_weight) = (format!("{table}.weight"), format!("{head}.weight"));
    let only_head = loader.has(&head_weight) && !loader.has(&table_weight);
    let name = if config.tied && only_head { head } else { table };
    let embedding = loader.linear(Place::Embedding, name, shape, false)?;
    let shared = !loader.has(&head_weight) || only_head || loader.same_bytes(&table_weight, &head_weight);
    if config.tied && shared {
        return Ok((embedding.clone(), embedding));
    }
    Ok((embedding, loader.linear(Place::LmHead, head, shape, config.head_bias)?))
}

fn scaled(x: Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { Ok((x * factor)?) }
}
