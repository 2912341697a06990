//! `q4_k`: 256 weights of four bits in eight runs of 32, each with a scale and a minimum of six bits.
//!
//! Block in a file: `d` and `m` in f16, twelve bytes of scales and minima, then 128 bytes; `w = d s q - m t`, with
//! `s` and `t` of the weight's run. Bytes `32 i .. 32 i + 32` hold run `2 i` in their lower halves, `2 i + 1` in the
//! upper.
//!
//! Invariants: a run's scale and minimum are found by least squares from the best of a few starting scales.

use half::f16;

use super::{Dot, Unit, gather_halves, gather_quads, half_at, halves_are_finite, nearest};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, MIN_PAIRS, PAIRS, QUADS, SCALE, STEP256},
    tile,
};

const RUNS: usize = 8;
const RUN: usize = 32;
/// The largest code of a weight, and of a scale or minimum.
const MAX_CODE: i32 = 15;
const MAX_SCALE: f32 = 63.0;

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct UnitQ4K {
    scales: [u16; LANES],
    minima: [u16; LANES],
    /// Of each run, sixteen rows.
    run_scales: [[i8; LANES]; RUNS],
    /// Of two runs at a time, sixteen rows.
    run_minima: [[[u8; 2]; LANES]; RUNS / 2],
    quads: [[u8; QUAD_BYTES]; 32],
}

/// The six-bit scale and minimum of a run, from the twelve bytes that hold all.
fn run_factors(bytes: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        return (bytes[run] & 63, bytes[run + 4] & 63);
    }
    let low = bytes[run + 4];
    (low & 15 | bytes[run - 4] >> 6 << 4, low >> 4 | bytes[run] >> 6 << 4)
}

fn set_run_factors(bytes: &mut [u8], run: usize, (scale, minimum): (u8, u8)) {
    if run < 4 {
        bytes[run] |= scale;
        bytes[run + 4] |= minimum;
    } else {
        bytes[run + 4] = scale & 15 | (minimum & 15) << 4;
        bytes[run - 4] |= scale >> 4 << 6;
        bytes[run] |= minimum >> 4 << 6;
    }
}

/// `scale` and `minimum`, both not negative, so that `scale q - minimum` with `q` of 0 to 15 is near the values.
fn fit(values: &[f32]) -> (f32, f32) {
    let low = values.iter().fold(0.0f32, |min, &value| min.min(value));
    let high = values.iter().fold(0.0f32, |max, &value| max.max(value));
    if high <= low {
        return (0.0, -low);
    }
    let mut best = ((high - low) / MAX_CODE as f32, -low);
    let mut least = error(values, best);
    for step in -2..=8 {
        let start = (high - low) / (MAX_CODE as f32 + 0.25 * step as f32);
        let Some(candidate) = least_squares(values, (start, -low)) else { continue };
        let found = error(values, candidate);
        if found < least {
            (best, least) = (candidate, found);
        }
    }
    best
}

/// The best scale and minimum for the codes that a first scale and minimum give.
fn least_squares(values: &[f32], (scale, minimum): (f32, f32)) -> Option<(f32, f32)> {
    let (mut codes, mut squares, mut sum, mut products) = (0.0, 0.0, 0.0, 0.0);
    let inverse = 1.0 / scale;
    for &value in values {
        let code = ((value + minimum) * inverse).round().clamp(0.0, MAX_CODE as f32);
        codes += code;
        squares += code * code;
        sum += value;
        products += code * value;
    }
    let n = values.len() as f32;
    let determinant = n * squares - codes * codes;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (n * products - codes * sum) / determinant;
    let minimum = (codes * products - squares * sum) / determinant;
    if minimum < 0.0 {
        return (squares > 0.0 && products > 0.0).then(|| (products / squares, 0.0));
    }
    (scale > 0.0).then_some((scale, minimum))
}

/// The squared error of rounding with a scale and minimum.
fn error(values: &[f32], (scale, minimum): (f32, f32)) -> f32 {
    let inverse = 1.0 / scale;
    let off = values.iter().map(|&value| {
        let code = ((value + minimum) * inverse).round().clamp(0.0, MAX_CODE as f32);
        let off = scale * code - minimum - value;
        off * off
    });
    off.sum()
}

impl Unit for UnitQ4K {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 144;
    const INPUTS: Inputs = Inputs::Blocks256;

