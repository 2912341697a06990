//! The constrained backend keeps the contract, and has the bits of the CPU backend.

use std::sync::Arc;

use moebius_backend::{Backend, Error};
use moebius_backend_constrained::{CachePolicy, ConstrainedBackend, ConstrainedOptions, Processor};
use moebius_backend_cpu::{CpuBackend, CpuOptions};
use moebius_conformance::{accept, same_bits};

accept!(everything_in_memory, || constrained(2, ConstrainedOptions::default()));
accept!(one_expert_in_memory, || vec![constrained(1, few(1, 0)), constrained(3, few(1, 0))]);
accept!(three_experts_in_memory, || constrained(2, few(3, 2)));

fn few(slots: usize, prefetch: usize) -> ConstrainedOptions {
    ConstrainedOptions { slots: Some(slots), prefetch, ..ConstrainedOptions::default() }
}

fn cpu(threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(threads), ..CpuOptions::default() }).unwrap()
}

fn constrained(threads: usize, options: ConstrainedOptions) -> Result<ConstrainedBackend, Error> {
    let cpu = cpu(threads);
    let processor = Processor { kernels: cpu.kernels(), pool: cpu.pool() };
    let backend = ConstrainedBackend::new(Arc::new(cpu) as Arc<dyn Backend>, processor)?;
    assert!(backend.constrain(options));
    Ok(backend)
}

#[test]
fn its_bits_are_those_of_the_cpu_backend() {
    for policy in ["lru", "lfu", "lfru", "layer"] {
        let policy = CachePolicy::named(policy).unwrap();
        let ours = constrained(2, ConstrainedOptions { policy, ..few(2, 1) }).unwrap();
        if let Err(failure) = same_bits(&ours, &cpu(1)) {
            panic!("{}", failure.chain());
        }
    }
}
