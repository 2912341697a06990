//! This machine as a device: its memory and arithmetic, measured on the spot.

use std::time::Instant;

use candle_core::Tensor;
use moebius_backend::{LinearSpec, WeightFormat, WeightView};

use super::hardware::{Cited, Class, Device, Machine, Peaks, Trust};
use super::rules::Rules;
use crate::{BackendOptions, Result, cpu, memory, open_backend, read_bandwidth};

/// The product that arithmetic is measured with: rows, inputs, outputs.
const PRODUCT: (usize, usize, usize) = (512, 1024, 2048);
/// How often; the fastest counts, since whatever else runs only slows it down.
const REPETITIONS: usize = 8;

/// This machine with `threads` threads. Takes a second or two.
///
/// # Errors
/// A backend that cannot start.
pub fn here(threads: usize) -> Result<Machine> {
    let bandwidth = read_bandwidth(threads)?;
    let arithmetic = arithmetic(threads)?;
    let memory_bytes = memory::available_bytes();
    let measured =
        |what, value| Cited { what, value, trust: Trust::P, source: "measured on this machine".into() };
    let cited = [
        memory_bytes.map(|bytes| measured("memory_gb", bytes as f64 / 1e9)),
        bandwidth.map(|rate| measured("bandwidth_gb_s", rate / 1e9)),
        Some(measured("tflops.bf16", arithmetic / 1e12)),
    ];
    let device = Device {
        name: "here".into(),
        also: None,
        title: cpu::cpu_name().unwrap_or_else(|| "this machine".into()),
        class: Class::Cpu,
        dies: 1,
        memory_bytes,
        // Without room to measure it, nothing is known and nothing is estimated.
        bandwidth: bandwidth.unwrap_or(f64::NAN),
        watts: None,
        idle_watts: None,
        link: None,
        net: None,
        node: None,
        peaks: Peaks { bf16: Some(arithmetic), ..Peaks::default() },
        rules: Rules::default(),
        cited: cited.into_iter().flatten().collect(),
    };
    Ok(Machine { count: 1, device, host: None })
}

/// Operations per second of a matrix product of many rows with weights in bf16.
fn arithmetic(threads: usize) -> Result<f64> {
    let (rows, inputs, outputs) = PRODUCT;
    let backend = open_backend(&BackendOptions { threads: Some(threads), ..BackendOptions::default() })?;
    let format = WeightFormat::Bf16;
    let spec = LinearSpec { name: "product".into(), inputs, outputs, format };
    // 0.5 in bf16: ordinary numbers, none of them subnormal.
    let bytes: Vec<u8> = [0x00, 0x3f].repeat(inputs * outputs);
    let linear =
        backend.load_linear(&spec, WeightView::new("product", format, (outputs, inputs), bytes), None)?;
    let ones = Tensor::ones((rows, inputs), candle_core::DType::F32, &backend.info().device);
    let x = ones.map_err(moebius_backend::Error::from)?;
    let flops = 2.0 * (rows as u64 * spec.macs_per_token()) as f64;
    let mut best = 0.0f64;
    for _ in 0..REPETITIONS {
        let started = Instant::now();
        std::hint::black_box(linear.forward(&x)?);
        best = best.max(flops / started.elapsed().as_secs_f64());
    }
    Ok(best)
}
