//! The gated short convolution of LFM2 (arXiv 2511.23404).
//!
//! `[B, C, x] = in_proj(x)`; `y = C * conv(B * x)`, a causal convolution of each channel by itself; then `out_proj(y)`.
//! Shapes: `x: [tokens, hidden]` in and out; state `[kernel - 1, hidden]`, the last inputs of the convolution.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::Linear;
use moebius_metering::Part;

use super::recurrent::{CausalConv, count_steps};
use super::{Mixer, Pass};
use crate::Result;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::info::Place;
use crate::loader::Loader;

/// One layer's convolution.
pub(crate) struct ShortConv {
    input: Arc<dyn Linear>,
    conv: CausalConv,
    output: Arc<dyn Linear>,
}

impl ShortConv {
    /// Loads `{prefix}.{in_proj, conv, out_proj}`, all with biases or none.
    pub(crate) fn load(
        loader: &Loader<'_>,
        prefix: &str,
        (hidden, kernel): (usize, usize),
        bias: bool,
    ) -> Result<Self> {
        let linear = |name: &str, outputs: usize| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), (outputs, hidden), bias)
        };
        Ok(ShortConv {
            input: linear("in_proj", 3 * hidden)?,
            conv: CausalConv::load(loader, &format!("{prefix}.conv"), (hidden, kernel), bias)?,
            output: linear("out_proj", hidden)?,
        })
    }
}

impl Mixer for ShortConv {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let hidden = x.dim(1)?;
        let parts = pass.project(Part::Attention, &self.input, x)?;
        let part = |index: usize| parts.narrow(1, index * hidden, hidden);
        let gated = (part(0)? * part(2)?)?;
        count_steps(pass, self.conv.macs(), self.conv.state().iter().product());
        let (convolved, states) = self.conv.forward(pass, layer, &gated, cache)?;
        CausalConv::keep(pass, layer, cache, states);
        pass.project(Part::Attention, &self.output, &(part(1)? * convolved)?)
    }

    fn cache(&self) -> LayerCacheSpec {
        LayerCacheSpec::State { shapes: vec![self.conv.state()] }
    }
}
