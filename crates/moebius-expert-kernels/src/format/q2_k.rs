//! `q2_k`: 256 weights of two bits in sixteen runs of 16, each with a scale and a minimum of four bits.
//!
//! Block in a file: sixteen bytes with the scale of a run in the lower half and its minimum in the upper, 64 bytes of
//! codes, `d` and `m` in f16; `w = d s q - m t`. Each half of the block has four strands of 32 columns: strand `s`, column
//! `c` is at place `s` of byte `c`.

use half::f16;

use super::{
    Dot, Unit, add_products, add_run, add_scaled,
    affine::{Levels, fit},
    bytes_of_lane, gather_halves, gather_quads, half_at, halves_are_finite, of_group, prefetch,
    rounding::nearest,
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, QUADS, SCALE, STARTS, STEP256, join},
    tile,
};

const RUNS: usize = 16;
const RUN: usize = 16;
/// Columns of a strand.
const STRAND: usize = 32;
/// Sixteen neighbouring columns in each of the four strands of a half.
const STRETCHES: usize = 4;
const LEVELS: Levels = Levels { max_code: 3.0, start_steps: [2.2, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6] };
/// The largest scale or minimum.
const MAX_SCALE: f32 = 15.0;
/// Where the parts of a block begin.
const CODES: usize = RUNS;
const D: usize = 80;
const M: usize = 82;

/// The lower and the upper two bits of a number of four.
const LOWER: [u8; 16] = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3];
const UPPER: [u8; 16] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct UnitQ2K {
    scales: [u16; LANES],
    minima: [u16; LANES],
    /// Of each run, sixteen rows.
    run_scales: [[i8; LANES]; RUNS],
    /// Of two runs at a time, sixteen rows.
    run_minima: [[[u8; 2]; LANES]; RUNS / 2],
    /// Sixteen columns of four strands at a time.
    quads: [[[u8; QUAD_BYTES]; 4]; STRETCHES],
}

/// Byte and shift of a column's code.
fn place(col: usize) -> (usize, usize) {
    (32 * (col / 128) + col % STRAND, 2 * (col % 128 / STRAND))
}

