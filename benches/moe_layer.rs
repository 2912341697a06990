//! Sparse against dense: one layer of 32 experts of 1024 x 512 in bf16, k = 1, 2, 4, 8 against all 32.
//!
//! `all 32` is the iso-total dense twin: the same weights, every expert for every token, with weight zero where it was not
//! chosen. `dense k` is the iso-active one: a single expert as wide as k, for every token. Logits are random, so tokens
//! spread evenly; the gate's own product is left out, the dispatch is in. Weights stay in caches where they fit, other
//! than in `moebius bench layer`, which measures the same on cold ones. Throughput counts tokens.
//! The layers take about 250 MB while they are loaded and 150 MB after.
//! Run: `cargo bench -p moebius-benches --bench moe_layer`

mod quick;

use std::hint::black_box;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius::{BackendOptions, open_backend};
use moebius_backend::{
    Activation, Backend, ExpertBank, ExpertSource, ExpertSpec, Projection, Result, WeightFormat, WeightView,
};
use moebius_benches::{encode, values};
use moebius_metering::Meter;
use moebius_router::{Router, RouterConfig, Routing, WeightTarget};

const EXPERTS: usize = 32;
const FORMAT: WeightFormat = WeightFormat::Bf16;

/// Gives every expert the same bytes; the backend packs a copy for each.
struct Repeated<'a> {
    spec: &'a ExpertSpec,
    bytes: Vec<u8>,
}

impl ExpertSource for Repeated<'_> {
    fn get(&self, expert: usize, projection: Projection) -> Result<WeightView<'_>> {
        let name = format!("experts.{expert}.{projection:?}");
        Ok(WeightView::new(name, FORMAT, self.spec.shape(projection), &self.bytes))
    }
}

/// `n_experts` of 1024 x `intermediate`.
fn bank(backend: &dyn Backend, n_experts: usize, intermediate: usize) -> Box<dyn ExpertBank> {
    let spec = ExpertSpec {
        layer: 0,
        n_experts,
        hidden: 1024,
        intermediate,
        format: FORMAT,
        down_format: FORMAT,
        activation: Activation::Silu,
        gated: true,
        biases: false,
    };
    let bytes = encode(FORMAT, &values(spec.hidden * spec.intermediate, 1));
    backend.load_experts(&spec, &Repeated { spec: &spec, bytes }).expect("the experts load")
}

fn moe_layer(criterion: &mut Criterion) {
    let backend = open_backend(&BackendOptions::default()).expect("the default backend starts");
    let experts = bank(backend.as_ref(), EXPERTS, 512);
    let dense = [1, 2, 4, 8].map(|k| (k, bank(backend.as_ref(), 1, k * 512)));
    let meter = Meter::new();
    let mut group = criterion.benchmark_group("moe_layer");
    for tokens in [1, 8, 64] {
        let x = Tensor::from_vec(values(tokens * 1024, 2), (tokens, 1024), &backend.info().device);
        let x = x.expect("the values fill the shape");
        let logits = values(tokens * EXPERTS, 3);
        group.throughput(Throughput::Elements(tokens as u64));
        let mut measure = |name: String, bank: &dyn ExpertBank, routing: &Routing| {
            group.bench_function(BenchmarkId::new(format!("tokens {tokens}"), name), |bencher| {
                bencher.iter(|| bank.forward(black_box(&x), routing, &meter));
            });
        };
        for (k, dense) in &dense {
            let router = RouterConfig::softmax_top_k(EXPERTS, *k);
            let router = Router::new(0, router).expect("k is at most the experts");
            let routing = router.route(&logits).expect("the logits are finite");
            measure(format!("k {k}"), experts.as_ref(), &routing);
            let one = Routing::from_parts(1, 1, vec![0; tokens], vec![1.0; tokens], WeightTarget::Output);
            measure(format!("dense {k}"), dense.as_ref(), &one.expect("every token has its expert"));
            if *k == 8 {
                let all = routing.over_all_experts().expect("the pairs are few");
                measure(format!("all {EXPERTS}"), experts.as_ref(), &all);
            }
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = quick::quick(); targets = moe_layer }
criterion_main!(benches);
