//! The CPU backend keeps the contract: every instruction set, on one, two and three threads, and with activations that
//! are rounded to bf16.
//!
//! Instances of one instruction set must agree bit for bit; an instruction set that this processor lacks has
//! no instances.

use moebius_backend::{Backend, Error};
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa, Kernels};
use moebius_conformance::accept;

accept!(default_options, || CpuBackend::new(CpuOptions::default()));
accept!(scalar, || on_several_threads(Isa::Scalar));
accept!(avx2, || on_several_threads(Isa::Avx2));
accept!(avxvnni, || on_several_threads(Isa::AvxVnni));
accept!(avx512, || on_several_threads(Isa::Avx512));
accept!(neon, || on_several_threads(Isa::Neon));
accept!(neondot, || on_several_threads(Isa::NeonDot));
accept!(rounding, || rounding(None));
accept!(rounding_scalar, || rounding(Some(Isa::Scalar)));

fn on_several_threads(isa: Isa) -> Vec<Result<CpuBackend, Error>> {
    if !Kernels::available().contains(&isa) {
        return Vec::new();
    }
    threads(CpuOptions { isa: Some(isa), ..CpuOptions::default() })
}

/// With the best instruction set, which may multiply pairs of bf16 at once, or a given one.
fn rounding(isa: Option<Isa>) -> Vec<Result<CpuBackend, Error>> {
    threads(CpuOptions { isa, bf16_activations: true, threads: None })
}

fn threads(options: CpuOptions) -> Vec<Result<CpuBackend, Error>> {
    [1, 2, 3].map(|threads| CpuBackend::new(CpuOptions { threads: Some(threads), ..options })).into()
}

#[test]
fn a_backend_that_rounds_activations_says_so() {
    let info = |bf16_activations| {
        let options = CpuOptions { bf16_activations, ..CpuOptions::default() };
        CpuBackend::new(options).expect("it starts").info().clone()
    };
    assert!(info(true).bf16_activations && info(true).detail.ends_with("activations rounded to bf16"));
    assert!(!info(false).bf16_activations && !info(false).detail.contains("bf16"));
}

#[test]
fn every_available_instruction_set_is_tested() {
    let tested = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon, Isa::NeonDot];
    assert!(Kernels::available().iter().all(|isa| tested.contains(isa)));
}
