//! Tensors whose elements are scaled in blocks: FP8 (arXiv 2412.19437, section 3.3) and MXFP4 (OCP Microscaling,
//! arXiv 2310.10537) as checkpoints store them, in two tensors.
//!
//! FP8: `w = e4m3 * scale` with a scale for each block of rows and columns, in `{name}_scale_inv` (which multiplies,
//! despite its name). MXFP4: `w = e2m1 * 2^(e - 127)`, 32 elements along a row share `e`; `{name}_blocks` has sixteen
//! bytes for them, the even element in the low half of a byte, and `{name}_scales` has `e`.
//!
//! Shapes: FP8 `[rows, cols]`, scales `[ceil(rows / block), ceil(cols / block)]`; MXFP4 blocks
//! `[.., cols / 32, 16]`, scales `[.., cols / 32]`, together a tensor `[.., cols]`.
//! Invariants: a tensor and its scales are linked when the checkpoint is opened, with their shapes compared.

use std::ops::Range;

use half::bf16;
use moebius_backend::{ForeignFormat, WeightFormat};
use safetensors::Dtype;

use super::part::Part;
use super::{Checkpoint, TensorEntry};
use crate::Error;
use crate::error::TensorProblem;

/// Rows and columns that share a scale in FP8, unless a configuration says otherwise.
pub(crate) const FP8_BLOCK: (usize, usize) = (128, 128);

/// What the name of FP8 elements is followed by in the name of their scales.
pub(crate) const FP8_SCALES: &str = "_scale_inv";

/// Elements that share a scale in MXFP4, and the bytes that hold them.
const MX_LEN: usize = 32;
const MX_BYTES: usize = MX_LEN / 2;
/// Bytes of such a block in [`WeightFormat::Mxfp4`]: the exponent comes first.
const HELD_MX_BYTES: usize = 1 + MX_BYTES;

/// How elements are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One after another.
    Plain,
    /// FP8 with scales in the tensor of this name.
    Fp8 {
        /// Its name.
        scales: String,
    },
    /// MXFP4 with exponents in the tensor of this name.
    Mxfp4 {
        /// Its name.
        scales: String,
    },
    /// Rows of whole blocks of a format.
    Blocks(WeightFormat),
    /// Rows of whole blocks that are rewritten, without loss, to those of a format.
    Foreign(ForeignFormat),
    /// In other tensors, whose rows follow one another.
    Joined(Vec<String>),
}

