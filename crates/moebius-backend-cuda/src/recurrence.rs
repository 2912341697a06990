//! The operations with a state: a kernel writes outputs and the new state, and leaves the old one as it was.

use candle_core::Tensor;
use moebius_backend::{DeltaRule, Result, SelectiveScan, conv_sizes};

use crate::gpu::{Arg, Buffer, Gpu, Launch};
use crate::slices::{Dense, blocks_for, optional};

pub(crate) fn causal_conv(
    gpu: &Gpu,
    x: &Tensor,
    (weight, bias): (&Tensor, Option<&Tensor>),
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (tokens, channels, kernel) = conv_sizes(x, weight, bias, state)?;
    let threads = tokens.max(kernel - 1) * channels;
    let (values, weight, old) = (Dense::new(x)?, Dense::new(weight)?, Dense::new(state)?);
    let bias = bias.map(Dense::new).transpose()?;
    let before = [values.arg()?, weight.arg()?, optional(bias.as_ref())?, bias.is_some().into(), old.arg()?];
    let after = [tokens, channels, kernel].map(Into::into);
    replaced(gpu, ("causal_conv", [blocks_for(threads), 1]), (&before, &after), x.dims(), state)
}

pub(crate) fn delta_rule(gpu: &Gpu, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let read = [inputs.query, inputs.key, inputs.value, inputs.log_decay, inputs.strength, state];
    let dense = read.map(Dense::new).into_iter().collect::<Result<Vec<_>>>()?;
    let before = dense.iter().map(Dense::arg).collect::<Result<Vec<_>>>()?;
    let after = [sizes.tokens, sizes.key_heads, sizes.key_dim, sizes.value_dim].map(Into::into);
    let grid = [blocks_for(sizes.value_dim), sizes.value_heads];
    let shape = [sizes.tokens, sizes.value_heads * sizes.value_dim];
    replaced(gpu, ("delta_rule", grid), (&before, &after), &shape, state)
}

pub(crate) fn selective_scan(
    gpu: &Gpu,
    inputs: &SelectiveScan<'_>,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let read = [inputs.x, inputs.step, inputs.rate, inputs.input, inputs.output, inputs.skip, state];
    let dense = read.map(Dense::new).into_iter().collect::<Result<Vec<_>>>()?;
    let before = dense.iter().map(Dense::arg).collect::<Result<Vec<_>>>()?;
    let after = [sizes.tokens, sizes.heads, sizes.head_dim, sizes.groups, sizes.state_dim, sizes.rates];
    let width = sizes.heads * sizes.head_dim;
    let kernel = ("selective_scan", [blocks_for(width), 1]);
    replaced(gpu, kernel, (&before, &after.map(Into::into)), &[sizes.tokens, width], state)
}

/// An output of `shape` and a new state, both written by a kernel; its parameters are those of `before`, the two, `after`.
fn replaced(
    gpu: &Gpu,
    (kernel, grid): (&str, [usize; 2]),
    (before, after): (&[Arg<'_>], &[Arg<'_>]),
    shape: &[usize],
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let mut out: Buffer<f32> = gpu.unwritten(shape.iter().product())?;
    let mut next: Buffer<f32> = gpu.unwritten(state.elem_count())?;
    let args = [before, &[out.write(), next.write()], after].concat();
    gpu.launch(&Launch { kernel, blocks: grid.into(), args: &args })?;
    Ok((gpu.tensor(out, shape)?, gpu.tensor(next, state.dims())?))
}
