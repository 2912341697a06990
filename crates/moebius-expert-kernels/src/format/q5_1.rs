//! `q5_1`: 32 weights of five bits, one scale and one minimum.
//!
//! Block in a file: `d` and `m` in f16, the upper bits of all columns in a word of 32 bits, then sixteen bytes of lower
//! bits ordered as in `q4_0`; `w = d q + m`.

use half::f16;

use super::{
    Dot, Unit, add_products, add_run, add_scaled, bytes_of_lane, each_group, gather_halves, gather_quads,
    half_at, halves_are_finite, of_group, prefetch, rounding::nearest,
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, STEP32},
    tile,
};

const MAX_CODE: f32 = 31.0;
/// Where the parts of a block begin.
const UPPER: usize = 4;
const LOWER: usize = 8;
/// The factors of a block, which is a single run.
const ONES: [i8; LANES] = [1; LANES];

/// Thirty-two columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct UnitQ5_1 {
    scales: [u16; LANES],
    minima: [u16; LANES],
    /// Bit `j` of byte `b` of a row belongs to column `4 j + b`.
    upper: [u8; QUAD_BYTES],
    lower: [[u8; QUAD_BYTES]; 4],
}

/// The upper bits of 32 columns as four bytes: bit `j` of byte `b` is bit `4 j + b` of the word.
fn upper_bits(word: u32) -> [u8; 4] {
    let mut bytes = [0; 4];
    for j in 0..8 {
        for (b, byte) in bytes.iter_mut().enumerate() {
            *byte |= u8::from(word >> (4 * j + b) & 1 == 1) << j;
        }
    }
    bytes
}

/// The word of upper bits of a block.
fn word_of(block: &[u8]) -> u32 {
    u32::from_le_bytes([block[UPPER], block[UPPER + 1], block[UPPER + 2], block[UPPER + 3]])
}

impl Unit for UnitQ5_1 {
    const COLS: usize = 32;
    const BYTES: usize = 24;
    const INPUTS: Inputs = Inputs::Blocks32 { times: 1 };

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let low = values.iter().fold(f32::INFINITY, |min, &value| if value < min { value } else { min });
        let high = values.iter().fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
        let (scale, minimum) = (f16::from_f32((high - low) / MAX_CODE), f16::from_f32(low));
        bytes[..2].copy_from_slice(&scale.to_le_bytes());
        bytes[2..4].copy_from_slice(&minimum.to_le_bytes());
        let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut word = 0;
        let mut codes = [0; 32];
        for (col, (code, value)) in codes.iter_mut().zip(values).enumerate() {
            *code = nearest((value - minimum) * inverse, 0.0, MAX_CODE) as u8;
            word |= u32::from(*code >> 4) << col;
        }
        bytes[UPPER..LOWER].copy_from_slice(&word.to_le_bytes());
        let (first, second) = codes.split_at(16);
        for ((byte, low), high) in bytes[LOWER..].iter_mut().zip(first).zip(second) {
            *byte = low & 15 | high << 4;
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let (scale, minimum, upper) = (half_at(bytes, 0), half_at(bytes, 2), word_of(bytes));
        for (col, value) in values.iter_mut().enumerate() {
            let lower = bytes[LOWER + col % 16] >> (4 * (col / 16)) & 15;
            *value = scale * f32::from(lower | u8::from(upper >> col & 1 == 1) << 4) + minimum;
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let mut upper = [0; QUAD_BYTES];
        for (bytes, block) in upper.as_chunks_mut::<4>().0.iter_mut().zip(blocks) {
            *bytes = upper_bits(word_of(block));
        }
        let (scales, minima) = (gather_halves(blocks, 0), gather_halves(blocks, 2));
        Self { scales, minima, upper, lower: gather_quads(blocks, LOWER) }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales) && halves_are_finite(&self.minima)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let [scale, minimum] = [self.scales, self.minima].map(|bits| f16::from_bits(bits[lane]).to_f32());
        let lower = bytes_of_lane(&self.lower, lane);
        let [upper] = bytes_of_lane(&[self.upper], lane);
        for (col, value) in values.iter_mut().enumerate() {
            let lower = lower.as_flattened()[col % 16] >> (4 * (col / 16)) & 15;
            *value = scale * f32::from(lower | (upper[col % 4] >> (col / 4) & 1) << 4) + minimum;
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ5_1 {
    /// Adds the products of quads `J` and `J + 4`, which share their bytes, to the first and second sums.
    #[inline(always)]
    fn add_quad<S: Simd, const Q: usize, const R: usize, const J: i32>(
        simd: S,
        units: [&Self; Q],
        inputs: &[[i32; R]; 8],
        dots: [[S::Sums; R]; Q],
    ) -> [[S::Sums; R]; Q] {
        let codes: [_; Q] = of_group!(units, unit => {
            let lower = simd.quads(&unit.lower[J as usize % 4]);
            let lower = if J < 4 { simd.low_nibbles(lower) } else { simd.high_nibbles(lower) };
            simd.with_high_bit::<J>(lower, simd.quads(&unit.upper))
        });
        add_products(simd, codes, &inputs[J as usize], dots)
    }

    /// Adds the products of some panels.
    #[inline(always)]
    fn add_group<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        step: &[[i32; R]],
        sums: [[S::V; R]; Q],
    ) -> [[S::V; R]; Q] {
        let [scales, starts, inputs @ ..]: &[[i32; R]; STEP32] = step.try_into().expect("a whole step");
        prefetch::<_, _, R>(units, (0, 1));
        let none = [[simd.start(0); R]; Q];
        let mut totals = [[simd.zero(); R]; Q];
        let mut dots = Self::add_quad::<S, Q, R, 0>(simd, units, inputs, none);
        dots = Self::add_quad::<S, Q, R, 1>(simd, units, inputs, dots);
        dots = Self::add_quad::<S, Q, R, 2>(simd, units, inputs, dots);
        dots = Self::add_quad::<S, Q, R, 3>(simd, units, inputs, dots);
        if S::FIVE_BIT_QUADS < 8 {
            totals = add_run(simd, [&ONES; Q], dots, totals);
            dots = none;
        }
        dots = Self::add_quad::<S, Q, R, 4>(simd, units, inputs, dots);
        dots = Self::add_quad::<S, Q, R, 5>(simd, units, inputs, dots);
        dots = Self::add_quad::<S, Q, R, 6>(simd, units, inputs, dots);
        dots = Self::add_quad::<S, Q, R, 7>(simd, units, inputs, dots);
        totals = add_run(simd, [&ONES; Q], dots, totals);
        let weight_scales = of_group!(units, unit => simd.widen_f16(&unit.scales));
        let minima: [_; Q] = of_group!(units, unit => simd.widen_f16(&unit.minima));
        let mut sums = add_scaled(simd, totals, (scales, weight_scales), sums);
        for row in 0..R {
            let total = f32::from_bits(scales[row] as u32) * S::total(starts[row]) as f32;
            for panel in 0..Q {
                sums[panel][row] = simd.fma(simd.splat(total), minima[panel], sums[panel][row]);
            }
        }
        sums
    }
}

impl Dot for UnitQ5_1 {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let mut sums = sums;
        each_group!((S, R), P, units, sums, (units, sums) => Self::add_group(simd, units, step, sums));
        sums
    }
}
