//! Weight formats: blocks of a row as files store them, and the same blocks of sixteen rows as kernels read them.
//!
//! A format is one module with one [`Unit`]: how a block is encoded and decoded, how sixteen rows' blocks lie side
//! by side, and how they are multiplied. Block layouts are those of GGUF, so that files can be exchanged.

mod affine;
mod bf16;
mod f16;
mod f32;
mod foreign;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q4_0;
mod q4_k;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod rounding;
mod runs;

use std::{fmt, str::FromStr};

pub use self::foreign::ForeignFormat;
pub(crate) use self::{
    bf16::LanesBf16, f16::LanesF16, f32::LanesF32, iq4_xs::UnitIq4Xs, mxfp4::UnitMxfp4, q2_k::UnitQ2K,
    q4_0::UnitQ4_0, q4_k::UnitQ4K, q5_1::UnitQ5_1, q5_k::UnitQ5K, q6_k::UnitQ6K, q8_0::UnitQ8_0,
    runs::RunFactors,
};
use crate::{
    KernelError, Kernels,
    arch::{self, CACHE_LINE, LANES, Op, Simd, plain::Plain},
    rows::{Block, Inputs},
    units::Units,
};

/// Makes everything that has one case for each format from the table of formats: variant, name, unit.
macro_rules! formats {
    ($($(#[$doc:meta])+ $format:ident $name:literal $unit:ty;)+) => {
        /// How weights are stored. Activations are always `f32`; block formats quantise them to eight bits as
        /// they compute.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum WeightFormat {
            $($(#[$doc])+ $format,)+
        }

        impl WeightFormat {
            /// Every format.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$format),+];

            /// The name, as in `f32`; [`FromStr`] reads it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$format => $name,)+
                }
            }
        }

        /// `[ceil(rows / 16), cols / block]` units, in the type of the format.
        #[derive(Debug, Clone)]
        pub(crate) enum Panels {
            $($format(Units<$unit>),)+
        }

        impl Panels {
            pub(crate) fn format(&self) -> WeightFormat {
                match self {
                    $(Self::$format(_) => WeightFormat::$format,)+
                }
            }
        }

        /// `$body` with the unit of a format as the type `$unit_name`.
        macro_rules! with_unit {
            ($wanted:expr, $unit_name:ident => $body:expr) => {
                match $wanted {
                    $(WeightFormat::$format => {
                        type $unit_name = $unit;
                        $body
                    })+
                }
            };
        }

        /// The panels of a format, whose units `$pack` makes.
        macro_rules! panels_of_format {
            ($wanted:expr, $pack:expr) => {
                match $wanted {
                    $(WeightFormat::$format => Panels::$format($pack),)+
                }
            };
        }

        /// `$body` with the units of whichever format the panels have, as `$slice`.
        macro_rules! with_units {
            ($panels:expr, $slice:ident => $body:expr) => {
                match $panels {
                    $(Panels::$format($slice) => $body,)+
                }
            };
        }

        pub(crate) use {panels_of_format, with_units};
    };
}

formats! {
    /// IEEE 754 single precision, 4 bytes.
    F32 "f32" LanesF32;
    /// bfloat16: the upper half of an `f32`, 2 bytes.
    Bf16 "bf16" LanesBf16;
    /// IEEE 754 half precision, 2 bytes.
    F16 "f16" LanesF16;
    /// Blocks of 32: 8 bits a weight and one scale, 8.5 bits in all.
    Q8_0 "q8_0" UnitQ8_0;
    /// Blocks of 32: 5 bits a weight, one scale and one minimum, 6 bits in all.
    Q5_1 "q5_1" UnitQ5_1;
    /// Blocks of 32: 4 bits a weight and one scale, 4.5 bits in all.
    Q4_0 "q4_0" UnitQ4_0;
    /// Blocks of 256: 4 bits a weight, a scale and a minimum for every 32, 4.5 bits in all.
    Q4K "q4_k" UnitQ4K;
    /// Blocks of 256: 5 bits a weight, a scale and a minimum for every 32, 5.5 bits in all.
    Q5K "q5_k" UnitQ5K;
    /// Blocks of 256: 6 bits a weight, a scale for every 16, 6.5625 bits in all.
    Q6K "q6_k" UnitQ6K;
    /// Blocks of 32: a 4-bit float a weight and a power of two, 4.25 bits in all (OCP Microscaling, arXiv 2310.10537).
    Mxfp4 "mxfp4" UnitMxfp4;
    /// Blocks of 256: 4 bits a weight that name one of sixteen values, a scale for every 32, 4.25 bits in all.
    Iq4Xs "iq4_xs" UnitIq4Xs;
    /// Blocks of 256: 2 bits a weight, a scale and a minimum for every 16, 2.625 bits in all.
    Q2K "q2_k" UnitQ2K;
}

impl WeightFormat {
    /// How many neighbours of a row are stored together; rows are a multiple of it.
    #[must_use]
    pub fn block_len(self) -> usize {
        with_unit!(self, U => U::COLS)
    }

    /// The bytes of a block in a file.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        with_unit!(self, U => U::BYTES)
    }

    /// Bits of a weight in a file, its share of scales included.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// The bytes of a row-major matrix in this format, or `None` if its rows are no multiple of a block or it
    /// exceeds the address space.
    #[must_use]
    pub fn bytes_for(self, rows: usize, cols: usize) -> Option<usize> {
        rows.checked_mul(self.blocks_of(cols)?)?.checked_mul(self.block_bytes())
    }

    /// The bytes of a matrix in this format once it is packed, rows rounded up to whole panels of sixteen; `None` as
    /// for [`WeightFormat::bytes_for`]. The same on every machine.
    #[must_use]
    pub fn packed_bytes_for(self, rows: usize, cols: usize) -> Option<usize> {
        rows.div_ceil(LANES)
            .checked_mul(self.blocks_of(cols)?)?
            .checked_mul(with_unit!(self, U => size_of::<U>()))
    }

    /// Blocks of a row; `None` if it is no multiple of one.
    fn blocks_of(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len()).then_some(cols / self.block_len())
    }

    /// Rounds a row to this format, as a file stores it. The values are finite.
    ///
    /// # Errors
    /// [`KernelError::NotAMultiple`] if the row is no multiple of a block, [`KernelError::Length`] for `bytes`.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) -> Result<(), KernelError> {
        self.check_row(values.len(), bytes.len())?;
        Kernels::detect().run(Encode { format: self, values, bytes });
        Ok(())
    }

    /// Reads a row as a file stores it.
    ///
    /// # Errors
    /// As for [`WeightFormat::encode`].
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) -> Result<(), KernelError> {
        self.check_row(values.len(), bytes.len())?;
        with_unit!(self, U => {
            for (values, bytes) in values.chunks_exact_mut(U::COLS).zip(bytes.chunks_exact(U::BYTES)) {
                U::decode(bytes, values);
            }
        });
        Ok(())
    }

    /// The form of activations that the kernels of this format read.
    pub(crate) fn inputs(self) -> Inputs {
        with_unit!(self, U => U::INPUTS)
    }

    fn check_row(self, values: usize, bytes: usize) -> Result<(), KernelError> {
        let of = self.block_len();
        if !values.is_multiple_of(of) {
            return Err(KernelError::NotAMultiple { what: "values", got: values, of });
        }
        crate::error::check_len("bytes", values / of * self.block_bytes(), bytes)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let format = Self::ALL.into_iter().find(|format| format.name() == name);
        format.ok_or_else(|| KernelError::UnknownFormat { got: name.to_owned() })
    }
}

