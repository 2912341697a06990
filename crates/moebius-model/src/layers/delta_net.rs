//! Gated DeltaNet (arXiv 2412.06464): linear attention whose memory is corrected by what it already holds.
//!
//! `q, k, v = act(conv(in_proj(x)))`; q and k of unit length, q over `sqrt(key_dim)`; for each value head
//! `S = exp(g) S + k (β (v - exp(g) Sᵀk))ᵀ`, `o = Sᵀq`, with `β = sigmoid(b)` and `g = -exp(A) softplus(a + dt)`;
//! then `out_proj(norm(o) * silu(z))`.
//! Shapes: `x: [tokens, hidden]` in and out; states `[kernel - 1, channels]` and `[value_heads, key_dim, value_dim]`,
//! channels being those of q, k and v.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, DeltaRule, Linear};
use moebius_metering::Part;

use super::recurrent::{CausalConv, MAX_KERNEL, count_steps, load_rate, recur};
use super::{BaseConfig, Mixer, Norm, NormConfig, Pass, sigmoid};
use crate::cache::{KvCache, LayerCacheSpec};
use crate::config::{Config, MAX_WIDTH};
use crate::info::Place;
use crate::loader::Loader;
use crate::{Error, Result};

/// Added under the root when queries and keys are brought to their length.
const LENGTH_EPS: f64 = 1e-6;

/// One layer in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeltaNetConfig {
    hidden: usize,
    key_heads: usize,
    key_dim: usize,
    value_heads: usize,
    value_dim: usize,
    kernel: usize,
    activation: Activation,
    norm_eps: f64,
    /// Whether the input projections are packed by key head, as in Qwen3-Next.
    packed: bool,
    /// Whether value heads that share a key head stand as far apart as there are key heads, as in GGUF files of Qwen3.5;
    /// elsewhere they are neighbours.
    tiled: bool,
}

impl DeltaNetConfig {
    /// Reads `linear_*`, whose defaults are those of Qwen3-Next.
    pub(crate) fn read(config: &Config, base: &BaseConfig, packed: bool) -> Result<Self> {
        let size = |key: &str, default: usize| {
            Ok::<_, Error>(config.opt_size_of(&[key], MAX_WIDTH)?.unwrap_or(default))
        };
        let (key_heads, key_dim) = (size("linear_num_key_heads", 16)?, size("linear_key_head_dim", 128)?);
        let (value_heads, value_dim) =
            (size("linear_num_value_heads", 32)?, size("linear_value_head_dim", 128)?);
        let too_wide = key_heads * key_dim > MAX_WIDTH || value_heads * value_dim > MAX_WIDTH;
        if too_wide || !value_heads.is_multiple_of(key_heads) {
            let reason = format!(
                "expected a multiple of {key_heads} key heads and at most {MAX_WIDTH} in width over all heads, got {value_heads} heads of {value_dim}"
            );
            return Err(Error::config("linear_num_value_heads", reason));
        }
        Ok(DeltaNetConfig {
            hidden: base.hidden,
            key_heads,
            key_dim,
            value_heads,
            value_dim,
            kernel: config.opt_size_of(&["linear_conv_kernel_dim"], MAX_KERNEL)?.unwrap_or(4),
            activation: base.activation,
            norm_eps: base.norm_eps,
            packed,
            tiled: config.flag_or("linear_value_heads_tiled", false)?,
        })
    }

    /// The layer in words.
    pub(crate) fn describe(&self) -> String {
        let DeltaNetConfig { key_heads, key_dim, value_heads, value_dim, .. } = self;
        format!(
            "delta rule with {value_heads} states of {key_dim} x {value_dim} sharing {key_heads} key heads"
        )
    }

    fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// What the convolution runs over.
    fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }
}

/// The projections of the input.
enum Inputs {
    /// Query, key, value and gate of each key head in turn; likewise strength and decay.
    Packed { qkvz: Arc<dyn Linear>, ba: Arc<dyn Linear> },
    /// All queries, keys and values; gate; strength and decay of each key head in turn.
    Half { qkv: Arc<dyn Linear>, gate: Arc<dyn Linear>, ba: Arc<dyn Linear> },
    /// All queries, keys and values; gate, strength and decay.
    Separate { qkv: Arc<dyn Linear>, rest: [Arc<dyn Linear>; 3] },
}

