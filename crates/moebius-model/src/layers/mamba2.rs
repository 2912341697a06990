//! Mamba-2 (arXiv 2405.21060): a state space for each head, with one rate of decay.
//!
//! `[z, u, dt] = in_proj(x)`; `[v, B, C] = act(conv(u))`; `s = clamp(softplus(dt + dt_bias))`;
//! `h = exp(-s exp(A)) h + s v Bᵀ`; `y = h C + D v`; then `out_proj(norm(y * silu(z)))`, the norm by groups of channels.
//! Shapes: `x: [tokens, hidden]` in and out; states `[kernel - 1, channels]` and `[heads, head_dim, state_dim]`,
//! channels being those of v, B and C.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, Linear, SelectiveScan};
use moebius_metering::Part;
use serde_json::Value;

use super::recurrent::{CausalConv, count_steps, load_rate, recur};
use super::{Mixer, Norm, Pass};
use crate::cache::{KvCache, LayerCacheSpec};
use crate::config::{Config, MAX_WIDTH};
use crate::info::Place;
use crate::loader::Loader;
use crate::{Error, Result};

/// One layer in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mamba2Config {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Heads, each with a state.
    pub(crate) heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Groups of heads that share what is written into and read from their states.
    pub(crate) groups: usize,
    /// Entries of the state for each value of a head.
    pub(crate) state_dim: usize,
    /// Tokens that the convolution looks at.
    pub(crate) kernel: usize,
    /// What follows the convolution.
    pub(crate) activation: Activation,
    /// Whether the convolution has a bias.
    pub(crate) conv_bias: bool,
    /// Whether the projections have biases.
    pub(crate) bias: bool,
    /// Added under the norm's root.
    pub(crate) norm_eps: f64,
    /// Least and largest step.
    pub(crate) steps: (f64, f64),
}

impl Mamba2Config {
    /// Fails unless groups divide heads and no projection is too wide; `keys` say how many of either there are.
    pub(crate) fn check(&self, [heads, groups]: [&str; 2]) -> Result<()> {
        if !self.heads.is_multiple_of(self.groups) {
            let reason = format!("expected a divisor of {} heads, got {}", self.heads, self.groups);
            return Err(Error::config(groups, reason));
        }
        if self.projected() > MAX_WIDTH {
            let reason =
                format!("expected at most {MAX_WIDTH} in width over all heads, got {}", self.projected());
            return Err(Error::config(heads, reason));
        }
        Ok(())
    }

    /// The layer in words.
    pub(crate) fn describe(&self) -> String {
        let Mamba2Config { heads, head_dim, state_dim, .. } = self;
        format!("Mamba-2 with {heads} states of {head_dim} x {state_dim}")
    }

    fn values(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of what a group writes, over all groups; likewise of what it reads.
    fn shared(&self) -> usize {
        self.groups * self.state_dim
    }

    /// What the convolution runs over.
    fn channels(&self) -> usize {
        self.values() + 2 * self.shared()
    }

    fn projected(&self) -> usize {
        self.values() + self.channels() + self.heads
    }
}

/// Reads `time_step_limit`: two numbers, of which the second may be infinite.
pub(crate) fn step_limits(config: &Config) -> Result<(f64, f64)> {
    const KEY: &str = "time_step_limit";
    let bound = |value: &Value| match value.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f64::INFINITY),
        Some(_) => None,
        None => value.as_f64().filter(|bound| *bound >= 0.0),
    };
    match config.list(KEY, "two bounds", bound)?.as_deref() {
        None => Ok((0.0, f64::INFINITY)),
        Some(&[least, largest]) if least <= largest => Ok((least, largest)),
        Some(_) => Err(Error::config(KEY, "expected two bounds, the lower one first")),
    }
}

/// One layer.
pub(crate) struct Mamba2 {
    config: Mamba2Config,
    input: Arc<dyn Linear>,
    conv: CausalConv,
    /// `-exp(A)`, `[heads, 1]`.
    rate: Tensor,
    /// `[heads]`, as is `skip`.
    step_bias: Tensor,
    skip: Tensor,
    group_norm: Norm,
    /// `[heads * head_dim]`.
    norm_weight: Tensor,
    output: Arc<dyn Linear>,
}

