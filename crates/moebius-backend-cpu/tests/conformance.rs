//! The CPU backend keeps the contract: every instruction set, on one, two and three threads.
//!
//! Instances of one instruction set must agree bit for bit; an instruction set that this processor lacks has
//! no instances.

use moebius_backend::Error;
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa, Kernels};
use moebius_conformance::accept;

accept!(default_options, || CpuBackend::new(CpuOptions::default()));
accept!(scalar, || on_several_threads(Isa::Scalar));
accept!(avx2, || on_several_threads(Isa::Avx2));
accept!(avxvnni, || on_several_threads(Isa::AvxVnni));
accept!(avx512, || on_several_threads(Isa::Avx512));
accept!(neon, || on_several_threads(Isa::Neon));
accept!(neondot, || on_several_threads(Isa::NeonDot));

fn on_several_threads(isa: Isa) -> Vec<Result<CpuBackend, Error>> {
    if !Kernels::available().contains(&isa) {
        return Vec::new();
    }
    [1, 2, 3]
        .map(|threads| {
            CpuBackend::new(CpuOptions { threads: Some(threads), isa: Some(isa), ..CpuOptions::default() })
        })
        .into()
}

#[test]
fn every_available_instruction_set_is_tested() {
    let tested = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon, Isa::NeonDot];
    assert!(Kernels::available().iter().all(|isa| tested.contains(isa)));
}
