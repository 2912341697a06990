//! The inputs of products: as they are for plain formats, split into bf16 terms for tensor cores.
//!
//! Shapes: x `[rows, cols]`, terms `[terms, rows, padded]`, sums `[rows, cols / 16]`.

use candle_core::Tensor;
use moebius_backend::{Result, WeightFormat};

use crate::gpu::{Arg, Buffer, Launch};
use crate::slices::{Dense, blocks_for};
use crate::weights::Engine;

/// What products on tensor cores do to what is multiplied with weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// They are multiplied as they are, as sums of bf16.
    #[default]
    F32,
    /// They are rounded to bf16, as by a model whose activations are bf16: a third or half of the products.
    Bf16,
}

impl Activations {
    /// Into how many bf16 a number is split.
    fn terms(self) -> u32 {
        match self {
            Activations::F32 => 3,
            Activations::Bf16 => 1,
        }
    }
}

/// Columns that an mma takes; rows of terms are padded to a multiple.
const STEP: usize = 16;
/// Formats whose runs have minima.
const WITH_MINIMA: [WeightFormat; 4] =
    [WeightFormat::Q2K, WeightFormat::Q4K, WeightFormat::Q5_1, WeightFormat::Q5K];
/// Columns of a run whose sum a minimum is multiplied with.
const RUN: usize = 16;

pub(crate) struct Inputs {
    x: Dense,
    /// Two bf16 in a word.
    terms: Buffer<u32>,
    sums: Buffer<f32>,
    /// How many there are.
    term_count: u32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Inputs {
    /// Prepares `x: [rows, cols]` for matrices of some formats.
    pub(crate) fn new(engine: &Engine, x: &Tensor, formats: &[WeightFormat]) -> Result<Self> {
        let (rows, cols) = x.dims2()?;
        let plain = |format: &WeightFormat| matches!(format, WeightFormat::F32 | WeightFormat::F16);
        let splits = !formats.iter().all(plain);
        let wants_sums = formats.iter().any(|format| WITH_MINIMA.contains(format));
        let padded = cols.next_multiple_of(STEP);
        let term_count = engine.activations.terms();
        let words = term_count as usize * rows * padded / 2;
        let mut inputs = Inputs {
            x: Dense::new(x)?,
            terms: engine.gpu.unwritten(if splits { words } else { 0 })?,
            sums: engine.gpu.unwritten(if wants_sums { rows * (cols / RUN) } else { 0 })?,
            term_count,
            rows,
            cols,
        };
        if splits {
            let (x, terms, sums) = (inputs.x.arg()?, inputs.terms.write(), inputs.sums.write());
            engine.gpu.launch(&Launch {
                kernel: "split_inputs",
                grid: [rows, blocks_for(padded)],
                args: &[
                    x,
                    terms,
                    sums,
                    rows.into(),
                    cols.into(),
                    padded.into(),
                    term_count.into(),
                    wants_sums.into(),
                ],
            })?;
        }
        Ok(inputs)
    }

    /// The parameters that products have in common.
    pub(crate) fn args(&self) -> Result<[Arg<'_>; 6]> {
        let sizes = [self.rows.into(), self.cols.into(), self.term_count.into()];
        let [rows, cols, terms] = sizes;
        Ok([self.x.arg()?, self.terms.read(), self.sums.read(), rows, cols, terms])
    }
}
