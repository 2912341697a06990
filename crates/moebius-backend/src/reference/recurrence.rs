//! The operations with a state, one token after the other in plain f32.
//!
//! Shapes: as in [`crate::Ops`].
//! Invariants: the bits do not depend on where a sequence was cut.

use candle_core::Tensor;

use crate::recurrence::conv_sizes;
use crate::{DeltaRule, Result, SelectiveScan};

/// See [`crate::Ops::causal_conv`].
pub fn causal_conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (tokens, channels, kernel) = conv_sizes(x, weight, bias, state)?;
    let weights = values(weight)?;
    let bias = bias.map_or(Ok(vec![0.0; channels]), values)?;
    let mut seen = values(state)?;
    seen.extend(values(x)?); // [kernel - 1 + tokens, channels]
    let mut out = Vec::with_capacity(tokens * channels);
    for token in 0..tokens {
        for (channel, &bias) in bias.iter().enumerate() {
            let taps = (0..kernel)
                .map(|tap| seen[(token + tap) * channels + channel] * weights[tap * channels + channel]);
            out.push(taps.fold(bias, |sum, term| sum + term));
        }
    }
    let state = Tensor::from_slice(&seen[tokens * channels..], state.dims(), x.device())?;
    Ok((Tensor::from_vec(out, x.dims(), x.device())?, state))
}

/// See [`crate::Ops::delta_rule`].
pub fn delta_rule(inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let (heads, key_dim, value_dim) = (sizes.value_heads, sizes.key_dim, sizes.value_dim);
    let (query, key, value) = (values(inputs.query)?, values(inputs.key)?, values(inputs.value)?);
    let (log_decay, strength) = (values(inputs.log_decay)?, values(inputs.strength)?);
    let mut states = values(state)?;
    let mut out = Vec::with_capacity(value.len());
    for place in 0..sizes.tokens * heads {
        let (token, head) = (place / heads, place % heads);
        let state = &mut states[head * key_dim * value_dim..][..key_dim * value_dim];
        let shared = token * sizes.key_heads + head / (heads / sizes.key_heads);
        let (query, key) = (&query[shared * key_dim..][..key_dim], &key[shared * key_dim..][..key_dim]);
        let decay = log_decay[place].exp();
        state.iter_mut().for_each(|entry| *entry *= decay);
        for column in 0..value_dim {
            let entries = || (0..key_dim).map(|row| row * value_dim + column);
            let known: f32 = entries().zip(key).map(|(entry, key)| state[entry] * key).sum();
            let change = (value[place * value_dim + column] - known) * strength[place];
            entries().zip(key).for_each(|(entry, key)| state[entry] += key * change);
            out.push(entries().zip(query).map(|(entry, query)| state[entry] * query).sum::<f32>());
        }
    }
    let device = inputs.value.device();
    let out = Tensor::from_vec(out, (sizes.tokens, heads * value_dim), device)?;
    Ok((out, Tensor::from_vec(states, state.dims(), device)?))
}

/// See [`crate::Ops::selective_scan`].
pub fn selective_scan(inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes(state)?;
    let (heads, head_dim, state_dim) = (sizes.heads, sizes.head_dim, sizes.state_dim);
    let (x, step, rate) = (values(inputs.x)?, values(inputs.step)?, values(inputs.rate)?);
    let (input, output, skip) = (values(inputs.input)?, values(inputs.output)?, values(inputs.skip)?);
    let mut states = values(state)?;
    let mut out = Vec::with_capacity(x.len());
    for place in 0..sizes.tokens * heads {
        let (token, head) = (place / heads, place % heads);
        let group = (token * sizes.groups + head / (heads / sizes.groups)) * state_dim;
        let rate = |entry: usize| rate[head * sizes.rates + entry % sizes.rates];
        let decays: Vec<f32> = (0..state_dim).map(|entry| (step[place] * rate(entry)).exp()).collect();
        for column in 0..head_dim {
            let x = x[place * head_dim + column];
            let state = &mut states[(head * head_dim + column) * state_dim..][..state_dim];
            let mut sum = 0.0;
            for (entry, state) in state.iter_mut().enumerate() {
                *state = *state * decays[entry] + step[place] * x * input[group + entry];
                sum += *state * output[group + entry];
            }
            out.push(sum + skip[head] * x);
        }
    }
    let device = inputs.x.device();
    let out = Tensor::from_vec(out, (sizes.tokens, heads * head_dim), device)?;
    Ok((out, Tensor::from_vec(states, state.dims(), device)?))
}

/// See [`crate::Ops::softplus`].
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    Ok(Tensor::from_vec(values(x)?.into_iter().map(softplus).collect(), x.dims(), x.device())?)
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}
