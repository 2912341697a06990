//! How far a backend may be from f64.
//!
//! ```text
//! |got - expected| <= tolerance * scale
//! ```
//! with `scale` the sum of the absolute values of the terms behind the element. Where an expert's inner vector
//! carries an error already, its terms count with that error's magnitude.

use moebius_backend::{BackendInfo, WeightFormat};

use crate::Failure;

/// What is allowed for weights of one format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// How the weights are held; gate and up, for experts.
    pub format: WeightFormat,
    /// For a dense projection.
    pub linear: f64,
    /// For a weighted sum of gated experts.
    pub experts: f64,
}

/// One line per format.
///
/// Weights of the first three formats widen to f32 exactly, and activations are f32. What is left is the rounding
/// of f32 sums: about 1e-7 for each of the terms in the worst order, and far less in practice.
/// Products of rounded activations (bf16, TF32) do not pass.
///
/// A block format's weights are exact too, but activations may be rounded to eight bits for each block: an input is
/// off by up to 1/254 of the largest one in its block, which can be more than the input itself. Over the sampled
/// inputs that adds up to 0.3 % of a sum's magnitude at most; for experts to 0.2 %, because the magnitude grows along
/// the way too. What is allowed is three times as much, for other ways of rounding. Six bits do not pass.
pub const TOLERANCES: [Tolerance; 12] = [
    Tolerance { format: WeightFormat::F32, linear: 1e-6, experts: 1e-6 },
    Tolerance { format: WeightFormat::Bf16, linear: 1e-6, experts: 1e-6 },
    Tolerance { format: WeightFormat::F16, linear: 1e-6, experts: 1e-6 },
    Tolerance { format: WeightFormat::Q8_0, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q5_1, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q4_0, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q4K, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q5K, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q6K, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Mxfp4, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Iq4Xs, linear: 1e-2, experts: 1e-2 },
    Tolerance { format: WeightFormat::Q2K, linear: 1e-2, experts: 1e-2 },
];

/// The line of bf16 for a backend that says that it rounds inputs of products to bf16
/// ([`BackendInfo::bf16_activations`]): an input is off by a part in 2^8 at most, and what experts compute on the way once
/// more. One bit less does not pass.
pub const ROUNDED: Tolerance = Tolerance { format: WeightFormat::Bf16, linear: 3.91e-3, experts: 8e-3 };

/// For the operations between projections, which know f32 only.
pub const OPS_TOLERANCE: f64 = 1e-6;

/// The line of a format for a backend.
pub(crate) fn tolerance(info: &BackendInfo, format: WeightFormat) -> Result<Tolerance, Failure> {
    let line = [ROUNDED].into_iter().filter(|_| info.bf16_activations).chain(TOLERANCES);
    let line = line.into_iter().find(|line| line.format == format);
    line.ok_or_else(|| Failure::Mismatch(format!("format {format} has no line in the table of tolerances")))
}
