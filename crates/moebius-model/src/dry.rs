//! Weights without values that count as real ones do: a model of any size runs in the time of its bookkeeping.
//!
//! Every projection gives zeros of the right shape, but for routers, whose logits are noise, so that tokens spread over
//! the experts as by chance.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use moebius_backend::{ExpertBank, ExpertSpec, HeadLinear, Linear, LinearSpec, Result};
use moebius_metering::Meter;
use moebius_router::Routing;

use crate::info::Place;

/// A projection.
pub(crate) struct DryLinear {
    spec: LinearSpec,
    device: Device,
    /// Numbers of noise that were given out, for a router.
    noise: Option<AtomicU64>,
}

impl DryLinear {
    /// A projection that works at `place`, with activations on `device`.
    pub(crate) fn new(spec: LinearSpec, place: Place, device: &Device) -> Self {
        let seed = spec.name.bytes().fold(0u64, |seed, byte| mixed(seed ^ u64::from(byte)));
        DryLinear {
            spec,
            device: device.clone(),
            noise: (place == Place::Router).then(|| AtomicU64::new(seed)),
        }
    }
}

impl Linear for DryLinear {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, _) = x.dims2()?;
        let shape = (tokens, self.spec.outputs);
        let Some(noise) = &self.noise else { return Ok(Tensor::zeros(shape, DType::F32, x.device())?) };
        let numbers = tokens as u64 * self.spec.outputs as u64;
        let first = noise.fetch_add(numbers, Ordering::Relaxed);
        let logits = (0..numbers).map(|n| (mixed(first.wrapping_add(n)) >> 40) as f32 / (1u64 << 24) as f32);
        Ok(Tensor::from_vec(logits.collect::<Vec<f32>>(), shape, x.device())?)
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(Tensor::zeros((ids.len(), self.spec.inputs), DType::F32, &self.device)?)
    }
}

/// The experts of one layer.
pub(crate) struct DryExperts(pub(crate) ExpertSpec);

impl ExpertBank for DryExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.0
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        meter.experts(self.0.work(routing));
        Ok(x.zeros_like()?)
    }
}

/// A projection for each head.
pub(crate) struct DryHeads {
    pub(crate) spec: LinearSpec,
    pub(crate) heads: usize,
}

impl HeadLinear for DryHeads {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn heads(&self) -> usize {
        self.heads
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::zeros((x.dim(0)?, self.heads, self.spec.outputs), DType::F32, x.device())?)
    }
}

/// The mixing step of splitmix64.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
