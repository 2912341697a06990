//! Declared hardware keeps the contract, refuses what it could not do, and takes the time that one can count by hand.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use moebius_backend::{Activation, Backend, ExpertSpec, LinearSpec, WeightFormat, WeightSpec, WeightView};
use moebius_backend_constrained::{
    DeclaredBackend, Launch, Ledger, Modelled, Peaks, Profile, Reached, ShapeRule, Tile, Watts,
};
use moebius_conformance::{ReferenceBackend, accept};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

/// 1 GB/s and 1 TFLOPS, all of it reached; launches of 1, 2 and 3 seconds so that they show.
fn profile(devices: usize) -> Profile {
    Profile {
        name: "round".into(),
        devices,
        memory_bytes: None,
        bandwidth: 1e9,
        link: Some(1e9),
        fetch: None,
        launch: Launch { product: 1.0, vector: 2.0, exchange: 3.0, layer: 0.0 },
        peaks: Peaks { bf16: Some(1e12), ..Peaks::default() },
        reached: Reached {
            bandwidth_share: 1.0,
            compute_share: 1.0,
            decode_error: 0.5,
            prefill_error: 0.5,
            fitted_to: 0,
        },
        formats: None,
        tile: None,
        cache_number_bytes: 2,
        capacity_factor: Some(1.0),
        watts: Some(Watts { load: 100.0, idle: Some(10.0) }),
    }
}

fn declare(profile: Profile) -> (DeclaredBackend, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::new(profile));
    let inner = Arc::new(ReferenceBackend::new().unwrap());
    (DeclaredBackend::new(inner, ledger.clone()), ledger)
}

fn declared(devices: usize) -> Result<DeclaredBackend, moebius_backend::Error> {
    Ok(declare(profile(devices)).0)
}

// The reference promises no equal bits, so those are held against the CPU backend where both are known.
accept!(
    permissive_profile,
    || declared(1),
    groups: [loading, linear, experts, ops],
);
accept!(
    eight_devices,
    || declared(8),
    groups: [loading, linear, experts, ops],
);

const FORMAT: WeightFormat = WeightFormat::F32;

fn zeros(rows: usize, cols: usize) -> WeightView<'static> {
    WeightView::new("w", FORMAT, (rows, cols), vec![0u8; rows * cols * 4])
}

fn linear(backend: &DeclaredBackend, outputs: usize, inputs: usize) -> Box<dyn moebius_backend::Linear> {
    let spec = LinearSpec { name: "w".into(), inputs, outputs, format: FORMAT };
    backend.load_linear(&spec, zeros(outputs, inputs), None).unwrap()
}

fn rows(count: usize, width: usize) -> Tensor {
    Tensor::zeros((count, width), DType::F32, &Device::Cpu).unwrap()
}

fn near(got: f64, expected: f64) -> bool {
    (got - expected).abs() <= 1e-9 * expected.abs().max(1e-9)
}

#[test]
fn one_row_waits_for_memory_and_many_wait_for_arithmetic() {
    let (backend, ledger) = declare(profile(1));
    let linear = linear(&backend, 100, 50);
    linear.forward(&rows(1, 50)).unwrap();
    let one = ledger.snapshot(0);
    // 20,000 bytes at 1 GB/s against 10,000 operations at 1 TFLOPS.
    assert!(near(one.memory_seconds, 20e-6) && one.compute_seconds == 0.0, "{one:?}");
    assert_eq!((one.operations, one.launch_seconds, one.macs), (1, 1.0, 5000));
    linear.forward(&rows(4000, 50)).unwrap();
    let many = &ledger.snapshot(0) - &one;
    assert!(near(many.compute_seconds, 40e-6) && many.memory_seconds == 0.0, "{many:?}");
    assert!(near(many.seconds(), 1.0 + 40e-6));
    assert!(near(
        many.joules(Some(Watts { load: 100.0, idle: Some(10.0) }), 1).unwrap(),
        100.0 * many.seconds()
    ));
}

#[test]
fn projections_of_one_input_are_accounted_for_once_each() {
    let (backend, ledger) = declare(profile(1));
    let (first, second) = (linear(&backend, 10, 10), linear(&backend, 20, 10));
    let x = rows(3, 10);
    let together = backend.ops().project(&[first.as_ref(), second.as_ref()], &x).unwrap();
    assert_eq!((together.len(), ledger.snapshot(0).operations), (2, 2));
    assert_eq!(ledger.snapshot(0).macs, 3 * (100 + 200));
}

#[test]
fn no_rows_take_no_time() {
    let (backend, ledger) = declare(profile(1));
    linear(&backend, 10, 10).forward(&rows(0, 10)).unwrap();
    assert_eq!(ledger.snapshot(0), Default::default());
}

#[test]
fn padding_is_computed_and_told() {
    let tile = Tile { rows: 16, inner: 16, cols: 16, rule: ShapeRule::Pad };
    let (backend, ledger) = declare(Profile { tile: Some(tile), ..profile(1) });
    linear(&backend, 16, 24).forward(&rows(8, 24)).unwrap();
    let padded = ledger.snapshot(0);
    assert_eq!((padded.macs, padded.padded_macs), (8 * 24 * 16, 16 * 32 * 16));
    assert!(near(padded.padding_share().unwrap(), 8192.0 / 3072.0 - 1.0));
}

