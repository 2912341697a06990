//! `iq4_xs`: 256 weights of four bits, which name entries of a table, in eight runs of 32, each with a scale of six bits.
//!
//! Block in a file: `d` in f16, the upper two bits of all scales in a word of sixteen, their lower four in four bytes, then
//! sixteen bytes for each run, ordered as in `q4_0`; `w = d (s - 32) v`, with `v` of [`VALUES`].

use half::f16;

use super::{
    Dot, Unit, add_scaled, bytes_of_lane, gather_halves, gather_quads, half_at, halves_are_finite, of_group,
    prefetch,
    q4_0::decode_nibbles,
    rounding::{extreme, nearest, sum, times},
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, SIGNED_TIMES, Simd},
    rows::{Block, Inputs, QUADS, SCALE, STARTS, STEP256},
    tile,
};

const RUNS: usize = 8;
const RUN: usize = 32;
/// What is taken from every stored scale.
const OFFSET: i16 = 32;
/// Where the parts of a block begin.
const SCALES_UPPER: usize = 2;
const SCALES_LOWER: usize = 4;
const CODES: usize = 8;

/// What the codes stand for: closer together near zero, where most weights are.
pub(super) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The same numbers as the bytes that vector units look up.
const TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < table.len() {
        table[code] = VALUES[code] as u8;
        code += 1;
    }
    table
};

/// What the value of largest magnitude becomes in the scales that a fit starts from.
const EXTREMES: [f32; 8] = [-127.0, -123.0, -119.0, -115.0, 105.0, 109.0, 113.0, 117.0];

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct UnitIq4Xs {
    scales: [u16; LANES],
    /// Of each run, sixteen rows.
    run_scales: [[i8; LANES]; RUNS],
    /// Of each run, four quads with columns of its first half in the lower bits, of its second half in the upper.
    quads: [[[u8; QUAD_BYTES]; 4]; RUNS],
}

/// The scale of a run, from -32 to 31.
fn run_scale(bytes: &[u8], run: usize) -> i8 {
    let upper = bytes[SCALES_UPPER + run / 4] >> (2 * (run % 4)) & 3;
    let lower = bytes[SCALES_LOWER + run / 2] >> (4 * (run % 2)) & 15;
    (lower | upper << 4) as i8 - OFFSET as i8
}

fn value(code: u8) -> f32 {
    f32::from(VALUES[usize::from(code)])
}

/// The code whose value is nearest.
#[inline(always)]
fn code(scaled: f32) -> u8 {
    let mut code = 0;
    for pair in VALUES.windows(2) {
        code += u8::from(scaled > (f32::from(pair[0]) + f32::from(pair[1])) / 2.0);
    }
    code
}

/// The scale so that `scale v` is near the values, weighing errors by the values' squares.
#[inline(always)]
fn fit(values: &[f32; RUN]) -> f32 {
    let extreme = extreme(values);
    if extreme == 0.0 {
        return 0.0;
    }
    let weights = times(values, values);
    let (mut best, mut most) = (0.0, 0.0);
    for start in EXTREMES {
        let inverse = start / extreme;
        let entries = values.map(|scaled| value(code(scaled * inverse)));
        let weighted = times(&weights, &entries);
        let (products, squares) = (sum(&times(&weighted, values)), sum(&times(&weighted, &entries)));
        // The weighted error that is left is a constant minus this gain.
        let gain = products * products / squares;
        if gain > most {
            (best, most) = (products / squares, gain);
        }
    }
    best
}

impl Unit for UnitIq4Xs {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 136;
    const INPUTS: Inputs = Inputs::Blocks256 { times: SIGNED_TIMES };

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let runs = values.as_chunks::<RUN>().0;
        let mut scales = [0.0f32; RUNS];
        for (scale, values) in scales.iter_mut().zip(runs) {
            *scale = fit(values);
        }
        let d = f16::from_f32(extreme(&scales) / -f32::from(OFFSET));
        bytes.fill(0);
        bytes[..2].copy_from_slice(&d.to_le_bytes());
        let d = d.to_f32();
        for (run, values) in runs.iter().enumerate() {
            let factor = if d == 0.0 { 0 } else { nearest(scales[run] / d, -32.0, 31.0) };
            let stored = (factor + i32::from(OFFSET)) as u8;
            bytes[SCALES_UPPER + run / 4] |= stored >> 4 << (2 * (run % 4));
            bytes[SCALES_LOWER + run / 2] |= (stored & 15) << (4 * (run % 2));
            let scale = d * factor as f32;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let codes = values.map(|value| code(value * inverse));
            for at in 0..RUN / 2 {
                bytes[CODES + run * RUN / 2 + at] = codes[at] | codes[RUN / 2 + at] << 4;
            }
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let d = half_at(bytes, 0);
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let scale = d * f32::from(run_scale(bytes, run));
            decode_nibbles(&bytes[CODES + run * RUN / 2..][..RUN / 2], values, scale, value);
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        for (run, scales) in run_scales.iter_mut().enumerate() {
            *scales = blocks.map(|block| run_scale(block, run));
        }
        let codes: [_; 32] = gather_quads(blocks, CODES);
        let mut quads = [[[0; QUAD_BYTES]; 4]; RUNS];
        quads.as_flattened_mut().copy_from_slice(&codes);
        Self { scales: gather_halves(blocks, 0), run_scales, quads }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let d = f16::from_bits(self.scales[lane]).to_f32();
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let scale = d * f32::from(self.run_scales[run][lane]);
            decode_nibbles(bytes_of_lane(&self.quads[run], lane).as_flattened(), values, scale, value);
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitIq4Xs {
    /// Adds the products of one run.
    #[inline(always)]
    fn add_run<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        (step, run): (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        prefetch::<_, _, R>(units, (run, RUNS));
        let mut dots = [[simd.zero(); R]; Q];
        for row in 0..R {
            let [even, odd] = [step[STARTS + 2 * run][row], step[STARTS + 2 * run + 1][row]];
            let start = simd.start_signed(even.wrapping_add(odd));
            for dots in &mut dots {
                dots[row] = start;
            }
        }
        for upper in [false, true] {
            for j in 0..4 {
                let weights: [_; Q] = of_group!(units, unit => {
                    let codes = simd.quads(&unit.quads[run][j]);
                    let codes = if upper { simd.high_nibbles(codes) } else { simd.low_nibbles(codes) };
                    simd.signed(simd.look_up(&TABLE, codes))
                });
                for row in 0..R {
                    let inputs = simd.input(step[QUADS + 8 * run + 4 * usize::from(upper) + j][row]);
                    for panel in 0..Q {
                        dots[panel][row] = simd.dot_signed(dots[panel][row], weights[panel], inputs);
                    }
                }
            }
        }
        let mut totals = totals;
        for panel in 0..Q {
            let factors = simd.factors(&units[panel].run_scales[run]);
            for row in 0..R {
                totals[panel][row] = simd.add_scaled_signed(totals[panel][row], factors, dots[panel][row]);
            }
        }
        totals
    }
}

impl Dot for UnitIq4Xs {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [[simd.zero(); R]; P];
        for run in 0..RUNS {
            totals = Self::add_run(simd, units, (step, run), totals);
        }
        let scales = of_group!(units, unit => simd.widen_f16(&unit.scales));
        add_scaled(simd, totals, (&step[SCALE], scales), sums)
    }
}
