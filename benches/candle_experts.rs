//! What candle's own fused experts take for a layer on a GPU: bf16, sorted by expert on the device, two grouped products.
//!
//! `candle_experts HIDDEN FFN EXPERTS K TOKENS REPETITIONS DEVICE`, with a list of batches in TOKENS, prints a line of
//! `TOKENS SECONDS` for each. `benches/peers/gpu.py` runs it beside `moebius bench layer`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{moe, ops};
use moebius::{BackendOptions, open_backend};

/// Calls that are not timed.
const WARM_UP: usize = 3;
/// Bytes that are touched between calls, more than a cache holds.
const BETWEEN: usize = 256 << 20;

struct Experts {
    /// `[experts, 2 ffn, hidden]`
    gate_and_up: Tensor,
    /// `[experts, hidden, ffn]`
    down: Tensor,
}

/// What a batch goes in with.
struct Batch {
    /// `[tokens, hidden]`
    x: Tensor,
    /// `[tokens, k]`
    chosen: Tensor,
    weights: Tensor,
}

impl Experts {
    /// The sum over the chosen experts, `[tokens, hidden]`. There is a kernel for many tokens and one for few.
    fn forward(&self, batch: &Batch, for_many: bool) -> Result<Tensor> {
        let (tokens, k) = batch.chosen.dims2()?;
        let (ffn, hidden) = (self.down.dim(2)?, self.down.dim(1)?);
        let (experts, pairs) = batch.chosen.flatten_all()?.sort_last_dim(true)?;
        let both = moe::moe_gemm(&batch.x, &self.gate_and_up, &None, &pairs, &experts, k, for_many)?;
        let [gate, up] = [0, ffn].map(|first| both.narrow(1, first, ffn).and_then(|half| half.contiguous()));
        let inner = (ops::silu(&gate?)? * up?)?;
        let weights = Some(batch.weights.clone());
        let of_pairs = moe::moe_gemm(&inner, &self.down, &weights, &pairs, &experts, k, for_many)?;
        of_pairs.reshape((tokens, k, hidden))?.sum(1)
    }
}

fn random(shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::randn(0f32, 0.02, shape, device)?.to_dtype(DType::BF16)
}

/// Median seconds of a call, between calls that fill the cache with other memory.
fn timed(device: &Device, repetitions: usize, call: impl Fn() -> Result<Tensor>) -> Result<f64> {
    let other = Tensor::zeros(BETWEEN / size_of::<f32>(), DType::F32, device)?;
    let mut times = Vec::with_capacity(repetitions);
    for repetition in 0..WARM_UP + repetitions {
        other.affine(1.0, 1.0)?;
        device.synchronize()?;
        let started = Instant::now();
        call()?;
        device.synchronize()?;
        if repetition >= WARM_UP {
            times.push(started.elapsed());
        }
    }
    times.sort();
    Ok(times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64))
}

fn run(arguments: &[String]) -> std::result::Result<(), Box<dyn Error>> {
    let [hidden, ffn, experts, k, batches, repetitions, gpu] = arguments else {
        return Err("expected HIDDEN FFN EXPERTS K TOKENS REPETITIONS DEVICE".into());
    };
    let numbers = [hidden, ffn, experts, k, repetitions, gpu].map(|number| number.parse::<usize>());
    let [hidden, ffn, experts, k, repetitions, gpu] = numbers;
    let (hidden, ffn, experts, k) = (hidden?, ffn?, experts?, k?);
    // This also loads the libraries that candle calls.
    let options =
        BackendOptions { name: Some("cuda".into()), device: Some(gpu?), ..BackendOptions::default() };
    let backend = open_backend(&options)?;
    let device = &backend.info().device;
    let layer = Experts {
        gate_and_up: random(&[experts, 2 * ffn, hidden], device)?,
        down: random(&[experts, hidden, ffn], device)?,
    };
    let repetitions = repetitions?;
    for tokens in batches.split(',') {
        let tokens: usize = tokens.parse()?;
        let order = Tensor::rand(0f32, 1.0, (tokens, experts), device)?.arg_sort_last_dim(false)?;
        let batch = Batch {
            x: random(&[tokens, hidden], device)?,
            chosen: order.narrow(1, 0, k)?.contiguous()?,
            weights: Tensor::full(1.0 / k as f32, (tokens, k), device)?,
        };
        let [many, few] =
            [true, false].map(|many| timed(device, repetitions, || layer.forward(&batch, many)));
        println!("{tokens} {}", many?.min(few?));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
