//! What can go wrong between a caller and a kernel: one enum for the crate.

use std::fmt;

use crate::{Isa, WeightFormat};

/// Why packing or a kernel refused its input. Nothing was written to the output when one is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice has another length than its shape says.
    Length {
        /// The argument.
        what: &'static str,
        /// Its length according to the shapes of the other arguments.
        expected: usize,
        /// The length that was passed.
        got: usize,
    },
    /// A matrix of an expert has another shape than the same matrix of the first expert asks for.
    Shape {
        /// The projection: `gate`, `up` or `down`.
        projection: &'static str,
        /// The expert.
        expert: usize,
        /// Rows and columns that were expected.
        expected: (usize, usize),
        /// Rows and columns of the matrix.
        got: (usize, usize),
    },
    /// Two matrices that one kernel reads together have different formats.
    MixedFormats {
        /// The projection: `gate`, `up` or `down`.
        projection: &'static str,
        /// The format of the first.
        expected: WeightFormat,
        /// The format of the other.
        got: WeightFormat,
    },
    /// A weight is NaN or infinite.
    NonFinite {
        /// Its output row.
        row: usize,
        /// Its input column.
        col: usize,
    },
    /// An index or a position lies outside what it points into.
    OutOfRange {
        /// The argument.
        what: &'static str,
        /// The first value that is too large.
        limit: usize,
        /// The value that was passed.
        got: usize,
    },
    /// A dimension that must be at least one is zero.
    ZeroDimension {
        /// The dimension.
        what: &'static str,
    },
    /// A dimension is no multiple of the one that divides it.
    NotAMultiple {
        /// The dimension.
        what: &'static str,
        /// The value that was passed.
        got: usize,
        /// What must divide it.
        of: usize,
    },
    /// The activation is nothing without a gate, and there is none.
    MissingGate,
    /// Packed bytes do not start where the kernels can read them.
    Misaligned {
        /// The argument.
        what: &'static str,
        /// What its address must be a multiple of.
        of: usize,
    },
    /// Packed weights are little endian, and this machine is not.
    BigEndian,
    /// The number of bytes of a matrix does not fit the address space.
    SizeOverflow {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The system has no memory left for a packed matrix.
    OutOfMemory {
        /// The size that was asked for.
        bytes: usize,
    },
    /// The processor lacks the instruction set.
    MissingIsa {
        /// The instruction set.
        isa: Isa,
    },
    /// A name that no instruction set carries.
    UnknownIsa {
        /// The name that was passed.
        got: String,
    },
    /// A name that no weight format carries.
    UnknownFormat {
        /// The name that was passed.
        got: String,
    },
    /// The system refused to start worker threads.
    Threads {
        /// What the system said.
        reason: String,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, expected, got } => {
                write!(f, "`{what}` has the wrong length: expected {expected} elements, got {got}")
            }
            Self::Shape { projection, expert, expected, got } => write!(
                f,
                "`{projection}` of expert {expert} has the wrong shape: expected [{}, {}], got [{}, {}]",
                expected.0, expected.1, got.0, got.1
            ),
            Self::MixedFormats { projection, expected, got } => {
                write!(f, "`{projection}` mixes weight formats: expected {expected}, got {got}")
            }
            Self::NonFinite { row, col } => {
                write!(f, "the weight at row {row}, column {col} is not finite")
            }
            Self::OutOfRange { what, limit, got } => {
                write!(f, "`{what}` is out of range: expected less than {limit}, got {got}")
            }
            Self::ZeroDimension { what } => write!(f, "`{what}` is zero: expected at least 1"),
            Self::NotAMultiple { what, got, of } => {
                write!(f, "`{what}` does not divide evenly: expected a multiple of {of}, got {got}")
            }
            Self::MissingGate => write!(f, "the activation needs a gate: expected gate matrices, got none"),
            Self::Misaligned { what, of } => {
                write!(f, "`{what}` is misaligned: expected an address that is a multiple of {of}")
            }
            Self::BigEndian => write!(f, "packed weights are little endian, and this machine is not"),
            Self::SizeOverflow { rows, cols } => {
                write!(f, "a matrix of {rows} rows and {cols} columns exceeds the address space")
            }
            Self::OutOfMemory { bytes } => {
                write!(f, "no memory for a packed matrix of {bytes} bytes")
            }
            Self::MissingIsa { isa } => write!(f, "this processor has no `{isa}`"),
            Self::UnknownIsa { got } => {
                let known = Isa::ALL.map(|isa| format!("`{isa}`")).join(", ");
                write!(f, "unknown instruction set `{got}`: expected one of {known}")
            }
            Self::UnknownFormat { got } => {
                let known = WeightFormat::ALL.map(|format| format!("`{format}`")).join(", ");
                write!(f, "unknown weight format `{got}`: expected one of {known}")
            }
            Self::Threads { reason } => write!(f, "cannot start worker threads: {reason}"),
        }
    }
}

impl std::error::Error for KernelError {}

/// Checks the length of the argument `what`.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { what, expected, got }) }
}

/// Checks that the dimension `what` is at least one.
pub(crate) fn check_nonzero(what: &'static str, value: usize) -> Result<(), KernelError> {
    if value == 0 { Err(KernelError::ZeroDimension { what }) } else { Ok(()) }
}

/// The number of rows in `len` values when each has `row_len`, which must divide `len`.
pub(crate) fn rows_in(what: &'static str, len: usize, row_len: usize) -> Result<usize, KernelError> {
    check_nonzero(what, row_len)?;
    if len.is_multiple_of(row_len) {
        Ok(len / row_len)
    } else {
        Err(KernelError::NotAMultiple { what, got: len, of: row_len })
    }
}
