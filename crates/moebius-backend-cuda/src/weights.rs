//! Packed matrices in the device's memory, in the panels of `moebius-expert-kernels`.
//!
//! Shapes: a stack is `copies` matrices `[rows, cols]` of one format, one after the other.
//! Invariants: a matrix is packed by the host, uploaded and forgotten there before the next one is asked for.

use moebius_backend::{Error, Result, WeightFormat, WeightView};
use moebius_expert_kernels::{Formats, KernelError, PackedMatrix, Pool, SharedBytes};

use crate::gpu::{Buffer, Gpu};
use crate::inputs::{Activations, LastSplit};
use crate::journal::Journal;
use crate::plan::has_room_for;

/// Outputs of a panel.
pub(crate) const PANEL: usize = 16;

/// The device, the host's threads that pack for it, and what the device has to tell.
///
/// The device comes last, so that all memory is freed by the time that it is closed; whoever holds weights holds its engine
/// behind them for the same reason.
pub(crate) struct Engine {
    pub(crate) pool: Pool,
    pub(crate) journal: Journal,
    pub(crate) activations: Activations,
    pub(crate) last_split: LastSplit,
    pub(crate) gpu: Gpu,
}

impl Engine {
    /// Whether products with all these formats may be made by wide blocks.
    pub(crate) fn has_room_for(&self, formats: &[WeightFormat]) -> bool {
        has_room_for(self.gpu.most_shared_bytes(), formats, self.activations == Activations::Bf16)
    }
}

pub(crate) struct Stack {
    /// Of one matrix.
    pub(crate) rows: usize,
    pub(crate) format: WeightFormat,
    /// The packed bytes, four at a time.
    pub(crate) words: Buffer<u32>,
}

impl Stack {
    /// Takes over matrices, asking `source` for each.
    pub(crate) fn load<'a>(
        engine: &Engine,
        held: WeightFormat,
        (rows, cols): (usize, usize),
        copies: usize,
        source: impl Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Self> {
        let words_of_one = held.packed_bytes_for(rows, cols).map(|bytes| bytes / 4);
        let total = words_of_one.and_then(|words| Some((words, words.checked_mul(copies)?)));
        let Some((words_of_one, total)) = total else {
            let what = format!("{held} holds no {copies} matrices of [{rows}, {cols}]");
            return Err(Error::Kernel(what.into()));
        };
        let mut words = engine.gpu.unwritten(total)?;
        for copy in 0..copies {
            let view = source(copy)?;
            let packed = pack(&engine.pool, &view, held, (rows, cols))?;
            let bytes_of_copy = packed.as_bytes().map_err(|error| refused(&view, error))?;
            let of_copy: Vec<u32> =
                bytes_of_copy.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
            words.write_at(copy * words_of_one, &of_copy)?;
        }
        Ok(Stack { rows, format: held, words })
    }
}

/// Packs one stored matrix, which must be `[rows, cols]`, rounding each row to the format in which it is held. One that
/// is packed stays where it lies.
pub(crate) fn pack(
    pool: &Pool,
    view: &WeightView<'_>,
    held: WeightFormat,
    shape: (usize, usize),
) -> Result<PackedMatrix> {
    view.check(held, shape)?;
    let packed = match view.panels() {
        Some(panels) => SharedBytes::new(panels.owner.clone(), panels.range.clone())
            .and_then(|memory| PackedMatrix::from_packed(held, shape.0, shape.1, memory)),
        None => {
            let formats = Formats { stored: view.format, held };
            PackedMatrix::pack_with(pool, formats, shape, &view.bytes, &|bytes| view.was_read(bytes))
        }
    };
    packed.map_err(|error| refused(view, error))
}

/// What the kernels say of a matrix.
pub(crate) fn refused(view: &WeightView<'_>, error: KernelError) -> Error {
    Error::Weight { name: view.name.clone(), source: Box::new(error) }
}
