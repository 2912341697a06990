//! The operations between projections in f64.

use moebius_backend::{Activation, Pairing};

use super::{Expected, factor};

/// `x / sqrt(mean(x²) + eps) * weight`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Expected {
    let mut out = Expected::default();
    for row in x.chunks_exact(weight.len()) {
        let mean_square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64;
        let rms = (mean_square + f64::from(eps)).sqrt();
        for (&x, &weight) in row.iter().zip(weight) {
            let value = f64::from(x) / rms * f64::from(weight);
            out.push(value, value.abs());
        }
    }
    out
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Expected {
    let mut out = Expected::default();
    for row in x.chunks_exact(weight.len()) {
        let mean_of = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>() / row.len() as f64;
        let mean = mean_of(&mut row.iter().map(|&x| f64::from(x)));
        let magnitude = mean_of(&mut row.iter().map(|&x| f64::from(x).abs()));
        let variance = mean_of(&mut row.iter().map(|&x| (f64::from(x) - mean).powi(2)));
        let deviation = (variance + f64::from(eps)).sqrt();
        for (place, (&x, &weight)) in row.iter().zip(weight).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[place]));
            let (centred, weight) = (f64::from(x) - mean, f64::from(weight) / deviation);
            // The mean of large numbers is off by a share of them.
            let scale = (f64::from(x).abs() + magnitude) * weight.abs();
            out.push(centred * weight + bias, scale + bias.abs());
        }
    }
    out
}

/// Turns the pairs of every head; `cos` and `sin` are `[tokens, pairs]`, `x` is `[tokens, heads, head_dim]`.
pub(crate) fn rope(
    x: &[f32],
    (heads, head_dim): (usize, usize),
    pairing: Pairing,
    (cos, sin): (&[f32], &[f32]),
) -> Expected {
    let tokens = x.len() / (heads * head_dim);
    let pairs = cos.len() / tokens;
    let mut out = Expected {
        values: x.iter().map(|&x| f64::from(x)).collect(),
        scales: x.iter().map(|&x| f64::from(x).abs()).collect(),
    };
    for head in 0..tokens * heads {
        for pair in 0..pairs {
            let (first, second) = match pairing {
                Pairing::HalfSplit => (pair, pair + pairs),
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (first, second) = (head * head_dim + first, head * head_dim + second);
            let angle = head / heads * pairs + pair;
            let (a, b) = (f64::from(x[first]), f64::from(x[second]));
            let (cos, sin) = (f64::from(cos[angle]), f64::from(sin[angle]));
            out.values[first] = a * cos - b * sin;
            out.values[second] = b * cos + a * sin;
            out.scales[first] = a.abs() + b.abs();
            out.scales[second] = a.abs() + b.abs();
        }
    }
    out
}

/// `x + factor * y`.
pub(crate) fn added(x: &[f32], y: &[f32], factor: f32) -> Expected {
    let mut out = Expected::default();
    for (&x, &y) in x.iter().zip(y) {
        let (x, scaled) = (f64::from(x), f64::from(factor) * f64::from(y));
        out.push(x + scaled, x.abs() + scaled.abs());
    }
    out
}

/// `activation(gate) * up`.
pub(crate) fn glu(activation: Activation, gate: &[f32], up: &[f32]) -> Expected {
    let mut out = Expected::default();
    for (&gate, &up) in gate.iter().zip(up) {
        let (gate, factor) = (f64::from(gate), factor(activation, f64::from(up)));
        let gated = super::activate(activation, gate);
        out.push(gated * factor, gate.abs().max(gated.abs()) * (factor.abs() + 1.0));
    }
    out
}

/// `activation(x)`.
pub(crate) fn activate(activation: Activation, x: &[f32]) -> Expected {
    let mut out = Expected::default();
    for x in x.iter().map(|&x| f64::from(x)) {
        let value = super::activate(activation, x);
        out.push(value, x.abs().max(value.abs()));
    }
    out
}

/// The sizes of an attention call.
#[derive(Clone, Debug)]
pub(crate) struct AttentionCase {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
    pub(crate) chunk: Option<usize>,
    pub(crate) sinks: Option<Vec<f32>>, // [heads]
    /// Whether values are the first columns of the keys.
    pub(crate) shared: bool,
}

/// One sequence: its rows and its cache.
#[derive(Clone)]
pub(crate) struct Sequence {
    pub(crate) first_position: usize,
    pub(crate) queries: Vec<f32>, // [rows, heads, head_dim]
    pub(crate) capacity: usize,
    pub(crate) keys: Vec<f32>,   // [kv_heads, capacity, head_dim]
    pub(crate) values: Vec<f32>, // [kv_heads, capacity, value_dim], empty if they are columns of the keys
}

impl Sequence {
    /// The value at a place of the cache.
    fn value(&self, case: &AttentionCase, slot: usize) -> &[f32] {
        let (values, stride) =
            if case.shared { (&self.keys, case.head_dim) } else { (&self.values, case.value_dim) };
        &values[slot * stride..][..case.value_dim]
    }
}

/// Causal attention of one sequence: `[rows, heads * value_dim]`.
pub(crate) fn attention(case: &AttentionCase, sequence: &Sequence) -> Expected {
    let mut out = Expected::default();
    for (index, query) in sequence.queries.chunks_exact(case.head_dim).enumerate() {
        let position = sequence.first_position + index / case.heads;
        let kv_head = index % case.heads / (case.heads / case.kv_heads);
        let seen = |key: &usize| {
            case.window.is_none_or(|window| position - key < window)
                && case.chunk.is_none_or(|chunk| position / chunk == key / chunk)
        };
        let oldest = (0..=position).find(seen).unwrap_or(position);
        let slots = (oldest..=position).map(|key| kv_head * sequence.capacity + key);
        let (mut scores, mut magnitude) = (Vec::new(), 0.0f64);
        for slot in slots.clone() {
            let key = &sequence.keys[slot * case.head_dim..][..case.head_dim];
            let terms =
                query.iter().zip(key).map(|(&q, &k)| f64::from(case.scale) * f64::from(q) * f64::from(k));
            scores.push(terms.clone().sum::<f64>());
            magnitude = magnitude.max(terms.map(f64::abs).sum());
        }
        let sink = case.sinks.as_ref().map(|sinks| f64::from(sinks[index % case.heads]));
        let largest = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total = shares.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - largest).exp());
        for column in 0..case.value_dim {
            let (mut value, mut scale) = (0.0, 0.0);
            for (slot, share) in slots.clone().zip(&shares) {
                let term = share / total * f64::from(sequence.value(case, slot)[column]);
                value += term;
                scale += term.abs();
            }
            // An error of a score is a relative error of its share.
            out.push(value, scale * (1.0 + 2.0 * magnitude));
        }
    }
    out
}
