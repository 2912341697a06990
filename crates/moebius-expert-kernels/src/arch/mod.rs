//! What differs between instruction sets, and all unsafe code of the crate.
//!
//! A kernel is an [`Op`], written once and generic over [`Simd`]. An instruction set is a zero-sized token
//! that only detection can make, a `Simd` implementation, and a `run` that compiles an `Op` with the
//! instruction set switched on. Everything between `run` and an intrinsic must be `#[inline(always)]`:
//! a function that stays separate would be compiled without the instruction set.

pub(crate) mod disjoint;
pub(crate) mod pages;
pub(crate) mod plain;
mod scalar;
pub(crate) mod team;

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    pub(super) mod neon;
}
#[cfg(target_arch = "x86_64")]
mod x86_64 {
    pub(super) mod avx2;
    pub(super) mod avx512;
    pub(super) mod avx512_bf16;
    pub(super) mod avx_vnni;
}

#[cfg(target_arch = "aarch64")]
use self::aarch64::neon::Neon;
use self::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use self::x86_64::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::x86_64::{
    avx512::Avx512,
    avx512_bf16::{Avx512Bf16, PairsOp},
};
use crate::{Isa, vector::lanes::reduce_sum};

/// The number of `f32` values in a [`Simd::V`] and of output rows in a panel, on every instruction set.
pub(crate) const LANES: usize = 16;

/// Bytes that memory is read in.
pub(crate) const CACHE_LINE: usize = 64;

/// Bytes in [`Dots::Quads`]: four neighbouring columns for each of sixteen rows.
pub(crate) const QUAD_BYTES: usize = 4 * LANES;

/// How often the starts for [`Dots::dot_signed`] hold the sum of their inputs.
pub(crate) const SIGNED_TIMES: i16 = -128;

