//! The inputs of products: as they are for plain formats, split into bf16 terms for tensor cores.
//!
//! Shapes: x `[rows, cols]`, terms `[3, rows, padded]`, sums `[rows, cols / 32]`.

use candle_core::Tensor;
use moebius_backend::{Result, WeightFormat};

use crate::gpu::{Arg, Buffer, Launch};
use crate::slices::{Dense, blocks_for};
use crate::weights::Engine;

/// Columns that an mma takes; rows of terms are padded to a multiple.
const STEP: usize = 16;
/// Columns of a run whose sum a minimum is multiplied with.
const RUN: usize = 32;

pub(crate) struct Inputs {
    x: Dense,
    /// Two bf16 in a word.
    terms: Buffer<u32>,
    sums: Buffer<f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Inputs {
    /// Prepares `x: [rows, cols]` for matrices of some formats.
    pub(crate) fn new(engine: &Engine, x: &Tensor, formats: &[WeightFormat]) -> Result<Self> {
        let (rows, cols) = x.dims2()?;
        let plain = |format: &WeightFormat| matches!(format, WeightFormat::F32 | WeightFormat::F16);
        let splits = !formats.iter().all(plain);
        let wants_sums = formats.contains(&WeightFormat::Q4K);
        let padded = cols.next_multiple_of(STEP);
        let mut inputs = Inputs {
            x: Dense::new(x)?,
            terms: engine.gpu.unwritten(if splits { 3 * rows * padded / 2 } else { 0 })?,
            sums: engine.gpu.unwritten(if wants_sums { rows * (cols / RUN) } else { 0 })?,
            rows,
            cols,
        };
        if splits {
            let (x, terms, sums) = (inputs.x.arg()?, inputs.terms.write(), inputs.sums.write());
            engine.gpu.launch(&Launch {
                kernel: "split_inputs",
                grid: [rows, blocks_for(padded)],
                args: &[x, terms, sums, rows.into(), cols.into(), padded.into(), wants_sums.into()],
            })?;
        }
        Ok(inputs)
    }

    /// The parameters that products have in common.
    pub(crate) fn args(&self) -> Result<[Arg<'_>; 5]> {
        Ok([self.x.arg()?, self.terms.read(), self.sums.read(), self.rows.into(), self.cols.into()])
    }
}
