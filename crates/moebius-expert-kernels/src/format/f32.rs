//! Single precision: stored as computed.

use super::{Lanes, gather_bytes};
use crate::arch::{LANES, Simd};

/// Sixteen `f32` in one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct LanesF32([f32; LANES]);

impl Lanes for LanesF32 {
    const ELEMENT_BYTES: usize = 4;

    fn gather(rows: &[&[u8]; LANES], col: usize) -> Self {
        Self(gather_bytes(rows, col).map(f32::from_le_bytes))
    }
    fn is_finite(&self) -> bool {
        self.0.iter().fold(true, |all, weight| all & weight.is_finite())
    }
    fn get(&self, lane: usize) -> f32 {
        self.0[lane]
    }
    #[inline(always)]
    fn widen<S: Simd>(&self, simd: S) -> S::V {
        simd.load(&self.0)
    }
}
