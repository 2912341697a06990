//! The operations between projections in f64.

use moebius_backend::{Activation, Pairing};

use super::{Expected, activate};

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

/// `activation(gate) * up`.
pub(crate) fn glu(activation: Activation, gate: &[f32], up: &[f32]) -> Expected {
    let mut out = Expected::default();
    for (&gate, &up) in gate.iter().zip(up) {
        let (gate, up) = (f64::from(gate), f64::from(up));
        out.push(activate(activation, gate) * up, (gate * up).abs());
    }
    out
}

/// The sizes of an attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionCase {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
}

/// One sequence: its rows and its cache.
#[derive(Clone)]
pub(crate) struct Sequence {
    pub(crate) first_position: usize,
    pub(crate) queries: Vec<f32>, // [rows, heads, head_dim]
    pub(crate) capacity: usize,
    pub(crate) keys: Vec<f32>,   // [kv_heads, capacity, head_dim]
    pub(crate) values: Vec<f32>, // [kv_heads, capacity, value_dim]
}

/// Causal attention of one sequence: `[rows, heads * value_dim]`.
pub(crate) fn attention(case: &AttentionCase, sequence: &Sequence) -> Expected {
    let mut out = Expected::default();
    for (index, query) in sequence.queries.chunks_exact(case.head_dim).enumerate() {
        let position = sequence.first_position + index / case.heads;
        let kv_head = index % case.heads / (case.heads / case.kv_heads);
        let oldest = case.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let slots = (oldest..=position).map(|key| kv_head * sequence.capacity + key);
        let (mut scores, mut magnitude) = (Vec::new(), 0.0f64);
        for slot in slots.clone() {
            let key = &sequence.keys[slot * case.head_dim..][..case.head_dim];
            let terms =
                query.iter().zip(key).map(|(&q, &k)| f64::from(case.scale) * f64::from(q) * f64::from(k));
            scores.push(terms.clone().sum::<f64>());
            magnitude = magnitude.max(terms.map(f64::abs).sum());
        }
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = shares.iter().sum();
        for column in 0..case.value_dim {
            let (mut value, mut scale) = (0.0, 0.0);
            for (slot, share) in slots.clone().zip(&shares) {
                let term = share / total * f64::from(sequence.values[slot * case.value_dim + column]);
                value += term;
                scale += term.abs();
            }
            // An error of a score is a relative error of its share.
            out.push(value, scale * (1.0 + 2.0 * magnitude));
        }
    }
    out
}
