//! What attention reaches: query tokens x text before them x heads that share keys.
//!
//! Throughput counts both: `elem/s` is floating point operations per second (4 per query, key and element of a head),
//! `B/s` is bytes of keys and values, counted once. One token is bound by reading them, a prompt by arithmetic.
//! Run: `cargo bench -p moebius-benches --bench attention`

mod quick;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_benches::{threads, values};
use moebius_expert_kernels::{AttentionInputs, AttentionShape, Kernels, Pool};

const HEADS: usize = 16;
const HEAD_DIM: usize = 128;

fn attention(criterion: &mut Criterion) {
    let pool = Pool::new(threads()).expect("threads start");
    for isa in Kernels::available() {
        let kernels = Kernels::with_isa(isa).expect("it is available");
        let mut group = criterion.benchmark_group(format!("attention/{isa}"));
        for (tokens, before, kv_heads) in
            [(1, 511, 16), (1, 4095, 16), (1, 4095, 4), (512, 0, 16), (512, 3584, 16)]
        {
            let capacity = before + tokens;
            let shape = AttentionShape {
                heads: HEADS,
                kv_heads,
                head_dim: HEAD_DIM,
                value_dim: HEAD_DIM,
                capacity,
                first_position: before,
                scale: 0.1,
                window: None,
                chunk: None,
                value_stride: HEAD_DIM,
            };
            let cache = kv_heads * capacity * HEAD_DIM;
            let (queries, keys, cached) =
                (values(tokens * HEADS * HEAD_DIM, 1), values(cache, 2), values(cache, 3));
            let inputs = AttentionInputs { queries: &queries, keys: &keys, values: &cached, sinks: None };
            let mut out = vec![0.0; queries.len()];
            let seen = tokens * before + tokens * (tokens + 1) / 2;
            group.throughput(Throughput::ElementsAndBytes {
                elements: 4 * (seen * HEADS * HEAD_DIM) as u64,
                bytes: (2 * cache * size_of::<f32>()) as u64,
            });
            let id =
                BenchmarkId::new(format!("{tokens} tokens, {kv_heads} key heads"), format!("after {before}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| kernels.attention(&pool, black_box(&inputs), &shape, black_box(&mut out)));
            });
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = quick::quick(); targets = attention }
criterion_main!(benches);
