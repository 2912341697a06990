//! How fast the bundled model generates: experts per token, and the length of what came before.
//!
//! Measured is the decode window of the meter alone: 32 tokens, one pass each, sampling included. Throughput
//! counts generated tokens.
//! `counting` is what the meter takes of a step: every part of every layer is booked twice, which is more than the model
//! does, so that its time over that of a token bounds the share.
//! Run: `cargo bench -p moebius-benches --bench decode`

mod quick;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius::metering::{ExpertWork, Meter, Part, Phase, Stage, Work};
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

fn counting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("counting");
    for (n_layers, top_k, n_experts) in [(4, 4, 32), (16, 8, 64)] {
        let (meter, ids) = (Meter::new(), (0..top_k as u32).collect::<Vec<_>>());
        let id =
            BenchmarkId::new("a decode step", format!("{n_layers} layers, {top_k} of {n_experts} experts"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                (0..n_layers).for_each(|layer| book_layer(&meter, layer, (n_experts, &ids)));
                meter.tokens(Phase::Decode, 1);
            });
        });
    }
    group.finish();
}

fn book_layer(meter: &Meter, layer: usize, (n_experts, experts): (usize, &[u32])) {
    let work = Work { macs: 1000, weight_bytes: 2000, cache_bytes: 100 };
    for part in Part::ALL {
        meter.add(part.in_layer(layer), work);
        meter.add(part.in_layer(layer), work);
    }
    meter.experts(ExpertWork {
        layer,
        n_experts,
        tokens: 1,
        top_k: experts.len(),
        experts,
        macs_per_token_expert: 1000,
        bytes_per_expert: 2000,
    });
    // The stopwatch stands still, as it does unless a profile was asked for.
    Stage::ALL.into_iter().for_each(|stage| meter.lap(stage));
}

criterion_group! { name = benches; config = quick::quick(); targets = decode, counting }
criterion_main!(benches);
