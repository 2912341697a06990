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
use crate::cache::KvCache;
use crate::info::Place;
use crate::loader::Loader;

/// Most tokens that a convolution looks at.
pub(crate) const MAX_KERNEL: usize = 1024;

/// Hands `step` the rows of each sequence and the states that `layer` keeps of it, keeps the new ones, and joins the
/// rows that come out.
pub(crate) fn by_sequence(
    pass: &Pass<'_, '_>,
    layer: usize,
    cache: &mut KvCache,
    step: impl Fn(Range<usize>, &[Tensor]) -> Result<(Tensor, Vec<Tensor>)>,
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(pass.batch.spans().len());
    for span in pass.batch.spans().iter().filter(|span| !span.rows.is_empty()) {
        let (output, states) = step(span.rows.clone(), cache.states(span.sequence, layer))?;
        outputs.push(output);
        cache.set_states(span.sequence, layer, states);
    }
    pass.watch.meter.lap(Stage::Attention);
    Ok(Tensor::cat(&outputs, 0)?)
}

/// Counts `macs` for each token, and the reading of states of `numbers` for each sequence.
pub(crate) fn count_steps(pass: &Pass<'_, '_>, macs: usize, numbers: usize) {
    let sequences = pass.batch.spans().iter().filter(|span| !span.rows.is_empty()).count();
    let work = Work {
        macs: (pass.batch.len() * macs) as u64,
        weight_bytes: 0,
        cache_bytes: (sequences * numbers * size_of::<f32>()) as u64,
    };
    pass.watch.meter.add(Part::Attention, work);
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

    /// Convolves the rows of one sequence, and gives the new state beside them.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, '_>,
        x: &Tensor,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        Ok(pass.ops.causal_conv(x, &self.weight, self.bias.as_ref(), state)?)
    }
}
