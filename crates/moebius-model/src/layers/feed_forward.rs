//! The second half of a decoder layer: a dense gated unit, or a router with its experts.
//!
//! Dense: `down(silu(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202). Mixture (arXiv 1701.06538):
//! `Σ w_e expert_e(x)` over the experts that the router chose, plus what every token goes through.
//! Shapes: `x: [tokens, hidden]` in and out.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, ExpertBank, ExpertSpec, Linear, WeightFormat};
use moebius_metering::{Part, Stage};
use moebius_router::{Router, RouterConfig};

use super::Pass;
use crate::Result;
use crate::info::Place;
use crate::loader::{ExpertLayout, ExpertRequest, Loader};

/// A dense gated unit.
pub(crate) struct Mlp {
    gate: Arc<dyn Linear>,
    up: Arc<dyn Linear>,
    down: Arc<dyn Linear>,
    part: Part,
    activation: Activation,
}

/// A dense gated unit in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpConfig {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Width between the projections.
    pub(crate) intermediate: usize,
    /// The gate's non-linearity.
    pub(crate) activation: Activation,
}

impl Mlp {
    /// Loads a feed-forward layer without a router: `{prefix}.{gate,up,down}_proj`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: MlpConfig) -> Result<Self> {
        Mlp::load_as(loader, (Place::Dense, Part::Dense), prefix, config)
    }

    fn load_as(
        loader: &Loader<'_>,
        (place, part): (Place, Part),
        prefix: &str,
        config: MlpConfig,
    ) -> Result<Self> {
        let MlpConfig { hidden, intermediate, activation } = config;
        let linear = |name: &str, shape| loader.linear(place, &format!("{prefix}.{name}"), shape, false);
        Ok(Mlp {
            gate: linear("gate_proj", (intermediate, hidden))?,
            up: linear("up_proj", (intermediate, hidden))?,
            down: linear("down_proj", (hidden, intermediate))?,
            part,
            activation,
        })
    }

    fn forward(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let [gate, up] = pass.project_each(self.part, [&self.gate, &self.up], x)?;
        pass.project(self.part, &self.down, &pass.ops.glu(self.activation, &gate, &up)?)
    }
}

/// An expert that every token goes through, scaled by `sigmoid(gate · x)`.
pub(crate) struct SharedExpert {
    mlp: Mlp,
    /// `[1, hidden]`.
    gate: Arc<dyn Linear>,
}

impl SharedExpert {
    /// Loads a shared expert whose output is scaled by `sigmoid({gate}.weight · x)`.
    pub(crate) fn load_gated(
        loader: &Loader<'_>,
        prefix: &str,
        gate: &str,
        config: MlpConfig,
    ) -> Result<Self> {
        let gate = loader.linear(Place::SharedExperts, gate, (1, config.hidden), false)?;
        let mlp = Mlp::load_as(loader, (Place::SharedExperts, Part::SharedExperts), prefix, config)?;
        Ok(SharedExpert { mlp, gate })
    }

    fn forward(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let y = self.mlp.forward(pass, x)?;
        let gate = pass.project(Part::SharedExperts, &self.gate, x)?; // [tokens, 1]
        let gate = (gate.neg()?.exp()? + 1.0)?.recip()?;
        let y = y.broadcast_mul(&gate)?;
        pass.watch.meter.lap(Stage::SharedExperts);
        Ok(y)
    }
}

/// One layer's router and experts in numbers and names.
#[derive(Clone, Debug)]
pub(crate) struct MoeConfig {
    /// Index of the decoder layer.
    pub(crate) layer: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Width of an expert.
    pub(crate) intermediate: usize,
    /// The gate's non-linearity.
    pub(crate) activation: Activation,
    /// The router's formula.
    pub(crate) router: RouterConfig,
    /// Name of the router's projection, without `.weight`.
    pub(crate) gate: String,
    /// Where the experts are, the usual layout first.
    pub(crate) layouts: Vec<ExpertLayout>,
}

/// A router with its experts.
pub(crate) struct MoeLayer {
    layer: usize,
    gate: Arc<dyn Linear>,
    router: Router,
    experts: Box<dyn ExpertBank>,
    shared: Option<SharedExpert>,
}

impl MoeLayer {
    /// Loads the router and its experts; `shared` is added to what they give.
    pub(crate) fn load(loader: &Loader<'_>, config: MoeConfig, shared: Option<SharedExpert>) -> Result<Self> {
        let MoeConfig { layer, hidden, intermediate, activation, router, gate, layouts } = config;
        let (n_experts, top_k) = (router.n_experts, router.top_k);
        let (format, down_format) = (WeightFormat::F32, WeightFormat::F32); // the loader decides
        let spec = ExpertSpec { layer, n_experts, hidden, intermediate, format, down_format, activation };
        Ok(MoeLayer {
            layer,
            gate: loader.linear(Place::Router, &gate, (n_experts, hidden), false)?,
            router: Router::new(layer, router)?,
            experts: loader.experts(ExpertRequest { spec, top_k, layouts })?,
            shared,
        })
    }

    fn forward(&self, pass: &mut Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let logits = pass.project(Part::Router, &self.gate, x)?; // [tokens, n_experts]
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let routing = self.router.route(&logits)?;
        if let Some(probe) = &mut pass.watch.probe {
            probe.routing(self.layer, &routing)?;
        }
        pass.watch.meter.lap(Stage::Router);
        let y = self.experts.forward(x, &routing, pass.watch.meter)?;
        pass.watch.meter.lap(Stage::Experts);
        match &self.shared {
            None => Ok(y),
            Some(shared) => Ok((y + shared.forward(pass, x)?)?),
        }
    }
}

/// The second half of a decoder layer.
pub(crate) enum FeedForward {
    /// Every token goes the same way.
    Dense(Mlp),
    /// A router chooses.
    Moe(MoeLayer),
}

impl FeedForward {
    pub(super) fn forward(&self, pass: &mut Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(pass, x),
            FeedForward::Moe(moe) => moe.forward(pass, x),
        }
    }
}
