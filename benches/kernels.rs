//! What the matrix kernels reach: instruction set x format x rows, on every core.
//!
//! Throughput counts both: `elem/s` is floating point operations per second (2 per weight and row), `B/s` is
//! bytes of weights per second. One row is bound by memory, so read its bytes; many rows are bound by arithmetic,
//! so read their operations. The matrices of one benchmark take turns and exceed most caches together, because a
//! decoder also meets each weight only once per token.
//! Run: `cargo bench -p moebius-benches --bench kernels -- bf16`

mod quick;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_backend::WeightFormat;
use moebius_benches::{encode, threads, values};
use moebius_expert_kernels::{Kernels, PackedMatrix, Pool};

const OUTPUTS: usize = 1024;
const INPUTS: usize = 2048;
const WORKING_SET_BYTES: usize = 256 << 20;

fn matmul(criterion: &mut Criterion) {
    let pool = Pool::new(threads()).expect("threads start");
    let weights = values(OUTPUTS * INPUTS, 1);
    for format in WeightFormat::ALL {
        let packed = PackedMatrix::pack(&pool, format, OUTPUTS, INPUTS, &encode(format, &weights));
        let packed = packed.expect("finite weights pack");
        let matrices = vec![packed.clone(); WORKING_SET_BYTES / packed.packed_bytes()];
        for isa in Kernels::available() {
            let kernels = Kernels::with_isa(isa).expect("it is available");
            let mut group = criterion.benchmark_group(format!("matmul/{isa}/{format}"));
            for rows in [1, 8, 64, 512] {
                let x = values(rows * INPUTS, 2);
                let mut out = vec![0.0; rows * OUTPUTS];
                let mut turn = matrices.iter().cycle();
                group.throughput(Throughput::ElementsAndBytes {
                    elements: 2 * (rows * OUTPUTS * INPUTS) as u64,
                    bytes: packed.packed_bytes() as u64,
                });
                group.bench_function(BenchmarkId::new("rows", rows), |bencher| {
                    bencher.iter(|| {
                        let matrix = turn.next().expect("the cycle does not end");
                        kernels.matmul(&pool, black_box(&x), matrix, None, black_box(&mut out))
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group! { name = benches; config = quick::quick(); targets = matmul }
criterion_main!(benches);