impl Mamba2 {
    /// Loads `{prefix}.{in_proj, conv1d, A_log, dt_bias, D, norm, out_proj}`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: Mamba2Config) -> Result<Self> {
        loader.portray(&config);
        let Mamba2Config { hidden, heads, kernel, .. } = config;
        let linear = |name: &str, shape: (usize, usize)| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), shape, config.bias)
        };
        let vector =
            |name: &str, len: usize| loader.tensor(Place::Attention, &format!("{prefix}.{name}"), &[len]);
        let channels = (config.channels(), kernel);
        Ok(Mamba2 {
            input: linear("in_proj", (config.projected(), hidden))?,
            conv: CausalConv::load(loader, &format!("{prefix}.conv1d"), channels, config.conv_bias)?,
            rate: load_rate(loader, prefix, &[heads])?.unsqueeze(1)?,
            step_bias: vector("dt_bias", heads)?,
            skip: vector("D", heads)?,
            group_norm: Norm::weightless(loader, config.values() / config.groups, config.norm_eps)?,
            norm_weight: vector("norm.weight", config.values())?,
            output: linear("out_proj", (hidden, config.values()))?,
            config,
        })
    }

    /// The convolved rows as values, what is written into the states and what is read from them.
    fn split(&self, pass: &Pass<'_, '_>, mixed: &Tensor) -> Result<[Tensor; 3]> {
        let Mamba2Config { heads, head_dim, groups, state_dim, .. } = self.config;
        let mixed = pass.ops.activate(self.config.activation, mixed)?;
        let part = |first: usize, heads: usize, width: usize| {
            mixed.narrow(1, first, heads * width)?.contiguous()?.reshape((mixed.dim(0)?, heads, width))
        };
        let (values, shared) = (self.config.values(), self.config.shared());
        let (input, output) = (part(values, groups, state_dim)?, part(values + shared, groups, state_dim)?);
        Ok([part(0, heads, head_dim)?, input, output])
    }

    /// `norm(y * silu(gate))`.
    fn gated(&self, pass: &Pass<'_, '_>, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
        let y = pass.ops.glu(Activation::Silu, gate, y)?;
        let (tokens, groups) = (y.dim(0)?, self.config.groups);
        let y = y.reshape((tokens, groups, self.config.values() / groups))?;
        let y = self.group_norm.forward(pass.ops, &y)?.reshape((tokens, self.config.values()))?;
        Ok(y.broadcast_mul(&self.norm_weight)?)
    }
}

impl Mixer for Mamba2 {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let Mamba2Config { heads, state_dim, steps: (least, largest), .. } = self.config;
        let (values, channels) = (self.config.values(), self.config.channels());
        let projected = pass.project(Part::Attention, &self.input, x)?;
        let mixed = projected.narrow(1, values, channels)?.contiguous()?;
        let step = projected.narrow(1, values + channels, heads)?.contiguous()?;
        let step = pass.ops.softplus(&step.broadcast_add(&self.step_bias)?)?;
        let step = step.clamp(least as f32, largest as f32)?;
        let state = values * state_dim;
        count_steps(pass, self.conv.macs() + 2 * state, self.conv.state().iter().product::<usize>() + state);
        let (mixed, conv_states) = self.conv.forward(pass, layer, &mixed, cache)?;
        let inputs = self.split(pass, &mixed)?;
        let y = recur(pass, layer, cache, conv_states, |rows, state| {
            let of_rows = |x: &Tensor| x.narrow(0, rows.start, rows.len());
            let [x, input, output] = [of_rows(&inputs[0])?, of_rows(&inputs[1])?, of_rows(&inputs[2])?];
            let (step, rate, skip) = (&of_rows(&step)?, &self.rate, &self.skip);
            let inputs = SelectiveScan { x: &x, step, rate, input: &input, output: &output, skip };
            Ok(pass.ops.selective_scan(&inputs, state)?)
        })?;
        let gate = projected.narrow(1, 0, values)?.contiguous()?;
        pass.project(Part::Attention, &self.output, &self.gated(pass, &gate, &y)?)
    }

    fn cache(&self) -> LayerCacheSpec {
        let Mamba2Config { heads, head_dim, state_dim, .. } = self.config;
        LayerCacheSpec::State { shapes: vec![self.conv.state(), vec![heads, head_dim, state_dim]] }
    }
}
