//! What families ask for.

use moebius_backend::ExpertSpec;

use crate::layout::{ExpertLayout, Stored, StoredValues};

/// The experts that a family asks for.
#[derive(Clone, Debug)]
pub(crate) struct ExpertRequest {
    /// What they are; the loader decides on the formats.
    pub(crate) spec: ExpertSpec,
    /// Experts that a token goes through.
    pub(crate) top_k: usize,
    /// Layouts that the family's checkpoints come in, the usual one first.
    pub(crate) layouts: Vec<ExpertLayout>,
}

/// Something that a family asks for.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// A matrix of this many rows and columns.
    Matrix(Stored, (usize, usize)),
    /// This many numbers.
    Values(StoredValues, usize),
}
