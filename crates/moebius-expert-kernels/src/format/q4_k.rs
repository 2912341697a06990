//! `q4_k`: 256 weights of four bits in eight runs of 32, each with a scale and a minimum of six bits.
//!
//! Block in a file: `d` and `m` in f16, twelve bytes of scales and minima, then 128 bytes; `w = d s q - m t`, with
//! `s` and `t` of the weight's run. Bytes `32 i .. 32 i + 32` hold run `2 i` in their lower halves, `2 i + 1` in the
//! upper.
//!
//! Invariants: a run's scale and minimum are found by least squares from the best of a few starting scales.

use half::f16;

use super::{
    Dot, Unit, add_scaled, each_group, gather_halves, gather_quads, half_at, halves_are_finite, of_group,
    prefetch,
    rounding::{nearest, range, rounded, sum, times},
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, MIN_PAIRS, PAIRS, QUADS, SCALE, STEP256},
    tile,
};

const RUNS: usize = 8;
const RUN: usize = 32;
/// The largest code of a weight, and of a scale or minimum.
const MAX_CODE: f32 = 15.0;
const MAX_SCALE: f32 = 63.0;

/// Into how many steps the range of a run is cut to find the codes that a fit starts from.
const START_STEPS: [f32; 8] = [14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 17.0, 17.5];

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
#[inline(always)]
fn fit(values: &[f32; RUN]) -> (f32, f32) {
    let (low, high) = range(values);
    if high <= low {
        return (0.0, -low);
    }
    let (mut best, mut most) = (((high - low) / MAX_CODE, -low), f32::NEG_INFINITY);
    for steps in START_STEPS {
        let (candidate, gain) = least_squares(values, (steps / (high - low), -low));
        if gain > most && candidate.0 > 0.0 {
            (best, most) = (candidate, gain);
        }
    }
    let (refined, _) = least_squares(values, (1.0 / best.0, best.1));
    if refined.0 > 0.0 { refined } else { best }
}

/// The best scale and minimum for the codes that a first inverse scale and minimum give, and by how much they lower
/// the squared error.
#[inline(always)]
fn least_squares(values: &[f32; RUN], (inverse, minimum): (f32, f32)) -> ((f32, f32), f32) {
    let codes = values.map(|value| rounded((value + minimum) * inverse, 0.0, MAX_CODE));
    let (total, codes_total) = (sum(values), sum(&codes));
    let (products, squares) = (sum(&times(&codes, values)), sum(&times(&codes, &codes)));
    let n = RUN as f32;
    let determinant = n * squares - codes_total * codes_total;
    let scale = (n * products - codes_total * total) / determinant;
    let minimum = (codes_total * products - squares * total) / determinant;
    if minimum < 0.0 {
        return ((products / squares, 0.0), products * products / squares);
    }
    ((scale, minimum), scale * products - minimum * total)
}

impl Unit for UnitQ4K {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 144;
    const INPUTS: Inputs = Inputs::Blocks256;

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let mut runs = [(0.0f32, 0.0f32); RUNS];
        for (run, values) in runs.iter_mut().zip(values.as_chunks().0) {
            *run = fit(values);
        }
        let d = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.0)) / MAX_SCALE);
        let m = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.1)) / MAX_SCALE);
        bytes.fill(0);
        bytes[..2].copy_from_slice(&d.to_le_bytes());
        bytes[2..4].copy_from_slice(&m.to_le_bytes());
        let (d, m) = (d.to_f32(), m.to_f32());
        let share =
            |value: f32, of: f32| if of == 0.0 { 0 } else { nearest(value / of, 0.0, MAX_SCALE) as u8 };
        for (run, values) in values.as_chunks::<RUN>().0.iter().enumerate() {
            let factors = (share(runs[run].0, d), share(runs[run].1, m));
            set_run_factors(&mut bytes[4..16], run, factors);
            let (scale, minimum) = (d * f32::from(factors.0), m * f32::from(factors.1));
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let shift = 4 * (run % 2);
            for (byte, value) in bytes[16 + run / 2 * RUN..][..RUN].iter_mut().zip(values) {
                *byte |= (nearest((value + minimum) * inverse, 0.0, MAX_CODE) as u8) << shift;
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
    #[inline]
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

impl UnitQ4K {
    /// Adds the products of two neighbouring runs, which share their bytes.
    #[inline(always)]
    fn add_runs<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        (step, pair): (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        let mut totals = totals;
        for upper in [false, true] {
            let run = 2 * pair + usize::from(upper);
            prefetch::<S, _, _, R>(simd, units, (run, RUNS));
            let mut dots = [[simd.start(0, 0); R]; Q];
            for j in 0..8 {
                let codes: [_; Q] = of_group!(units, unit => {
                    let weights = simd.quads(&unit.quads[pair * 8 + j]);
                    if upper { simd.high_nibbles(weights) } else { simd.low_nibbles(weights) }
                });
                for row in 0..R {
                    let inputs = simd.input(step[QUADS + run * 8 + j][row]);
                    for panel in 0..Q {
                        dots[panel][row] = simd.dot(dots[panel][row], codes[panel], inputs);
                    }
                }
            }
            for panel in 0..Q {
                let factors = simd.factors(&units[panel].run_scales[run]);
                for row in 0..R {
                    totals[panel][row] = simd.add_scaled(totals[panel][row], factors, dots[panel][row]);
                }
            }
        }
        totals
    }

    /// Adds scaled totals and what the minima take away.
    #[inline(always)]
    fn scale<S: Simd, const R: usize>(
        &self,
        simd: S,
        step: &[[i32; R]; STEP256],
        totals: [S::I; R],
        sums: [S::V; R],
    ) -> [S::V; R] {
        let mut minima = [simd.zero(); R];
        for (weights, inputs) in self.run_minima.iter().zip(&step[MIN_PAIRS..PAIRS]) {
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

impl Dot for UnitQ4K {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [[simd.zero(); R]; P];
        for pair in 0..RUNS / 2 {
            each_group!((S, R), P in [0 1], units, totals, (units, totals) => {
                Self::add_runs(simd, units, (step, pair), totals)
            });
        }
        let mut sums = sums;
        for panel in 0..P {
            sums[panel] = units[panel].scale(simd, step, totals[panel], sums[panel]);
        }
        sums
    }
}