    fn encode(values: &[f32], bytes: &mut [u8]) {
        let mut runs = [(0.0f32, 0.0f32); RUNS];
        for (run, values) in runs.iter_mut().zip(values.chunks_exact(RUN)) {
            *run = fit(values);
        }
        let d = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.0)) / MAX_SCALE);
        let m = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.1)) / MAX_SCALE);
        bytes.fill(0);
        bytes[..2].copy_from_slice(&d.to_le_bytes());
        bytes[2..4].copy_from_slice(&m.to_le_bytes());
        let (d, m) = (d.to_f32(), m.to_f32());
        let share = |value: f32, of: f32| if of == 0.0 { 0 } else { nearest(value / of, 0, 63) as u8 };
        for (run, values) in values.chunks_exact(RUN).enumerate() {
            let factors = (share(runs[run].0, d), share(runs[run].1, m));
            set_run_factors(&mut bytes[4..16], run, factors);
            let (scale, minimum) = (d * f32::from(factors.0), m * f32::from(factors.1));
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let shift = 4 * (run % 2);
            for (byte, value) in bytes[16 + run / 2 * RUN..].iter_mut().zip(values) {
                *byte |= (nearest((value + minimum) * inverse, 0, MAX_CODE) as u8) << shift;
            }
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let (d, m) = (half_at(bytes, 0), half_at(bytes, 2));
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = run_factors(&bytes[4..16], run);
            let (scale, minimum) = (d * f32::from(scale), m * f32::from(minimum));
            for (value, byte) in values.iter_mut().zip(&bytes[16 + run / 2 * RUN..]) {
                *value = scale * f32::from(byte >> (4 * (run % 2)) & 15) - minimum;
            }
        }
    }
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        let mut run_minima = [[[0; 2]; LANES]; RUNS / 2];
        for run in 0..RUNS {
            for (lane, block) in blocks.iter().enumerate() {
                let (scale, minimum) = run_factors(&block[4..16], run);
                run_scales[run][lane] = scale as i8;
                run_minima[run / 2][lane][run % 2] = minimum;
            }
        }
        Self {
            scales: gather_halves(blocks, 0),
            minima: gather_halves(blocks, 2),
            run_scales,
            run_minima,
            quads: gather_quads(blocks, 16),
        }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales) && halves_are_finite(&self.minima)
    }
    fn get(&self, lane: usize, col: usize) -> f32 {
        let run = col / RUN;
        let byte = self.quads[run / 2 * 8 + col % RUN / 4][4 * lane + col % 4];
        let code = byte >> (4 * (run % 2)) & 15;
        let scale = f16::from_bits(self.scales[lane]).to_f32() * f32::from(self.run_scales[run][lane]);
        let minimum = self.run_minima[run / 2][lane][run % 2];
        scale * f32::from(code) - f16::from_bits(self.minima[lane]).to_f32() * f32::from(minimum)
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl Dot for UnitQ4K {
    #[inline(always)]
    fn add<S: Simd, const R: usize>(&self, simd: S, step: &[[i32; R]], sums: [S::V; R]) -> [S::V; R] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [simd.zero(); R];
        for run in 0..RUNS {
            let mut dots = [simd.start(0, 0); R];
            for (j, weights) in self.quads[run / 2 * 8..][..8].iter().enumerate() {
                let weights = simd.quads(weights);
                let codes = if run % 2 == 0 { simd.low_nibbles(weights) } else { simd.high_nibbles(weights) };
                let inputs = &step[QUADS + run * 8 + j];
                for row in 0..R {
                    dots[row] = simd.dot(dots[row], codes, inputs[row]);
                }
            }
            let factors = simd.factors(&self.run_scales[run]);
            for row in 0..R {
                totals[row] = simd.add_scaled(totals[row], factors, dots[row]);
            }
        }
        let mut minima = [simd.zero(); R];
        for (weights, inputs) in self.run_minima.iter().zip(&step[MIN_PAIRS..PAIRS]) {
            for row in 0..R {
                minima[row] = simd.dot_pairs(minima[row], weights, inputs[row]);
            }
        }
        let (d, m) = (simd.widen_f16(&self.scales), simd.widen_f16(&self.minima));
        let mut sums = sums;
        for row in 0..R {
            let scale = f32::from_bits(step[SCALE][row] as u32);
            sums[row] = simd.fma(simd.mul(simd.from_i32(totals[row]), simd.splat(scale)), d, sums[row]);
            sums[row] = simd.fma(simd.mul(simd.from_i32(minima[row]), simd.splat(-scale)), m, sums[row]);
        }
        sums
    }
}
