//! AVX-512 with BW and VNNI: sixteen lanes are one 512-bit register.

use std::arch::x86_64::*;

use crate::arch::{Dots, LANES, Op, QUAD_BYTES, Simd};

/// Proof that the processor has AVX-512F, BW and VNNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        // The compiler takes the last three for granted where the first is switched on.
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn with_features<O: Op>(simd: Avx512, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the features.
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

impl Simd for Avx512 {
    type V = __m512;
    const TILE_ROWS: usize = 12;
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        with_token!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        with_token!(_mm512_loadu_ps(values.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        with_token!(_mm512_storeu_ps(out.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
        with_token!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn widen_f16(self, bits: &[u16; LANES]) -> Self::V {
        with_token!(_mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        with_token!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        with_token!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        with_token!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn widen_i32(self, i: Self::I) -> Self::V {
        with_token!(_mm512_cvtepi32_ps(i))
    }
    #[inline(always)]
    fn sum_lanes(self, v: [Self::V; 4]) -> [f32; 4] {
        with_token!({
            // A loop, since a closure with these features would not be inlined.
            let mut halves = [[_mm256_setzero_ps(); 2]; 4];
            for (halves, v) in halves.iter_mut().zip(v) {
                let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
                *halves = [_mm512_castps512_ps256(v), _mm256_castpd_ps(high)];
            }
            super::avx2::sum_halves(halves)
        })
    }
    #[inline(always)]
    fn widen_exponents(self, exponents: &[u8; LANES]) -> Self::V {
        with_token!({
            let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(exponents.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(wide))
        })
    }
}

/// Sums run in 32 bits.
impl Dots for Avx512 {
    type Quads = __m512i;
    /// Bytes plus 128, which are not negative.
    type Signed = __m512i;
    type Sums = __m512i;
    type Input = __m512i;
    type Factors = __m512i;
    type I = __m512i;
    const DOT_ROWS: usize = 6;
    const DOT_ACCUMULATORS: usize = 12;
    const PAIRS_OF_PANELS: bool = true;
    const FIVE_BIT_QUADS: usize = 8;

    #[inline(always)]
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads {
        with_token!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }
    #[inline(always)]
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads {
        with_token!(_mm512_and_si512(q, _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads {
        self.low_nibbles(with_token!(_mm512_srli_epi16::<4>(q)))
    }
    #[inline(always)]
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        with_token!({
            let moved = match PLACE {
                0 => _mm512_slli_epi16::<4>(high),
                1 => _mm512_slli_epi16::<2>(high),
                2 => high,
                _ => _mm512_srli_epi16::<2>(high),
            };
            _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)))
        })
    }
    #[inline(always)]
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        with_token!({
            let moved = if PLACE < 4 {
                _mm512_sll_epi16(high, _mm_cvtsi32_si128(4 - PLACE))
            } else {
                _mm512_srl_epi16(high, _mm_cvtsi32_si128(PLACE - 4))
            };
            _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(0x10)))
        })
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads {
        with_token!({
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, q)
        })
    }
    #[inline(always)]
    fn input(self, quad: i32) -> Self::Input {
        with_token!(_mm512_set1_epi32(quad))
    }
    #[inline(always)]
    fn start(self, start: i32) -> Self::Sums {
        self.input(start)
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums {
        with_token!(_mm512_dpbusd_epi32(sums, weights, inputs))
    }
    #[inline(always)]
    fn finish(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors {
        with_token!(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())))
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I {
        with_token!(_mm512_add_epi32(total, _mm512_mullo_epi32(factors, sums)))
    }
    #[inline(always)]
    fn signed(self, q: Self::Quads) -> Self::Signed {
        with_token!(_mm512_xor_si512(q, _mm512_set1_epi8(-128)))
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
        with_token!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I {
        with_token!({
            let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(weights.as_ptr().cast()));
            _mm512_add_epi32(sums, _mm512_madd_epi16(words, _mm512_set1_epi32(inputs)))
        })
    }
}
