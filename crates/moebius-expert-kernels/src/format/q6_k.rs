//! `q6_k`: 256 weights of six bits in sixteen runs of 16, each with a scale of eight bits.
//!
//! Block in a file: 128 bytes of lower bits, 64 bytes of upper bits, sixteen signed scales, `d` in f16;
//! `w = d s (q - 32)`. Each half of the block has four strands of 32 columns: strand `s`, column `c`, has its lower
//! four bits in byte `32 (s % 2) + c` (upper half of it for strands 2 and 3), its upper two at place `s` of byte `c`.

use half::f16;

use super::{Dot, Unit, gather_halves, gather_quads, half_at, halves_are_finite, nearest};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, PAIRS, QUADS, SCALE, STEP256},
    tile,
};

const RUNS: usize = 16;
const RUN: usize = 16;
/// What is taken from every stored value.
const OFFSET: i16 = 32;
/// Where the parts of a block begin.
const UPPER: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct UnitQ6K {
    scales: [u16; LANES],
    run_scales: [[i8; LANES]; RUNS],
    lower: [[u8; QUAD_BYTES]; 32],
    upper: [[u8; QUAD_BYTES]; 16],
}

/// Where the lower and the upper bits of a column are: byte and shift of each.
fn places(col: usize) -> ((usize, usize), (usize, usize)) {
    let (half, strand, at) = (col / 128, col % 128 / 32, col % 32);
    ((64 * half + 32 * (strand % 2) + at, 4 * (strand / 2)), (32 * half + at, 2 * strand))
}

/// The scale so that `scale q` with `q` of -32 to 31 is near the values, weighing errors by the values' squares.
fn fit(values: &[f32]) -> f32 {
    let extreme = values.iter().fold(0.0f32, |max, &value| if value.abs() > max.abs() { value } else { max });
    let mut best = (0.0, 0.0);
    for step in -8..=8 {
        let inverse = -(32.0 + 0.1 * step as f32) / extreme;
        let (mut products, mut squares) = (0.0, 0.0);
        for &value in values {
            let code = (value * inverse).round().clamp(-32.0, 31.0);
            products += value * value * value * code;
            squares += value * value * code * code;
        }
        // The weighted error that is left is a constant minus this gain.
        let gain = products * products / squares;
        if squares > 0.0 && gain > best.1 {
            best = (products / squares, gain);
        }
    }
    best.0
}

impl Unit for UnitQ6K {
    const COLS: usize = RUNS * RUN;
    const BYTES: usize = 210;
    const INPUTS: Inputs = Inputs::Blocks256;

    fn encode(values: &[f32], bytes: &mut [u8]) {
        let mut scales = [0.0f32; RUNS];
        for (scale, values) in scales.iter_mut().zip(values.chunks_exact(RUN)) {
            *scale = fit(values);
        }
        let extreme =
            scales.iter().fold(0.0f32, |max, &scale| if scale.abs() > max.abs() { scale } else { max });
        let d = f16::from_f32(extreme / -128.0);
        bytes.fill(0);
        bytes[D..].copy_from_slice(&d.to_le_bytes());
        let d = d.to_f32();
        for (run, values) in values.chunks_exact(RUN).enumerate() {
            let factor = if d == 0.0 { 0 } else { nearest(scales[run] / d, -128, 127) };
            bytes[SCALES + run] = factor as u8;
            let scale = d * factor as f32;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for (col, value) in (run * RUN..).zip(values) {
                let code = (nearest(value * inverse, -32, 31) + i32::from(OFFSET)) as u8;
                let ((lower, lower_shift), (upper, upper_shift)) = places(col);
                bytes[lower] |= (code & 15) << lower_shift;
                bytes[UPPER + upper] |= (code >> 4) << upper_shift;
            }
        }
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
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut run_scales = [[0; LANES]; RUNS];
        for (run, scales) in run_scales.iter_mut().enumerate() {
            *scales = blocks.map(|block| block[SCALES + run] as i8);
        }
        Self {
            scales: gather_halves(blocks, D),
            run_scales,
            lower: gather_quads(blocks, 0),
            upper: gather_quads(blocks, UPPER),
        }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales)
    }
    fn get(&self, lane: usize, col: usize) -> f32 {
        let ((lower, lower_shift), (upper, upper_shift)) = places(col);
        let byte = |quads: &[[u8; QUAD_BYTES]], at: usize| quads[at / 4][4 * lane + at % 4];
        let code =
            byte(&self.lower, lower) >> lower_shift & 15 | (byte(&self.upper, upper) >> upper_shift & 3) << 4;
        let scale = f16::from_bits(self.scales[lane]).to_f32() * f32::from(self.run_scales[col / RUN][lane]);
        scale * f32::from(i16::from(code) - OFFSET)
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl Dot for UnitQ6K {
    #[inline(always)]
    fn add<S: Simd, const R: usize>(&self, simd: S, step: &[[i32; R]], sums: [S::V; R]) -> [S::V; R] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [simd.zero(); R];
        for run in 0..RUNS {
            let (half, strand, first) = (run / 8, run % 8 / 2, run % 2 * 4);
            let mut dots = [simd.start(0, 0); R];
            for row in 0..R {
                dots[row] = simd.start(step[PAIRS + run][row], -OFFSET);
            }
            for j in first..first + 4 {
                let lower = simd.quads(&self.lower[16 * half + 8 * (strand % 2) + j]);
                let lower = if strand < 2 { simd.low_nibbles(lower) } else { simd.high_nibbles(lower) };
                let upper = simd.quads(&self.upper[8 * half + j]);
                let codes = simd.with_high_bits(lower, upper, strand);
                let inputs = &step[QUADS + 32 * half + 8 * strand + j];
                for row in 0..R {
                    dots[row] = simd.dot(dots[row], codes, inputs[row]);
                }
            }
            let factors = simd.factors(&self.run_scales[run]);
            for row in 0..R {
                totals[row] = simd.add_scaled(totals[row], factors, dots[row]);
            }
        }
        let d = simd.widen_f16(&self.scales);
        let mut sums = sums;
        for row in 0..R {
            let scale = simd.splat(f32::from_bits(step[SCALE][row] as u32));
            sums[row] = simd.fma(simd.mul(simd.from_i32(totals[row]), scale), d, sums[row]);
        }
        sums
    }
}
