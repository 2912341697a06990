//! How far a backend may be from f64.
//!
//! ```text
//! |got - expected| <= tolerance * scale
//! ```
//! with `scale` the sum of the absolute values of the terms behind the element. Where an expert's inner vector
//! carries an error already, its terms count with that error's magnitude.

use moebius_backend::WeightFormat;

use crate::Failure;

/// What is allowed for weights of one format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// How the weights are stored.
    pub format: WeightFormat,
    /// For a dense projection.
    pub linear: f64,
    /// For a weighted sum of gated experts.
    pub experts: f64,
}

/// One line per format.
///
/// Weights of these three formats widen to f32 exactly, and activations are f32. What is left is the rounding
/// of f32 sums: about 1e-7 for each of the terms in the worst order, and far less in practice.
/// Products of rounded activations (bf16, TF32) do not pass.
pub const TOLERANCES: [Tolerance; 3] = [
    Tolerance { format: WeightFormat::F32, linear: 1e-6, experts: 1e-6 },
    Tolerance { format: WeightFormat::Bf16, linear: 1e-6, experts: 1e-6 },
    Tolerance { format: WeightFormat::F16, linear: 1e-6, experts: 1e-6 },
];

/// For the operations between projections, which know f32 only.
pub const OPS_TOLERANCE: f64 = 1e-6;

/// The line of a format.
pub(crate) fn tolerance(format: WeightFormat) -> Result<Tolerance, Failure> {
    let line = TOLERANCES.into_iter().find(|line| line.format == format);
    line.ok_or_else(|| Failure::Mismatch(format!("format {format} has no line in the table of tolerances")))
}