/// Rounds a row of whole blocks.
struct Encode<'a> {
    format: WeightFormat,
    values: &'a [f32],
    bytes: &'a mut [u8],
}

impl Op for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        with_unit!(self.format, U => {
            for (values, bytes) in self.values.chunks_exact(U::COLS).zip(self.bytes.chunks_exact_mut(U::BYTES)) {
                U::encode(values, bytes);
            }
        });
    }
}

/// The blocks of sixteen rows at the same columns, as one piece that a kernel reads front to back.
pub(crate) trait Unit: Plain + Send + Sync {
    /// Columns of a block.
    const COLS: usize;
    /// Bytes of one row's block in a file.
    const BYTES: usize;
    /// The form of the activations it is multiplied with.
    const INPUTS: Inputs;

    /// Rounds finite values to a block. Always inline, so that it uses the instruction set of its caller.
    fn encode(values: &[f32], bytes: &mut [u8]);
    /// The values of a block.
    fn decode(bytes: &[u8], values: &mut [f32]);
    /// Takes the blocks of sixteen rows.
    fn gather(blocks: &[&[u8]; LANES]) -> Self;
    /// Whether no weight is NaN or infinite.
    fn is_finite(&self) -> bool;
    /// The weights of one of the sixteen rows, the same that [`Unit::decode`] gives.
    fn row(&self, lane: usize, values: &mut [f32]);
    /// Multiplies panels `[n, cols / COLS]` with a block of rows; `sums` is `[n, rows, 16]`.
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]);
}

