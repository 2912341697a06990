//! Sparse against dense: one layer of 32 experts of 1024 x 512 in bf16, k = 1, 2, 4, 8 against all 32.
//!
//! `all 32` is the iso-total dense twin: the same weights, every expert for every token. Logits are random, so
//! tokens spread evenly; the gate's own product is left out, the dispatch is in. Throughput counts tokens.
//! The layer takes about 200 MB while it is loaded and 100 MB after.
//! Run: `cargo bench -p moebius-benches --bench moe_layer`

mod quick;

use std::hint::black_box;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moebius::{BackendOptions, open_backend};
use moebius_backend::{Activation, ExpertSource, ExpertSpec, Projection, Result, WeightFormat, WeightView};
use moebius_benches::{encode, values};
use moebius_metering::Meter;
use moebius_router::{Router, RouterConfig};

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

fn moe_layer(criterion: &mut Criterion) {
    let backend = open_backend(&BackendOptions::default()).expect("the default backend starts");
    let spec = ExpertSpec {
        layer: 0,
        n_experts: EXPERTS,
        hidden: 1024,
        intermediate: 512,
        format: FORMAT,
        down_format: FORMAT,
        activation: Activation::Silu,
        gated: true,
        biases: false,
    };
    let bytes = encode(FORMAT, &values(spec.hidden * spec.intermediate, 1));
    let bank = backend.load_experts(&spec, &Repeated { spec: &spec, bytes }).expect("the experts load");
    let meter = Meter::new();
    let mut group = criterion.benchmark_group("moe_layer");
    for tokens in [1, 8, 64] {
        let x =
            Tensor::from_vec(values(tokens * spec.hidden, 2), (tokens, spec.hidden), &backend.info().device);
        let x = x.expect("the values fill the shape");
        let logits = values(tokens * EXPERTS, 3);
        group.throughput(Throughput::Elements(tokens as u64));
        for k in [1, 2, 4, 8, EXPERTS] {
            let router =
                Router::new(0, RouterConfig::softmax_top_k(EXPERTS, k)).expect("k is at most the experts");
            let routing = router.route(&logits).expect("the logits are finite");
            let name = if k == EXPERTS { format!("all {k}") } else { format!("k {k}") };
            group.bench_function(BenchmarkId::new(format!("tokens {tokens}"), name), |bencher| {
                bencher.iter(|| bank.forward(black_box(&x), &routing, &meter));
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = quick::quick(); targets = moe_layer }
criterion_main!(benches);
