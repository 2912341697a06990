//! The inputs of products: as they are for plain formats, split into bf16 terms for tensor cores.
//!
//! Shapes: x `[rows, cols]`, terms `[terms, rows, padded]`, sums `[rows, cols / 16]`.
//! Invariants: a tensor is never changed in place once it was split, so its id stands for its terms.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Tensor, TensorId};
use moebius_backend::{Result, WeightFormat};

use crate::gpu::{Arg, Buffer, Launch};
use crate::slices::{Dense, blocks_for, computed, optional};
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

/// What some numbers are split into.
struct Split {
    /// Two bf16 in a word.
    terms: Buffer<u32>,
    sums: Buffer<f32>,
    has_sums: bool,
}

/// The split that was made last. What a layer hands to several projections is so split once, and what a norm gives is
/// split by the norm.
#[derive(Default)]
pub(crate) struct LastSplit(Mutex<Option<(TensorId, Arc<Split>)>>);

impl LastSplit {
    fn of(&self, x: &Tensor, wants_sums: bool) -> Option<Arc<Split>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, split) = last.as_ref()?;
        (*id == x.id() && (split.has_sums || !wants_sums)).then(|| split.clone())
    }

    fn keep(&self, x: &Tensor, split: &Arc<Split>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((x.id(), split.clone()));
    }
}

/// The sizes of a split, as kernels that make one are told.
struct SplitSizes {
    rows: usize,
    cols: usize,
    padded: usize,
    term_count: u32,
}

impl SplitSizes {
    fn new(engine: &Engine, rows: usize, cols: usize) -> Self {
        let padded = cols.next_multiple_of(STEP);
        SplitSizes { rows, cols, padded, term_count: engine.activations.terms() }
    }

    /// Memory for it.
    fn unwritten(&self, engine: &Engine, has_sums: bool) -> Result<Split> {
        let words = self.term_count as usize * self.rows * self.padded / 2;
        let terms = engine.gpu.unwritten(words)?;
        let sums = engine.gpu.unwritten(if has_sums { self.rows * (self.cols / RUN) } else { 0 })?;
        Ok(Split { terms, sums, has_sums })
    }

    fn args(&self, has_sums: bool) -> [Arg<'static>; 5] {
        [self.rows.into(), self.cols.into(), self.padded.into(), self.term_count.into(), has_sums.into()]
    }
}

pub(crate) struct Inputs {
    /// As they are, for plain formats.
    x: Option<Dense>,
    /// For tensor cores.
    split: Option<Arc<Split>>,
    /// How many terms there are.
    term_count: u32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Inputs {
    /// Prepares `x: [rows, cols]` for matrices of some formats.
    pub(crate) fn new(engine: &Engine, x: &Tensor, formats: &[WeightFormat]) -> Result<Self> {
        let (rows, cols) = x.dims2()?;
        let splits = formats.iter().any(|&format| is_split(format));
        let wants_sums = formats.iter().any(|format| WITH_MINIMA.contains(format));
        let sizes = SplitSizes::new(engine, rows, cols);
        let dense = Dense::new(x)?;
        let split = match engine.last_split.of(x, wants_sums) {
            _ if !splits => None,
            Some(split) => Some(split),
            None => {
                let mut split = sizes.unwritten(engine, wants_sums)?;
                let memory = [dense.arg()?, split.terms.write(), split.sums.write()];
                let args = [&memory[..], &sizes.args(wants_sums)].concat();
                let blocks = [rows, blocks_for(sizes.padded)].into();
                engine.gpu.launch(&Launch { kernel: "split_inputs", blocks, args: &args })?;
                let split = Arc::new(split);
                engine.last_split.keep(x, &split);
                Some(split)
            }
        };
        Ok(Inputs { x: Some(dense), split, term_count: sizes.term_count, rows, cols })
    }

    /// What `write` launches the writing of as terms, for matrices that need nothing else; it is told how many terms.
    pub(crate) fn of_terms(
        engine: &Engine,
        (rows, cols): (usize, usize),
        write: impl FnOnce(Arg<'_>, u32) -> Result<()>,
    ) -> Result<Self> {
        let sizes = SplitSizes::new(engine, rows, cols);
        let mut split = sizes.unwritten(engine, false)?;
        write(split.terms.write(), sizes.term_count)?;
        Ok(Inputs { x: None, split: Some(Arc::new(split)), term_count: sizes.term_count, rows, cols })
    }

    /// The parameters that products have in common.
    pub(crate) fn args(&self) -> Result<[Arg<'_>; 6]> {
        let [rows, cols, terms] = [self.rows.into(), self.cols.into(), self.term_count.into()];
        let split = self.split.as_ref();
        Ok([
            optional(self.x.as_ref())?,
            split.map_or(Arg::NONE, |split| split.terms.read()),
            split.map_or(Arg::NONE, |split| split.sums.read()),
            rows,
            cols,
            terms,
        ])
    }
}

/// Whether a format is multiplied on tensor cores.
fn is_split(format: WeightFormat) -> bool {
    format != WeightFormat::F32
}

/// Whether terms are all that products with a format need.
pub(crate) fn needs_terms_only(format: WeightFormat) -> bool {
    is_split(format) && !WITH_MINIMA.contains(&format)
}

/// Norms of `x: [rows, cols]`, split at once for the products that follow.
pub(crate) fn split_norm(engine: &Engine, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let (rows, cols) = x.dims2()?;
    let (values, weight) = (Dense::new(x)?, Dense::new(weight)?);
    let sizes = SplitSizes::new(engine, rows, cols);
    let has_sums = cols.is_multiple_of(RUN);
    let mut split = sizes.unwritten(engine, has_sums)?;
    let memory = [split.terms.write(), split.sums.write()];
    let after = [&memory[..], &sizes.args(has_sums), &[eps.into()]].concat();
    let before = [values.arg()?, weight.arg()?];
    let normed = computed(&engine.gpu, x.dims(), ("rms_norm_split", [rows, 1]), &before, &after)?;
    engine.last_split.keep(&normed, &Arc::new(split));
    Ok(normed)
}