/// Rows from which on it pays to take two panels together for the sake of the inputs that they share.
const MIN_ROWS_TO_SHARE: usize = 3;

/// How far ahead of its use memory is asked for, in each panel. One or two rows take less time than memory does, so
/// that the processor's own prefetcher is ahead already and wants only its lines brought nearer.
const fn prefetch_bytes(rows: usize) -> usize {
    if rows < 3 { 256 } else { 2048 }
}

/// A unit of one column: sixteen plain numbers.
pub(crate) trait Lanes: Unit {
    /// All sixteen, exactly.
    fn widen<S: Simd>(&self, simd: S) -> S::V;
}

/// A unit whose products with quantised inputs are exact whole numbers until they are scaled.
pub(crate) trait Dot: Unit {
    /// Adds the products of `P` panels with one step of inputs for `R` rows to their sums.
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P];
}

/// Replaces the `$sums` of one or two panels by `$body`, which computes a `$group` of panels from their `$part` of the
/// sums: both at once where the instruction set has registers for them. Spelled out: the compiler leaves a loop around so
/// much code rolled up, and then the sums that it indexes live in memory and are copied about.
macro_rules! each_group {
    (($set:ident, $rows:ident), $count:ident, $units:ident, $sums:ident, ($group:ident, $part:ident) => $body:expr) => {
        if <$set as crate::arch::Dots>::PAIRS_OF_PANELS && $count == 2 && $rows >= super::MIN_ROWS_TO_SHARE {
            [$sums[0], $sums[1]] = {
                let ($group, $part) = ([$units[0], $units[1]], [$sums[0], $sums[1]]);
                $body
            };
        } else {
            each_group!(@one $count, 0, $units, $sums, ($group, $part) => $body);
            each_group!(@one $count, 1, $units, $sums, ($group, $part) => $body);
        }
    };
    (@one $count:ident, $index:literal, $units:ident, $sums:ident, ($group:ident, $part:ident) => $body:expr) => {
        if $index < $count {
            [$sums[$index]] = {
                let ($group, $part) = ([$units[$index]], [$sums[$index]]);
                $body
            };
        }
    };
}

use each_group;

/// `$body` for each unit of a group, as an array. (`<[_; Q]>::map` may become a function of its own, and that would be
/// compiled without the instruction set.)
macro_rules! of_group {
    ($units:ident, $unit:ident => $body:expr) => {{
        let $unit = &$units[0];
        let mut all = [$body; _];
        for (index, $unit) in $units.iter().enumerate().skip(1) {
            all[index] = $body;
        }
        all
    }};
}

use of_group;

