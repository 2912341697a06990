//! Wide blocks, which many inputs get, give the bits that few inputs get, on the emulator: in every format, for odd sizes,
//! for heads, and for experts that have everything or nothing.
#![cfg(feature = "emulated")]

use candle_core::{Device, Tensor};
use moebius_backend::{
    Activation, Backend, Error, ExpertBank, ExpertSource, ExpertSpec, LinearSpec, Projection, Result,
    WeightFormat, WeightView,
};
use moebius_backend_cuda::{Activations, CudaBackend, KernelArg, Order, run_kernel};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

/// Inputs of which a batch is not yet wide.
const FEW: usize = 32;

fn backend(order: Order, activations: Activations) -> CudaBackend {
    CudaBackend::emulated(order, activations).expect("it starts")
}

/// Numbers that look random, of both signs and some orders of magnitude.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() * (4.0 * next()).exp()).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn tensor(values: &[f32], width: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).expect("rows are whole")
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values = x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
    values.into_iter().map(f32::to_bits).collect()
}

/// Compares the product of a batch with those of few of its rows at a time.
fn check_linear(backend: &CudaBackend, format: WeightFormat, shape: (usize, usize), rows: usize) {
    let spec = LinearSpec { name: "w".into(), inputs: shape.1, outputs: shape.0, format };
    let weights = bytes(&numbers(shape.0 * shape.1, 1));
    let view = WeightView::new("w", WeightFormat::F32, shape, &weights[..]);
    let linear = backend.load_linear(&spec, view, Some(numbers(shape.0, 2))).expect("it loads");
    let x = tensor(&numbers(rows * shape.1, 3), shape.1);
    let together = bits(&linear.forward(&x).expect("it runs"));
    let few_by_few = (0..rows).step_by(FEW).flat_map(|first| {
        let few = x.narrow(0, first, FEW.min(rows - first)).expect("they are there");
        bits(&linear.forward(&few).expect("it runs"))
    });
    assert!(few_by_few.eq(together.iter().copied()), "{format} {shape:?}, {rows} rows");
}

#[test]
fn products_of_many_rows_have_the_bits_of_few_in_every_format() {
    for (number, format) in WeightFormat::ALL.into_iter().enumerate() {
        let order = [Order::Ascending, Order::Descending][number % 2];
        for activations in [Activations::F32, Activations::Bf16] {
            // A part of eight panels, quarters that no stage divides, and a batch that fills one block and a bit.
            check_linear(&backend(order, activations), format, (72, 1280), 33 + number);
        }
        check_linear(&backend(order, Activations::Bf16), format, (168, 256), 130);
    }
}

#[test]
fn columns_that_fill_no_stage_are_multiplied_too() {
    for format in [WeightFormat::Bf16, WeightFormat::F16] {
        for cols in [1, 15, 17, 50, 129, 250] {
            check_linear(&backend(Order::Descending, Activations::F32), format, (19, cols), 34);
        }
    }
    for (format, cols) in [(WeightFormat::Q8_0, 32), (WeightFormat::Mxfp4, 96), (WeightFormat::Q5_1, 416)] {
        check_linear(&backend(Order::Ascending, Activations::F32), format, (130, cols), 47);
    }
}

#[test]
fn each_head_has_its_own_matrix_in_wide_blocks_too() {
    const SHAPE: (usize, usize) = (24, 64);
    let backend = backend(Order::Descending, Activations::F32);
    let spec = LinearSpec { name: "w".into(), inputs: SHAPE.1, outputs: SHAPE.0, format: WeightFormat::Bf16 };
    let matrix = |head: usize| -> Result<WeightView<'_>> {
        let values = bytes(&numbers(SHAPE.0 * SHAPE.1, head as u64));
        Ok(WeightView::new("w", WeightFormat::F32, SHAPE, values))
    };
    let heads = backend.load_heads(&spec, 3, &matrix).expect("it loads");
    let rows = 140;
    let x = tensor(&numbers(rows * 3 * SHAPE.1, 9), SHAPE.1).reshape((rows, 3, SHAPE.1)).expect("whole");
    let together = bits(&heads.forward(&x).expect("it runs"));
    // The last one of a block, the first one of the next, and some more.
    for row in (0..rows).step_by(23).chain([127, 128, rows - 1]) {
        let alone = bits(&heads.forward(&x.narrow(0, row, 1).expect("it is there")).expect("it runs"));
        assert_eq!(alone[..], together[row * alone.len()..][..alone.len()], "row {row}");
    }
}

/// Experts whose matrices are all different.
struct Source {
    hidden: usize,
    intermediate: usize,
    biases: bool,
}