/// What the projections give for each token.
struct Projected {
    /// Before the convolution, `[tokens, channels]`.
    mixed: Tensor,
    /// `[tokens, value_heads * value_dim]`.
    gate: Tensor,
    /// `[tokens, value_heads]`, as is `decay`.
    strength: Tensor,
    decay: Tensor,
}

/// One layer.
pub(crate) struct DeltaNet {
    config: DeltaNetConfig,
    inputs: Inputs,
    conv: CausalConv,
    /// `-exp(A)`, `[value_heads]`.
    rate: Tensor,
    /// `[value_heads]`.
    step_bias: Tensor,
    query_norm: Norm,
    key_norm: Norm,
    norm: Norm,
    output: Arc<dyn Linear>,
}

impl DeltaNet {
    /// Loads `{prefix}.{in_proj_*, conv1d, A_log, dt_bias, norm, out_proj}`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: DeltaNetConfig) -> Result<Self> {
        // The order of heads is how they are stored, not what they are.
        loader.portray(&DeltaNetConfig { tiled: false, ..config });
        let DeltaNetConfig { hidden, key_dim, value_heads, value_dim, .. } = config;
        let linear = |name: &str, shape: (usize, usize)| {
            loader.linear(Place::Attention, &format!("{prefix}.{name}"), shape, false)
        };
        let vector =
            |name: &str| loader.tensor(Place::Attention, &format!("{prefix}.{name}"), &[value_heads]);
        let apart = loader.has(&format!("{prefix}.in_proj_qkv.weight"));
        let inputs = match config.packed {
            true if apart => Inputs::Half {
                qkv: linear("in_proj_qkv", (config.channels(), hidden))?,
                gate: linear("in_proj_z", (config.values(), hidden))?,
                ba: linear("in_proj_ba", (2 * value_heads, hidden))?,
            },
            true => Inputs::Packed {
                qkvz: linear("in_proj_qkvz", (config.channels() + config.values(), hidden))?,
                ba: linear("in_proj_ba", (2 * value_heads, hidden))?,
            },
            false => Inputs::Separate {
                qkv: linear("in_proj_qkv", (config.channels(), hidden))?,
                rest: [
                    linear("in_proj_z", (config.values(), hidden))?,
                    linear("in_proj_b", (value_heads, hidden))?,
                    linear("in_proj_a", (value_heads, hidden))?,
                ],
            },
        };
        let norm = NormConfig::rms(config.norm_eps);
        Ok(DeltaNet {
            inputs,
            conv: CausalConv::load(
                loader,
                &format!("{prefix}.conv1d"),
                (config.channels(), config.kernel),
                false,
            )?,
            rate: load_rate(loader, prefix, &[value_heads])?,
            step_bias: vector("dt_bias")?,
            query_norm: Norm::to_length(loader, key_dim, (key_dim as f64).powf(-0.5), LENGTH_EPS)?,
            key_norm: Norm::to_length(loader, key_dim, 1.0, LENGTH_EPS)?,
            norm: Norm::load(loader, Place::Attention, &format!("{prefix}.norm"), value_dim, norm)?,
            output: linear("out_proj", (hidden, config.values()))?,
            config,
        })
    }

    fn project(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Projected> {
        let project = |linear: &Arc<dyn Linear>| pass.project(Part::Attention, linear, x);
        let DeltaNetConfig { key_heads, key_dim, value_heads, .. } = self.config;
        let (tokens, values) = (x.dim(0)?, self.config.values() / key_heads);
        let part = |packed: &Tensor, first: usize, width: usize| {
            let heads = packed.reshape((tokens, key_heads, packed.dim(1)? / key_heads))?;
            heads.narrow(2, first, width)?.contiguous()?.reshape((tokens, key_heads * width))
        };
        let shared = value_heads / key_heads;
        let (mixed, gate, ba) = match &self.inputs {
            Inputs::Separate { qkv, rest: [gate, strength, decay] } => {
                let (mixed, gate) = (project(qkv)?, project(gate)?);
                return Ok(Projected { mixed, gate, strength: project(strength)?, decay: project(decay)? });
            }
            Inputs::Half { qkv, gate, ba } => (project(qkv)?, project(gate)?, project(ba)?),
            Inputs::Packed { qkvz, ba } => {
                let (qkvz, ba) = (project(qkvz)?, project(ba)?);
                let (query, key) = (part(&qkvz, 0, key_dim)?, part(&qkvz, key_dim, key_dim)?);
                let value = part(&qkvz, 2 * key_dim, values)?;
                let gate = part(&qkvz, 2 * key_dim + values, values)?;
                (Tensor::cat(&[query, key, value], 1)?, gate, ba)
            }
        };
        Ok(Projected { mixed, gate, strength: part(&ba, 0, shared)?, decay: part(&ba, shared, shared)? })
    }

    /// Queries, keys and values of the convolved rows.
    fn split(&self, pass: &Pass<'_, '_>, mixed: &Tensor) -> Result<[Tensor; 3]> {
        let DeltaNetConfig { key_heads, key_dim, value_heads, value_dim, .. } = self.config;
        let mixed = pass.ops.activate(self.config.activation, mixed)?;
        let part = |first: usize, heads: usize, width: usize| {
            mixed.narrow(1, first, heads * width)?.contiguous()?.reshape((mixed.dim(0)?, heads, width))
        };
        let keys = self.config.keys();
        let query = self.query_norm.forward(pass.ops, &part(0, key_heads, key_dim)?)?;
        let key = self.key_norm.forward(pass.ops, &part(keys, key_heads, key_dim)?)?;
        let shared = if self.config.tiled { value_heads / key_heads } else { 1 };
        let each = |heads: Tensor| Tensor::cat(&vec![heads; shared], 1);
        Ok([each(query)?, each(key)?, part(2 * keys, value_heads, value_dim)?])
    }

    /// The logarithm of the factor on the state, `[tokens, value_heads]`.
    fn log_decay(&self, pass: &Pass<'_, '_>, decay: &Tensor) -> Result<Tensor> {
        let step = pass.ops.softplus(&decay.broadcast_add(&self.step_bias)?)?;
        Ok(step.broadcast_mul(&self.rate)?)
    }
}

