//! The constrained backend keeps the contract, and has the bits of the CPU backend.

use std::sync::Arc;

use moebius_backend::{Backend, Error};
use moebius_backend_constrained::{ConstrainedBackend, ConstrainedOptions, Processor};
use moebius_backend_cpu::{CpuBackend, CpuOptions};
use moebius_conformance::{accept, same_bits};

accept!(default_options, || constrained(2, ConstrainedOptions::default()));

fn cpu(threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(threads), isa: None }).unwrap()
}

fn constrained(threads: usize, options: ConstrainedOptions) -> Result<ConstrainedBackend, Error> {
    let cpu = cpu(threads);
    let processor = Processor { kernels: cpu.kernels(), pool: cpu.pool() };
    ConstrainedBackend::new(Arc::new(cpu) as Arc<dyn Backend>, processor, options)
}

#[test]
fn its_bits_are_those_of_the_cpu_backend() {
    let ours = constrained(2, ConstrainedOptions::default()).unwrap();
    if let Err(failure) = same_bits(&ours, &cpu(1)) {
        panic!("{}", failure.chain());
    }
}