fn experts() -> ExpertSpec {
    ExpertSpec {
        layer: 3,
        n_experts: 4,
        hidden: 10,
        intermediate: 10,
        format: FORMAT,
        down_format: FORMAT,
        activation: Activation::Silu,
        gated: true,
        biases: false,
    }
}

struct Zeros;

impl moebius_backend::ExpertSource for Zeros {
    fn get(&self, _: usize, _: moebius_backend::Projection) -> moebius_backend::Result<WeightView<'_>> {
        Ok(zeros(10, 10))
    }
}

/// Tokens 0 to 2 on experts 0 and 1, token 3 on 0 and 3.
fn routing() -> Routing {
    let ids = vec![0, 1, 0, 1, 0, 1, 0, 3];
    Routing::from_parts(4, 2, ids, vec![0.5; 8], WeightTarget::Output).unwrap()
}

#[test]
fn the_slowest_device_makes_the_time_of_a_layer() {
    let (backend, ledger) = declare(profile(2));
    let bank = backend.load_experts(&experts(), &Zeros).unwrap();
    bank.forward(&rows(4, 10), &routing(), &Meter::new()).unwrap();
    let modelled = ledger.snapshot(0);
    // Device 0 reads two experts of 1,200 bytes, device 1 one; three products and one activation are launched.
    assert!(near(modelled.memory_seconds, 2.0 * 1200.0 / 1e9), "{modelled:?}");
    assert_eq!((modelled.launch_seconds, modelled.macs), (5.0, 8 * 300));
    // Token 2 is at home on device 1 and goes to 0; token 3 too, besides its expert at home: two rows of 20 bytes, there
    // and back, over two links.
    assert_eq!(modelled.exchanged_bytes, 2 * 2 * 20);
    assert!(near(modelled.exchange_seconds, 40.0 / 1e9 + 6.0));
    let balance = &ledger.balance()[&3];
    assert_eq!((balance.pairs(), balance.straggler()), (&[7, 1][..], Some(7.0 / 4.0)));
    assert_eq!(balance.overflow_share(), Some(3.0 / 8.0));
    // Device 1 waits while device 0 reads its second expert.
    let waiting = 2.0 * modelled.seconds() - modelled.busy_seconds;
    assert!((waiting - 1200.0 / 1e9).abs() < 1e-9, "{waiting}");
}

#[test]
fn one_device_sends_nothing() {
    let (backend, ledger) = declare(profile(1));
    let bank = backend.load_experts(&experts(), &Zeros).unwrap();
    bank.forward(&rows(4, 10), &routing(), &Meter::new()).unwrap();
    let modelled = ledger.snapshot(0);
    assert!(near(modelled.memory_seconds, 3.0 * 1200.0 / 1e9));
    assert_eq!((modelled.exchange_seconds, modelled.exchanged_bytes), (0.0, 0));
    assert!(ledger.balance().is_empty());
}

#[test]
fn a_pass_is_counted_where_tokens_are_looked_up_and_costs_its_layers() {
    let launch = Launch { layer: 0.25, ..Launch::default() };
    let (backend, ledger) = declare(Profile { launch, ..profile(1) });
    linear(&backend, 10, 10).rows(&[1, 2]).unwrap();
    let modelled = ledger.snapshot(8);
    assert_eq!((modelled.passes, modelled.launch_seconds), (1, 2.0));
}

#[test]
fn attention_reads_the_keys_that_it_sees() {
    let (backend, ledger) = declare(Profile { launch: Launch::default(), ..profile(1) });
    let zeros = |dims: (usize, usize, usize)| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let (q, keys, values) = (zeros((2, 4, 8)), zeros((2, 16, 8)), zeros((2, 16, 8)));
    let span = moebius_backend::AttentionSpan { rows: 0..2, first_position: 5, keys: &keys, values: &values };
    let spec = moebius_backend::AttentionSpec { scale: 1.0, window: None, chunk: None, sinks: None };
    backend.ops().attention(&q, &[span], &spec).unwrap();
    // Seven positions of 2 heads x 16 numbers x 2 bytes.
    assert!(near(ledger.snapshot(0).memory_seconds, 7.0 * 64.0 / 1e9));
}

#[test]
fn fetches_take_the_time_of_their_link_and_an_unknown_one_is_not_a_number() {
    let mut modelled = Modelled::default();
    modelled.fetch(1000, Some(2e9));
    assert!(near(modelled.seconds(), 5e-7) && modelled.fetched_bytes == 1000);
    modelled.fetch(0, None);
    assert!(near(modelled.seconds(), 5e-7));
    modelled.fetch(1, None);
    assert!(modelled.seconds().is_nan());
}

#[test]
fn what_the_profile_objects_to_is_refused_by_its_name() {
    let formats = Some(vec![WeightFormat::Bf16]);
    let (backend, _) = declare(Profile { formats, ..profile(1) });
    let spec = LinearSpec { name: "w".into(), inputs: 32, outputs: 32, format: WeightFormat::Q4_0 };
    let refusal = backend.supports(&WeightSpec::Linear(&spec)).unwrap_err();
    assert_eq!(refusal.backend, "constrained");
    assert!(refusal.reason.contains("no arithmetic for q4_0"), "{refusal}");
    let spec = LinearSpec { format: WeightFormat::Bf16, ..spec };
    assert_eq!(backend.supports(&WeightSpec::Linear(&spec)), Ok(()));
}