/// Asks for a cache line that will be read or written soon, on processors that can be asked. Any address will do.
#[inline(always)]
pub(crate) fn prefetch(line: *const u8) {
    // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// Dot products of small whole numbers for sixteen rows at once, exact in every step.
///
/// A *quad* is four neighbouring columns, one byte each; of the inputs as an `i32` of four `i8` bytes, lowest first.
/// The *start* of some inputs is a word of so many times their sum as weights are stored too large; some sets keep the
/// sums over columns 0 and 1, and over 2 and 3, of every quad apart, in two `i16`.
pub(crate) trait Dots: Copy {
    /// Sixteen rows of four bytes.
    type Quads: Copy;
    /// Sixteen rows of four signed bytes, prepared for [`Dots::dot_signed`].
    type Signed: Copy;
    /// Running sums of at most eight quads; they may wrap on the way, their end must fit.
    type Sums: Copy;
    /// One quad of inputs for all sixteen rows.
    type Input: Copy;
    /// Sixteen small factors.
    type Factors: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Rows of inputs that the largest tile of dot products takes.
    const DOT_ROWS: usize;
    /// How many [`Dots::Sums`] fit into registers: rows times panels of a tile.
    const DOT_ACCUMULATORS: usize;
    /// Whether there are registers for the [`Dots::Sums`] of two panels, which then share their inputs.
    const PAIRS_OF_PANELS: bool;
    /// Quads of bytes 0 to 31, of eight, that fit into [`Dots::Sums`] without an offset that makes them smaller.
    const FIVE_BIT_QUADS: usize;

    /// Sixty-four bytes, row by row.
    fn quads(self, bytes: &[u8; QUAD_BYTES]) -> Self::Quads;
    /// The lower four bits of every byte.
    fn low_nibbles(self, q: Self::Quads) -> Self::Quads;
    /// The upper four bits of every byte.
    fn high_nibbles(self, q: Self::Quads) -> Self::Quads;
    /// `low | two bits of high << 4`, where `PLACE` 0 to 3 says which two bits of each byte.
    fn with_high_bits<const PLACE: usize>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads;
    /// `low | one bit of high << 4`, where `PLACE` 0 to 7 says which bit of each byte.
    fn with_high_bit<const PLACE: i32>(self, low: Self::Quads, high: Self::Quads) -> Self::Quads;
    /// The entry of `table` that each byte (0 to 15) names.
    fn look_up(self, table: &[u8; 16], q: Self::Quads) -> Self::Quads;

    /// Four bytes of inputs, lowest first.
    fn input(self, quad: i32) -> Self::Input;
    /// The start of inputs whose sums over columns 0 and 1, and over 2 and 3, of every quad are `pair`.
    #[inline(always)]
    fn start_word(pair: [i32; 2], times: i16) -> i32 {
        i32::from(times) * (pair[0] + pair[1])
    }
    /// The sum of the inputs, of which a start was made with `times` 1.
    #[inline(always)]
    fn total(start: i32) -> i32 {
        start
    }
    /// Sums that begin with the start of all inputs that will be added, or with none.
    fn start(self, start: i32) -> Self::Sums;
    /// Adds the products of bytes 0 to 63 with one quad of inputs.
    fn dot(self, sums: Self::Sums, weights: Self::Quads, inputs: Self::Input) -> Self::Sums;
    /// The sums. In 32 bits, whatever came before, as long as the magnitude of the inputs' bytes is below 128 and
    /// the sums of a row's even and of its odd pairs of columns each fit 16 bits.
    fn finish(self, sums: Self::Sums) -> Self::I;
    /// Sixteen factors, one a row.
    fn factors(self, bytes: &[i8; LANES]) -> Self::Factors;
    /// `total + factors * sums`
    fn add_scaled(self, total: Self::I, factors: Self::Factors, sums: Self::Sums) -> Self::I;

    /// Prepares signed bytes.
    fn signed(self, q: Self::Quads) -> Self::Signed;
    /// What [`Dots::dot_signed`] begins with, given the start of all inputs that will be added, made with [`SIGNED_TIMES`].
    fn start_signed(self, start: i32) -> Self::I;
    /// Adds the products of signed bytes with one quad of inputs.
    fn dot_signed(self, sums: Self::I, weights: Self::Signed, inputs: Self::Input) -> Self::I;
    /// `total + factors * sums`
    fn add_scaled_signed(self, total: Self::I, factors: Self::Factors, sums: Self::I) -> Self::I;

    /// All zero.
    fn zero(self) -> Self::I;
    /// Adds `w[row][0] * low + w[row][1] * high`, with the two `i16` of `inputs`.
    fn dot_pairs(self, sums: Self::I, weights: &[[u8; 2]; LANES], inputs: i32) -> Self::I;
}

/// Arithmetic on 16 `f32` lanes. Every lane is computed alone, by IEEE 754 single precision.
///
/// `fma` is fused, except on the scalar set, which rounds between `mul` and `add`.
pub(crate) trait Simd: Dots {
    /// Sixteen lanes.
    type V: Copy;
    /// Rows of the largest register tile.
    const TILE_ROWS: usize;
    /// How many `V` fit into registers as accumulators of a tile.
    const ACCUMULATORS: usize;

    /// All lanes equal.
    fn splat(self, value: f32) -> Self::V;
    /// Sixteen `f32`.
    fn load(self, values: &[f32; LANES]) -> Self::V;
    /// Writes the lanes.
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Widens sixteen bfloat16 bit patterns, exactly.
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V;
    /// Widens sixteen finite binary16 bit patterns, exactly.
    fn widen_f16(self, bits: &[u16; LANES]) -> Self::V;
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; a NaN in `b` is kept.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; a NaN in `b` is kept.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for whole numbers `n` in -126 ..= 127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// The nearest `f32`, ties to even.
    fn widen_i32(self, i: Self::I) -> Self::V;
    /// [`reduce_sum`] of each, in the same order whatever the instruction set.
    #[inline(always)]
    fn sum_lanes(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| reduce_sum(self, v))
    }
    /// `2^(e - 127)` for each byte 1 to 254; zero for 0.
    fn widen_exponents(self, exponents: &[u8; LANES]) -> Self::V;
}

/// A kernel with its arguments. `run` must be `#[inline(always)]`.
pub(crate) trait Op {
    /// What the kernel returns.
    type Output;
    /// Computes with one instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A detected instruction set: the proof that its instructions may be executed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arch {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    #[cfg(target_arch = "aarch64")]
    NeonDot(Neon<true>),
}

impl Arch {
    /// The instruction set, if this processor has it.
    pub(crate) fn detect(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(Self::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Avx2::detect().map(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::detect().map(Self::Neon),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Neon::detect().map(Self::NeonDot),
            #[allow(unreachable_patterns, reason = "which sets are foreign depends on the target")]
            _ => None,
        }
    }

    pub(crate) fn isa(self) -> Isa {
        match self {
            Self::Scalar(_) => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => Isa::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Isa::Neon,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(_) => Isa::NeonDot,
        }
    }

    /// Runs a kernel with this instruction set.
    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Scalar(simd) => op.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(simd) => simd.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(op),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.run(op),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(simd) => simd.run(op),
        }
    }
}

/// A detected instruction that multiplies pairs of bf16 and is faster than the same in `f32`. None of the sets has to
/// have one; where no instruction is known, there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16Pairs {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512Bf16),
}

impl Bf16Pairs {
    /// The instruction that goes with an instruction set, if this processor has it.
    pub(crate) fn detect(arch: Arch) -> Option<Self> {
        match arch {
            #[cfg(target_arch = "x86_64")]
            Arch::Avx512(simd) => Avx512Bf16::detect(simd).map(Self::Avx512),
            _ => None,
        }
    }
}
