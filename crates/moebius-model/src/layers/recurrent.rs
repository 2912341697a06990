//! What layers with a state share: running one sequence after the other, and the causal convolution.
//!
//! Convolution: `bias + Σ_j weight[j] * x[t + 1 - kernel + j]`, each channel by itself.
//! Shapes: `x: [tokens, channels]`; weight `[kernel, channels]`, stored as `[channels, 1, kernel]`; state
//! `[kernel - 1, channels]`, the last inputs.

use std::ops::Range;

use candle_core::Tensor;
use moebius_metering::{Part, Stage, Work};

use super::Pass;
use crate::Result;
use crate::batch::Span;
use crate::cache::KvCache;
use crate::info::Place;
use crate::loader::Loader;

/// Most tokens that a convolution looks at.
pub(crate) const MAX_KERNEL: usize = 1024;

/// The sequences that have rows in the batch.
fn spans<'a>(pass: &'a Pass<'_, '_>) -> impl Iterator<Item = &'a Span> {
    pass.batch.spans().iter().filter(|span| !span.rows.is_empty())
}

/// Hands `step` the rows of each sequence with the second state that `layer` keeps of it, keeps the new one after that
/// of the convolution, and joins the rows that come out.
pub(crate) fn recur(
    pass: &Pass<'_, '_>,
    layer: usize,
    cache: &mut KvCache,
    conv_states: Vec<Tensor>,
    step: impl Fn(Range<usize>, &Tensor) -> Result<(Tensor, Tensor)>,
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(conv_states.len());
    for (span, conv_state) in spans(pass).zip(conv_states) {
        let (output, state) = step(span.rows.clone(), &cache.states(span.sequence, layer)[1])?;
        outputs.push(output);
        cache.set_states(span.sequence, layer, vec![conv_state, state]);
    }
    pass.watch.meter.lap(Stage::Attention);
    joined(outputs)
}

fn joined(mut rows: Vec<Tensor>) -> Result<Tensor> {
    Ok(if rows.len() == 1 { rows.remove(0) } else { Tensor::cat(&rows, 0)? })
}

/// Counts `macs` for each token, and the reading of states of `numbers` for each sequence.
pub(crate) fn count_steps(pass: &Pass<'_, '_>, macs: usize, numbers: usize) {
    let sequences = spans(pass).count();
    let work = Work {
        macs: (pass.batch.len() * macs) as u64,
        weight_bytes: 0,
        cache_bytes: (sequences * numbers * size_of::<f32>()) as u64,
    };
    pass.count(Part::Attention, work);
}

/// `-exp(A)` of every state: stored so as `{prefix}.A` in GGUF files, and as the logarithm `{prefix}.A_log` elsewhere.
pub(crate) fn load_rate(loader: &Loader<'_>, prefix: &str, shape: &[usize]) -> Result<Tensor> {
    let stored = format!("{prefix}.A");
    if loader.has(&stored) {
        return loader.tensor(Place::Attention, &stored, shape);
    }
    Ok(loader.tensor(Place::Attention, &format!("{prefix}.A_log"), shape)?.exp()?.neg()?)
}

/// A causal convolution over the tokens.
pub(crate) struct CausalConv {
    weight: Tensor,
    bias: Option<Tensor>,
    channels: usize,
    kernel: usize,
}

impl CausalConv {
    /// Loads `{prefix}.weight`, and `{prefix}.bias` if asked for.
    pub(crate) fn load(
        loader: &Loader<'_>,
        prefix: &str,
        (channels, kernel): (usize, usize),
        bias: bool,
    ) -> Result<Self> {
        let stored = loader.tensor(Place::Attention, &format!("{prefix}.weight"), &[channels, 1, kernel])?;
        let weight = if stored.elem_count() == 0 { stored } else { stored.squeeze(1)?.t()?.contiguous()? };
        let bias = bias
            .then(|| loader.tensor(Place::Attention, &format!("{prefix}.bias"), &[channels]))
            .transpose()?;
        Ok(CausalConv { weight, bias, channels, kernel })
    }

    /// The shape of its state.
    pub(crate) fn state(&self) -> Vec<usize> {
        vec![self.kernel - 1, self.channels]
    }

    /// Multiply-adds for a token.
    pub(crate) fn macs(&self) -> usize {
        self.kernel * self.channels
    }

    /// Convolves `x: [tokens, channels]` with the first state that `layer` keeps of each sequence, and gives the new
    /// states beside the rows.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &KvCache,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let (mut outputs, mut states) = (Vec::new(), Vec::new());
        for span in spans(pass) {
            let rows = x.narrow(0, span.rows.start, span.rows.len())?;
            let state = &cache.states(span.sequence, layer)[0];
            let (output, state) = pass.ops.causal_conv(&rows, &self.weight, self.bias.as_ref(), state)?;
            outputs.push(output);
            states.push(state);
        }
        pass.watch.meter.lap(Stage::Attention);
        Ok((joined(outputs)?, states))
    }

    /// Keeps the states of a layer that has no others.
    pub(crate) fn keep(pass: &Pass<'_, '_>, layer: usize, cache: &mut KvCache, states: Vec<Tensor>) {
        for (span, state) in spans(pass).zip(states) {
            cache.set_states(span.sequence, layer, vec![state]);
        }
    }
}
