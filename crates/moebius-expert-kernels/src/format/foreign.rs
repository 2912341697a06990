//! Block types of GGUF that no kernel reads: how they are decoded, and the format that holds their values unchanged.
//!
//! A block is rewritten, never rounded: the home has the same scales and codes with room to spare.
//!
//! | type | is | home |
//! |---|---|---|
//! | `q4_1` | `d q + m`, 32 codes of four bits | `q5_1`, upper bits zero |
//! | `q5_0` | `d (q - 16)`, 32 codes of five bits | `q8_0` |
//! | `iq4_nl` | `d v`, 32 names of the values of `iq4_xs` | `q8_0` |
//! | `q3_k` | `d (s - 32) q`, 256 codes from -4 to 3, a scale for every 16 | `q6_k` |
//!
//! Invariants: what [`WeightFormat::decode`] makes of a rewritten block has the bits that [`ForeignFormat::decode`] gives.

use std::fmt;

use super::{WeightFormat, half_at, iq4_xs, q6_k};
use crate::KernelError;

/// A block type that is held in another format than it is stored in, without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// Blocks of 32: 4 bits a weight, one scale and one minimum, 5 bits in all; 6 in its home.
    Q4_1,
    /// Blocks of 32: 5 bits a weight and one scale, 5.5 bits in all; 8.5 in its home.
    Q5_0,
    /// Blocks of 256: 3 bits a weight, a scale for every 16, 3.4375 bits in all; 6.5625 in its home.
    Q3K,
    /// Blocks of 32: 4 bits a weight that name one of sixteen values, one scale, 4.5 bits in all; 8.5 in its home.
    Iq4Nl,
}

/// Columns of a small block.
const SMALL: usize = 32;
/// Columns of a large block.
const LARGE: usize = 256;
/// Columns of `q3_k` that share a scale.
const RUN: usize = 16;

impl ForeignFormat {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Q4_1, Self::Q5_0, Self::Q3K, Self::Iq4Nl];

    /// The name, as in `q4_1`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q3K => "q3_k",
            Self::Iq4Nl => "iq4_nl",
        }
    }

    /// The format that holds the same values. Its blocks have as many columns.
    #[must_use]
    pub fn home(self) -> WeightFormat {
        match self {
            Self::Q4_1 => WeightFormat::Q5_1,
            Self::Q5_0 | Self::Iq4Nl => WeightFormat::Q8_0,
            Self::Q3K => WeightFormat::Q6K,
        }
    }

    /// How many neighbours of a row are stored together; rows are a multiple of it.
    #[must_use]
    pub fn block_len(self) -> usize {
        if self == Self::Q3K { LARGE } else { SMALL }
    }

    /// The bytes of a block in a file.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q3K => 110,
            Self::Iq4Nl => 18,
        }
    }

    /// The bytes of a row-major matrix of this type, or `None` if its rows are no multiple of a block or it exceeds
    /// the address space.
    #[must_use]
    pub fn bytes_for(self, rows: usize, cols: usize) -> Option<usize> {
        let blocks = cols.is_multiple_of(self.block_len()).then_some(cols / self.block_len())?;
        rows.checked_mul(blocks)?.checked_mul(self.block_bytes())
    }

    /// Reads whole blocks.
    ///
    /// # Errors
    /// [`KernelError::NotAMultiple`] if the values are no whole blocks, [`KernelError::Length`] for `bytes`.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) -> Result<(), KernelError> {
        let of = self.block_len();
        if !values.len().is_multiple_of(of) {
            return Err(KernelError::NotAMultiple { what: "values", got: values.len(), of });
        }
        crate::error::check_len("bytes", values.len() / of * self.block_bytes(), bytes.len())?;
        for (values, block) in values.chunks_exact_mut(of).zip(bytes.chunks_exact(self.block_bytes())) {
            match self {
                Self::Q4_1 => decode_q4_1(block, values),
                Self::Q5_0 => decode_scaled(half_at(block, 0), &codes_q5_0(block), values),
                Self::Iq4Nl => decode_scaled(half_at(block, 0), &codes_iq4_nl(block), values),
                Self::Q3K => decode_q3_k(block, values),
            }
        }
        Ok(())
    }

    /// Appends the same blocks as [`ForeignFormat::home`] stores them, [`WeightFormat::bytes_for`] bytes: as many
    /// rows at a time as the caller likes.
    ///
    /// # Errors
    /// [`KernelError::NotAMultiple`] if the bytes are no whole blocks.
    pub fn transcode(self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), KernelError> {
        let of = self.block_bytes();
        if !bytes.len().is_multiple_of(of) {
            return Err(KernelError::NotAMultiple { what: "bytes", got: bytes.len(), of });
        }
        let home_bytes = self.home().block_bytes();
        let start = out.len();
        out.resize(start + bytes.len() / of * home_bytes, 0);
        for (block, home) in bytes.chunks_exact(of).zip(out[start..].chunks_exact_mut(home_bytes)) {
            match self {
                Self::Q4_1 => rewrite_q4_1(block, home),
                Self::Q5_0 => rewrite_scaled(block, &codes_q5_0(block), home),
                Self::Iq4Nl => rewrite_scaled(block, &codes_iq4_nl(block), home),
                Self::Q3K => rewrite_q3_k(block, home),
            }
        }
        Ok(())
    }
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The four bits of a column, where the first sixteen columns lie in the lower halves of sixteen bytes.
fn nibble(bytes: &[u8], col: usize) -> u8 {
    bytes[col % 16] >> (4 * (col / 16)) & 15
}

