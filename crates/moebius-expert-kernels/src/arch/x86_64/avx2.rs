//! AVX2 with FMA and F16C: sixteen lanes are two 256-bit registers. Whole numbers are multiplied by AVX-VNNI where the
//! type says so, see [`super::avx_vnni`].

use std::arch::{asm, x86_64::*};

use crate::{
    arch::{Dots, LANES, Op, QUAD_BYTES, Simd},
    rows::join,
};

/// Proof that the processor has AVX2, FMA and F16C, and AVX-VNNI if `VNNI`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool = false>(());

impl<const VNNI: bool> Avx2<VNNI> {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        found.then_some(Self(()))
    }

    /// The same without AVX-VNNI.
    #[inline(always)]
    pub(super) fn base(self) -> Avx2 {
        Avx2(())
    }
}

impl Avx2 {
    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_features<O: Op>(simd: Avx2, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the three features.
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

/// One intrinsic on both halves.
macro_rules! halves {
    ($op:ident, $a:expr $(, $rest:expr)*) => {
        with_token!([$op($a[0] $(, $rest[0])*), $op($a[1] $(, $rest[1])*)])
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI>
where
    Self: Dots<I = [__m256i; 2]>,
{
    type V = [__m256; 2];
    const TILE_ROWS: usize = 6;
    /// Six would fit beside one panel's weights; two panels of three rows take turns with both and spill.
    const ACCUMULATORS: usize = 5;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        with_token!([_mm256_set1_ps(value); 2])
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        let from = values.as_ptr();
        with_token!([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))])
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        let to = out.as_mut_ptr();
        with_token!({
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        });
    }
    #[inline(always)]
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
        let from = bits.as_ptr().cast::<__m128i>();
        with_token!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(1)));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        })
    }
    #[inline(always)]
    fn widen_f16(self, bits: &[u16; LANES]) -> Self::V {
        let from = bits.as_ptr().cast::<__m128i>();
        with_token!([_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))])
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        with_token!({
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias));
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        })
    }
    #[inline(always)]
    fn widen_i32(self, i: Self::I) -> Self::V {
        with_token!([_mm256_cvtepi32_ps(i[0]), _mm256_cvtepi32_ps(i[1])])
    }
    #[inline(always)]
    fn sum_lanes(self, v: [Self::V; 4]) -> [f32; 4] {
        with_token!(sum_halves(v))
    }
    #[inline(always)]
    fn widen_exponents(self, exponents: &[u8; LANES]) -> Self::V {
        let from = exponents.as_ptr().cast::<__m128i>();
        with_token!({
            let bytes = _mm_loadu_si128(from);
            let low = _mm256_cvtepu8_epi32(bytes);
            let high = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        })
    }
}

/// The sum of the lanes of each, halves first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_halves(v: [[__m256; 2]; 4]) -> [f32; 4] {
    let mut quarters = [_mm_setzero_ps(); 4];
    for (quarter, [low, high]) in quarters.iter_mut().zip(v) {
        let eight = _mm256_add_ps(low, high);
        *quarter = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    }
    let [a, b, c, d] = quarters;
    let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    let sums = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    let mut out = [0.0; 4];
    // SAFETY: the array has room for four.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// A value that the compiler must have in a register here. Without it, whole-number sums are regrouped into trees
