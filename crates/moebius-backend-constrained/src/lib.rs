//! The constrained backend: experts within a budget of memory, on the CPU's kernels.
//!
//! Dense projections and the operations between them are another backend's, which the facade hands over; experts are
//! this crate's own. They are computed by the kernels and threads of that backend, so that bits are the same.
#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod experts;
mod limit;
mod slices;

pub use backend::{ConstrainedBackend, ConstrainedOptions, Processor};
pub use limit::ReadLimit;
