//! A dense unit and routed experts side by side, each with norms of its own, as in Gemma 4.
//!
//! `y = n1(dense(n0(x))) + n3(experts(n2(x)))`, where the router looks at `rms(x) * scale / sqrt(hidden)`.
//! Shapes: `x: [tokens, hidden]` in and out; `x` is the residual stream as it is.

use candle_core::Tensor;
use moebius_metering::Stage;

use super::{Mixer, Mlp, MlpConfig, MoeStack, Norm, NormConfig, Pass};
use crate::Result;
use crate::cache::KvCache;
use crate::info::Place;
use crate::loader::Loader;

/// A dense unit beside routed experts.
pub(crate) struct DenseBesideExperts {
    before_dense: Norm,
    dense: Mlp,
    after_dense: Norm,
    before_router: Norm,
    before_experts: Norm,
    experts: super::MoeLayer,
    after_experts: Norm,
}

impl DenseBesideExperts {
    /// Loads `{prefix}.{mlp, router, experts}` of `layer` and five norms under the names that Gemma 4 gives them.
    pub(crate) fn load(
        loader: &Loader<'_>,
        (layer, prefix): (usize, &str),
        dense: MlpConfig,
        stack: &MoeStack,
        norm: NormConfig,
    ) -> Result<Self> {
        let hidden = dense.hidden;
        let load = |name: &str| Norm::load(loader, Place::Norm, &format!("{prefix}.{name}"), hidden, norm);
        let factor = (hidden as f64).powf(-0.5);
        let scale = format!("{prefix}.router.scale");
        Ok(DenseBesideExperts {
            before_dense: load("pre_feedforward_layernorm")?,
            dense: Mlp::load(loader, &format!("{prefix}.mlp"), dense)?,
            after_dense: load("post_feedforward_layernorm_1")?,
            before_router: Norm::scaled(loader, Place::Router, &scale, (hidden, factor), norm.eps)?,
            before_experts: load("pre_feedforward_layernorm_2")?,
            experts: stack.moe(loader, layer, prefix)?,
            after_experts: load("post_feedforward_layernorm_2")?,
        })
    }
}

impl Mixer for DenseBesideExperts {
    fn forward(
        &self,
        pass: &mut Pass<'_, '_>,
        layer: usize,
        x: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let norm = |pass: &Pass<'_, '_>, norm: &Norm, x: &Tensor| {
            let y = norm.forward(pass.ops, x);
            pass.watch.meter.lap(Stage::Norms);
            y
        };
        let dense = self.dense.forward(pass, layer, &norm(pass, &self.before_dense, x)?, cache)?;
        let dense = norm(pass, &self.after_dense, &dense)?;
        let routed_by = norm(pass, &self.before_router, x)?;
        let experts = norm(pass, &self.before_experts, x)?;
        let experts = self.experts.apply_routed_by(pass, &routed_by, &experts)?;
        Ok(pass.ops.add(&dense, &norm(pass, &self.after_experts, &experts)?, 1.0)?)
    }
}
