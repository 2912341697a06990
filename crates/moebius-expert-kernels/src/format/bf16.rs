//! bfloat16: the upper half of an `f32`, widened in registers.

use half::bf16;

use super::{Lanes, gather_bytes};
use crate::arch::{LANES, Simd};

/// The exponent's bits; NaN and infinity have all of them.
const EXPONENT: u16 = 0x7f80;

/// The bit patterns of sixteen bfloat16 values in half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct LanesBf16([u16; LANES]);

impl Lanes for LanesBf16 {
    const ELEMENT_BYTES: usize = 2;

    fn gather(rows: &[&[u8]; LANES], col: usize) -> Self {
        Self(gather_bytes(rows, col).map(u16::from_le_bytes))
    }
    fn is_finite(&self) -> bool {
        self.0.iter().fold(true, |all, bits| all & (bits & EXPONENT != EXPONENT))
    }
    fn get(&self, lane: usize) -> f32 {
        bf16::from_bits(self.0[lane]).to_f32()
    }
    #[inline(always)]
    fn widen<S: Simd>(&self, simd: S) -> S::V {
        simd.widen_bf16(&self.0)
    }
}
