//! Mamba (arXiv 2312.00752) with the norms of Jamba (arXiv 2403.19887): a state space for each channel.
//!
//! `[u, z] = in_proj(x)`; `v = act(conv(u))`; `[dt, B, C] = x_proj(v)`, each normalised; `s = softplus(dt_proj(dt))`;
//! `h = exp(-s exp(A)) h + s v Bᵀ`; `y = h C + D v`; then `out_proj(y * silu(z))`.
//! Shapes: `x: [tokens, hidden]` in and out; states `[kernel - 1, channels]` and `[channels, 1, state_dim]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, Linear, SelectiveScan};
use moebius_metering::Part;

use super::recurrent::{CausalConv, count_steps, load_rate, recur};
use super::{Mixer, Norm, NormConfig, Pass};
use crate::Result;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::info::Place;
use crate::loader::Loader;

/// One layer in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MambaConfig {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Channels, each with a state.
    pub(crate) channels: usize,
    /// Entries of a state.
    pub(crate) state_dim: usize,
    /// Width from which the steps of all channels are projected.
    pub(crate) step_rank: usize,
    /// Tokens that the convolution looks at.
    pub(crate) kernel: usize,
    /// What follows the convolution.
    pub(crate) activation: Activation,
    /// Whether the convolution has a bias.
    pub(crate) conv_bias: bool,
    /// Whether the outer projections have biases.
    pub(crate) bias: bool,
    /// The norms of steps, inputs and outputs.
    pub(crate) norm: NormConfig,
}

impl MambaConfig {
    /// The layer in words.
    pub(crate) fn describe(&self) -> String {
        format!("Mamba with {} states of {}", self.channels, self.state_dim)
    }
}

/// One layer.
pub(crate) struct Mamba {
    config: MambaConfig,
    input: Arc<dyn Linear>,
    conv: CausalConv,
    coefficients: Arc<dyn Linear>,
    /// Of steps, inputs and outputs.
    norms: [Norm; 3],
    step: Arc<dyn Linear>,
    /// `-exp(A)`, `[channels, state_dim]`.
    rate: Tensor,
    /// `[channels]`.
    skip: Tensor,
    output: Arc<dyn Linear>,
}

impl Mamba {
    /// Loads `{prefix}.{in_proj, conv1d, x_proj, dt_proj, dt_layernorm, b_layernorm, c_layernorm, A_log, D, out_proj}`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: MambaConfig) -> Result<Self> {
        loader.portray(&config);
        let MambaConfig { hidden, channels, state_dim, step_rank, bias, .. } = config;
        let name = |name: &str| format!("{prefix}.{name}");
        let linear = |part: &str, shape, bias| loader.linear(Place::Attention, &name(part), shape, bias);
        let norm = |part: &str, dim| Norm::load(loader, Place::Attention, &name(part), dim, config.norm);
        let tensor = |part: &str, shape: &[usize]| loader.tensor(Place::Attention, &name(part), shape);
        Ok(Mamba {
            input: linear("in_proj", (2 * channels, hidden), bias)?,
            conv: CausalConv::load(loader, &name("conv1d"), (channels, config.kernel), config.conv_bias)?,
            coefficients: linear("x_proj", (step_rank + 2 * state_dim, channels), false)?,
            norms: [
                norm("dt_layernorm", step_rank)?,
                norm("b_layernorm", state_dim)?,
                norm("c_layernorm", state_dim)?,
            ],
            step: linear("dt_proj", (channels, step_rank), true)?,
            rate: load_rate(loader, prefix, &[channels, state_dim])?,
            skip: tensor("D", &[channels])?,
            output: linear("out_proj", (hidden, channels), bias)?,
            config,
        })
    }

    /// Steps of the convolved rows, what is written into the states and what is read from them.
    fn coefficients(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<[Tensor; 3]> {
        let MambaConfig { state_dim, step_rank, .. } = self.config;
        let coefficients = pass.project(Part::Attention, &self.coefficients, x)?;
        let normed = |index: usize, first: usize, width: usize| {
            self.norms[index].forward(pass.ops, &coefficients.narrow(1, first, width)?.contiguous()?)
        };
        let step = pass.project(Part::Attention, &self.step, &normed(0, 0, step_rank)?)?;
        let (input, output) =
            (normed(1, step_rank, state_dim)?, normed(2, step_rank + state_dim, state_dim)?);
        Ok([pass.ops.softplus(&step)?, input.unsqueeze(1)?, output.unsqueeze(1)?])
    }
}

impl Mixer for Mamba {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let MambaConfig { channels, state_dim, .. } = self.config;
        let projected = pass.project(Part::Attention, &self.input, x)?;
        let mixed = projected.narrow(1, 0, channels)?.contiguous()?;
        let gate = projected.narrow(1, channels, channels)?.contiguous()?;
        let state = channels * state_dim;
        count_steps(pass, self.conv.macs() + 2 * state, self.conv.state().iter().product::<usize>() + state);
        let (x, conv_states) = self.conv.forward(pass, layer, &mixed, cache)?;
        let x = pass.ops.activate(self.config.activation, &x)?;
        let inputs = self.coefficients(pass, &x)?;
        let x = x.unsqueeze(2)?; // [tokens, channels, 1]
        let y = recur(pass, layer, cache, conv_states, |rows, state| {
            let of_rows = |x: &Tensor| x.narrow(0, rows.start, rows.len());
            let [step, input, output] = [of_rows(&inputs[0])?, of_rows(&inputs[1])?, of_rows(&inputs[2])?];
            let (x, rate, skip) = (&of_rows(&x)?, &self.rate, &self.skip);
            let inputs = SelectiveScan { x, step: &step, rate, input: &input, output: &output, skip };
            Ok(pass.ops.selective_scan(&inputs, state)?)
        })?;
        pass.project(Part::Attention, &self.output, &pass.ops.glu(Activation::Silu, &gate, &y)?)
    }

    fn cache(&self) -> LayerCacheSpec {
        let MambaConfig { channels, state_dim, .. } = self.config;
        LayerCacheSpec::State { shapes: vec![self.conv.state(), vec![channels, 1, state_dim]] }
    }
}
