//! The device chooses experts as the host's router does, to the bit: the router conformance kit, on the emulator.
#![cfg(feature = "emulated")]

#[path = "../../moebius-router/tests/kit/cases.rs"]
mod kit_cases;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use moebius_backend::{
    Backend, Error, ExpertBank, ExpertSource, ExpertSpec, Linear, LinearSpec, Projection, Result, Routed,
    WeightFormat, WeightView,
};
use moebius_backend_cuda::{Activations, CudaBackend, Order};
use moebius_metering::Meter;
use moebius_router::{GroupRank, Renormalize, Router, RouterConfig, Score, Selection};

use kit_cases::{all_cases, cases, config_of, files, floats};

fn emulated(order: Order) -> Result<CudaBackend> {
    CudaBackend::emulated(order, Activations::F32)
}

/// Width of the experts, which are as small as they can be.
const WIDTH: usize = 2;

/// Experts whose weights tell them apart.
struct Source {
    values: Vec<u8>,
}

impl ExpertSource for Source {
    fn get(&self, expert: usize, _: Projection) -> Result<WeightView<'_>> {
        let bytes = WIDTH * WIDTH * 4;
        let of_expert = &self.values[expert * bytes..][..bytes];
        Ok(WeightView::new("expert", WeightFormat::F32, (WIDTH, WIDTH), of_expert))
    }
}

/// A bank whose experts `router` chooses.
fn bank(backend: &CudaBackend, router: &Router) -> Box<dyn ExpertBank> {
    let n_experts = router.config().n_experts;
    let spec = ExpertSpec {
        layer: 3,
        n_experts,
        hidden: WIDTH,
        intermediate: WIDTH,
        format: WeightFormat::F32,
        down_format: WeightFormat::F32,
        activation: moebius_backend::Activation::Silu,
        gated: true,
        biases: false,
    };
    let values = (0..n_experts * WIDTH * WIDTH).flat_map(|value| (1.0 + value as f32 * 0.01).to_le_bytes());
    let mut bank = backend.load_experts(&spec, &Source { values: values.collect() }).expect("it loads");
    let spec = LinearSpec { name: "gate".into(), inputs: WIDTH, outputs: 1, format: WeightFormat::F32 };
    let zeros = WeightView::new("gate", WeightFormat::F32, (1, WIDTH), vec![0; WIDTH * 4]);
    let gate: Arc<dyn Linear> = backend.load_linear(&spec, zeros, None).expect("it loads").into();
    bank.routed_by(&gate, router);
    bank
}

fn tensor(values: Vec<f32>, width: usize) -> Tensor {
    let rows = values.len() / width;
    Tensor::from_vec(values, (rows, width), &Device::Cpu).expect("rows are whole")
}

/// Inputs for as many tokens as `logits` are for, and what the bank makes of them.
fn run(bank: &dyn ExpertBank, logits: &[f32]) -> (Tensor, Option<Routed>) {
    let n_experts = bank.spec().n_experts;
    let tokens = logits.len() / n_experts;
    let x = tensor((0..tokens * WIDTH).map(|value| (value as f32).sin()).collect(), WIDTH);
    let routed = bank.forward_routed(&x, &tensor(logits.to_vec(), n_experts)).expect("it runs");
    (x, routed)
}

/// Compares choice, weights and outputs with those of the host's router, bit for bit.
fn check(config: &RouterConfig, logits: &[f32]) {
    check_in(&[Order::Ascending, Order::Descending], config, logits);
}

fn check_in(orders: &[Order], config: &RouterConfig, logits: &[f32]) {
    let router = Router::new(3, config.clone()).expect("the configuration is valid");
    let expected = router.route(logits).expect("the logits have an answer");
    for &order in orders {
        let backend = emulated(order).expect("the emulator starts");
        let bank = bank(&backend, &router);
        let (x, routed) = run(&*bank, logits);
        let Routed { output, routing } = routed.expect("a block has room for the router");
        let routing = routing().expect("the logits have an answer");
        let bits = |weights: &[f32]| weights.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>();
        assert_eq!(routing.all_experts(), expected.all_experts(), "{config:?}");
        assert_eq!(bits(routing.all_weights()), bits(expected.all_weights()), "{config:?}");
        assert_eq!(routing, expected);
        let by_host = bank.forward(&x, &expected, &Meter::new()).expect("it runs");
        let values = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
        assert_eq!(bits(&values(&output)), bits(&values(&by_host)), "{config:?}");
    }
}

