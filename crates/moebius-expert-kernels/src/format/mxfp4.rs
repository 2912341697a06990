//! `mxfp4`: 32 floats of four bits (sign, two bits of exponent, one of fraction) and one power of two.
//!
//! Block in a file: the exponent `e`, then sixteen bytes ordered as in `q4_0`; `w = 2^(e - 127) v`, with `v` one of
//! 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (OCP Microscaling, arXiv 2310.10537).
//!
//! Invariants: `2^-127`, the smallest scale of the format, counts as zero; 255 is not a number.

use super::{
    Dot, Unit, bytes_of_lane, each_group, gather_quads, of_group, prefetch,
    q4_0::{Nibbles, decode_nibbles},
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs},
    tile,
};

/// What is taken from every entry of the table.
const OFFSET: i16 = 12;

/// Twice the value of each code, plus [`OFFSET`].
const CODES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// The largest value of a code.
const LARGEST: f32 = 6.0;

/// Thirty-two columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct UnitMxfp4 {
    exponents: [u8; LANES],
    quads: [[u8; QUAD_BYTES]; 4],
}

/// `2^(e - 127)`, or zero for 0.
fn scale(exponent: u8) -> f32 {
    f32::from_bits(u32::from(exponent) << 23)
}

fn value(code: u8) -> f32 {
    f32::from(i16::from(CODES[usize::from(code)]) - OFFSET) / 2.0
}

/// The code whose value is nearest; between two, the one with the even fraction.
fn code(value: f32) -> u8 {
    let magnitude = value.abs();
    let index = match magnitude {
        m if m <= 0.25 => 0,
        m if m < 0.75 => 1,
        m if m <= 1.25 => 2,
        m if m < 1.75 => 3,
        m if m <= 2.5 => 4,
        m if m < 3.5 => 5,
        m if m <= 5.0 => 6,
        _ => 7,
    };
    if value < 0.0 { index | 8 } else { index }
}

impl Unit for UnitMxfp4 {
    const COLS: usize = 32;
    const BYTES: usize = 17;
    const INPUTS: Inputs = Inputs::Blocks32 { times: -OFFSET };

    /// The scale is the power of two that brings the largest magnitude into the upper binade of the codes.
    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let largest = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let binade = i32::from((largest.to_bits() >> 23) as u8);
        let exponent = if largest == 0.0 { 0 } else { (binade - 2).clamp(0, 254) as u8 };
        bytes[0] = exponent;
        let inverse = if exponent == 0 { 0.0 } else { 1.0 / scale(exponent) };
        let (first, second) = values.split_at(16);
        for ((byte, &low), &high) in bytes[1..].iter_mut().zip(first).zip(second) {
            let [low, high] = [low, high].map(|value| code((value * inverse).clamp(-LARGEST, LARGEST)));
            *byte = low | high << 4;
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        decode_nibbles(&bytes[1..], values, scale(bytes[0]), value);
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self { exponents: blocks.map(|block| block[0]), quads: gather_quads(blocks, 1) }
    }
    fn is_finite(&self) -> bool {
        self.exponents.iter().all(|&exponent| exponent < u8::MAX)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let bytes = bytes_of_lane(&self.quads, lane);
        decode_nibbles(bytes.as_flattened(), values, scale(self.exponents[lane]), value);
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl Dot for UnitMxfp4 {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let mut sums = sums;
        each_group!((S, R), P, units, sums, (units, sums) => {
            prefetch::<_, _, R>(units, (0, 1));
            let scales = of_group!(units, unit => simd.mul(simd.widen_exponents(&unit.exponents), simd.splat(0.5)));
            let nibbles = Nibbles { quads: of_group!(units, unit => &unit.quads), table: Some(&CODES) };
            nibbles.add(simd, step, scales, sums)
        });
        sums
    }
}
