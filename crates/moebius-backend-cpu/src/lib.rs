//! The CPU backend: every expert resident in memory, packed for the machine's vector units.
//!
//! Activations are candle tensors on the CPU; everything heavy borrows their slices and runs on
//! `moebius-expert-kernels`. Weights are packed once while loading, matrix by matrix, and live outside
//! tensors.
#![forbid(unsafe_code)]

mod backend;
mod experts;
mod heads;
mod linear;
mod ops;
mod recurrence;
mod slices;

pub use backend::{CpuBackend, CpuOptions};
pub use moebius_expert_kernels::{
    Isa, KernelError, Kernels, Peaks, Pool, give_back_freed_memory, keep_freed_memory,
};
