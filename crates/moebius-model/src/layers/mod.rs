//! The parts that families are built from.

mod attention;
mod base;
mod decoder;
mod feed_forward;
mod rope;

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Linear, Ops, RopeTable};
use moebius_metering::{Meter, Part, Work};

pub use attention::{Attention, AttentionConfig, QkNorm};
pub use base::{BaseConfig, Defaults};
pub use decoder::{Decoder, DecoderConfig, DecoderLayer, Multipliers};
pub use feed_forward::{FeedForward, Mlp, MlpConfig, MoeConfig, MoeLayer, SharedExpert};
pub use rope::{RopeConfig, RopeScaling};

use crate::Result;
use crate::batch::TokenBatch;
use crate::info::Place;
use crate::loader::Loader;
use crate::model::Watch;

/// What every layer of one forward pass shares.
pub struct Pass<'a, 'w> {
    /// The backend's small operations.
    pub ops: &'a dyn Ops,
    /// The tokens and their sequences.
    pub batch: &'a TokenBatch,
    /// Angles for the batch's positions.
    pub rope: &'a RopeTable,
    /// Counters, and who else looks on.
    pub watch: &'a mut Watch<'w>,
}

impl Pass<'_, '_> {
    /// `linear(x)`, counted for `part`.
    pub fn project(&self, part: Part, linear: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
        project(self.watch.meter, part, linear.as_ref(), x)
    }
}

fn project(meter: &Meter, part: Part, linear: &dyn Linear, x: &Tensor) -> Result<Tensor> {
    let spec = linear.spec();
    meter.add(
        part,
        Work {
            macs: x.dim(0)? as u64 * spec.macs_per_token(),
            weight_bytes: spec.weight_bytes(),
            cache_bytes: 0,
        },
    );
    Ok(linear.forward(x)?)
}

/// RMSNorm with a learned weight (arXiv 1910.07467).
pub struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    /// Loads `{prefix}.weight` of `dim` elements.
    pub fn load(loader: &Loader<'_>, place: Place, prefix: &str, dim: usize, eps: f64) -> Result<Self> {
        let weight = loader.vector(place, &format!("{prefix}.weight"), dim)?;
        Ok(Norm { weight, eps: eps as f32 })
    }

    /// Normalises the last dimension of `x`.
    pub fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        Ok(ops.rms_norm(x, &self.weight, self.eps)?)
    }
}
