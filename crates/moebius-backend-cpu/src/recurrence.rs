//! The operations with a state, on the kernels' vector code.
//!
//! Invariants: a state is copied before it is changed; whoever else holds it keeps what it had.

use candle_core::Tensor;
use moebius_backend::{DeltaRule, Result, SelectiveScan, conv_sizes};
use moebius_expert_kernels::{DeltaInputs, DeltaShape, ScanInputs, ScanShape};

use crate::backend::Engine;
use crate::slices::{kernel, with_all, with_f32};

pub(crate) fn softplus(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    with_f32(x, |values| {
        engine.by_rows(x.dims(), 1, |places, out| {
            out.copy_from_slice(&values[places]);
            engine.kernels.softplus(out);
            Ok(())
        })
    })
}

pub(crate) fn causal_conv(
    engine: &Engine,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (tokens, channels, kernel_rows) = conv_sizes(x, weight, bias, state)?;
    let before = (kernel_rows - 1) * channels;
    let mut window = Vec::with_capacity(before + tokens * channels);
    for part in [state, x] {
        with_f32(part, |values| {
            window.extend_from_slice(values);
            Ok(())
        })?;
    }
    let convolve = |weight: &[f32], bias: Option<&[f32]>| {
        engine.by_rows(x.dims(), channels, |rows, out| {
            let window = &window[rows.start * channels..rows.end * channels + before];
            engine.kernels.causal_conv(window, weight, bias, channels, out)
        })
    };
    let out = with_f32(weight, |weight| match bias {
        None => convolve(weight, None),
        Some(bias) => with_f32(bias, |bias| convolve(weight, Some(bias))),
    })?;
    let last = window.split_off(tokens * channels);
    Ok((out, Tensor::from_vec(last, state.dims(), x.device())?))
}

pub(crate) fn delta_rule(
    engine: &Engine,
    inputs: &DeltaRule<'_>,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let shape = DeltaShape {
        key_heads: sizes.key_heads,
        key_dim: sizes.key_dim,
        value_heads: sizes.value_heads,
        value_dim: sizes.value_dim,
    };
    let read = [inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.strength];
    let row = sizes.value_heads * sizes.value_dim;
    with_all(read, |[query, key, value, log_decay, strength]| {
        let inputs = DeltaInputs { query, key, value, log_decay, strength };
        replaced(engine, state, [sizes.tokens, row], |buffers| {
            engine.kernels.delta_rule(&engine.pool, &inputs, &shape, buffers).map_err(kernel)
        })
    })
}

pub(crate) fn selective_scan(
    engine: &Engine,
    inputs: &SelectiveScan<'_>,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let shape = ScanShape {
        heads: sizes.heads,
        head_dim: sizes.head_dim,
        groups: sizes.groups,
        state_dim: sizes.state_dim,
        rates: sizes.rates,
    };
    let read = [inputs.x, inputs.step, inputs.rate, inputs.input, inputs.output, inputs.skip];
    let row = sizes.heads * sizes.head_dim;
    with_all(read, |[x, step, rate, input, output, skip]| {
        let inputs = ScanInputs { x, step, rate, input, output, skip };
        replaced(engine, state, [sizes.tokens, row], |buffers| {
            engine.kernels.selective_scan(&engine.pool, &inputs, &shape, buffers).map_err(kernel)
        })
    })
}

/// A copy of `state` and an output of `shape` that `run` changes and fills.
fn replaced(
    engine: &Engine,
    state: &Tensor,
    shape: [usize; 2],
    run: impl FnOnce((&mut [f32], &mut [f32])) -> Result<()>,
) -> Result<(Tensor, Tensor)> {
    let mut next = with_f32(state, |state| Ok(state.to_vec()))?;
    let out = engine.filled(&shape, |out| run((&mut next, out)))?;
    Ok((out, Tensor::from_vec(next, state.dims(), state.device())?))
}