/// Asks for one of several parts of the memory a while after some units, which `R` rows are multiplied with.
#[inline(always)]
fn prefetch<U, const Q: usize, const R: usize>(units: [&U; Q], (part, parts): (usize, usize)) {
    let lines = size_of::<U>().div_ceil(CACHE_LINE * parts);
    let ahead = prefetch_bytes(R) + part * lines * CACHE_LINE;
    for unit in units {
        let first = std::ptr::from_ref(unit).cast::<u8>().wrapping_add(ahead);
        for line in 0..lines {
            arch::prefetch(first.wrapping_add(line * CACHE_LINE));
        }
    }
}

/// Adds the products of some panels' bytes with a quad of inputs of `R` rows.
#[inline(always)]
fn add_products<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    weights: [S::Quads; Q],
    inputs: &[i32; R],
    dots: [[S::Sums; R]; Q],
) -> [[S::Sums; R]; Q] {
    let mut dots = dots;
    for row in 0..R {
        let inputs = simd.input(inputs[row]);
        for panel in 0..Q {
            dots[panel][row] = simd.dot(dots[panel][row], weights[panel], inputs);
        }
    }
    dots
}

/// Adds the dot products of a run, times the run's factors of each panel.
#[inline(always)]
fn add_run<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    factors: [&[i8; LANES]; Q],
    dots: [[S::Sums; R]; Q],
    totals: [[S::I; R]; Q],
) -> [[S::I; R]; Q] {
    let mut totals = totals;
    for panel in 0..Q {
        let factors = simd.factors(factors[panel]);
        for row in 0..R {
            totals[panel][row] = simd.add_scaled(totals[panel][row], factors, dots[panel][row]);
        }
    }
    totals
}

/// Adds whole-number products of some panels to the sums of `R` rows: `scales` of the inputs as bits, `weights` of the
/// sixteen rows of weights of each panel.
#[inline(always)]
fn add_scaled<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    dots: [[S::I; R]; Q],
    (scales, weights): (&[i32; R], [S::V; Q]),
    sums: [[S::V; R]; Q],
) -> [[S::V; R]; Q] {
    let mut sums = sums;
    for row in 0..R {
        let scale = simd.splat(f32::from_bits(scales[row] as u32));
        for panel in 0..Q {
            let scaled = simd.mul(simd.widen_i32(dots[panel][row]), scale);
            sums[panel][row] = simd.fma(scaled, weights[panel], sums[panel][row]);
        }
    }
    sums
}

/// The only block of `N`-byte elements in each of sixteen rows.
#[inline]
fn gather_elements<const N: usize>(blocks: &[&[u8]; LANES]) -> [[u8; N]; LANES] {
    let mut elements = [[0; N]; LANES];
    for (element, block) in elements.iter_mut().zip(blocks) {
        element.copy_from_slice(block);
    }
    elements
}

/// Bytes of sixteen rows, four neighbours of a row at a time: `quads[j][4 lane + b] = bytes(lane)[4 j + b]`.
fn gather_quads<const N: usize>(blocks: &[&[u8]; LANES], first: usize) -> [[u8; crate::arch::QUAD_BYTES]; N] {
    let mut quads = [[0; crate::arch::QUAD_BYTES]; N];
    for (lane, block) in blocks.iter().enumerate() {
        for (quads, bytes) in quads.iter_mut().zip(block[first..].as_chunks::<4>().0) {
            quads[4 * lane..4 * lane + 4].copy_from_slice(bytes);
        }
    }
    quads
}

/// What [`gather_quads`] took from one of the sixteen rows.
fn bytes_of_lane<const N: usize>(quads: &[[u8; crate::arch::QUAD_BYTES]; N], lane: usize) -> [[u8; 4]; N] {
    quads.each_ref().map(|quads| quads.as_chunks::<4>().0[lane])
}

/// The `f16` at a place of each of sixteen blocks, as bits.
fn gather_halves(blocks: &[&[u8]; LANES], at: usize) -> [u16; LANES] {
    blocks.map(|block| u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Whether no `f16` is NaN or infinite.
fn halves_are_finite(bits: &[u16; LANES]) -> bool {
    bits.iter().all(|bits| bits & 0x7c00 != 0x7c00)
}

/// The value of an `f16` at a place of a block.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