impl Mixer for DeltaNet {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let DeltaNetConfig { key_dim, value_heads, value_dim, .. } = self.config;
        let projected = self.project(pass, x)?;
        let (log_decay, strength) = (self.log_decay(pass, &projected.decay)?, sigmoid(&projected.strength)?);
        let state = value_heads * key_dim * value_dim;
        count_steps(pass, self.conv.macs() + 3 * state, self.conv.state().iter().product::<usize>() + state);
        let (mixed, conv_states) = self.conv.forward(pass, layer, &projected.mixed, cache)?;
        let inputs = self.split(pass, &mixed)?;
        let output = recur(pass, layer, cache, conv_states, |rows, state| {
            let of_rows = |x: &Tensor| x.narrow(0, rows.start, rows.len());
            let [query, key, value] = [of_rows(&inputs[0])?, of_rows(&inputs[1])?, of_rows(&inputs[2])?];
            let (log_decay, strength) = (&of_rows(&log_decay)?, &of_rows(&strength)?);
            let inputs = DeltaRule { query: &query, key: &key, value: &value, log_decay, strength };
            Ok(pass.ops.delta_rule(&inputs, state)?)
        })?;
        let split = (x.dim(0)?, value_heads, value_dim);
        let output = self.norm.forward(pass.ops, &output.reshape(split)?)?.reshape(projected.gate.dims())?;
        let output = pass.ops.glu(Activation::Silu, &projected.gate, &output)?;
        pass.project(Part::Attention, &self.output, &output)
    }

    fn cache(&self) -> LayerCacheSpec {
        let DeltaNetConfig { key_dim, value_heads, value_dim, .. } = self.config;
        LayerCacheSpec::State { shapes: vec![self.conv.state(), vec![value_heads, key_dim, value_dim]] }
    }
}
