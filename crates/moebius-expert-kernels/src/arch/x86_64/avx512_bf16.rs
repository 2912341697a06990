//! AVX-512 BF16: products of two neighbouring columns of bf16 for sixteen rows, by one instruction.
//!
//! ```text
//! sum = fused(w[k + 1] * x[k + 1] + fused(w[k] * x[k] + sum))
//! ```
//! with both products exact and each addition rounded to nearest, ties to even: what two fused multiply-adds in `f32`
//! give, but that subnormal numbers are taken for zero, as inputs, sums and results alike. The instruction begins with
//! the upper half of a word, so the earlier column goes there.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use crate::{arch::LANES, format::LanesBf16};

/// Where the halves of a word come from: of two columns of sixteen, the later one's row below, the earlier one's above.
const INTERLEAVED: [u16; 2 * LANES] = {
    let mut from = [0; 2 * LANES];
    let mut lane = 0;
    while lane < LANES {
        from[2 * lane] = (LANES + lane) as u16;
        from[2 * lane + 1] = lane as u16;
        lane += 1;
    }
    from
};

/// Proof that the processor has AVX-512 BF16 beside AVX-512F, BW and VNNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Bf16(Avx512);

/// A kernel that multiplies pairs, with its arguments. `run` must be `#[inline(always)]`.
pub(crate) trait PairsOp {
    /// What the kernel returns.
    type Output;
    /// Computes with the instruction.
    fn run(self, simd: Avx512) -> Self::Output;
}

impl Avx512Bf16 {
    /// Only where the instruction is the faster way. Intel's processors have it in one unit that takes two cycles, so
    /// that they widen and multiply in `f32` at twice the speed; those of AMD do as many of it as of `f32` products.
    pub(crate) fn detect(simd: Avx512) -> Option<Self> {
        let found = is_x86_feature_detected!("avx512bf16") && is_made_by_amd();
        found.then_some(Self(simd))
    }

    #[inline]
    pub(crate) fn run<O: PairsOp>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512bf16")]
        fn with_features<O: PairsOp>(simd: Avx512, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the features.
        unsafe { with_features(self.0, op) }
    }

    /// Two columns of weights side by side, row by row.
    #[inline(always)]
    pub(crate) fn columns(self, pair: &[LanesBf16; 2]) -> __m512i {
        // SAFETY: the token proves the features; two columns are the 64 bytes that are read, as is the array.
        unsafe {
            let from = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
            _mm512_permutexvar_epi16(from, _mm512_loadu_si512(pair.as_ptr().cast()))
        }
    }

    /// A word of two inputs for all sixteen rows, the earlier column's in its upper half.
    #[inline(always)]
    pub(crate) fn input(self, word: i32) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe { _mm512_set1_epi32(word) }
    }

    /// Adds the products of two columns.
    #[inline(always)]
    pub(crate) fn dot(self, sums: __m512, columns: __m512i, inputs: __m512i) -> __m512 {
        // SAFETY: the token proves the features; the types of pairs and of words are 64 bytes without padding.
        unsafe {
            let columns = std::mem::transmute::<__m512i, __m512bh>(columns);
            _mm512_dpbf16_ps(sums, columns, std::mem::transmute::<__m512i, __m512bh>(inputs))
        }
    }
}

/// Whether the processor names AMD as its maker.
fn is_made_by_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}
