//! Single precision: stored as computed.

use super::{Lanes, Unit, gather_elements};
use crate::{
    Kernels,
    arch::{LANES, Simd},
    rows::{Block, Inputs},
    tile,
};

/// Sixteen `f32` in one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct LanesF32([f32; LANES]);

impl Unit for LanesF32 {
    const COLS: usize = 1;
    const BYTES: usize = 4;
    const INPUTS: Inputs = Inputs::Floats;

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        bytes.copy_from_slice(&values[0].to_le_bytes());
    }
    #[inline]
    fn decode(bytes: &[u8], values: &mut [f32]) {
        values[0] = f32::from_le_bytes(*bytes.first_chunk().expect("a block has four bytes"));
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self(gather_elements(blocks).map(f32::from_le_bytes))
    }
    #[inline]
    fn is_finite(&self) -> bool {
        self.0.iter().fold(0, |bad, weight| bad | u32::from(!weight.is_finite())) == 0
    }
    #[inline]
    fn row(&self, lane: usize, values: &mut [f32]) {
        values[0] = self.0[lane];
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_lanes(kernels, panels, block, sums);
    }
}

impl Lanes for LanesF32 {
    #[inline(always)]
    fn widen<S: Simd>(&self, simd: S) -> S::V {
        simd.load(&self.0)
    }
}
