//! The CUDA backend keeps the contract on a GPU. `cargo xtask gpu` runs this.
#![cfg(feature = "cuda")]

use moebius_backend_cuda::{Activations, CudaBackend};
use moebius_conformance::accept;

accept!(device, || CudaBackend::new(0, Activations::F32));
