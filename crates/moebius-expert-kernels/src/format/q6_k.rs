//! `q6_k`: 256 weights of six bits in sixteen runs of 16, each with a scale of eight bits.
//!
//! Block in a file: 128 bytes of lower bits, 64 bytes of upper bits, sixteen signed scales, `d` in f16;
//! `w = d s (q - 32)`. Each half of the block has four strands of 32 columns: strand `s`, column `c`, has its lower
//! four bits in byte `32 (s % 2) + c` (upper half of it for strands 2 and 3), its upper two at place `s` of byte `c`.

use half::f16;

use super::{
    Dot, Unit, add_products, add_run, add_scaled, bytes_of_lane, gather_halves, gather_quads, half_at,
    halves_are_finite, of_group, prefetch,
    rounding::{extreme, nearest, rounded, sum, times},
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, QUADS, SCALE, STARTS, STEP256},
    tile,
};

const RUNS: usize = 16;
const RUN: usize = 16;
/// Columns of a strand.
const STRAND: usize = 32;
/// Sixteen neighbouring columns in each of the four strands of a half.
const STRETCHES: usize = 4;
/// What is taken from every stored value.
const OFFSET: i16 = 32;
const LOWEST: f32 = -32.0;
const HIGHEST: f32 = 31.0;
/// Into how many steps the value of largest magnitude is cut to find the codes that a fit starts from.
const START_STEPS: [f32; 8] = [31.2, 31.4, 31.6, 31.8, 32.0, 32.2, 32.4, 32.6];
/// Where the parts of a block begin.
const UPPER: usize = 128;
pub(super) const SCALES: usize = 192;
pub(super) const D: usize = 208;

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct UnitQ6K {
    scales: [u16; LANES],
    run_scales: [[i8; LANES]; RUNS],
    /// Sixteen columns of four strands at a time: for each four columns, upper bits and the two lots of lower ones.
    quads: [[[[u8; QUAD_BYTES]; 3]; 4]; STRETCHES],
}

/// Where the lower and the upper bits of a column are: byte and shift of each.
fn places(col: usize) -> ((usize, usize), (usize, usize)) {
    let (half, strand, at) = (col / 128, col % 128 / 32, col % 32);
    ((64 * half + 32 * (strand % 2) + at, 4 * (strand / 2)), (32 * half + at, 2 * strand))
}

/// The scale so that `scale q` with `q` of -32 to 31 is near the values, weighing errors by the values' squares.
#[inline(always)]
fn fit(values: &[f32; RUN]) -> f32 {
    let extreme = extreme(values);
    if extreme == 0.0 {
        return 0.0;
    }
    let weights = times(values, values);
    let (mut best, mut most) = (0.0, 0.0);
    for steps in START_STEPS {
        let inverse = steps / -extreme;
        let codes = values.map(|value| rounded(value * inverse, LOWEST, HIGHEST));
        let weighted = times(&weights, &codes);
        let (products, squares) = (sum(&times(&weighted, values)), sum(&times(&weighted, &codes)));
        // The weighted error that is left is a constant minus this gain.
        let gain = products * products / squares;
        if gain > most {
            (best, most) = (products / squares, gain);
        }
    }
    best
}

/// Rounds 256 values to codes, those of each run with its scale.
#[inline(always)]
fn codes(values: &[[f32; RUN]], scales: &[f32; RUNS]) -> [u8; RUNS * RUN] {
    let mut codes = [0; RUNS * RUN];
    for ((codes, values), scale) in codes.as_chunks_mut::<RUN>().0.iter_mut().zip(values).zip(scales) {
        let inverse = if *scale == 0.0 { 0.0 } else { 1.0 / scale };
        *codes = values.map(|value| (nearest(value * inverse, LOWEST, HIGHEST) + i32::from(OFFSET)) as u8);
    }
    codes
}

