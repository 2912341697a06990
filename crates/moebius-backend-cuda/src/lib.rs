//! The CUDA backend: every expert resident in an NVIDIA GPU's memory.
//!
//! Activations are candle tensors on the device; weights lie there in the panels of `moebius-expert-kernels`, byte for
//! byte, and are multiplied by kernels of our own (`kernels/*.cu`). A kernel and its arguments are a launch, which a
//! device runs: a GPU with the feature `cuda`, or an emulator on the processor with the feature `emulated`, which runs
//! the same kernels, thread by thread, and checks every access. Without either feature the crate is empty.
#![deny(unsafe_code)]

#[cfg(any(feature = "cuda", feature = "emulated"))]
mod backend;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod experts;
#[cfg(any(feature = "cuda", feature = "emulated"))]
#[expect(unsafe_code, reason = "addresses of device memory and the calls that are given them")]
mod gpu;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod inputs;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod journal;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod linear;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod ops;
#[cfg(any(test, feature = "cuda", feature = "emulated"))]
mod plan;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod product;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod recurrence;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod routing;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod slices;
#[cfg(any(feature = "cuda", feature = "emulated"))]
mod weights;

#[cfg(any(feature = "cuda", feature = "emulated"))]
pub use backend::CudaBackend;
#[cfg(feature = "cuda")]
pub use gpu::cuda::{DeviceMemory, devices};
#[cfg(feature = "emulated")]
pub use gpu::emulated::{KernelArg, Order, run_kernel};
#[cfg(any(feature = "cuda", feature = "emulated"))]
pub use inputs::Activations;
