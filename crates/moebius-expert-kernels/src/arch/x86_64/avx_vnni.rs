//! AVX-VNNI, for processors that have it without AVX-512: products of bytes are summed in 32 bits by one instruction.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use crate::arch::{Dots, LANES, Op, QUAD_BYTES};

impl Avx2<true> {
    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn with_features<O: Op>(simd: Avx2<true>, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the four features.
        unsafe { with_features(self, op) }
    }
}

/// Calls intrinsics that need the features of the token.
macro_rules! with_token {
    ($body:expr) => {{
        // SAFETY: the method's receiver proves the features; pointers come from arrays of the full width.
        unsafe { $body }
    }};
}

/// Sums run in 32 bits.
impl Dots for Avx2<true> {
    type Quads = [__m256i; 2];
    /// Bytes plus 128, which are not negative.
    type Signed = [__m256i; 2];
    type Sums = [__m256i; 2];
    type Input = __m256i;
    type Factors = [__m256i; 2];
    type I = [__m256i; 2];
    const DOT_ROWS: usize = 4;
    const DOT_ACCUMULATORS: usize = 4;
    const PAIRS_OF_PANELS: bool = false;
    const FIVE_BIT_QUADS: usize = 8;

    #[inline(always)]
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads {
        self.base().quads(bytes)
    }
    #[inline(always)]
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads {
        self.base().low_nibbles(q)
    }
    #[inline(always)]
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads {
        self.base().high_nibbles(q)
    }
    #[inline(always)]
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        self.base().with_high_bits::<PLACE>(low, high)
    }
    #[inline(always)]
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        self.base().with_high_bit::<PLACE>(low, high)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads {
        self.base().look_up(table, q)
    }
    #[inline(always)]
    fn input(self, quad: i32) -> Self::Input {
        self.base().input(quad)
    }
    #[inline(always)]
    fn start(self, start: i32) -> Self::Sums {
        with_token!([_mm256_set1_epi32(start); 2])
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums {
        with_token!([
            _mm256_dpbusd_avx_epi32(sums[0], weights[0], inputs),
            _mm256_dpbusd_avx_epi32(sums[1], weights[1], inputs),
        ])
    }
    #[inline(always)]
    fn finish(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors {
        with_token!({
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        })
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I {
        with_token!([
            _mm256_add_epi32(total[0], _mm256_mullo_epi32(factors[0], sums[0])),
            _mm256_add_epi32(total[1], _mm256_mullo_epi32(factors[1], sums[1])),
        ])
    }
    #[inline(always)]
    fn signed(self, q: Self::Quads) -> Self::Signed {
        with_token!({
            let offset = _mm256_set1_epi8(-128);
            [_mm256_xor_si256(q[0], offset), _mm256_xor_si256(q[1], offset)]
        })
    }
    #[inline(always)]
    fn start_signed(self, start: i32) -> Self::I {
        self.start(start)
    }
    #[inline(always)]
    fn dot_signed(self, sums: Self::I, weights: Self::Signed, inputs: Self::Input) -> Self::I {
        self.dot(sums, weights, inputs)
    }
    #[inline(always)]
    fn add_scaled_signed(self, total: Self::I, factors: Self::Factors, sums: Self::I) -> Self::I {
        self.add_scaled(total, factors, sums)
    }
    #[inline(always)]
    fn zero(self) -> Self::I {
        self.base().zero()
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I {
        self.base().dot_pairs(sums, weights, inputs)
    }
}
