//! Counts what a run computed and what sparsity saved.
//!
//! A [`Meter`] is handed down a forward pass and is always on. Every part of the model adds the [`Work`] it did;
//! a mixture-of-experts layer adds an [`ExpertWork`], from which the meter also derives the *iso-total dense
//! twin*: the same layer with every expert run for every token. A [`Window`] between two moments closes into a
//! [`Reading`], whose rates and shares are `Option`s: what is not known is `None` and prints as n/a, never 0.
//!
//! ```text
//! executed = pairs · m          pairs = tokens · k      m = multiply-adds of one expert for one token
//! twin     = tokens · E · m     saved = 1 - executed / twin    (1 - k/E when every token picks k of E)
//! ```
//!
//! # Example
//! ```
//! use moebius_metering::{ExpertWork, Meter, Phase, Window, format};
//!
//! let meter = Meter::new();
//! let window = Window::open(&meter);
//! // One token through one layer: 2 of 8 experts, each 3 matrices of 4 x 16 f32 weights.
//! meter.experts(ExpertWork {
//!     layer: 0,
//!     tokens: 1,
//!     n_experts: 8,
//!     pairs: 2,
//!     active_experts: 2,
//!     macs_per_token_expert: 3 * 4 * 16,
//!     bytes_per_expert: 3 * 4 * 16 * 4,
//! });
//! meter.tokens(Phase::Decode, 1);
//! let reading = window.close(&meter);
//! assert_eq!(reading.expert_flops(), 2 * 2 * 192);
//! assert_eq!(format::percent(reading.expert_saved_share()), "75 %");
//! ```
//!
//! Invariants: no dependencies, no I/O, no environment; additions saturate instead of wrapping.

#![forbid(unsafe_code)]

pub mod format;

mod counts;
mod laps;
mod meter;
mod window;
mod work;

pub use counts::{Counts, ExpertCounts};
pub use laps::{Stage, StageTimes};
pub use meter::Meter;
pub use window::{Reading, Window};
pub use work::{ExpertWork, Part, Phase, Work};
