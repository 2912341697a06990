//! The constrained backend: experts within a budget of memory, on the CPU's kernels.
//!
//! Dense projections and the operations between them are another backend's, which the facade hands over; experts are
//! this crate's own. They are computed by the kernels and threads of that backend, so that bits are the same.
#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod experts;
mod files;
mod limit;
mod policy;
mod readers;
mod replay;
mod residency;
mod slices;
mod store;

pub use backend::{ConstrainedBackend, ConstrainedOptions, Processor, slot_bytes};
pub use limit::ReadLimit;
pub use policy::{CachePolicy, Heat};
pub use replay::{Replay, Replayed};
pub use store::LayerResidency;
