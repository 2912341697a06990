//! How fast the bundled model generates: experts per token, and the length of what came before.
//!
//! Measured is the decode window of the meter alone: 32 tokens, one pass each, sampling included. Throughput
//! counts generated tokens.
//! Run: `cargo bench -p moebius-benches --bench decode`

mod quick;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_benches::{bundled, generate};

const TOKENS: usize = 32;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for (experts, prompt_tokens) in [(1, 16), (4, 16), (8, 16), (32, 16), (4, 128), (4, 448)] {
        let mut model = bundled(experts);
        let id = BenchmarkId::new(format!("{experts} experts"), format!("after {prompt_tokens} tokens"));
        group.bench_function(id, |bencher| {
            // The first token comes with the prompt, which is not part of the window.
            let mut once = |_| generate(&mut model, prompt_tokens, TOKENS + 1).decode.elapsed;
            bencher.iter_custom(|iterations| (0..iterations).map(&mut once).sum());
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = quick::quick(); targets = decode }
criterion_main!(benches);
