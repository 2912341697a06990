//! The portable instruction set: arrays of sixteen that the compiler vectorises for the baseline target.
//!
//! Invariants: a product is rounded before it is added, because a fused product without hardware is a call
//! into the maths library; results may so differ in their last bits from those of the other sets.

use super::{LANES, Simd};

/// Needs nothing, so anyone may make one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = a;
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

#[inline(always)]
fn widen(bits: &[u16; LANES], f: impl Fn(u32) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = f(u32::from(bits[lane]));
    }
    out
}

impl Simd for Scalar {
    type V = [f32; LANES];
    const TILE_ROWS: usize = 2;
    const ACCUMULATORS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        *values
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
        widen(bits, |bits| f32::from_bits(bits << 16))
    }
    #[inline(always)]
    fn widen_f16(self, bits: &[u16; LANES]) -> Self::V {
        // Exponent and fraction moved into place are the value divided by 2^112, subnormals included.
        let rebias = f32::from_bits((127 + 112) << 23);
        widen(bits, |bits| {
            let magnitude = f32::from_bits((bits & 0x7fff) << 13) * rebias;
            f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
        })
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves the whole number in the low bits of the fraction.
        let mut out = n;
        for lane in &mut out {
            let low_bits = (*lane + 12_582_912.0).to_bits();
            *lane = f32::from_bits(low_bits.wrapping_add(127) << 23);
        }
        out
    }
}
