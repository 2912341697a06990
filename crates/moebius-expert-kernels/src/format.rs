//! Weight formats: how one weight is stored, and the sixteen neighbours of a panel that a kernel loads at once.

mod bf16;
mod f16;
mod f32;

use std::{fmt, str::FromStr};

pub(crate) use self::{bf16::LanesBf16, f16::LanesF16, f32::LanesF32};
use crate::{
    KernelError,
    arch::{LANES, Simd},
};

/// How weights are stored. Activations are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightFormat {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// bfloat16: the upper half of an `f32`, 2 bytes.
    Bf16,
    /// IEEE 754 half precision, 2 bytes.
    F16,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name that [`FromStr`] reads: `f32`, `bf16` or `f16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The bytes of a row-major matrix in this format, or `None` if they exceed the address space.
    #[must_use]
    pub fn bytes_for(self, rows: usize, cols: usize) -> Option<usize> {
        let element_bytes = match self {
            Self::F32 => LanesF32::ELEMENT_BYTES,
            Self::Bf16 => LanesBf16::ELEMENT_BYTES,
            Self::F16 => LanesF16::ELEMENT_BYTES,
        };
        rows.checked_mul(cols)?.checked_mul(element_bytes)
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
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| KernelError::UnknownName {
            what: "weight format",
            got: name.to_owned(),
            expected: "`f32`, `bf16`, `f16`",
        })
    }
}

/// The weights of sixteen output rows at one input column, aligned so that a load never crosses a cache line.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// Bytes of one weight in a checkpoint.
    const ELEMENT_BYTES: usize;

    /// Takes column `col` of sixteen rows of little-endian bytes.
    fn gather(rows: &[&[u8]; LANES], col: usize) -> Self;
    /// Whether no weight is NaN or infinite.
    fn is_finite(&self) -> bool;
    /// The weight of one of the sixteen rows, exactly.
    fn get(&self, lane: usize) -> f32;
    /// All sixteen, exactly.
    fn widen<S: Simd>(&self, simd: S) -> S::V;
}

/// Column `col` of sixteen rows of `N`-byte elements.
#[inline]
fn gather_bytes<const N: usize>(rows: &[&[u8]; LANES], col: usize) -> [[u8; N]; LANES] {
    let mut elements = [[0; N]; LANES];
    for (element, row) in elements.iter_mut().zip(rows) {
        *element = row.as_chunks::<N>().0[col];
    }
    elements
}
