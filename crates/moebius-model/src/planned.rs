//! Weights of a plan: they have a shape and no values.

use candle_core::Tensor;
use moebius_backend::{Error, ExpertBank, ExpertSpec, HeadLinear, Linear, LinearSpec, Result, Unsupported};
use moebius_metering::Meter;
use moebius_router::{RouterConfig, Routing};

use crate::info::RoutedLayer;

fn no_values<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(Unsupported {
        backend: "plan",
        what: what.into(),
        reason: "a plan holds shapes and no values".into(),
    }))
}

/// What a family asks for around a router.
#[derive(Clone, Debug)]
pub(crate) struct PlannedRouter {
    /// The decoder layer.
    pub(crate) layer: usize,
    /// The formula, without vectors that a checkpoint has.
    pub(crate) config: RouterConfig,
    /// The projection's weight with its shape.
    pub(crate) gate: (String, Vec<usize>),
    /// Its bias.
    pub(crate) gate_bias: Option<(String, Vec<usize>)>,
    /// What is added to the scores for selection.
    pub(crate) selection_bias: Option<(String, Vec<usize>)>,
    /// What is multiplied with the weights.
    pub(crate) expert_scale: Option<(String, Vec<usize>)>,
    /// Experts that the checkpoint has, where they can be counted.
    pub(crate) stored_experts: Option<usize>,
}

impl PlannedRouter {
    /// What it chooses from.
    pub(crate) fn routed_layer(&self) -> RoutedLayer {
        RoutedLayer { layer: self.layer, n_experts: self.config.n_experts, top_k: self.config.top_k }
    }
}

pub(crate) struct PlannedLinear(pub(crate) LinearSpec);

impl Linear for PlannedLinear {
    fn spec(&self) -> &LinearSpec {
        &self.0
    }

    fn forward(&self, _: &Tensor) -> Result<Tensor> {
        no_values(&self.0.name)
    }

    fn rows(&self, _: &[u32]) -> Result<Tensor> {
        no_values(&self.0.name)
    }
}

pub(crate) struct PlannedExperts(pub(crate) ExpertSpec);

impl ExpertBank for PlannedExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.0
    }

    fn forward(&self, _: &Tensor, _: &Routing, _: &Meter) -> Result<Tensor> {
        no_values("experts")
    }
}

pub(crate) struct PlannedHeads {
    pub(crate) spec: LinearSpec,
    pub(crate) heads: usize,
}

impl HeadLinear for PlannedHeads {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn heads(&self) -> usize {
        self.heads
    }

    fn forward(&self, _: &Tensor) -> Result<Tensor> {
        no_values(&self.spec.name)
    }
}
