//! Scale and minimum of a few values, by least squares.
//!
//! ```text
//! w = s q - t,   s >= 0,  t >= 0,  0 <= q <= max_code
//! ```
//! Codes come from a scale that cuts the range into some number of steps; the best `s` and `t` for these codes solve two
//! linear equations. Of a few starting numbers the one that leaves the smallest error wins, and is solved for once more.

use super::rounding::{range, rounded, sum, times};

/// What the codes of a format can be.
pub(super) struct Levels {
    /// The largest.
    pub(super) max_code: f32,
    /// Into how many steps the range of values is cut to find the codes that a fit starts from.
    pub(super) start_steps: [f32; 8],
}

/// `s` and `t`, so that `s q - t` is near the values.
#[inline(always)]
pub(super) fn fit<const N: usize>(values: &[f32; N], levels: &Levels) -> (f32, f32) {
    let (low, high) = range(values);
    if high <= low {
        return (0.0, -low);
    }
    let (mut best, mut most) = (((high - low) / levels.max_code, -low), f32::NEG_INFINITY);
    for steps in levels.start_steps {
        let (candidate, gain) = least_squares(values, levels, (steps / (high - low), -low));
        if gain > most && candidate.0 > 0.0 {
            (best, most) = (candidate, gain);
        }
    }
    let (refined, _) = least_squares(values, levels, (1.0 / best.0, best.1));
    if refined.0 > 0.0 { refined } else { best }
}

/// The best scale and minimum for the codes that a first inverse scale and minimum give, and by how much they lower
/// the squared error.
#[inline(always)]
fn least_squares<const N: usize>(
    values: &[f32; N],
    levels: &Levels,
    (inverse, minimum): (f32, f32),
) -> ((f32, f32), f32) {
    let codes = values.map(|value| rounded((value + minimum) * inverse, 0.0, levels.max_code));
    let (total, codes_total) = (sum(values), sum(&codes));
    let (products, squares) = (sum(&times(&codes, values)), sum(&times(&codes, &codes)));
    let n = N as f32;
    let determinant = n * squares - codes_total * codes_total;
    let scale = (n * products - codes_total * total) / determinant;
    let minimum = (codes_total * products - squares * total) / determinant;
    if minimum < 0.0 {
        return ((products / squares, 0.0), products * products / squares);
    }
    ((scale, minimum), scale * products - minimum * total)
}
