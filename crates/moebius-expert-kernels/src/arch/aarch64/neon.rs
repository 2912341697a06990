//! NEON: sixteen lanes are four 128-bit registers. Where the type says so, four products of bytes are summed by one
//! instruction of the dot product extension.

use std::arch::{aarch64::*, asm};

use crate::arch::{Dots, LANES, Op, QUAD_BYTES, Simd};

/// Proof that the processor has NEON, and the dot product extension if `DOTPROD`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<const DOTPROD: bool = false>(());

impl<const DOTPROD: bool> Neon<DOTPROD> {
    pub(crate) fn detect() -> Option<Self> {
        let found = std::arch::is_aarch64_feature_detected!("neon")
            && (!DOTPROD || std::arch::is_aarch64_feature_detected!("dotprod"));
        found.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn with_neon<O: Op, const DOTPROD: bool>(simd: Neon<DOTPROD>, op: O) -> O::Output {
            op.run(simd)
        }
        #[target_feature(enable = "neon,dotprod")]
        fn with_dotprod<O: Op, const DOTPROD: bool>(simd: Neon<DOTPROD>, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: only `detect` makes a token, after it has found the features.
        unsafe { if DOTPROD { with_dotprod(self, op) } else { with_neon(self, op) } }
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
fn widen<const DOTPROD: bool>(_: Neon<DOTPROD>, bits: &[u16; LANES]) -> [uint32x4_t; 4] {
    let from = bits.as_ptr();
    with_token!([
        vmovl_u16(vld1_u16(from)),
        vmovl_u16(vld1_u16(from.add(4))),
        vmovl_u16(vld1_u16(from.add(8))),
        vmovl_u16(vld1_u16(from.add(12))),
    ])
}

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
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
    #[inline(always)]
    fn widen_i32(self, i: Self::I) -> Self::V {
        quarters!(vcvtq_f32_s32, i)
    }
    #[inline(always)]
    fn widen_exponents(self, exponents: &[u8; LANES]) -> Self::V {
        let wide = widen(self, &exponents.map(u16::from));
        with_token!(wide.map(|quarter| vreinterpretq_f32_u32(vshlq_n_u32::<23>(quarter))))
    }
}

/// Adds the products of four neighbouring bytes to each sum, by an instruction that has no stable intrinsic.
#[inline(always)]
fn dotprod(sums: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: called for tokens that prove the extension only; the instruction reads and writes registers alone.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {inputs:v}.16b",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            inputs = in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Sums run in 32 bits; a register holds the quads of four rows.
impl<const DOTPROD: bool> Dots for Neon<DOTPROD> {
    type Quads = [uint8x16_t; 4];
    type Signed = [uint8x16_t; 4];
    type Sums = [int32x4_t; 4];
    type Input = int8x16_t;
    type Factors = [int32x4_t; 4];
    type I = [int32x4_t; 4];
    const DOT_ROWS: usize = 4;
    const DOT_ACCUMULATORS: usize = 4;
    const PAIRS_OF_PANELS: bool = false;
    const FIVE_BIT_QUADS: usize = 8;

    #[inline(always)]
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads {
        let from = bytes.as_ptr();
        with_token!([vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48)),])
    }
    #[inline(always)]
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads {
        with_token!(q.map(|quarter| vandq_u8(quarter, vdupq_n_u8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads {
        with_token!(q.map(|quarter| vshrq_n_u8::<4>(quarter)))
    }
    #[inline(always)]
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        let mut out = low;
        for (out, high) in out.iter_mut().zip(high) {
            *out = with_token!({
                let moved = match PLACE {
                    0 => vshlq_n_u8::<4>(high),
                    1 => vshlq_n_u8::<2>(high),
                    2 => high,
                    _ => vshrq_n_u8::<2>(high),
                };
                vorrq_u8(*out, vandq_u8(moved, vdupq_n_u8(0x30)))
            });
        }
        out
    }
    #[inline(always)]
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads {
        let mut out = low;
        for (out, high) in out.iter_mut().zip(high) {
            // A negative count shifts to the right.
            *out = with_token!({
                let moved = vshlq_u8(high, vdupq_n_s8(4 - PLACE as i8));
                vorrq_u8(*out, vandq_u8(moved, vdupq_n_u8(0x10)))
            });
        }
        out
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads {
        with_token!({
            let table = vld1q_u8(table.as_ptr());
            q.map(|quarter| vqtbl1q_u8(table, quarter))
        })
    }
    #[inline(always)]
    fn input(self, quad: i32) -> Self::Input {
        with_token!(vreinterpretq_s8_s32(vdupq_n_s32(quad)))
    }
    #[inline(always)]
    fn start(self, start: i32) -> Self::Sums {
        with_token!([vdupq_n_s32(start); 4])
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums {
        // Bytes up to 127 are the same with and without a sign.
        self.dot_signed(sums, weights, inputs)
    }
    #[inline(always)]
    fn finish(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors {
        with_token!({
            let bytes = vld1q_s8(bytes.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        })
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I {
        quarters!(vmlaq_s32, total, factors, sums)
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
        let mut sums = sums;
        for (sum, quarter) in sums.iter_mut().zip(weights) {
            let weights = with_token!(vreinterpretq_s8_u8(quarter));
            *sum = if DOTPROD {
                dotprod(*sum, weights, inputs)
            } else {
                with_token!({
                    let low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(inputs)));
                    let high = vpaddlq_s16(vmull_high_s8(weights, inputs));
                    vaddq_s32(*sum, vpaddq_s32(low, high))
                })
            };
        }
        sums
    }
    #[inline(always)]
    fn add_scaled_signed(self, total: Self::I, factors: Self::Factors, sums: Self::I) -> Self::I {
        self.add_scaled(total, factors, sums)
    }
    #[inline(always)]
    fn zero(self) -> Self::I {
        with_token!([vdupq_n_s32(0); 4])
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I {
        let (low, high) = (inputs << 16 >> 16, inputs >> 16);
        let first = self.factors(&weights.map(|pair| pair[0] as i8));
        let second = self.factors(&weights.map(|pair| pair[1] as i8));
        let [low, high] = with_token!([[vdupq_n_s32(low); 4], [vdupq_n_s32(high); 4]]);
        self.add_scaled(self.add_scaled(sums, first, low), second, high)
    }
}
