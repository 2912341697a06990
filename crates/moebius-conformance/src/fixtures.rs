//! What backends are given: numbers from a fixed sequence, stored matrices, banks of experts, routings.
//!
//! Invariants: `Matrix::values` are exactly what `Matrix::bytes` store.

mod bank;
mod matrix;

pub(crate) use bank::{Bank, Pages, expert_spec};
pub(crate) use matrix::{Matrix, fitted, linear_spec};

use candle_core::{Device, Tensor};
use moebius_router::{Routing, WeightTarget};

use crate::Failure;

/// Numbers that look random and are the same everywhere (splitmix64, doi 10.1145/2660193.2660195).
pub(crate) struct Samples(u64);

impl Samples {
    pub(crate) fn new(seed: u64) -> Samples {
        Samples(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Values from -1 up to 1.
    pub(crate) fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// A whole number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// `top_k` distinct ids below `n_experts`, ascending.
    fn choice(&mut self, n_experts: usize, top_k: usize) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..n_experts as u32).collect();
        for place in 0..top_k {
            let other = place + self.below(n_experts - place);
            ids.swap(place, other);
        }
        ids.truncate(top_k);
        ids.sort_unstable();
        ids
    }

    /// Every token visits `top_k` of `n_experts`, with weights of either sign.
    pub(crate) fn routing(
        &mut self,
        tokens: usize,
        (n_experts, top_k): (usize, usize),
        target: WeightTarget,
    ) -> Routing {
        let ids = (0..tokens).flat_map(|_| self.choice(n_experts, top_k)).collect();
        let weights = self.vector(tokens * top_k);
        Routing::from_parts(n_experts, top_k, ids, weights, target).expect("choices are distinct and ascend")
    }
}

/// A tensor on the backend's device.
pub(crate) fn tensor(values: &[f32], shape: &[usize], device: &Device) -> Result<Tensor, Failure> {
    Ok(Tensor::from_vec(values.to_vec(), shape, device)?)
}

/// The same tensor with other strides and an offset: columns apart, inside a larger one.
pub(crate) fn strided(x: &Tensor) -> Result<Tensor, Failure> {
    let last = x.rank() - 1;
    let padded = x.pad_with_zeros(last, 1, 2)?.pad_with_zeros(0, 2, 1)?;
    let (rows, width) = (x.dim(0)?, x.dim(last)?);
    let turned = padded.transpose(0, last)?.contiguous()?.transpose(0, last)?;
    Ok(turned.narrow(0, 2, rows)?.narrow(last, 1, width)?)
}

/// The elements of a result, whose shape and type must be as promised.
pub(crate) fn values_of(x: &Tensor, shape: &[usize]) -> Result<Vec<f32>, Failure> {
    if x.dims() != shape {
        return Err(Failure::Mismatch(format!("expected shape {shape:?}, got {:?}", x.dims())));
    }
    Ok(x.flatten_all()?.to_vec1()?)
}
