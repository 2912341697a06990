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

pub(crate) use attention::{Attention, AttentionConfig, QkNorm};
pub(crate) use base::{BaseConfig, Defaults};
pub(crate) use decoder::{Decoder, DecoderConfig, DecoderLayer, Multipliers};
pub(crate) use feed_forward::{FeedForward, Mlp, MlpConfig, MoeConfig, MoeLayer, SharedExpert};
pub(crate) use rope::RopeConfig;

use crate::Result;
use crate::batch::TokenBatch;
use crate::info::Place;
use crate::loader::Loader;
use crate::model::Watch;

/// What every layer of one forward pass shares.
pub(crate) struct Pass<'a, 'w> {
    /// The backend's small operations.
    pub(crate) ops: &'a dyn Ops,
    /// The tokens and their sequences.
    pub(crate) batch: &'a TokenBatch,
    /// Angles for the batch's positions.
    pub(crate) rope: &'a RopeTable,
    /// Counters, and who else looks on.
    pub(crate) watch: &'a mut Watch<'w>,
}

impl Pass<'_, '_> {
    /// `linear(x)`, counted for `part`.
    pub(crate) fn project(&self, part: Part, linear: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
        project(self.watch.meter, part, linear.as_ref(), x)
    }

    /// Each of `linears` of the same `x`, counted for `part`.
    pub(crate) fn project_each<const N: usize>(
        &self,
        part: Part,
        linears: [&Arc<dyn Linear>; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        let linears = linears.map(|linear| linear.as_ref());
        for linear in linears {
            count(self.watch.meter, part, linear, x)?;
        }
        let outputs = self.ops.project(&linears, x)?;
        self.watch.meter.lap(part.into());
        Ok(outputs.try_into().expect("an output for each projection"))
    }
}

fn project(meter: &Meter, part: Part, linear: &dyn Linear, x: &Tensor) -> Result<Tensor> {
    count(meter, part, linear, x)?;
    let y = linear.forward(x)?;
    meter.lap(part.into());
    Ok(y)
}

fn count(meter: &Meter, part: Part, linear: &dyn Linear, x: &Tensor) -> Result<()> {
    let spec = linear.spec();
    meter.add(
        part,
        Work {
            macs: x.dim(0)? as u64 * spec.macs_per_token(),
            weight_bytes: spec.weight_bytes(),
            cache_bytes: 0,
        },
    );
    Ok(())
}

/// RMSNorm with a learned weight (arXiv 1910.07467).
pub(crate) struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    /// Loads `{prefix}.weight` of `dim` elements.
    pub(crate) fn load(
        loader: &Loader<'_>,
        place: Place,
        prefix: &str,
        dim: usize,
        eps: f64,
    ) -> Result<Self> {
        let weight = loader.vector(place, &format!("{prefix}.weight"), dim)?;
        Ok(Norm { weight, eps: eps as f32 })
    }

    /// Normalises the last dimension of `x`.
    pub(crate) fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        Ok(ops.rms_norm(x, &self.weight, self.eps)?)
    }
}