/// Logits of some tokens that look random.
fn logits(n_experts: usize, tokens: usize, spread: f32) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * spread
    };
    (0..n_experts * tokens).map(|_| next()).collect()
}

#[test]
fn the_whole_kit_is_routed_as_on_the_host() {
    let mut rows = 0;
    for (_, file) in files() {
        for case in cases(&file) {
            let of_case = case["logits"].as_array().expect("cases have logits");
            let logits: Vec<f32> = of_case.iter().flat_map(floats).collect();
            let order = [Order::Ascending, Order::Descending][rows % 2];
            check_in(&[order], &config_of(&case["config"]), &logits);
            rows += of_case.len();
        }
    }
    assert!(rows > 500, "only {rows} rows");
}

#[test]
fn masked_and_dropped_experts_are_as_on_the_host() {
    for case in all_cases() {
        let config = config_of(&case["config"]);
        let logits = logits(config.n_experts, 3, 6.0);
        for config in [config.clone().with_drop_below(0.4), config.clone().with_masked(vec![0, 3])] {
            if Router::new(0, config.clone()).is_ok() {
                check_in(&[Order::Descending], &config, &logits);
            }
        }
    }
}

#[test]
fn wide_routers_and_many_tokens_are_routed_as_on_the_host() {
    let wide = RouterConfig::softmax_top_k(1024, 64).with_renormalize(Renormalize::SumAtLeast { min: 1e-3 });
    check(&wide, &logits(1024, 3, 20.0));
    check(&RouterConfig::softmax_top_k(5, 2), &logits(5, 300, 4.0));
    let grouped = Selection::GroupLimited { n_groups: 300, keep: 7, rank: GroupRank::TopTwoSum };
    let grouped =
        RouterConfig { score: Score::Sigmoid, selection: grouped, ..RouterConfig::softmax_top_k(600, 9) };
    check(&grouped, &logits(600, 4, 4.0));
    check(&RouterConfig::softmax_top_k(7, 3), &[]);
}

#[test]
fn logits_without_an_answer_are_the_routers_errors() {
    let router = Router::new(3, RouterConfig::softmax_top_k(130, 2)).expect("it is valid");
    let backend = emulated(Order::Ascending).expect("the emulator starts");
    let bank = bank(&backend, &router);
    for (wrong, message) in [
        (f32::NAN, "layer 3, token 1: router logit for expert 129 is NaN"),
        (f32::INFINITY, "layer 3, token 1: router logit for expert 129 is +inf"),
    ] {
        let mut logits = logits(130, 3, 1.0);
        logits[2 * 130 - 1] = wrong;
        let routing = run(&*bank, &logits).1.expect("it is routed here").routing;
        assert_eq!(routing().expect_err("there is no answer").to_string(), message);
    }
    let nobody = run(&*bank, &[f32::NEG_INFINITY; 130]).1.expect("it is routed here").routing;
    assert!(matches!(nobody(), Err(Error::Router(_))));
}

#[test]
fn routers_that_a_block_has_no_room_for_are_left_to_the_host() {
    let backend = emulated(Order::Ascending).expect("the emulator starts");
    for (n_experts, top_k) in [(1025, 2), (100, 65)] {
        let router = Router::new(3, RouterConfig::softmax_top_k(n_experts, top_k)).expect("it is valid");
        assert!(run(&*bank(&backend, &router), &logits(n_experts, 1, 1.0)).1.is_none());
    }
}

#[test]
fn routings_of_many_layers_can_be_asked_for_late_and_in_any_order() {
    let router = Router::new(3, RouterConfig::softmax_top_k(16, 4)).expect("it is valid");
    let backend = emulated(Order::Ascending).expect("the emulator starts");
    let bank = bank(&backend, &router);
    // Together more than a page of the journal holds.
    let batches: Vec<Vec<f32>> = (1..60).map(|tokens| logits(16, tokens, tokens as f32)).collect();
    for _ in 0..2 {
        let routings = batches.iter().map(|logits| run(&*bank, logits).1.expect("it is routed here").routing);
        let late: Vec<_> = routings.collect();
        for (routing, logits) in late.into_iter().zip(&batches).rev() {
            assert_eq!(routing().expect("it has an answer"), router.route(logits).expect("it has one"));
        }
    }
}
