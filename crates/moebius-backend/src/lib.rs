//! The contract between model families and devices.
//!
//! A model family is written once, over candle tensors that carry activations. What is heavy goes through
//! the traits here: dense projections ([`Linear`]), one for each head ([`HeadLinear`]), banks of experts
//! ([`ExpertBank`]) and the small operations between them ([`Ops`]). A device family implements [`Backend`] and is accepted when the
//! `moebius-conformance` suite passes.
//!
//! Invariants that every implementation keeps:
//! - an output row depends on its own input row alone: the same bits whatever else is in the batch,
//!   however a prompt was cut into chunks, and with any number of threads;
//! - experts combine in ascending expert id;
//! - [`Backend::supports`] answers before any weight is read, so that nothing which loads can fail at its
//!   first token for lack of a kernel.
#![forbid(unsafe_code)]

mod error;
mod experts;
mod heads;
mod ops;
mod recurrence;
pub mod reference;
mod spec;
mod weights;

pub use error::{Error, Result, Unsupported};
pub use experts::BankBiases;
pub use heads::HeadLinear;
pub use ops::{AttentionSpan, AttentionSpec, Ops, Pairing, RopeTable};
pub use recurrence::{DeltaRule, DeltaRuleSizes, ScanSizes, SelectiveScan, conv_sizes};
pub use spec::{Activation, BackendInfo, ExpertSpec, LinearSpec, Projection, WeightSpec};
pub use weights::{
    Backend, ExpertBank, ExpertSource, FileSpan, LaterRouting, Linear, MappedPages, Packer, PanelBytes,
    Routed, WeightView,
};

pub use moebius_expert_kernels::{ForeignFormat, WeightFormat};
