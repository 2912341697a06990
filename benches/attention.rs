//! What attention reaches: query tokens x text before them x heads that share keys.
//!
//! Throughput counts both: `elem/s` is floating point operations per second (2 per query, key and column of key or value),
//! `B/s` is bytes of keys and values, counted once. One token is bound by reading them, a prompt by arithmetic.
//! Run: `cargo bench -p moebius-benches --bench attention`

mod quick;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_benches::{threads, values};
use moebius_expert_kernels::{AttentionInputs, AttentionShape, Kernels, Pool};

const HEADS: usize = 16;

/// Key heads and widths.
#[derive(Clone, Copy, PartialEq)]
struct Heads {
    name: &'static str,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
}

const MULTI_HEAD: Heads = Heads { name: "16 key heads", kv_heads: 16, head_dim: 128, value_dim: 128 };
const GROUPED: Heads = Heads { name: "4 key heads", kv_heads: 4, ..MULTI_HEAD };
/// Values are the first columns of the keys, as in latent attention.
const LATENT: Heads = Heads { name: "latent", kv_heads: 1, head_dim: 576, value_dim: 512 };

fn attention(criterion: &mut Criterion) {
    let pool = Pool::new(threads()).expect("threads start");
    for isa in Kernels::available() {
        let kernels = Kernels::with_isa(isa).expect("it is available");
        let mut group = criterion.benchmark_group(format!("attention/{isa}"));
        for (heads, tokens, before) in [
            (MULTI_HEAD, 1, 511),
            (MULTI_HEAD, 1, 4095),
            (GROUPED, 1, 4095),
            (LATENT, 1, 4095),
            (MULTI_HEAD, 512, 0),
            (MULTI_HEAD, 512, 3584),
            (LATENT, 64, 1984),
        ] {
            let Heads { name, kv_heads, head_dim, value_dim } = heads;
            let capacity = before + tokens;
            let in_keys = heads == LATENT;
            let shape = AttentionShape {
                heads: HEADS,
                kv_heads,
                head_dim,
                value_dim,
                capacity,
                first_position: before,
                scale: 0.1,
                window: None,
                chunk: None,
                value_stride: if in_keys { head_dim } else { value_dim },
            };
            let slots = kv_heads * capacity;
            let (queries, keys) = (values(tokens * HEADS * head_dim, 1), values(slots * head_dim, 2));
            let own = values(if in_keys { 0 } else { slots * value_dim }, 3);
            let cached = if in_keys { &keys[..keys.len() - (head_dim - value_dim)] } else { &own };
            let inputs = AttentionInputs { queries: &queries, keys: &keys, values: cached, sinks: None };
            let mut out = vec![0.0; tokens * HEADS * value_dim];
            let seen = tokens * before + tokens * (tokens + 1) / 2;
            group.throughput(Throughput::ElementsAndBytes {
                elements: 2 * (seen * HEADS * (head_dim + value_dim)) as u64,
                bytes: ((keys.len() + own.len()) * size_of::<f32>()) as u64,
            });
            let id = BenchmarkId::new(format!("{tokens} tokens, {name}"), format!("after {before}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| kernels.attention(&pool, black_box(&inputs), &shape, black_box(&mut out)));
            });
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = quick::quick(); targets = attention }
criterion_main!(benches);
