//! Sequences, scheduling and sampling over token ids.
//!
//! An [`Engine`] runs any number of [`Request`]s together: each step takes one token for every sequence
//! that generates and, within a budget, pieces of prompts that wait. Text, files and devices are elsewhere.
//!
//! Invariants: what a sequence generates depends on its own request alone, bit for bit; one that fails or
//! ends frees its memory at once.
#![forbid(unsafe_code)]

mod engine;
mod error;
mod sampler;
mod score;
mod sequence;

pub use engine::{Engine, EngineOptions};
pub use error::EngineError;
pub use sampler::{SamplerError, SamplingParams};
pub use score::ScoredToken;
pub use sequence::{Event, FinishReason, Request, RequestId};