impl Unit for UnitQ2K {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 84;
    const INPUTS: Inputs = Inputs::Blocks256 { times: 1 };

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let values = values.as_chunks::<RUN>().0;
        let mut runs = [(0.0f32, 0.0f32); RUNS];
        for (run, values) in runs.iter_mut().zip(values) {
            *run = fit(values, &LEVELS);
        }
        let d = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.0)) / MAX_SCALE);
        let m = f16::from_f32(runs.iter().fold(0.0f32, |max, run| max.max(run.1)) / MAX_SCALE);
        bytes[D..M].copy_from_slice(&d.to_le_bytes());
        bytes[M..].copy_from_slice(&m.to_le_bytes());
        let (d, m) = (d.to_f32(), m.to_f32());
        let share =
            |value: f32, of: f32| if of == 0.0 { 0 } else { nearest(value / of, 0.0, MAX_SCALE) as u8 };
        let mut codes = [[0; RUN]; RUNS];
        for (run, values) in values.iter().enumerate() {
            let factors = (share(runs[run].0, d), share(runs[run].1, m));
            bytes[run] = factors.0 | factors.1 << 4;
            let (scale, minimum) = (d * f32::from(factors.0), m * f32::from(factors.1));
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            codes[run] = values.map(|value| nearest((value + minimum) * inverse, 0.0, LEVELS.max_code) as u8);
        }
        for (half, codes) in codes.as_flattened().as_chunks::<128>().0.iter().enumerate() {
            let (strands, _) = codes.as_chunks::<STRAND>();
            for at in 0..STRAND {
                let [a, b, c, d] = [strands[0][at], strands[1][at], strands[2][at], strands[3][at]];
                bytes[CODES + STRAND * half + at] = a | b << 2 | c << 4 | d << 6;
            }
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let (d, m) = (half_at(bytes, D), half_at(bytes, M));
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = (d * f32::from(bytes[run] & 15), m * f32::from(bytes[run] >> 4));
            for (col, value) in values.iter_mut().enumerate() {
                let (byte, shift) = place(run * RUN + col);
                *value = scale * f32::from(bytes[CODES + byte] >> shift & 3) - minimum;
            }
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        let mut run_minima = [[[0; 2]; LANES]; RUNS / 2];
        for (lane, block) in blocks.iter().enumerate() {
            for run in 0..RUNS {
                run_scales[run][lane] = (block[run] & 15) as i8;
                run_minima[run / 2][lane][run % 2] = block[run] >> 4;
            }
        }
        let codes: [_; 16] = gather_quads(blocks, CODES);
        let mut quads = [[[0; QUAD_BYTES]; 4]; STRETCHES];
        quads.as_flattened_mut().copy_from_slice(&codes);
        Self {
            scales: gather_halves(blocks, D),
            minima: gather_halves(blocks, M),
            run_scales,
            run_minima,
            quads,
        }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales) && halves_are_finite(&self.minima)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let [d, m] = [self.scales, self.minima].map(|bits| f16::from_bits(bits[lane]).to_f32());
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let scale = d * f32::from(self.run_scales[run][lane]);
            let minimum = m * f32::from(self.run_minima[run / 2][lane][run % 2]);
            // The two stretches of a half alternate; of each, two neighbouring runs are a strand.
            let bytes = bytes_of_lane(&self.quads[run / 8 * 2 + run % 2], lane);
            for (value, byte) in values.iter_mut().zip(bytes.as_flattened()) {
                *value = scale * f32::from(byte >> (run % 8 / 2 * 2) & 3) - minimum;
            }
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ2K {
    /// Adds the products of the four runs of a stretch.
    #[inline(always)]
    fn add_stretch<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        (step, stretch): (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        let mut totals = totals;
        for strand in 0..4 {
            let run = 8 * (stretch / 2) + 2 * strand + stretch % 2;
            prefetch::<_, _, R>(units, (4 * stretch + strand, RUNS));
            let mut dots = [[simd.start(0); R]; Q];
            for j in 0..4 {
                let codes: [_; Q] = of_group!(units, unit => {
                    let quads = simd.quads(&unit.quads[stretch][j]);
                    let four = if strand < 2 { simd.low_nibbles(quads) } else { simd.high_nibbles(quads) };
                    simd.look_up(if strand % 2 == 0 { &LOWER } else { &UPPER }, four)
                });
                dots = add_products(simd, codes, &step[QUADS + 4 * run + j], dots);
            }
            let factors = of_group!(units, unit => &unit.run_scales[run]);
            totals = add_run(simd, factors, dots, totals);
        }
        totals
    }

    /// What the minima take away, before it is scaled.
    #[inline(always)]
    fn minima<S: Simd, const R: usize>(&self, simd: S, step: &[[i32; R]; STEP256]) -> [S::I; R] {
        let mut minima = [simd.zero(); R];
        for (pair, weights) in self.run_minima.iter().enumerate() {
            for row in 0..R {
                let [even, odd] = [step[STARTS + 2 * pair][row], step[STARTS + 2 * pair + 1][row]];
                let totals = join([S::total(even), S::total(odd)]);
                minima[row] = simd.dot_pairs(minima[row], weights, totals);
            }
        }
        minima
    }
}

impl Dot for UnitQ2K {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [[simd.zero(); R]; P];
        for stretch in 0..STRETCHES {
            totals = Self::add_stretch(simd, units, (step, stretch), totals);
        }
        let scales = of_group!(units, unit => simd.widen_f16(&unit.scales));
        let mut sums = add_scaled(simd, totals, (&step[SCALE], scales), sums);
        for panel in 0..P {
            let (minima, m) = (units[panel].minima(simd, step), simd.widen_f16(&units[panel].minima));
            for row in 0..R {
                let scale = simd.splat(-f32::from_bits(step[SCALE][row] as u32));
                sums[panel][row] =
                    simd.fma(simd.mul(simd.widen_i32(minima[row]), scale), m, sums[panel][row]);
            }
        }
        sums
    }
}
