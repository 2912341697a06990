//! `q4_0`: 32 weights of four bits and one scale.
//!
//! Block in a file: the scale `d` in f16, then sixteen bytes; `w = d (q - 8)`, where `q` of column `c` is the lower
//! half of byte `c` for the first sixteen columns and the upper half of byte `c - 16` for the others.

use half::f16;

use super::{
    Dot, Unit, add_scaled, bytes_of_lane, each_group, gather_halves, gather_quads, half_at,
    halves_are_finite, of_group, prefetch,
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, STEP32},
    tile,
};

/// What is taken from every stored value.
const OFFSET: i16 = 8;

/// Thirty-two columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct UnitQ4_0 {
    scales: [u16; LANES],
    quads: [[u8; QUAD_BYTES]; 4],
}

fn value(code: u8) -> f32 {
    f32::from(i16::from(code) - OFFSET)
}

/// The values of sixteen bytes of codes, lower halves first.
pub(super) fn decode_nibbles(bytes: &[u8], values: &mut [f32], scale: f32, value: impl Fn(u8) -> f32) {
    let (first, second) = values.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(first).zip(second) {
        *low = scale * value(byte & 15);
        *high = scale * value(byte >> 4);
    }
}

impl Unit for UnitQ4_0 {
    const COLS: usize = 32;
    const BYTES: usize = 18;
    const INPUTS: Inputs = Inputs::Blocks32 { times: -OFFSET };

    /// The value of largest magnitude becomes -8, the end of the range that reaches farther.
    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let extreme =
            values.iter().fold(0.0f32, |max, &value| if value.abs() > max.abs() { value } else { max });
        let scale = extreme / -8.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
        let (first, second) = values.split_at(16);
        for ((byte, &low), &high) in bytes[2..].iter_mut().zip(first).zip(second) {
            *byte = code(low) | code(high) << 4;
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        decode_nibbles(&bytes[2..], values, half_at(bytes, 0), value);
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self { scales: gather_halves(blocks, 0), quads: gather_quads(blocks, 2) }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let bytes = bytes_of_lane(&self.quads, lane);
        decode_nibbles(bytes.as_flattened(), values, f16::from_bits(self.scales[lane]).to_f32(), value);
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl Dot for UnitQ4_0 {
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
            let scales = of_group!(units, unit => simd.widen_f16(&unit.scales));
            let nibbles = Nibbles { quads: of_group!(units, unit => &unit.quads), table: None };
            nibbles.add(simd, step, scales, sums)
        });
        sums
    }
}

/// Thirty-two columns of four-bit codes of some panels, or of what a table has for them; by how much either is too large
/// is in the starts of the inputs.
pub(super) struct Nibbles<'a, const Q: usize> {
    pub(super) quads: [&'a [[u8; QUAD_BYTES]; 4]; Q],
    pub(super) table: Option<&'a [u8; 16]>,
}

impl<const Q: usize> Nibbles<'_, Q> {
    /// Adds the scaled products with a step of inputs.
    #[inline(always)]
    pub(super) fn add<S: Simd, const R: usize>(
        &self,
        simd: S,
        step: &[[i32; R]],
        weight_scales: [S::V; Q],
        sums: [[S::V; R]; Q],
    ) -> [[S::V; R]; Q] {
        let [scales, starts, inputs @ ..]: &[[i32; R]; STEP32] = step.try_into().expect("a whole step");
        let mut dots = [[simd.start(0); R]; Q];
        for row in 0..R {
            let start = simd.start(starts[row]);
            for dots in &mut dots {
                dots[row] = start;
            }
        }
        for j in 0..4 {
            let units = self.quads;
            let weights: [_; Q] = of_group!(units, quads => simd.quads(&quads[j]));
            let mut low: [_; Q] = of_group!(weights, codes => simd.low_nibbles(*codes));
            let mut high: [_; Q] = of_group!(weights, codes => simd.high_nibbles(*codes));
            if let Some(table) = self.table {
                low = of_group!(low, codes => simd.look_up(table, *codes));
                high = of_group!(high, codes => simd.look_up(table, *codes));
            }
            for row in 0..R {
                let (first, second) = (simd.input(inputs[j][row]), simd.input(inputs[j + 4][row]));
                for panel in 0..Q {
                    dots[panel][row] = simd.dot(dots[panel][row], low[panel], first);
                    dots[panel][row] = simd.dot(dots[panel][row], high[panel], second);
                }
            }
        }
        let mut totals = [[simd.zero(); R]; Q];
        for panel in 0..Q {
            for row in 0..R {
                totals[panel][row] = simd.finish(dots[panel][row]);
            }
        }
        add_scaled(simd, totals, (scales, weight_scales), sums)
    }
}