/// Writes the codes of a block, each in six bits.
#[inline(always)]
pub(super) fn set_codes(codes: &[u8; RUNS * RUN], bytes: &mut [u8]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        let (strands, _) = codes.as_chunks::<STRAND>();
        for at in 0..STRAND {
            let [a, b, c, d] = [strands[0][at], strands[1][at], strands[2][at], strands[3][at]];
            bytes[64 * half + at] = a & 15 | c << 4;
            bytes[64 * half + STRAND + at] = b & 15 | d << 4;
            bytes[UPPER + STRAND * half + at] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}

impl Unit for UnitQ6K {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 210;
    const INPUTS: Inputs = Inputs::Blocks256 { times: -OFFSET };

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let runs = values.as_chunks::<RUN>().0;
        let mut scales = [0.0f32; RUNS];
        for (scale, values) in scales.iter_mut().zip(runs) {
            *scale = fit(values);
        }
        let d = f16::from_f32(extreme(&scales) / -128.0);
        bytes[D..].copy_from_slice(&d.to_le_bytes());
        let d = d.to_f32();
        for (scale, byte) in scales.iter_mut().zip(&mut bytes[SCALES..D]) {
            let factor = if d == 0.0 { 0 } else { nearest(*scale / d, -128.0, 127.0) };
            *byte = factor as u8;
            *scale = d * factor as f32;
        }
        set_codes(&codes(runs, &scales), bytes);
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let d = half_at(bytes, D);
        for (col, value) in values.iter_mut().enumerate() {
            let ((lower, lower_shift), (upper, upper_shift)) = places(col);
            let code = bytes[lower] >> lower_shift & 15 | (bytes[UPPER + upper] >> upper_shift & 3) << 4;
            let scale = d * f32::from(bytes[SCALES + col / RUN] as i8);
            *value = scale * f32::from(i16::from(code) - OFFSET);
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        for (run, scales) in run_scales.iter_mut().enumerate() {
            *scales = blocks.map(|block| block[SCALES + run] as i8);
        }
        let lower: [_; 32] = gather_quads(blocks, 0);
        let upper: [_; 16] = gather_quads(blocks, UPPER);
        let mut quads = [[[[0; QUAD_BYTES]; 3]; 4]; STRETCHES];
        for (place, quads) in quads.as_flattened_mut().iter_mut().enumerate() {
            let (half, j) = (place / 8, place % 8);
            *quads = [upper[place], lower[16 * half + j], lower[16 * half + 8 + j]];
        }
        Self { scales: gather_halves(blocks, D), run_scales, quads }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let d = f16::from_bits(self.scales[lane]).to_f32();
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let scale = d * f32::from(self.run_scales[run][lane]);
            // A half is eight runs, two of them a strand; its two stretches alternate.
            let (stretch, strand) = (run / 8 * 2 + run % 2, run % 8 / 2);
            for (values, quads) in values.as_chunks_mut::<4>().0.iter_mut().zip(&self.quads[stretch]) {
                let [upper, lower @ ..] = bytes_of_lane(quads, lane);
                for ((value, lower), upper) in values.iter_mut().zip(lower[strand % 2]).zip(upper) {
                    let code = lower >> (4 * (strand / 2)) & 15 | (upper >> (2 * strand) & 3) << 4;
                    *value = scale * f32::from(i16::from(code) - OFFSET);
                }
            }
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ6K {
    /// Adds the products of one run.
    #[inline(always)]
    fn add_run<S: Simd, const Q: usize, const R: usize, const STRAND: usize>(
        simd: S,
        units: [&Self; Q],
        (step, stretch): (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        let run = 8 * (stretch / 2) + 2 * STRAND + stretch % 2;
        prefetch::<_, _, R>(units, (4 * stretch + STRAND, RUNS));
        let mut dots = [[simd.start(0); R]; Q];
        for row in 0..R {
            let start = simd.start(step[STARTS + run][row]);
            for dots in &mut dots {
                dots[row] = start;
            }
        }
        for j in 0..4 {
            let codes: [_; Q] = of_group!(units, unit => {
                let quads = &unit.quads[stretch][j];
                let lower = simd.quads(&quads[1 + STRAND % 2]);
                let lower = if STRAND < 2 { simd.low_nibbles(lower) } else { simd.high_nibbles(lower) };
                simd.with_high_bits::<STRAND>(lower, simd.quads(&quads[0]))
            });
            dots = add_products(simd, codes, &step[QUADS + 4 * run + j], dots);
        }
        let factors = of_group!(units, unit => &unit.run_scales[run]);
        add_run(simd, factors, dots, totals)
    }

    /// Adds the products of the four runs of a stretch.
    #[inline(always)]
    fn add_stretch<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        at: (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        let totals = Self::add_run::<S, Q, R, 0>(simd, units, at, totals);
        let totals = Self::add_run::<S, Q, R, 1>(simd, units, at, totals);
        let totals = Self::add_run::<S, Q, R, 2>(simd, units, at, totals);
        Self::add_run::<S, Q, R, 3>(simd, units, at, totals)
    }
}

impl Dot for UnitQ6K {
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
        add_scaled(simd, totals, (&step[SCALE], scales), sums)
    }
}
