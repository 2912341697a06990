//! The constrained backend: experts within a budget of memory, on the CPU's kernels.
//!
//! Dense projections and the operations between them are another backend's, which the facade hands over; experts are
//! this crate's own. They are computed by the kernels and threads of that backend, so that bits are the same.
//!
//! [`DeclaredBackend`] stands for hardware that is not here: it refuses what that could not hold or multiply and accounts
//! for the time that it would take; [`Balance`] says how evenly experts load its devices.
#![forbid(unsafe_code)]

mod account;
mod backend;
mod buffer;
mod declared;
mod declared_ops;
mod devices;
mod experts;
mod files;
mod limit;
mod policy;
mod profile;
mod readers;
mod replay;
mod residency;
mod slices;
mod store;

pub use account::{Ledger, Modelled};
pub use backend::{ConstrainedBackend, ConstrainedOptions, Processor, slot_bytes};
pub use declared::DeclaredBackend;
pub use devices::{Balance, BatchLoad, Placement, grouped_balance};
pub use limit::ReadLimit;
pub use policy::{CachePolicy, Heat};
pub use profile::{Launch, Peaks, Profile, Reached, ShapeRule, Tile, Watts};
pub use replay::{Replay, Replayed};
pub use store::LayerResidency;
