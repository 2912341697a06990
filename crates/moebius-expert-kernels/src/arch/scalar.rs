//! The portable instruction set: arrays of sixteen that the compiler vectorises for the baseline target.
//!
//! Invariants: a product is rounded before it is added, because a fused product without hardware is a call
//! into the maths library; results may so differ in their last bits from those of the other sets.

use super::{Dots, LANES, QUAD_BYTES, Simd};

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
    #[inline(always)]
    fn widen_i32(self, i: Self::I) -> Self::V {
        i.map(|lane| lane as f32)
    }
    #[inline(always)]
    fn widen_exponents(self, exponents: &[u8; LANES]) -> Self::V {
        exponents.map(|e| f32::from_bits(u32::from(e) << 23))
    }
}

/// The two `i16` of a pair.
#[inline(always)]
fn halves(pair: i32) -> [i32; 2] {
    [i32::from(pair as i16), pair >> 16]
}

impl Dots for Scalar {
    type Quads = [u8; QUAD_BYTES];
    type Signed = [u8; QUAD_BYTES];
    type Sums = [i32; LANES];
    type Input = i32;
    type Factors = [i8; LANES];
    type I = [i32; LANES];
    const DOT_ROWS: usize = 2;
    const DOT_ACCUMULATORS: usize = 2;
    const PAIRS_OF_PANELS: bool = false;
    const FIVE_BIT_QUADS: usize = 8;

    #[inline(always)]
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads {
        *bytes
    }
    #[inline(always)]
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads {
        q.map(|byte| byte & 15)
    }
    #[inline(always)]
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads {
        q.map(|byte| byte >> 4)
    }
    #[inline(always)]
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        let mut out = low;
        for (out, high) in out.iter_mut().zip(high) {
            *out |= (high >> (2 * PLACE) & 3) << 4;
        }
        out
    }
    #[inline(always)]
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        let mut out = low;
        for (out, high) in out.iter_mut().zip(high) {
            *out |= (high >> PLACE & 1) << 4;
        }
        out
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads {
        q.map(|byte| table[usize::from(byte & 15)])
    }
    #[inline(always)]
    fn input(self, quad: i32) -> Self::Input {
        quad
    }
    #[inline(always)]
    fn start(self, start: i32) -> Self::Sums {
        [start; LANES]
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums {
        let inputs = inputs.to_le_bytes().map(|byte| i32::from(byte as i8));
        let mut sums = sums;
        for (sum, quad) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
            for (weight, input) in quad.iter().zip(inputs) {
                *sum += i32::from(*weight) * input;
            }
        }
        sums
    }
    #[inline(always)]
    fn finish(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors {
        *bytes
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I {
        let mut total = total;
        for lane in 0..LANES {
            total[lane] += i32::from(factors[lane]) * sums[lane];
        }
        total
    }
    #[inline(always)]
    fn signed(self, q: Self::Quads) -> Self::Signed {
        q
    }
    #[inline(always)]
    fn start_signed(self, _: i32) -> Self::I {
        self.zero()
    }
    #[inline(always)]
    fn dot_signed(self, sums: Self::I, weights: Self::Signed, inputs: Self::Input) -> Self::I {
        let inputs = inputs.to_le_bytes().map(|byte| i32::from(byte as i8));
        let mut sums = sums;
        for (sum, quad) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
            for (weight, input) in quad.iter().zip(inputs) {
                *sum += i32::from(*weight as i8) * input;
            }
        }
        sums
    }
    #[inline(always)]
    fn add_scaled_signed(self, total: Self::I, factors: Self::Factors, sums: Self::I) -> Self::I {
        self.add_scaled(total, factors, sums)
    }
    #[inline(always)]
    fn zero(self) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I {
        let [low, high] = halves(inputs);
        let mut sums = sums;
        for (sum, pair) in sums.iter_mut().zip(weights) {
            *sum += i32::from(pair[0]) * low + i32::from(pair[1]) * high;
        }
        sums
    }
}
