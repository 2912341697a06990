//! Counts what a run computed and what sparsity saved.
//!
//! A [`Meter`] is handed down a forward pass and is always on. Every part of every layer adds the [`Work`] it did; a
//! mixture-of-experts layer adds an [`ExpertWork`], from which the meter also derives two dense twins: *iso-total*, the
//! same layer with every expert run for every token, and *iso-active*, a dense layer as wide as the k experts of a token.
//! A [`Window`] between two moments closes into a [`Reading`], whose rates and shares are `Option`s: what is not known is
//! `None` and prints as n/a, never 0. Energy has its maths in [`Energy`]; reading counters is the caller's business.
//!
//! ```text
//! executed  = pairs · m         pairs = tokens · k      m = multiply-adds of one expert for one token
//! iso-total = tokens · E · m    saved = 1 - executed / iso-total    (1 - k/E when every token picks k of E)
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
//!     n_experts: 8,
//!     tokens: 1,
//!     top_k: 2,
//!     experts: &[3, 5],
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
mod energy;
mod laps;
mod meter;
mod window;
mod work;

pub use counts::{Counts, ExpertCounts, FetchCounts, LayerCounts, PartWork};
pub use energy::{Energy, EnergySource, NVML_UPDATE, Power, RAPL_UPDATE, WrappingCounter};
pub use laps::{Stage, StageTimes};
pub use meter::Meter;
pub use window::{Reading, Window};
pub use work::{ExpertWork, Part, Phase, Site, Work};
