//! The CUDA backend keeps the contract, on an emulated device: the launches and kernels of a GPU, run thread by thread.
//!
//! Threads and blocks take turns in either order; both must agree bit for bit.
#![cfg(feature = "emulated")]

use candle_core::{Device, Tensor};
use moebius_backend::{Backend, Error, LinearSpec, Result, WeightFormat, WeightView};
use moebius_backend_cuda::{Activations, CudaBackend, KernelArg, Order, run_kernel};
use moebius_conformance::accept;

fn opened(order: Order) -> Result<CudaBackend> {
    CudaBackend::emulated(order, Activations::F32)
}

accept!(emulated, || vec![opened(Order::Ascending), opened(Order::Descending)]);

/// What the emulator says of a kernel that is given memory for so many elements.
fn refusal(kernel: &str, read: usize, written: usize, threads: usize) -> Option<String> {
    let (mut x, mut out) = (vec![1.0; read], vec![0.0; written]);
    let mut args = [KernelArg::Floats(&mut x), KernelArg::Floats(&mut out), KernelArg::Size(threads)];
    match run_kernel(Order::Ascending, kernel, ([1, 1], 0), &mut args) {
        Ok(()) => None,
        Err(Error::Kernel(error)) => Some(error.to_string()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn accesses_beyond_memory_are_errors_that_name_kernel_bytes_and_thread() {
    assert_eq!(refusal("softplus", 3, 3, 3), None);
    for (read, written) in [(2, 3), (3, 2)] {
        let text = refusal("softplus", read, written, 3).expect("the third element is beyond");
        for part in ["`softplus`", "bytes 8..12 of 8", "thread 2"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn unknown_kernels_and_other_parameters_are_errors() {
    let text = refusal("divine", 3, 3, 3).expect("there is none");
    assert!(text.contains("no such kernel"), "{text}");
    let text = refusal("rms_norm", 3, 3, 3).expect("it has five parameters");
    assert!(text.contains("expected 5 arguments, got 3"), "{text}");
}

#[test]
fn threads_that_wait_in_vain_are_errors() {
    for (kernel, message) in [
        ("emulator_test_barrier", "some threads wait for others that do not come"),
        ("emulator_test_warp", "some threads wait for others that do not come"),
    ] {
        assert_eq!(refusal(kernel, 1, 1, 128), None, "{kernel}");
        let text = refusal(kernel, 1, 1, 127).expect("one thread leaves early");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn a_race_shows_in_the_order_of_threads() {
    let last_writer = |order| {
        let (mut x, mut out) = (vec![0.0], vec![0.0]);
        let mut args = [KernelArg::Floats(&mut x), KernelArg::Floats(&mut out), KernelArg::Size(128)];
        run_kernel(order, "emulator_test_race", ([1, 1], 0), &mut args).expect("it runs");
        out[0]
    };
    assert_eq!((last_writer(Order::Ascending), last_writer(Order::Descending)), (127.0, 0.0));
}

#[test]
fn rounded_activations_give_the_products_of_rounded_inputs() {
    const SHAPE: (usize, usize) = (40, 512);
    let backend = |activations| CudaBackend::emulated(Order::Ascending, activations).expect("it starts");
    let numbers = |count: usize, step: f32| (0..count).map(move |i| (i as f32 * step).sin() * 1.7);
    let weights: Vec<u8> = numbers(SHAPE.0 * SHAPE.1, 0.37).flat_map(f32::to_le_bytes).collect();
    let x: Vec<f32> = numbers(9 * SHAPE.1, 0.91).collect();
    // To the nearest, ties to even; there are none among these.
    let round = |x: &f32| f32::from_bits((x.to_bits() + 0x7fff) & 0xffff_0000);
    let rounded: Vec<f32> = x.iter().map(round).collect();
    for format in [WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4K, WeightFormat::Mxfp4] {
        let product = |activations, x: &[f32]| -> Vec<u32> {
            let spec = LinearSpec { name: "w".into(), inputs: SHAPE.1, outputs: SHAPE.0, format };
            let view = WeightView::new("w", WeightFormat::F32, SHAPE, &weights[..]);
            let linear = backend(activations).load_linear(&spec, view, None).expect("it loads");
            let x = Tensor::from_vec(x.to_vec(), (9, SHAPE.1), &Device::Cpu).expect("nine rows");
            let y = linear.forward(&x).and_then(|y| Ok(y.flatten_all()?.to_vec1::<f32>()?));
            y.expect("it runs").into_iter().map(f32::to_bits).collect()
        };
        let got = product(Activations::Bf16, &x);
        assert_eq!(got, product(Activations::F32, &rounded), "{format}");
        assert_ne!(got, product(Activations::F32, &x), "{format}");
    }
}

#[test]
fn what_a_norm_gives_is_multiplied_as_if_it_came_from_elsewhere() {
    const SHAPE: (usize, usize) = (24, 256);
    let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.71).sin()).collect::<Vec<f32>>();
    let weights: Vec<u8> = numbers(SHAPE.0 * SHAPE.1).into_iter().flat_map(f32::to_le_bytes).collect();
    for activations in [Activations::F32, Activations::Bf16] {
        let backend = CudaBackend::emulated(Order::Descending, activations).expect("it starts");
        let x = Tensor::from_vec(numbers(3 * SHAPE.1), (3, SHAPE.1), &Device::Cpu).expect("three rows");
        let scale = Tensor::from_vec(numbers(SHAPE.1), SHAPE.1, &Device::Cpu).expect("one row");
        let normed = backend.ops().rms_norm(&x, &scale, 1e-5).expect("it runs");
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q2K] {
            let spec = LinearSpec { name: "w".into(), inputs: SHAPE.1, outputs: SHAPE.0, format };
            let view = WeightView::new("w", WeightFormat::F32, SHAPE, &weights[..]);
            let linear = backend.load_linear(&spec, view, None).expect("it loads");
            let product = |x: &Tensor| -> Vec<u32> {
                let y = linear.forward(x).and_then(|y| Ok(y.flatten_all()?.to_vec1::<f32>()?));
                y.expect("it runs").into_iter().map(f32::to_bits).collect()
            };
            let elsewhere = normed.copy().expect("there is memory");
            let of_norm = product(&normed);
            assert_eq!(of_norm, product(&elsewhere), "{format}");
            // And once more, when another input was split in between.
            assert_eq!(of_norm, product(&normed), "{format}");
        }
    }
}
