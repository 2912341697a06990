//! The parts that families are built from.

mod attention;
mod base;
mod decoder;
mod delta_net;
mod feed_forward;
mod latent;
mod mamba;
mod mamba2;
mod moe_stack;
mod norm;
mod parallel;
mod recurrent;
mod rope;
mod short_conv;

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{ExpertSpec, LaterRouting, Linear, Ops, RopeTable};
use moebius_metering::{Meter, Part, Site, Work};

pub(crate) use attention::{
    Attention, AttentionConfig, AttentionNames, InputNames, OutputGate, QkNorm, Values, count_attention,
};
pub(crate) use base::{BaseConfig, Defaults, Keys, activation};
pub(crate) use decoder::{Branch, Decoder, DecoderConfig, DecoderLayer, DecoderNames, Multipliers};
pub(crate) use delta_net::{DeltaNet, DeltaNetConfig};
pub(crate) use feed_forward::{
    FeedForward, LatentExperts, Mlp, MlpConfig, MlpNames, MoeConfig, MoeExtras, MoeLayer, PerExpert,
    SharedExpert,
};
pub(crate) use latent::{LatentAttention, LatentConfig};
pub(crate) use mamba::{Mamba, MambaConfig};
pub(crate) use mamba2::{Mamba2, Mamba2Config, step_limits};
pub(crate) use moe_stack::{MoeNames, MoeStack, Shared, Vector};
pub(crate) use norm::{Norm, NormConfig, NormKind};
pub(crate) use parallel::DenseBesideExperts;
pub(crate) use recurrent::MAX_KERNEL;
pub(crate) use rope::{RopeConfig, RopeDefaults, RopeForm, RopeScaling};
pub(crate) use short_conv::ShortConv;

use crate::Result;
use crate::batch::TokenBatch;
use crate::cache::{KvCache, LayerCacheSpec};
use crate::info::AttentionShape;
use crate::model::Watch;

/// What every layer of one forward pass shares.
pub(crate) struct Pass<'a, 'w> {
    /// The backend's small operations.
    pub(crate) ops: &'a dyn Ops,
    /// The tokens and their sequences.
    pub(crate) batch: &'a TokenBatch,
    /// Angles for the batch's positions, of every rotation that the decoder has.
    pub(crate) ropes: &'a [RopeTable],
    /// Counters, and who else looks on.
    pub(crate) watch: &'a mut Watch<'w>,
    /// The decoder layer under way.
    pub(crate) layer: Option<usize>,
    /// Banks that chose their experts on the device, and what they will say of it.
    pub(crate) unsettled: Vec<(ExpertSpec, LaterRouting)>,
}

impl Pass<'_, '_> {
    /// Counts what devices chose; asked when all of a pass is launched, since here the host waits for it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for (spec, routing) in self.unsettled.drain(..) {
            self.watch.meter.experts(spec.work(&routing()?));
        }
        Ok(())
    }

    /// `linear(x)`, counted for `part`.
    pub(crate) fn project(&self, part: Part, linear: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
        project(self.watch.meter, self.site(part), linear.as_ref(), x)
    }

    /// Counts work of a part of the layer under way.
    pub(crate) fn count(&self, part: Part, work: Work) {
        self.watch.meter.add(self.site(part), work);
    }

    fn site(&self, part: Part) -> Site {
        Site { layer: self.layer, part }
    }

    /// Each of `linears` that is there of the same `x`, counted for `part`.
    pub(crate) fn project_each<const N: usize>(
        &self,
        part: Part,
        linears: [Option<&Arc<dyn Linear>>; N],
        x: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let there: Vec<&dyn Linear> = linears.iter().flatten().map(|linear| linear.as_ref()).collect();
        for linear in &there {
            count(self.watch.meter, self.site(part), *linear, x)?;
        }
        let mut outputs = self.ops.project(&there, x)?.into_iter();
        self.watch.meter.lap(part.into());
        Ok(linears.map(|linear| linear.map(|_| outputs.next().expect("an output for each projection"))))
    }
}

/// What a decoder layer adds to the residual stream: attention, a recurrence, a feed-forward.
pub(crate) trait Mixer: Send + Sync {
    /// `[tokens, hidden]` in and out. What it remembers of the sequences is under `layer` in `cache`.
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor>;

    /// What its attention computes, if it is attention.
    fn attention(&self) -> Option<AttentionShape> {
        None
    }

    /// What it remembers. If nothing, a row depends on its own input row alone, and may be computed without the others.
    fn cache(&self) -> LayerCacheSpec {
        LayerCacheSpec::Nothing
    }
}

impl Mixer for Box<dyn Mixer> {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        self.as_ref().forward(pass, layer, x, cache)
    }

    fn attention(&self) -> Option<AttentionShape> {
        self.as_ref().attention()
    }

    fn cache(&self) -> LayerCacheSpec {
        self.as_ref().cache()
    }
}

fn project(meter: &Meter, site: Site, linear: &dyn Linear, x: &Tensor) -> Result<Tensor> {
    count(meter, site, linear, x)?;
    let y = linear.forward(x)?;
    meter.lap(site.part.into());
    Ok(y)
}

fn count(meter: &Meter, site: Site, linear: &dyn Linear, x: &Tensor) -> Result<()> {
    let spec = linear.spec();
    meter.add(
        site,
        Work {
            macs: x.dim(0)? as u64 * spec.macs_per_token(),
            weight_bytes: spec.weight_bytes(),
            cache_bytes: 0,
        },
    );
    Ok(())
}

/// `1 / (1 + exp(-x))`.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}