fn decode_scaled(scale: f32, codes: &[i8; SMALL], values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(*code);
    }
}

/// A block of `q8_0` with the scale that `block` begins with.
fn rewrite_scaled(block: &[u8], codes: &[i8; SMALL], home: &mut [u8]) {
    home[..2].copy_from_slice(&block[..2]);
    for (byte, code) in home[2..].iter_mut().zip(codes) {
        *byte = code.cast_unsigned();
    }
}

/// Block: `d`, upper bits of all columns in a word of 32 bits, sixteen bytes of lower bits.
fn codes_q5_0(block: &[u8]) -> [i8; SMALL] {
    let upper = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    std::array::from_fn(|col| {
        let code = nibble(&block[6..], col) | u8::from(upper >> col & 1 == 1) << 4;
        code.cast_signed() - 16
    })
}

/// Block: `d`, sixteen bytes.
fn codes_iq4_nl(block: &[u8]) -> [i8; SMALL] {
    std::array::from_fn(|col| iq4_xs::VALUES[usize::from(nibble(&block[2..], col))])
}

/// Block: `d`, `m`, sixteen bytes.
fn decode_q4_1(block: &[u8], values: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (col, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(&block[4..], col)) + minimum;
    }
}

/// `q5_1` has the upper bits between the halves and the lower ones; they stay zero.
fn rewrite_q4_1(block: &[u8], home: &mut [u8]) {
    home[..4].copy_from_slice(&block[..4]);
    home[8..].copy_from_slice(&block[4..]);
}

/// Where the parts of a block of `q3_k` begin: bits that say whether 4 is not taken away, two bits a weight ordered as in
/// `q2_k`, the scales' lower four bits, their upper two, and `d`.
const Q3_CODES: usize = 32;
const Q3_SCALES: usize = 96;
const Q3_SCALES_UPPER: usize = 104;
const Q3_D: usize = 108;

/// A scale of `q3_k`, from -32 to 31.
fn scale_q3_k(block: &[u8], run: usize) -> i8 {
    let lower = block[Q3_SCALES + run % 8] >> (4 * (run / 8)) & 15;
    let upper = block[Q3_SCALES_UPPER + run % 4] >> (2 * (run / 4)) & 3;
    (lower | upper << 4).cast_signed() - 32
}

/// A code of `q3_k`, from -4 to 3.
fn code_q3_k(block: &[u8], col: usize) -> i8 {
    let (strand, at) = (col / 32, col % 32);
    let lower = block[Q3_CODES + 32 * (strand / 4) + at] >> (2 * (strand % 4)) & 3;
    let taken = if block[at] >> strand & 1 == 1 { 0 } else { 4 };
    lower.cast_signed() - taken
}

fn decode_q3_k(block: &[u8], values: &mut [f32]) {
    let d = half_at(block, Q3_D);
    for (col, value) in values.iter_mut().enumerate() {
        let scale = d * f32::from(scale_q3_k(block, col / RUN));
        *value = scale * f32::from(code_q3_k(block, col));
    }
}

fn rewrite_q3_k(block: &[u8], home: &mut [u8]) {
    let codes = std::array::from_fn(|col| (code_q3_k(block, col) + 32).cast_unsigned());
    q6_k::set_codes(&codes, home);
    for (run, scale) in home[q6_k::SCALES..q6_k::D].iter_mut().enumerate() {
        *scale = scale_q3_k(block, run).cast_unsigned();
    }
    home[q6_k::D..].copy_from_slice(&block[Q3_D..]);
}
