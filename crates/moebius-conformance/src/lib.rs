//! Acceptance tests that every backend passes: a backend is done when one line of its tests is green.
//!
//! ```text
//! moebius_conformance::accept!(cpu, || CpuBackend::new(CpuOptions::default()));
//! ```
//!
//! expands to one `#[test]` per check, so that a failure names what is wrong. The same checks run from any
//! program through [`accept()`].
//!
//! Expected values are computed here in f64 from the exact weights. An error is measured against the sum of the
//! absolute terms behind an element, so that cancellation is not held against a backend and a small element
//! is not compared with a large tolerance; what is allowed stands in [`TOLERANCES`] and [`ROUNDED`].
//!
//! Invariants: inputs come from a fixed sequence, so every run checks the same numbers; a check that a backend
//! cannot fail is a bug of this crate, whose own tests hold deliberately broken backends against it.
#![forbid(unsafe_code)]

mod checks;
mod failure;
mod fixtures;
mod macros;
mod oracle;
mod reference_backend;
mod run;
mod tolerance;

pub use failure::{Failed, Failure, Failures};
pub use reference_backend::ReferenceBackend;
pub use run::{Group, Instances, Report, accept, accept_groups, same_bits};
pub use tolerance::{OPS_TOLERANCE, ROUNDED, TOLERANCES, Tolerance};

/// What [`accept!`] expands to names these.
#[doc(hidden)]
pub mod expansion {
    pub use crate::checks::{bitwise, experts, linear, loading, ops};
    pub use crate::run::{open, verify, verify_same_bits};
    pub use moebius_backend::Backend;
}
