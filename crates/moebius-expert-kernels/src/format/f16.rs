//! binary16: half precision, widened in registers.

use half::f16;

use super::{Lanes, gather_bytes};
use crate::arch::{LANES, Simd};

/// The exponent's bits; NaN and infinity have all of them.
const EXPONENT: u16 = 0x7c00;

/// The bit patterns of sixteen binary16 values in half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct LanesF16([u16; LANES]);

impl Lanes for LanesF16 {
    const ELEMENT_BYTES: usize = 2;

    fn gather(rows: &[&[u8]; LANES], col: usize) -> Self {
        Self(gather_bytes(rows, col).map(u16::from_le_bytes))
    }
    fn is_finite(&self) -> bool {
        self.0.iter().fold(true, |all, bits| all & (bits & EXPONENT != EXPONENT))
    }
    fn get(&self, lane: usize) -> f32 {
        f16::from_bits(self.0[lane]).to_f32()
    }
    #[inline(always)]
    fn widen<S: Simd>(&self, simd: S) -> S::V {
        simd.widen_f16(&self.0)
    }
}
