//! NEON: sixteen lanes are four 128-bit registers.

use std::arch::aarch64::*;

use crate::arch::{LANES, Op, Simd};

/// Proof that the processor has NEON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn with_features<O: Op>(simd: Neon, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the feature.
        unsafe { with_features(self, op) }
    }
}

/// Calls intrinsics that need the feature of the token.
macro_rules! with_token {
    ($body:expr) => {{
        // SAFETY: the method's receiver proves the feature; pointers come from arrays of the full width.
        unsafe { $body }
    }};
}

/// One intrinsic on the four quarters.
macro_rules! quarters {
    ($op:ident, $a:expr $(, $rest:expr)*) => {
        with_token!([
            $op($a[0] $(, $rest[0])*),
            $op($a[1] $(, $rest[1])*),
            $op($a[2] $(, $rest[2])*),
            $op($a[3] $(, $rest[3])*),
        ])
    };
}

/// Sixteen `u16` as four registers of `u32`.
#[inline(always)]
fn widen(_: Neon, bits: &[u16; LANES]) -> [uint32x4_t; 4] {
    let from = bits.as_ptr();
    with_token!([
        vmovl_u16(vld1_u16(from)),
        vmovl_u16(vld1_u16(from.add(4))),
        vmovl_u16(vld1_u16(from.add(8))),
        vmovl_u16(vld1_u16(from.add(12))),
    ])
}

impl Simd for Neon {
    type V = [float32x4_t; 4];
    const TILE_ROWS: usize = 6;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        with_token!([vdupq_n_f32(value); 4])
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        let from = values.as_ptr();
        with_token!([
            vld1q_f32(from),
            vld1q_f32(from.add(4)),
            vld1q_f32(from.add(8)),
            vld1q_f32(from.add(12)),
        ])
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        let to = out.as_mut_ptr();
        with_token!({
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        });
    }
    #[inline(always)]
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
        let mut out = self.splat(0.0);
        for (out, wide) in out.iter_mut().zip(widen(self, bits)) {
            *out = with_token!(vreinterpretq_f32_u32(vshlq_n_u32::<16>(wide)));
        }
        out
    }
    #[inline(always)]
    fn widen_f16(self, bits: &[u16; LANES]) -> Self::V {
        // Exponent and fraction moved into place are the value divided by 2^112, subnormals included.
        let rebias = f32::from_bits((127 + 112) << 23);
        let mut out = self.splat(0.0);
        for (out, wide) in out.iter_mut().zip(widen(self, bits)) {
            *out = with_token!({
                let moved = vshlq_n_u32::<13>(vandq_u32(wide, vdupq_n_u32(0x7fff)));
                let magnitude = vmulq_n_f32(vreinterpretq_f32_u32(moved), rebias);
                let sign = vshlq_n_u32::<16>(vandq_u32(wide, vdupq_n_u32(0x8000)));
                vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(magnitude), sign))
            });
        }
        out
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        quarters!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vminq_f32, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        quarters!(vmaxq_f32, a, b)
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        let mut out = n;
        for quarter in &mut out {
            *quarter = with_token!({
                let biased = vaddq_s32(vcvtnq_s32_f32(*quarter), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            });
        }
        out
    }
}
