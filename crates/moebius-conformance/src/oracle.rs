//! Every operation in f64, written for reading.
//!
//! Invariants: each result carries the scale of its own rounding errors (see `tolerance.rs`).

mod ops;

pub(crate) use ops::{AttentionCase, Sequence, attention, glu, rms_norm, rope};

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

/// `sum over experts of c down(act(gate x) * (up x))`, or of `down(act(gate c x) * (up c x))`.
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
    let [gate, up, down] = Projection::ALL.map(|projection| bank.matrix(id, projection));
    let mut inner = Expected::default();
    for row in 0..bank.spec.intermediate {
        let (gate, gate_scale) = dot(x.iter().copied(), gate, row);
        let (up, up_scale) = dot(x.iter().copied(), up, row);
        let gated = activate(bank.spec.activation, gate);
        // Neither activation is steeper than 1.2, so an error of the gate grows by no more than that.
        inner.push(gated * up, 1.2 * gate_scale * up.abs() + gated.abs() * (up_scale + up.abs()));
    }
    let mut out = Expected::default();
    for row in 0..bank.spec.hidden {
        let (value, _) = dot(inner.values.iter().copied(), down, row);
        let (_, scale) = dot(inner.scales.iter().copied(), down, row);
        out.push(value, scale);
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

/// The non-linearity of a gated linear unit.
fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}