impl Checkpoint {
    /// Joins tensors and their scales. `fp8_block` is the block that an FP8 scale is for.
    pub(super) fn link_scales(&mut self, fp8_block: (usize, usize)) -> Result<(), Error> {
        self.fp8_block = fp8_block;
        let mut problems = Vec::new();
        for name in self.tensors.keys().cloned().collect::<Vec<_>>() {
            let linked = match name.strip_suffix("_blocks") {
                Some(whole) => self.link_mxfp4(whole),
                None => self.link_fp8(&name),
            };
            problems.extend(linked.err());
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Tensors(problems)) }
    }

    fn link_mxfp4(&mut self, whole: &str) -> Result<(), TensorProblem> {
        let (blocks, scales) = (format!("{whole}_blocks"), format!("{whole}_scales"));
        let entry = &self.tensors[&blocks];
        let (Dtype::U8, [outer @ .., n_blocks, MX_BYTES]) = (entry.dtype, entry.shape.as_slice()) else {
            return Ok(());
        };
        let expected = [outer, &[*n_blocks]].concat();
        let shape = [outer, &[n_blocks.saturating_mul(MX_LEN)]].concat();
        self.expect_scales(&scales, &expected, &[Dtype::U8])?;
        let entry = self.tensors.remove(&blocks).expect("it was found above");
        let encoding = Encoding::Mxfp4 { scales: scales.clone() };
        self.companions.insert(scales, whole.into());
        self.tensors.insert(whole.into(), TensorEntry { shape, encoding, ..entry });
        Ok(())
    }

    fn link_fp8(&mut self, name: &str) -> Result<(), TensorProblem> {
        let entry = &self.tensors[name];
        let (Dtype::F8_E4M3, &[rows, cols]) = (entry.dtype, entry.shape.as_slice()) else { return Ok(()) };
        let scales = format!("{name}{FP8_SCALES}");
        if !self.tensors.contains_key(&scales) {
            return Ok(()); // whoever asks for it is told
        }
        let expected = [rows.div_ceil(self.fp8_block.0), cols.div_ceil(self.fp8_block.1)];
        self.expect_scales(&scales, &expected, &[Dtype::F32, Dtype::BF16, Dtype::F16])?;
        let entry = self.tensors.get_mut(name).expect("it was found above");
        entry.encoding = Encoding::Fp8 { scales: scales.clone() };
        self.companions.insert(scales, name.into());
        Ok(())
    }

    fn expect_scales(&self, name: &str, shape: &[usize], dtypes: &[Dtype]) -> Result<(), TensorProblem> {
        let name = name.to_owned();
        let Some(entry) = self.tensors.get(&name) else {
            return Err(TensorProblem::Missing { name, shape: shape.to_vec() });
        };
        if entry.shape != shape {
            return Err(TensorProblem::Shape { name, expected: shape.to_vec(), got: entry.shape.clone() });
        }
        if !dtypes.contains(&entry.dtype) {
            let expected = dtypes.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>().join(" or ");
            return Err(TensorProblem::Dtype { name, expected, got: format!("{:?}", entry.dtype) });
        }
        Ok(())
    }

    /// The elements of a matrix in FP8, times their scales, as f32.
    pub(super) fn decode_fp8(
        &self,
        span: (&[u8], Range<usize>),
        scales: &str,
        (part, matrix): (Part, (usize, usize)),
        all_cols: usize,
    ) -> Option<Vec<u8>> {
        let (bytes, span) = span;
        let scales = self.floats(scales)?;
        let (block_rows, block_cols) = self.fp8_block;
        let across = all_cols.div_ceil(block_cols);
        let (rows, cols) = matrix;
        let mut out = Vec::with_capacity(rows * cols * size_of::<f32>());
        for row in 0..rows {
            for col in 0..cols {
                let (from_row, from_col) = part.source(row, col);
                let scale = scales[(span.start + from_row) / block_rows * across + from_col / block_cols];
                let value = E4M3[usize::from(bytes[from_row * all_cols + from_col])] * scale;
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        Some(out)
    }

    /// The rows of a matrix in MXFP4: blocks of the format if they are `held` so, or else numbers in bf16, which has
    /// them all.
    pub(super) fn decode_mxfp4(
        &self,
        span: (&[u8], Range<usize>),
        scales: &str,
        (step, matrix): (usize, (usize, usize)),
        held: WeightFormat,
    ) -> Option<Vec<u8>> {
        let (bytes, span) = span;
        let (rows, n_blocks) = (matrix.0, matrix.1 / MX_LEN);
        let scales = self.bytes(self.get(scales)?);
        let scales = &scales[span.start * n_blocks..span.end * n_blocks];
        let (row_bytes, mut out) = (n_blocks * MX_BYTES, Vec::new());
        let lines = bytes.chunks_exact(row_bytes).zip(scales.chunks_exact(n_blocks)).step_by(step);
        for (row, scales) in lines.take(rows) {
            for (block, &exponent) in row.as_chunks::<MX_BYTES>().0.iter().zip(scales) {
                match held {
                    WeightFormat::Mxfp4 => out.extend_from_slice(&held_block(block, exponent)),
                    _ => {
                        let scale = f64::from(i32::from(exponent) - 127).exp2() as f32;
                        let codes = block.iter().flat_map(|pair| [pair & 15, pair >> 4]);
                        let values = codes.map(|code| bf16::from_f32(E2M1[usize::from(code)] * scale));
                        out.extend(values.flat_map(|value| value.to_bits().to_le_bytes()));
                    }
                }
            }
        }
        Some(out)
    }
}

/// A block as the kernels' format orders it: element `i` in the low half of byte `i`, element `i + 16` in the high half.
fn held_block(block: &[u8; MX_BYTES], exponent: u8) -> [u8; HELD_MX_BYTES] {
    let code = |element: usize| block[element / 2] >> (4 * (element % 2)) & 15;
    let mut out = [exponent; HELD_MX_BYTES];
    for (idx, byte) in out[1..].iter_mut().enumerate() {
        *byte = code(idx) | code(idx + MX_BYTES) << 4;
    }
    out
}

/// The values of four bits: sign, two bits of exponent, one of fraction.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The values of eight bits: sign, four bits of exponent, three of fraction, no infinities, one NaN of either sign.
const E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < values.len() {
        let (exponent, fraction) = (code >> 3 & 15, (code & 7) as f32);
        let magnitude = match (exponent, code & 7) {
            (15, 7) => f32::NAN,
            (0, _) => fraction / 512.0,
            // 2^(exponent - 7), by its bits.
            _ => (1.0 + fraction / 8.0) * f32::from_bits((exponent as u32 + 120) << 23),
        };
        values[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_eight_bits_have_their_values() {
        let expected =
            [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0x39, 1.125)];
        for (code, value) in expected {
            assert_eq!((E4M3[code], E4M3[code + 128]), (value, -value), "{code:#x}");
        }
        assert_eq!(E4M3[0x7e], 448.0);
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        assert_eq!(E4M3.iter().filter(|v| !v.is_finite()).count(), 2);
    }

    #[test]
    fn a_block_keeps_its_values_in_the_kernels_order() {
        let block: [u8; MX_BYTES] = std::array::from_fn(|idx| (idx * 37 + 11) as u8);
        let mut held = [0.0; MX_LEN];
        WeightFormat::Mxfp4.decode(&held_block(&block, 125), &mut held).unwrap();
        let codes = block.iter().flat_map(|pair| [pair & 15, pair >> 4]);
        let expected: Vec<f32> = codes.map(|code| E2M1[usize::from(code)] / 4.0).collect();
        assert_eq!(held.as_slice(), expected);
    }
}
