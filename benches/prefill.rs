//! How fast the bundled model reads a prompt: its length, and experts per token.
//!
//! Measured is the prefill window of the meter: from the prompt to the first token. Throughput counts prompt
//! tokens. `32 experts` is the dense twin: every expert for every token.
//! Run: `cargo bench -p moebius-benches --bench prefill`

mod quick;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_benches::{bundled, generate};

fn prefill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefill");
    for experts in [4, 32] {
        let mut model = bundled(experts);
        for prompt_tokens in [1, 32, 256, 480] {
            group.throughput(Throughput::Elements(prompt_tokens as u64));
            let id = BenchmarkId::new(format!("{experts} experts"), format!("{prompt_tokens} tokens"));
            group.bench_function(id, |bencher| {
                let mut once = |_| generate(&mut model, prompt_tokens, 1).prefill.elapsed;
                bencher.iter_custom(|iterations| (0..iterations).map(&mut once).sum());
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = quick::quick(); targets = prefill }
criterion_main!(benches);
