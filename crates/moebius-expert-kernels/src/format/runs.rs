//! What `q4_k` and `q5_k` share: 256 weights in eight runs of 32, each with a scale and a minimum of six bits.
//!
//! A block in a file begins with `d` and `m` in f16 and twelve bytes of scales and minima; `w = d s q - m t`, with `s` and
//! `t` of the weight's run.
//!
//! Invariants: a run's scale and minimum are found by least squares from the best of a few starting scales.

use half::f16;

use super::{
    add_scaled,
    affine::{Levels, fit},
    gather_halves, half_at, halves_are_finite,
    rounding::nearest,
};
use crate::{
    arch::{LANES, Simd},
    rows::{MIN_PAIRS, SCALE, STARTS, STEP256},
};

pub(super) const RUNS: usize = 8;
pub(super) const RUN: usize = 32;
/// Columns of a block.
pub(super) const COLS: usize = RUNS * RUN;
/// Where the bits of the weights begin in a block.
pub(super) const HEAD_BYTES: usize = 16;
/// The largest scale or minimum.
const MAX_SCALE: f32 = 63.0;

/// The scales and minima of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct RunFactors {
    scales: [u16; LANES],
    minima: [u16; LANES],
    /// Of each run, sixteen rows.
    run_scales: [[i8; LANES]; RUNS],
    /// Of two runs at a time, sixteen rows.
    run_minima: [[[u8; 2]; LANES]; RUNS / 2],
}

impl RunFactors {
    /// The bytes of all, without padding.
    pub(crate) const BYTES: usize = (2 + 2 + RUNS + RUNS) * LANES;

    #[inline]
    pub(super) fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        let mut run_minima = [[[0; 2]; LANES]; RUNS / 2];
        for run in 0..RUNS {
            for (lane, block) in blocks.iter().enumerate() {
                let (scale, minimum) = codes_of(&block[4..HEAD_BYTES], run);
                run_scales[run][lane] = scale as i8;
                run_minima[run / 2][lane][run % 2] = minimum;
            }
        }
        Self { scales: gather_halves(blocks, 0), minima: gather_halves(blocks, 2), run_scales, run_minima }
    }

    pub(super) fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales) && halves_are_finite(&self.minima)
    }

    /// Scale and minimum of a run of one row.
    pub(super) fn of(&self, lane: usize, run: usize) -> (f32, f32) {
        let wide = |bits: u16| f16::from_bits(bits).to_f32();
        let minimum = f32::from(self.run_minima[run / 2][lane][run % 2]);
        (wide(self.scales[lane]) * f32::from(self.run_scales[run][lane]), wide(self.minima[lane]) * minimum)
    }

    /// The factors of sixteen rows in a run.
    #[inline(always)]
    pub(super) fn run_scales(&self, run: usize) -> &[i8; LANES] {
        &self.run_scales[run]
    }

    /// Adds the scaled totals of all runs and what the minima take away.
    #[inline(always)]
    pub(super) fn scale<S: Simd, const R: usize>(
        &self,
        simd: S,
        step: &[[i32; R]; STEP256],
        totals: [S::I; R],
        sums: [S::V; R],
    ) -> [S::V; R] {
        let mut minima = [simd.zero(); R];
        for (weights, inputs) in self.run_minima.iter().zip(&step[MIN_PAIRS..STARTS]) {
            for row in 0..R {
                minima[row] = simd.dot_pairs(minima[row], weights, inputs[row]);
            }
        }
        let (d, m) = (simd.widen_f16(&self.scales), simd.widen_f16(&self.minima));
        let [mut sums] = add_scaled(simd, [totals], (&step[SCALE], [d]), [sums]);
        for row in 0..R {
            let scale = f32::from_bits(step[SCALE][row] as u32);
            sums[row] = simd.fma(simd.mul(simd.widen_i32(minima[row]), simd.splat(-scale)), m, sums[row]);
        }
        sums
    }
}

/// Rounds 256 values: writes the head of a block and returns the codes, each at most the largest of the levels.
#[inline(always)]
pub(super) fn encode(values: &[f32], head: &mut [u8], levels: &Levels) -> [[u8; RUN]; RUNS] {
    let values = values.as_chunks::<RUN>().0;
    let mut runs = [(0.0f32, 0.0f32); RUNS];
    for (run, values) in runs.iter_mut().zip(values) {
        *run = fit(values, levels);
    }
    let d = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.0)) / MAX_SCALE);
    let m = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.1)) / MAX_SCALE);
    head.fill(0);
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..4].copy_from_slice(&m.to_le_bytes());
    let (d, m) = (d.to_f32(), m.to_f32());
    let share = |value: f32, of: f32| if of == 0.0 { 0 } else { nearest(value / of, 0.0, MAX_SCALE) as u8 };
    let mut codes = [[0; RUN]; RUNS];
    for (run, values) in values.iter().enumerate() {
        let factors = (share(runs[run].0, d), share(runs[run].1, m));
        set_codes(&mut head[4..], run, factors);
        let (scale, minimum) = (d * f32::from(factors.0), m * f32::from(factors.1));
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        codes[run] = values.map(|value| nearest((value + minimum) * inverse, 0.0, levels.max_code) as u8);
    }
    codes
}

/// Scale and minimum of a run of a block.
pub(super) fn factors_of(block: &[u8], run: usize) -> (f32, f32) {
    let (scale, minimum) = codes_of(&block[4..HEAD_BYTES], run);
    (half_at(block, 0) * f32::from(scale), half_at(block, 2) * f32::from(minimum))
}

/// The six-bit scale and minimum of a run, from the twelve bytes that hold all.
fn codes_of(bytes: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        return (bytes[run] & 63, bytes[run + 4] & 63);
    }
    let low = bytes[run + 4];
    (low & 15 | bytes[run - 4] >> 6 << 4, low >> 4 | bytes[run] >> 6 << 4)
}

fn set_codes(bytes: &mut [u8], run: usize, (scale, minimum): (u8, u8)) {
    if run < 4 {
        bytes[run] |= scale;
        bytes[run + 4] |= minimum;
    } else {
        bytes[run + 4] = scale & 15 | (minimum & 15) << 4;
        bytes[run - 4] |= scale >> 4 << 6;
        bytes[run] |= minimum >> 4 << 6;
    }
}
