//! What a GPU does at the most: copying its memory, and multiplying large matrices of bf16.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use moebius_backend::Backend;

use crate::Result;

/// Elements of what is copied: more than any cache holds.
const COPIED: usize = 64 << 20;
/// Rows and columns of the matrices.
const SQUARE: usize = 4096;
/// Samples of which the median counts, after some that do not.
const SAMPLES: usize = 9;
const WARM_UP: usize = 2;

/// Rates of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuRates {
    /// Bytes that a copy reads and writes in a second.
    pub copied_bytes_per_second: f64,
    /// Operations of a product of matrices of bf16 in a second.
    pub bf16_ops_per_second: f64,
}

/// Measures the GPU that a backend runs on; `None` where it runs on the processor.
///
/// # Errors
/// A failure of the device.
pub fn gpu_rates(backend: &dyn Backend) -> Result<Option<GpuRates>> {
    let device = &backend.info().device;
    if device.is_cpu() {
        return Ok(None);
    }
    let rates = || -> candle_core::Result<GpuRates> {
        let source = Tensor::zeros(COPIED, DType::F32, device)?;
        let copied = median(device, || source.copy())?;
        let matrix = Tensor::ones((SQUARE, SQUARE), DType::BF16, device)?;
        let multiplied = median(device, || matrix.matmul(&matrix))?;
        Ok(GpuRates {
            copied_bytes_per_second: 2.0 * (COPIED * size_of::<f32>()) as f64 / copied,
            bf16_ops_per_second: 2.0 * (SQUARE as f64).powi(3) / multiplied,
        })
    };
    Ok(Some(rates().map_err(moebius_backend::Error::from)?))
}

/// Seconds that `work` takes on the device.
fn median(device: &Device, work: impl Fn() -> candle_core::Result<Tensor>) -> candle_core::Result<f64> {
    let mut times: Vec<Duration> = Vec::new();
    for sample in 0..WARM_UP + SAMPLES {
        device.synchronize()?;
        let started = Instant::now();
        let _result = work()?;
        device.synchronize()?;
        if sample >= WARM_UP {
            times.push(started.elapsed());
        }
    }
    times.sort();
    Ok(times[SAMPLES / 2].as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackendOptions, open_backend};

    #[test]
    fn a_backend_on_the_processor_has_no_rates_of_a_gpu() {
        let backend = open_backend(&BackendOptions::default()).expect("the processor is there");
        assert_eq!(gpu_rates(backend.as_ref()).expect("nothing is measured"), None);
    }

    #[test]
    fn the_median_of_what_takes_time_is_that_time() {
        let wait = || {
            let started = Instant::now();
            while started.elapsed() < Duration::from_micros(200) {}
            Tensor::zeros(1, DType::F32, &Device::Cpu)
        };
        assert!(median(&Device::Cpu, wait).expect("it runs") >= 200e-6);
    }
}
