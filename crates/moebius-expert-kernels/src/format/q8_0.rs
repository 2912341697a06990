//! `q8_0`: 32 signed bytes and one scale.
//!
//! Block in a file: the scale `d` in f16, then `q[32]`; `w = d q`.

use half::f16;

use super::{
    Dot, Unit, add_scaled, bytes_of_lane, each_group, gather_halves, gather_quads, half_at,
    halves_are_finite, of_group, prefetch, rounding::nearest,
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, SIGNED_TIMES, Simd},
    rows::{Block, Inputs, STEP32},
    tile,
};

/// Thirty-two columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct UnitQ8_0 {
    scales: [u16; LANES],
    quads: [[u8; QUAD_BYTES]; 8],
}

impl Unit for UnitQ8_0 {
    const COLS: usize = 32;
    const BYTES: usize = 34;
    const INPUTS: Inputs = Inputs::Blocks32 { times: SIGNED_TIMES };

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let largest = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = f16::from_f32(largest / 127.0);
        let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        bytes[..2].copy_from_slice(&scale.to_le_bytes());
        for (byte, value) in bytes[2..].iter_mut().zip(values) {
            *byte = nearest(value * inverse, -127.0, 127.0) as u8;
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        let scale = half_at(bytes, 0);
        for (value, byte) in values.iter_mut().zip(&bytes[2..]) {
            *value = scale * f32::from(*byte as i8);
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self { scales: gather_halves(blocks, 0), quads: gather_quads(blocks, 2) }
    }
    fn is_finite(&self) -> bool {
        halves_are_finite(&self.scales)
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let scale = f16::from_bits(self.scales[lane]).to_f32();
        for (value, byte) in values.iter_mut().zip(bytes_of_lane(&self.quads, lane).as_flattened()) {
            *value = scale * f32::from(*byte as i8);
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ8_0 {
    /// Adds the products of some panels.
    #[inline(always)]
    fn add_group<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        step: &[[i32; R]],
        sums: [[S::V; R]; Q],
    ) -> [[S::V; R]; Q] {
        let [scales, starts, quads @ ..]: &[[i32; R]; STEP32] = step.try_into().expect("a whole step");
        prefetch::<_, _, R>(units, (0, 1));
        let mut dots = [[simd.zero(); R]; Q];
        for row in 0..R {
            let start = simd.start_signed(starts[row]);
            for dots in &mut dots {
                dots[row] = start;
            }
        }
        for (j, inputs) in quads.iter().enumerate() {
            let weights: [_; Q] = of_group!(units, unit => simd.signed(simd.quads(&unit.quads[j])));
            for row in 0..R {
                let inputs = simd.input(inputs[row]);
                for panel in 0..Q {
                    dots[panel][row] = simd.dot_signed(dots[panel][row], weights[panel], inputs);
                }
            }
        }
        let weight_scales = of_group!(units, unit => simd.widen_f16(&unit.scales));
        add_scaled(simd, dots, (scales, weight_scales), sums)
    }
}

impl Dot for UnitQ8_0 {
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