impl ExpertSource for Source {
    fn get(&self, expert: usize, projection: Projection) -> Result<WeightView<'_>> {
        let shape = match projection {
            Projection::Down => (self.hidden, self.intermediate),
            _ => (self.intermediate, self.hidden),
        };
        let seed = 10 * expert as u64 + projection as u64;
        Ok(WeightView::new("expert", WeightFormat::F32, shape, bytes(&numbers(shape.0 * shape.1, seed))))
    }

    fn bias(&self, expert: usize, projection: Projection) -> Result<Vec<f32>> {
        assert!(self.biases);
        let width = if projection == Projection::Down { self.hidden } else { self.intermediate };
        Ok(numbers(width, 1000 + 10 * expert as u64 + projection as u64))
    }
}

fn bank(backend: &CudaBackend, gated: bool, biases: bool, format: WeightFormat) -> Box<dyn ExpertBank> {
    let (hidden, intermediate) = (96, 160);
    let spec = ExpertSpec {
        layer: 0,
        n_experts: 4,
        hidden,
        intermediate,
        format,
        down_format: WeightFormat::Q8_0,
        activation: if gated { Activation::Silu } else { Activation::ReluSquared },
        gated,
        biases,
    };
    backend.load_experts(&spec, &Source { hidden, intermediate, biases }).expect("it loads")
}

/// Compares what experts give for a batch with what they give for each token alone.
fn check_experts(bank: &dyn ExpertBank, ids: &[u32], top_k: usize, target: WeightTarget) {
    let tokens = ids.len() / top_k;
    let weights: Vec<f32> = (0..ids.len()).map(|pair| 0.1 + (pair % 7) as f32 * 0.3).collect();
    let x = tensor(&numbers(tokens * bank.spec().hidden, 5), bank.spec().hidden);
    let run = |tokens: std::ops::Range<usize>| {
        let pairs = tokens.start * top_k..tokens.end * top_k;
        let (ids, weights) = (ids[pairs.clone()].to_vec(), weights[pairs].to_vec());
        let routing = Routing::from_parts(4, top_k, ids, weights, target).expect("it is valid");
        let x = x.narrow(0, tokens.start, tokens.len()).expect("they are there");
        bits(&bank.forward(&x, &routing, &Meter::new()).expect("it runs"))
    };
    let together = run(0..tokens);
    for token in (0..tokens).step_by(11).chain([tokens - 1]) {
        let alone = run(token..token + 1);
        assert_eq!(alone[..], together[token * alone.len()..][..alone.len()], "token {token}");
    }
}

#[test]
fn experts_with_everything_or_nothing_give_each_token_its_bits() {
    for (order, gated, biases, target) in [
        (Order::Ascending, true, false, WeightTarget::Output),
        (Order::Descending, true, true, WeightTarget::Input),
        (Order::Ascending, false, true, WeightTarget::Output),
    ] {
        let backend = backend(order, Activations::F32);
        let bank = bank(&backend, gated, biases, WeightFormat::Bf16);
        // One expert has all 133 tokens; then two have most, one a few, and one none.
        check_experts(&*bank, &[2; 133], 1, target);
        let ragged = (0..90).flat_map(|token| if token % 11 == 0 { [0, 3] } else { [0, 1] });
        check_experts(&*bank, &ragged.collect::<Vec<u32>>(), 2, target);
    }
}

#[test]
fn a_plain_half_of_an_expert_keeps_the_other_half_from_wide_blocks() {
    let backend = backend(Order::Ascending, Activations::F32);
    check_experts(&*bank(&backend, true, false, WeightFormat::F32), &[1; 40], 1, WeightTarget::Output);
}

#[test]
fn copies_into_shared_memory_that_nobody_waits_for_do_not_arrive() {
    let mut x: Vec<f32> = (0..1024).map(|value| value as f32).collect();
    let mut run = |waits: usize, shared_bytes: usize| {
        let mut out = vec![0.0; 256];
        let mut args = [KernelArg::Floats(&mut x), KernelArg::Floats(&mut out), KernelArg::Size(waits)];
        run_kernel(Order::Ascending, "emulator_test_copy", ([1, 1], shared_bytes), &mut args)?;
        Ok::<_, Error>(out)
    };
    // The first thread copies zeros.
    let arrived = run(1, 4096).expect("it runs");
    assert_eq!(arrived[..4], [4.0, 0.0, 12.0, 8.0]);
    assert!(run(0, 4096).expect("it runs").iter().all(|value| value.is_nan()));
    let Err(Error::Kernel(error)) = run(1, 2048) else { panic!("the room is too small") };
    let text = error.to_string();
    assert!(text.contains("4096 bytes of shared memory where the launch has 2048"), "{text}");
}
