//! Weight formats: how one weight is stored, and the sixteen neighbours of a panel that a kernel loads at once.

mod bf16;
mod f16;
mod f32;

use std::fmt;

use self::{bf16::LanesBf16, f16::LanesF16, f32::LanesF32};
use crate::arch::{LANES, Simd};

/// Makes everything that has one case for each format from the table of formats: variant, name, lanes.
macro_rules! formats {
    ($($(#[$doc:meta])+ $format:ident $name:literal $lanes:ty;)+) => {
        /// How weights are stored. Activations are always `f32`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum WeightFormat {
            $($(#[$doc])+ $format,)+
        }

        impl WeightFormat {
            /// Every format.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$format),+];

            /// The name, as in `f32`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$format => $name,)+
                }
            }

            /// The bytes of a row-major matrix in this format, or `None` if they exceed the address space.
            #[must_use]
            pub fn bytes_for(self, rows: usize, cols: usize) -> Option<usize> {
                let element_bytes = match self {
                    $(Self::$format => <$lanes>::ELEMENT_BYTES,)+
                };
                rows.checked_mul(cols)?.checked_mul(element_bytes)
            }
        }

        /// `[ceil(rows / 16), cols]` groups of sixteen weights, in the type of the format.
        #[derive(Debug, Clone)]
        pub(crate) enum Panels {
            $($format(Vec<$lanes>),)+
        }

        impl Panels {
            pub(crate) fn format(&self) -> WeightFormat {
                match self {
                    $(Self::$format(_) => WeightFormat::$format,)+
                }
            }
        }

        /// The panels of a format, whose lanes `$pack` makes.
        macro_rules! panels_of_format {
            ($wanted:expr, $pack:expr) => {
                match $wanted {
                    $(WeightFormat::$format => Panels::$format($pack),)+
                }
            };
        }

        /// `$body` with the lanes of whichever format the panels have, as `$slice`.
        macro_rules! with_lanes {
            ($panels:expr, $slice:ident => $body:expr) => {
                match $panels {
                    $(Panels::$format($slice) => $body,)+
                }
            };
        }

        pub(crate) use {panels_of_format, with_lanes};
    };
}

formats! {
    /// IEEE 754 single precision, 4 bytes.
    F32 "f32" LanesF32;
    /// bfloat16: the upper half of an `f32`, 2 bytes.
    Bf16 "bf16" LanesBf16;
    /// IEEE 754 half precision, 2 bytes.
    F16 "f16" LanesF16;
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
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
