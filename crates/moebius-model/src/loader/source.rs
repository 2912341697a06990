//! The part of a loader that several packing threads use: views of matrices, and plain numbers.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use moebius_backend::{ExpertSource, ExpertSpec, Projection, WeightFormat, WeightView};

use super::Progress;
use crate::checkpoint::Checkpoint;
use crate::layout::{ExpertLayout, Stored, StoredValues};

/// Reads a checkpoint, and tells how far it came.
pub(super) struct SharedLoader<'l, 'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) progress: Progress<'a>,
    pub(super) loaded_bytes: &'l AtomicU64,
}

impl<'a> SharedLoader<'_, 'a> {
    pub(super) fn view(
        &self,
        stored: &Stored,
        shape: (usize, usize),
        held: WeightFormat,
    ) -> moebius_backend::Result<WeightView<'a>> {
        let Stored { name, part, .. } = stored;
        let view = self.checkpoint.matrix((name, *part), shape, held).ok_or_else(|| {
            let (what, expected) = (format!("`{name}`"), format!("{shape:?} at {part}"));
            moebius_backend::Error::Shape { what, expected, got: "less".into() }
        })?;
        let size = match view.panels() {
            Some(panels) => panels.range.len(),
            None => self.checkpoint.stored_bytes(name, shape),
        } as u64;
        (self.progress)(self.loaded_bytes.fetch_add(size, Ordering::Relaxed) + size);
        Ok(view)
    }

    /// Elements of a tensor of plain numbers.
    pub(super) fn values(&self, name: &str, elements: Range<usize>) -> moebius_backend::Result<Vec<f32>> {
        let read = self.checkpoint.floats_in(name, elements.clone());
        let values = read.ok_or_else(|| moebius_backend::Error::Shape {
            what: format!("`{name}`"),
            expected: format!("elements {elements:?}"),
            got: "less".into(),
        })?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let source = format!("element {} is {}", elements.start + at, values[at]).into();
                Err(moebius_backend::Error::Weight { name: name.into(), source })
            }
        }
    }
}

/// The experts of one layer.
pub(super) struct CheckpointExperts<'l, 'a> {
    pub(super) loader: SharedLoader<'l, 'a>,
    pub(super) layout: &'l ExpertLayout,
    pub(super) spec: &'l ExpertSpec,
}

impl ExpertSource for CheckpointExperts<'_, '_> {
    fn get(&self, expert: usize, projection: Projection) -> moebius_backend::Result<WeightView<'_>> {
        let stored = self.layout.locate(self.spec, expert, projection);
        self.loader.view(&stored, self.spec.shape(projection), self.spec.format_of(projection))
    }

    fn bias(&self, expert: usize, projection: Projection) -> moebius_backend::Result<Vec<f32>> {
        let StoredValues { name, first, step, .. } = self.layout.locate_bias(self.spec, expert, projection);
        let last = first + (self.spec.shape(projection).0 - 1) * step;
        Ok(self.loader.values(&name, first..last + 1)?.into_iter().step_by(step).collect())
    }
}
