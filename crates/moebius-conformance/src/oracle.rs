//! Every operation in f64, written for reading.
//!
//! Invariants: each result carries the scale of its own rounding errors (see `tolerance.rs`).

mod ops;
mod recurrence;

pub(crate) use ops::{
    AttentionCase, Sequence, activate as activated, added, attention, glu, layer_norm, rms_norm, rope,
};
pub(crate) use recurrence::{
    ConvCase, DeltaCase, ScanCase, causal_conv, delta_rule, selective_scan, softplus,
};

use moebius_backend::{Activation, Projection};
use moebius_router::{Routing, WeightTarget};

use crate::Failure;
use crate::fixtures::{Bank, Matrix};

/// Values, and the magnitude that their errors are measured in.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) values: Vec<f64>,
    pub(crate) scales: Vec<f64>,
}

impl Expected {
    pub(crate) fn push(&mut self, value: f64, scale: f64) {
        self.values.push(value);
        self.scales.push(scale);
    }

    /// Fails with the first element of `got` that is too far off; a NaN is.
    pub(crate) fn check(&self, got: &[f32], tolerance: f64) -> Result<(), Failure> {
        if got.len() != self.values.len() {
            let text = format!("expected {} elements, got {}", self.values.len(), got.len());
            return Err(Failure::Mismatch(text));
        }
        for (index, &got) in got.iter().enumerate() {
            let (expected, scale) = (self.values[index], self.scales[index]);
            let error = (f64::from(got) - expected).abs();
            let allowed = tolerance * scale + f64::from(f32::MIN_POSITIVE);
            if error.is_nan() || error > allowed {
                let text = format!("element {index}: expected {expected} within {allowed:.1e}, got {got}");
                return Err(Failure::Mismatch(text));
            }
        }
        Ok(())
    }
}

/// `x Wᵀ + b`.
pub(crate) fn linear(x: &[f32], weight: &Matrix, bias: Option<&[f32]>) -> Expected {
    let mut out = Expected::default();
    for x in x.chunks_exact(weight.cols) {
        for row in 0..weight.rows {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
            let (sum, scale) = dot(x.iter().map(|&x| f64::from(x)), weight, row);
            out.push(sum + bias, scale + bias.abs());
        }
    }
    out
}

/// `sum over experts of c down(act(gate x) * (up x))`, or of `down(act(gate c x) * (up c x))`; without a gate
/// `act(up x)` is inside, and each matrix may have a bias.
pub(crate) fn experts(x: &[f32], bank: &Bank, routing: &Routing) -> Expected {
    let hidden = bank.spec.hidden;
    let mut out = Expected::default();
    for (x, (ids, weights)) in x.chunks_exact(hidden).zip(routing.iter()) {
        let (mut sums, mut scales) = (vec![0.0; hidden], vec![0.0; hidden]);
        for (&id, &weight) in ids.iter().zip(weights) {
            let (inner, outer) = match routing.applies_to() {
                WeightTarget::Output => (1.0, f64::from(weight)),
                WeightTarget::Input => (f64::from(weight), 1.0),
            };
            let x = x.iter().map(|&x| inner * f64::from(x)).collect::<Vec<_>>();
            let expert = expert(&x, bank, id as usize);
            for column in 0..hidden {
                sums[column] += outer * expert.values[column];
                scales[column] += outer.abs() * expert.scales[column];
            }
        }
        out.values.extend(sums);
        out.scales.extend(scales);
    }
    out
}

/// One expert on one row.
fn expert(x: &[f64], bank: &Bank, id: usize) -> Expected {
    let project = |x: &[f64], projection, row| {
        let (sum, scale) = dot(x.iter().copied(), bank.matrix(id, projection), row);
        let bias = bank.bias_of(id, projection).map_or(0.0, |bias| f64::from(bias[row]));
        (sum + bias, scale + bias.abs())
    };
    let activation = bank.spec.activation;
    let mut inner = Expected::default();
    for row in 0..bank.spec.intermediate {
        let (up, up_scale) = project(x, Projection::Up, row);
        if bank.spec.gated {
            let (gate, gate_scale) = project(x, Projection::Gate, row);
            let (gated, factor) = (activate(activation, gate), factor(activation, up));
            let error = steepness(activation, gate, gate_scale) * gate_scale * factor.abs();
            inner.push(gated * factor, error + gated.abs() * (up_scale + factor.abs()));
        } else {
            let value = activate(activation, up);
            inner.push(value, steepness(activation, up, up_scale) * up_scale + value.abs());
        }
    }
    let mut out = Expected::default();
    for row in 0..bank.spec.hidden {
        let (value, bias_scale) = project(&inner.values, Projection::Down, row);
        let (_, scale) = project(&inner.scales, Projection::Down, row);
        out.push(value, scale.max(bias_scale));
    }
    out
}

/// The product of `x` with one row of a matrix, and the sum of the absolute terms.
fn dot(x: impl Iterator<Item = f64>, weight: &Matrix, row: usize) -> (f64, f64) {
    let terms = x.zip(&weight.values[row * weight.cols..][..weight.cols]);
    terms
        .map(|(x, &w)| x * f64::from(w))
        .fold((0.0, 0.0), |(sum, scale), term| (sum + term, scale + term.abs()))
}

/// What an activation makes of a gate, or of up where there is no gate.
fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::ClampedSwiglu { limit } => {
            let x = x.min(f64::from(limit));
            x / (1.0 + (-1.702 * x).exp())
        }
    }
}

/// What an activated gate is multiplied with.
fn factor(activation: Activation, up: f64) -> f64 {
    match activation {
        Activation::ClampedSwiglu { limit } => up.clamp(-f64::from(limit), f64::from(limit)) + 1.0,
        _ => up,
    }
}

/// How much an error of `x`, whose terms add up to `scale` in magnitude, may grow in an activation.
fn steepness(activation: Activation, x: f64, scale: f64) -> f64 {
    match activation {
        // No format's error exceeds a hundredth of the terms, and the slope beyond it counts too.
        Activation::ReluSquared => 2.0 * (x.max(0.0) + 0.01 * scale),
        _ => 1.2,
    }
}

/// The complementary error function: its series near zero, its continued fraction beyond (DLMF 7.6.2, 7.9.1).
fn erfc(x: f64) -> f64 {
    let root = std::f64::consts::PI.sqrt();
    let square = x * x;
    if x.abs() < 2.5 {
        let terms = (1..100).scan(x, |term, n| {
            *term *= 2.0 * square / f64::from(2 * n + 1);
            Some(*term)
        });
        1.0 - 2.0 / root * (-square).exp() * (x + terms.sum::<f64>())
    } else {
        let z = x.abs();
        let fraction = (1..100).rev().fold(z, |rest, n| z + f64::from(n) / 2.0 / rest);
        let tail = (-square).exp() / root / fraction;
        if x > 0.0 { tail } else { 2.0 - tail }
    }
}
