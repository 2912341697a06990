//! Recurrences in f64.
//!
//! Invariants: an entry of a state carries the magnitude of what went into it, and once more for every step since: each
//! step rounds.

use super::Expected;

/// `ln(1 + exp(x))`.
pub(crate) fn softplus(x: &[f32]) -> Expected {
    let mut out = Expected::default();
    for x in x.iter().map(|&x| f64::from(x)) {
        let value = x.max(0.0) + (-x.abs()).exp().ln_1p();
        // Small results are as exact as the exponential behind them.
        out.push(value, value * (1.0 + x.abs()));
    }
    out
}

/// Inputs of a causal convolution of some channels.
pub(crate) struct ConvCase {
    pub(crate) channels: usize,
    pub(crate) x: Vec<f32>,      // [tokens, channels]
    pub(crate) weight: Vec<f32>, // [kernel, channels]
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) state: Vec<f32>, // [kernel - 1, channels]
}

/// `bias + Σ_j weight[j] * x[t + 1 - kernel + j]`.
pub(crate) fn causal_conv(case: &ConvCase) -> Expected {
    let seen = [&case.state[..], &case.x].concat();
    let mut out = Expected::default();
    for place in 0..case.x.len() {
        let bias = case.bias.as_ref().map_or(0.0, |bias| f64::from(bias[place % case.channels]));
        let weights = case.weight.iter().skip(place % case.channels).step_by(case.channels);
        let taps = weights.zip(seen[place..].iter().step_by(case.channels));
        let terms = taps.map(|(&weight, &x)| f64::from(weight) * f64::from(x));
        let (sum, scale) =
            terms.fold((bias, bias.abs()), |(sum, scale), term| (sum + term, scale + term.abs()));
        out.push(sum, scale);
    }
    out
}

/// Inputs of a gated delta rule.
#[derive(Clone)]
pub(crate) struct DeltaCase {
    /// Key heads, their width, value heads, theirs.
    pub(crate) sizes: [usize; 4],
    pub(crate) query: Vec<f32>,     // [tokens, key_heads, key_dim]
    pub(crate) key: Vec<f32>,       // [tokens, key_heads, key_dim]
    pub(crate) value: Vec<f32>,     // [tokens, value_heads, value_dim]
    pub(crate) log_decay: Vec<f32>, // [tokens, value_heads]
    pub(crate) strength: Vec<f32>,  // [tokens, value_heads]
    pub(crate) state: Vec<f32>,     // [value_heads, key_dim, value_dim]
}

/// `S *= exp(log_decay)`, `S += k (strength * (v - Sᵀ k))ᵀ`, `Sᵀ q`: the outputs, and the states after the last token.
pub(crate) fn delta_rule(case: &DeltaCase) -> (Expected, Expected) {
    let [key_heads, key_dim, value_heads, value_dim] = case.sizes;
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let mut states = Expected { values: wide(&case.state), scales: vec![0.0; case.state.len()] };
    let mut out = Expected::default();
    for place in 0..case.log_decay.len() {
        let (token, head) = (place / value_heads, place % value_heads);
        let shared = (token * key_heads + head / (value_heads / key_heads)) * key_dim;
        let (query, key) = (wide(&case.query[shared..][..key_dim]), wide(&case.key[shared..][..key_dim]));
        let (log_decay, strength) = (f64::from(case.log_decay[place]), f64::from(case.strength[place]));
        for column in 0..value_dim {
            let entries = (0..key_dim).map(|row| (head * key_dim + row) * value_dim + column);
            let value = f64::from(case.value[place * value_dim + column]);
            let (mut known, mut known_scale) = (0.0, 0.0);
            for (entry, key) in entries.clone().zip(&key) {
                let (state, scale) = (&mut states.values[entry], &mut states.scales[entry]);
                *scale = log_decay.exp() * (*scale + state.abs() * (1.0 + log_decay.abs()));
                *state *= log_decay.exp();
                known += *state * key;
                known_scale += (*scale + state.abs()) * key.abs();
            }
            let (mut answer, mut answer_scale) = (0.0, 0.0);
            for ((entry, key), query) in entries.zip(&key).zip(&query) {
                states.values[entry] += key * strength * (value - known);
                states.scales[entry] += key.abs() * strength * (value.abs() + known_scale);
                answer += states.values[entry] * query;
                answer_scale += (states.scales[entry] + states.values[entry].abs()) * query.abs();
            }
            out.push(answer, answer_scale);
        }
    }
    states.scales.iter_mut().zip(&states.values).for_each(|(scale, value)| *scale += value.abs());
    (out, states)
}

/// Inputs of a selective scan.
#[derive(Clone)]
pub(crate) struct ScanCase {
    /// Heads, their width, groups, entries of a state, rates of a head.
    pub(crate) sizes: [usize; 5],
    pub(crate) x: Vec<f32>,      // [tokens, heads, head_dim]
    pub(crate) step: Vec<f32>,   // [tokens, heads]
    pub(crate) rate: Vec<f32>,   // [heads, rates]
    pub(crate) input: Vec<f32>,  // [tokens, groups, state_dim]
    pub(crate) output: Vec<f32>, // [tokens, groups, state_dim]
    pub(crate) skip: Vec<f32>,   // [heads]
    pub(crate) state: Vec<f32>,  // [heads, head_dim, state_dim]
}

/// `h = exp(step * rate) * h + step * x * input`, `h · output + skip * x`: the outputs, and the states after the last
/// token.
pub(crate) fn selective_scan(case: &ScanCase) -> (Expected, Expected) {
    let [heads, head_dim, groups, state_dim, rates] = case.sizes;
    let values = case.state.iter().map(|&state| f64::from(state)).collect();
    let mut states = Expected { values, scales: vec![0.0; case.state.len()] };
    let mut out = Expected::default();
    for (place, &x) in case.x.iter().enumerate() {
        let (head_place, x) = (place / head_dim, f64::from(x));
        let (token, head) = (head_place / heads, head_place % heads);
        let step = f64::from(case.step[head_place]);
        let bypass = f64::from(case.skip[head]) * x;
        let (mut sum, mut sum_scale) = (bypass, bypass.abs());
        for index in 0..state_dim {
            let shared = (token * groups + head / (heads / groups)) * state_dim + index;
            let exponent = step * f64::from(case.rate[head * rates + index % rates]);
            let written = step * x * f64::from(case.input[shared]);
            let entry = (place % (heads * head_dim)) * state_dim + index;
            let (state, scale) = (&mut states.values[entry], &mut states.scales[entry]);
            *scale = exponent.exp() * (*scale + state.abs() * (1.0 + exponent.abs())) + written.abs();
            *state = exponent.exp() * *state + written;
            sum += *state * f64::from(case.output[shared]);
            sum_scale += (*scale + state.abs()) * f64::from(case.output[shared]).abs();
        }
        out.push(sum, sum_scale);
    }
    states.scales.iter_mut().zip(&states.values).for_each(|(scale, value)| *scale += value.abs());
    (out, states)
}
