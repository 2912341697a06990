//! bfloat16: the upper half of an `f32`, widened in registers, or multiplied with inputs in bf16 as it is.

use half::bf16;

use super::{Lanes, Unit, gather_elements};
use crate::{
    Kernels,
    arch::{LANES, Simd},
    rows::{Block, Inputs},
    tile,
};

/// The exponent's bits; NaN and infinity have all of them.
const EXPONENT: u16 = 0x7f80;

/// The bit patterns of sixteen bfloat16 values in half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct LanesBf16([u16; LANES]);

#[cfg(target_arch = "x86_64")]
impl LanesBf16 {
    /// Sixteen zeros, which go beside an odd last column.
    pub(crate) const ZERO: Self = Self([0; LANES]);
}

impl Unit for LanesBf16 {
    const COLS: usize = 1;
    const BYTES: usize = 2;
    const INPUTS: Inputs = Inputs::Floats;

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        bytes.copy_from_slice(&bf16::from_f32(values[0]).to_le_bytes());
    }
    #[inline]
    fn decode(bytes: &[u8], values: &mut [f32]) {
        values[0] = bf16::from_le_bytes(*bytes.first_chunk().expect("a block has two bytes")).to_f32();
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self(gather_elements(blocks).map(u16::from_le_bytes))
    }
    #[inline]
    fn is_finite(&self) -> bool {
        self.0.iter().fold(0, |bad, bits| bad | u32::from(bits & EXPONENT == EXPONENT)) == 0
    }
    #[inline]
    fn row(&self, lane: usize, values: &mut [f32]) {
        values[0] = bf16::from_bits(self.0[lane]).to_f32();
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        match block.form {
            Inputs::Pairs(pairs) => tile::multiply_pairs(pairs, panels, block, sums),
            _ => tile::multiply_lanes(kernels, panels, block, sums),
        }
    }
}

impl Lanes for LanesBf16 {
    #[inline(always)]
    fn widen<S: Simd>(&self, simd: S) -> S::V {
        simd.widen_bf16(&self.0)
    }
}