/// whose leaves are more than there are registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pin(value: __m256i) -> __m256i {
    let mut value = value;
    // SAFETY: the template is a comment, so nothing is executed.
    unsafe { asm!("/* {0} */", inout(ymm_reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// Sums run in 16 bits, two a row, and are joined at the end.
impl Dots for Avx2 {
    type Quads = [__m256i; 2];
    /// Magnitudes, and the bytes themselves, whose sign the inputs take over.
    type Signed = [[__m256i; 2]; 2];
    type Sums = [__m256i; 2];
    type Input = __m256i;
    /// Each factor twice, in 16 bits.
    type Factors = [__m256i; 2];
    type I = [__m256i; 2];
    const DOT_ROWS: usize = 4;
    const DOT_ACCUMULATORS: usize = 4;
    const PAIRS_OF_PANELS: bool = false;
    const FIVE_BIT_QUADS: usize = 4;

    #[inline(always)]
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads {
        let from = bytes.as_ptr().cast::<__m256i>();
        with_token!([_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))])
    }
    #[inline(always)]
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads {
        with_token!({
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(q[0], mask), _mm256_and_si256(q[1], mask)]
        })
    }
    #[inline(always)]
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads {
        self.low_nibbles(with_token!([_mm256_srli_epi16::<4>(q[0]), _mm256_srli_epi16::<4>(q[1])]))
    }
    #[inline(always)]
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        with_token!({
            let mask = _mm256_set1_epi8(0x30);
            let moved = match PLACE {
                0 => [_mm256_slli_epi16::<4>(high[0]), _mm256_slli_epi16::<4>(high[1])],
                1 => [_mm256_slli_epi16::<2>(high[0]), _mm256_slli_epi16::<2>(high[1])],
                2 => high,
                _ => [_mm256_srli_epi16::<2>(high[0]), _mm256_srli_epi16::<2>(high[1])],
            };
            [
                _mm256_or_si256(low[0], _mm256_and_si256(moved[0], mask)),
                _mm256_or_si256(low[1], _mm256_and_si256(moved[1], mask)),
            ]
        })
    }
    #[inline(always)]
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        with_token!({
            let mask = _mm256_set1_epi8(0x10);
            let moved = if PLACE < 4 {
                let count = _mm_cvtsi32_si128(4 - PLACE);
                [_mm256_sll_epi16(high[0], count), _mm256_sll_epi16(high[1], count)]
            } else {
                let count = _mm_cvtsi32_si128(PLACE - 4);
                [_mm256_srl_epi16(high[0], count), _mm256_srl_epi16(high[1], count)]
            };
            [
                _mm256_or_si256(low[0], _mm256_and_si256(moved[0], mask)),
                _mm256_or_si256(low[1], _mm256_and_si256(moved[1], mask)),
            ]
        })
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads {
        with_token!({
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, q[0]), _mm256_shuffle_epi8(table, q[1])]
        })
    }
    #[inline(always)]
    fn input(self, quad: i32) -> Self::Input {
        with_token!(_mm256_set1_epi32(quad))
    }
    #[inline(always)]
    fn start_word(pair: [i32; 2], times: i16) -> i32 {
        join(pair.map(|sum| i32::from(times) * sum))
    }
    #[inline(always)]
    fn total(start: i32) -> i32 {
        i32::from(start as i16) + (start >> 16)
    }
    #[inline(always)]
    fn start(self, start: i32) -> Self::Sums {
        with_token!([_mm256_set1_epi32(start); 2])
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums {
        with_token!({
            [
                pin(_mm256_add_epi16(sums[0], _mm256_maddubs_epi16(weights[0], inputs))),
                pin(_mm256_add_epi16(sums[1], _mm256_maddubs_epi16(weights[1], inputs))),
            ]
        })
    }
    #[inline(always)]
    fn finish(self, sums: Self::Sums) -> Self::I {
        with_token!({
            let ones = _mm256_set1_epi16(1);
            [_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones)]
        })
    }
    #[inline(always)]
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors {
        let from = bytes.as_ptr().cast::<__m128i>();
        with_token!({
            let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(from));
            // Rows 0 to 3 and 4 to 7 go into the lower halves of the two lanes, then each is doubled.
            let low = _mm256_permute4x64_epi64::<0b0101_0000>(words);
            let high = _mm256_permute4x64_epi64::<0b1111_1010>(words);
            [_mm256_unpacklo_epi16(low, low), _mm256_unpacklo_epi16(high, high)]
        })
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I {
        with_token!([
            pin(_mm256_add_epi32(total[0], _mm256_madd_epi16(factors[0], sums[0]))),
            pin(_mm256_add_epi32(total[1], _mm256_madd_epi16(factors[1], sums[1]))),
        ])
    }
    #[inline(always)]
    fn signed(self, q: Self::Quads) -> Self::Signed {
        with_token!([[_mm256_abs_epi8(q[0]), _mm256_abs_epi8(q[1])], q])
    }
    #[inline(always)]
    fn start_signed(self, _: i32) -> Self::I {
        self.zero()
    }
    #[inline(always)]
    fn dot_signed(self, sums: Self::I, weights: Self::Signed, inputs: Self::Input) -> Self::I {
        let [magnitudes, signs] = weights;
        with_token!({
            let ones = _mm256_set1_epi16(1);
            let low = _mm256_maddubs_epi16(magnitudes[0], _mm256_sign_epi8(inputs, signs[0]));
            let high = _mm256_maddubs_epi16(magnitudes[1], _mm256_sign_epi8(inputs, signs[1]));
            [
                pin(_mm256_add_epi32(sums[0], _mm256_madd_epi16(low, ones))),
                pin(_mm256_add_epi32(sums[1], _mm256_madd_epi16(high, ones))),
            ]
        })
    }
    #[inline(always)]
    fn add_scaled_signed(self, total: Self::I, factors: Self::Factors, sums: Self::I) -> Self::I {
        with_token!({
            // The upper one of a factor's two copies, in 32 bits.
            let low = _mm256_mullo_epi32(_mm256_srai_epi32::<16>(factors[0]), sums[0]);
            let high = _mm256_mullo_epi32(_mm256_srai_epi32::<16>(factors[1]), sums[1]);
            [pin(_mm256_add_epi32(total[0], low)), pin(_mm256_add_epi32(total[1], high))]
        })
    }
    #[inline(always)]
    fn zero(self) -> Self::I {
        with_token!([_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I {
        let from = weights.as_ptr().cast::<__m128i>();
        with_token!({
            let inputs = _mm256_set1_epi32(inputs);
            let low = _mm256_cvtepu8_epi16(_mm_loadu_si128(from));
            let high = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(1)));
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, inputs)),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, inputs)),
            ]
        })
    }
}
