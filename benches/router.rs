//! What routing costs: formulas x experts x tokens, 8 experts per token, and the dispatch after it.
//!
//! Throughput counts tokens: `elem/s` is tokens routed per second by one thread.
//! Run: `cargo bench -p moebius-benches --bench router`

mod quick;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius_benches::values;
use moebius_router::{Router, RouterConfig};

const TOP_K: usize = 8;

fn formulas(n_experts: usize) -> [(&'static str, RouterConfig); 5] {
    let bias = values(n_experts, 3).into_iter().map(|value| 0.1 * value).collect();
    [
        ("softmax_top_k", RouterConfig::softmax_top_k(n_experts, TOP_K)),
        ("softmax_probabilities", RouterConfig::softmax_probabilities(n_experts, TOP_K)),
        ("top_k_softmax", RouterConfig::top_k_softmax(n_experts, TOP_K)),
        ("sigmoid_grouped", RouterConfig::sigmoid_grouped(n_experts, TOP_K, 8, 4).with_selection_bias(bias)),
        ("one_per_group", RouterConfig::one_per_group(n_experts, TOP_K, vec![1.0; n_experts])),
    ]
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for n_experts in [64, 256] {
        for tokens in [1, 512] {
            let logits: Vec<f32> =
                values(tokens * n_experts, 1).into_iter().map(|value| 4.0 * value).collect();
            group.throughput(Throughput::Elements(tokens as u64));
            for (name, config) in formulas(n_experts) {
                let router = Router::new(0, config).expect("the formula allows these sizes");
                let id = BenchmarkId::new(name, format!("{n_experts} experts, {tokens} tokens"));
                group.bench_function(id, |bencher| bencher.iter(|| router.route(black_box(&logits))));
            }
        }
    }
    group.finish();
}

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch");
    for n_experts in [64, 256] {
        for tokens in [1, 512] {
            let router = Router::new(0, RouterConfig::softmax_top_k(n_experts, TOP_K))
                .expect("k is below the experts");
            let routing = router.route(&values(tokens * n_experts, 1)).expect("the logits are finite");
            group.throughput(Throughput::Elements(tokens as u64));
            let id = BenchmarkId::from_parameter(format!("{n_experts} experts, {tokens} tokens"));
            group.bench_function(id, |bencher| bencher.iter(|| black_box(&routing).dispatch()));
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = quick::quick(); targets = route, dispatch }
criterion_main!(benches);
