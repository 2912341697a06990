//! What follows attention in a decoder layer: a dense unit, or a router with its experts.
//!
//! Dense: `down(act(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202) or `down(act(up(x)))`. Mixture (arXiv 1701.06538):
//! `Σ w_e expert_e(x)` over the experts that the router chose, plus what every token goes through.
//! Shapes: `x: [tokens, hidden]` in and out.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, ExpertBank, ExpertSpec, LaterRouting, Linear, Routed, WeightFormat};
use moebius_metering::{Part, Stage};
use moebius_router::{Router, RouterConfig, Routing};

use super::{Mixer, Pass, sigmoid};
use crate::Result;
use crate::cache::KvCache;
use crate::info::Place;
use crate::layout::{ExpertLayout, Stored};
use crate::loader::{ExpertRequest, Loader};
use crate::model::Mixture;
use crate::planned::PlannedRouter;

/// A dense unit.
pub(crate) struct Mlp {
    gate: Option<Arc<dyn Linear>>,
    up: Arc<dyn Linear>,
    down: Arc<dyn Linear>,
    part: Part,
    activation: Activation,
}

/// Names of a dense unit's projections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MlpNames {
    /// Gate, up and down.
    Gated([&'static str; 3]),
    /// Gate above up in one tensor, and down.
    Fused([&'static str; 2]),
    /// Up and down alone.
    Ungated([&'static str; 2]),
}

/// A dense unit in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpConfig {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Width between the projections.
    pub(crate) intermediate: usize,
    /// Its non-linearity.
    pub(crate) activation: Activation,
    /// What its tensors are called.
    pub(crate) names: MlpNames,
    /// Whether its projections have biases, as only those with tensors of their own can.
    pub(crate) bias: bool,
}

impl MlpConfig {
    /// A gated unit with the usual names and without biases.
    pub(crate) fn gated(hidden: usize, intermediate: usize, activation: Activation) -> Self {
        let names = MlpNames::Gated(["gate_proj", "up_proj", "down_proj"]);
        MlpConfig { hidden, intermediate, activation, names, bias: false }
    }
}

impl Mlp {
    /// Loads a feed-forward layer without a router, its tensors below `prefix`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: MlpConfig) -> Result<Self> {
        Mlp::load_as(loader, (Place::Dense, Part::Dense), prefix, config)
    }

    fn load_as(
        loader: &Loader<'_>,
        (place, part): (Place, Part),
        prefix: &str,
        config: MlpConfig,
    ) -> Result<Self> {
        loader.portray(&config);
        let MlpConfig { hidden, intermediate, activation, names, bias } = config;
        let (inwards, outwards) = ((intermediate, hidden), (hidden, intermediate));
        let linear = |name: &str, shape| loader.linear(place, &format!("{prefix}.{name}"), shape, bias);
        let (gate, up, down) = match names {
            MlpNames::Gated([gate, up, down]) => {
                (Some(linear(gate, inwards)?), linear(up, inwards)?, linear(down, outwards)?)
            }
            MlpNames::Ungated([up, down]) => (None, linear(up, inwards)?, linear(down, outwards)?),
            MlpNames::Fused([gate_up, down]) => {
                let half = |first| {
                    let name = format!("{prefix}.{gate_up}.weight");
                    let stored = Stored::rows_from(name, (2 * intermediate, hidden), first);
                    loader.linear_of(place, &stored, inwards, None)
                };
                (Some(half(0)?), half(intermediate)?, linear(down, outwards)?)
            }
        };
        Ok(Mlp { gate, up, down, part, activation })
    }

    fn apply(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let inner = match pass.project_each(self.part, [self.gate.as_ref(), Some(&self.up)], x)? {
            [Some(gate), Some(up)] => pass.ops.glu(self.activation, &gate, &up)?,
            [None, Some(up)] => pass.ops.activate(self.activation, &up)?,
            [_, None] => unreachable!("up is always projected"),
        };
        pass.project(self.part, &self.down, &inner)
    }
}

impl Mixer for Mlp {
    fn forward(&self, pass: &mut Pass<'_, '_>, _: usize, x: &Tensor, _: &mut KvCache) -> Result<Tensor> {
        self.apply(pass, x)
    }
}

/// An expert that every token goes through, as it is or scaled by `sigmoid(gate · x)`.
pub(crate) struct SharedExpert {
    mlp: Mlp,
    /// `[1, hidden]`.
    gate: Option<Arc<dyn Linear>>,
}

impl SharedExpert {
    /// Loads a shared expert whose tensors are below `prefix`.
    pub(crate) fn load(loader: &Loader<'_>, prefix: &str, config: MlpConfig) -> Result<Self> {
        let mlp = Mlp::load_as(loader, (Place::SharedExperts, Part::SharedExperts), prefix, config)?;
        Ok(SharedExpert { mlp, gate: None })
    }

    /// Loads a shared expert whose output is scaled by `sigmoid({gate}.weight · x)`.
    pub(crate) fn load_gated(
        loader: &Loader<'_>,
        prefix: &str,
        gate: &str,
        config: MlpConfig,
    ) -> Result<Self> {
        let gate = Some(loader.linear(Place::SharedExperts, gate, (1, config.hidden), false)?);
        Ok(SharedExpert { gate, ..SharedExpert::load(loader, prefix, config)? })
    }

    fn forward(&self, pass: &Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        let mut y = self.mlp.apply(pass, x)?;
        if let Some(gate) = &self.gate {
            let gate = pass.project(Part::SharedExperts, gate, x)?; // [tokens, 1]
            y = y.broadcast_mul(&sigmoid(&gate)?)?;
        }
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
    /// The experts' non-linearity.
    pub(crate) activation: Activation,
    /// The router's formula.
    pub(crate) router: RouterConfig,
    /// Name of the router's projection, without `.weight`.
    pub(crate) gate: String,
    /// Where the experts are, the usual layout first.
    pub(crate) layouts: Vec<ExpertLayout>,
    /// What only some families have.
    pub(crate) extras: MoeExtras,
}

impl MoeConfig {
    /// What is asked for around the router.
    fn planned_router(&self) -> PlannedRouter {
        let n_experts = self.router.n_experts;
        let named = |of: &Option<PerExpert>| of.as_ref().map(|of| (of.name.clone(), of.shape.clone()));
        PlannedRouter {
            layer: self.layer,
            config: self.router.clone(),
            gate: (format!("{}.weight", self.gate), vec![n_experts, self.hidden]),
            gate_bias: self.extras.gate_bias.then(|| (format!("{}.bias", self.gate), vec![n_experts])),
            selection_bias: named(&self.extras.selection_bias),
            expert_scale: named(&self.extras.expert_scale),
            stored_experts: None,
        }
    }
}

/// A vector with a number for each expert, stored in some shape.
#[derive(Clone, Debug)]
pub(crate) struct PerExpert {
    /// The tensor's full name.
    pub(crate) name: String,
    /// The tensor's shape.
    pub(crate) shape: Vec<usize>,
}

/// Experts that see a narrower vector than the router, projected by all of them in the same way.
#[derive(Clone, Debug)]
pub(crate) struct LatentExperts {
    /// Width of what they see.
    pub(crate) width: usize,
    /// Names of the projections to it and back.
    pub(crate) names: [String; 2],
    /// Whether these have biases.
    pub(crate) bias: bool,
}

/// What only some routers and experts have.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoeExtras {
    /// Whether the router's projection has a bias.
    pub(crate) gate_bias: bool,
    /// Added to the scores for selection.
    pub(crate) selection_bias: Option<PerExpert>,
    /// Multiplied with the weights.
    pub(crate) expert_scale: Option<PerExpert>,
    /// Whether the experts have no gate.
    pub(crate) ungated: bool,
    /// Whether the experts' projections have biases.
    pub(crate) biases: bool,
    /// Projections around the experts.
    pub(crate) latent: Option<LatentExperts>,
}

/// A router with its experts.
pub(crate) struct MoeLayer {
    layer: usize,
    gate: Arc<dyn Linear>,
    router: Box<Router>,
    experts: Box<dyn ExpertBank>,
    /// To what the experts see, and back.
    latent: Option<Box<[Arc<dyn Linear>; 2]>>,
    shared: Option<SharedExpert>,
}

impl MoeLayer {
    /// Loads the router and its experts; `shared` is added to what they give.
    pub(crate) fn load(
        loader: &Loader<'_>,
        mut config: MoeConfig,
        shared: Option<SharedExpert>,
    ) -> Result<Self> {
        loader.rerouting.apply(config.layer, &mut config.router)?;
        loader.note_router(|| config.planned_router());
        loader.portray(&(
            &config.router,
            config.hidden,
            config.intermediate,
            config.activation,
            &config.extras,
        ));
        let MoeConfig { layer, hidden, intermediate, activation, mut router, gate, layouts, extras } = config;
        let (n_experts, top_k) = (router.n_experts, router.top_k);
        // A plan has no values; its router never runs.
        let numbers = |of: &Option<PerExpert>| match of {
            Some(PerExpert { name, shape }) => {
                loader.values_of(Place::Router, name, shape).map(|v| Some(v).filter(|v| !v.is_empty()))
            }
            None => Ok(None),
        };
        if let Some(bias) = numbers(&extras.selection_bias)? {
            router = router.with_selection_bias(bias);
        }
        if let Some(scale) = numbers(&extras.expert_scale)? {
            router = router.with_expert_scale(scale);
        }
        let (format, down_format) = (WeightFormat::F32, WeightFormat::F32); // the loader decides
        let (gated, biases) = (!extras.ungated, extras.biases);
        let spec = ExpertSpec {
            layer,
            n_experts,
            hidden: extras.latent.as_ref().map_or(hidden, |latent| latent.width),
            intermediate,
            format,
            down_format,
            activation,
            gated,
            biases,
        };
        let project = |name: &str, shape, bias| loader.linear(Place::SharedExperts, name, shape, bias);
        let latent = extras.latent.map(|LatentExperts { width, names: [inwards, outwards], bias }| {
            let inwards = project(&inwards, (width, hidden), bias)?;
            Ok::<_, crate::Error>(Box::new([inwards, project(&outwards, (hidden, width), bias)?]))
        });
        let latent = latent.transpose()?;
        let gate = loader.linear(Place::Router, &gate, (n_experts, hidden), extras.gate_bias)?;
        let router = Router::new(layer, router).map_err(|error| loader.rerouting.blame(error))?;
        let mut experts = loader.experts(ExpertRequest { spec, top_k, layouts })?;
        experts.routed_by(&gate, &router);
        Ok(MoeLayer { layer, latent, gate, router: Box::new(router), experts, shared })
    }

    /// Routes by `x` itself.
    fn apply(&self, pass: &mut Pass<'_, '_>, x: &Tensor) -> Result<Tensor> {
        self.apply_routed_by(pass, x, x)
    }

    /// Sends the rows of `x` to the experts that the router chooses when it looks at those of `routed_by`.
    pub(crate) fn apply_routed_by(
        &self,
        pass: &mut Pass<'_, '_>,
        routed_by: &Tensor,
        x: &Tensor,
    ) -> Result<Tensor> {
        let logits = pass.project(Part::Router, &self.gate, routed_by)?; // [tokens, n_experts]
        let y = self.run_experts(pass, &logits, x)?;
        match &self.shared {
            None => Ok(y),
            Some(shared) => Ok(pass.ops.add(&y, &shared.forward(pass, x)?, 1.0)?),
        }
    }
}

impl MoeLayer {
    /// The chosen experts on `x`, and what all of them share before and after.
    fn run_experts(&self, pass: &mut Pass<'_, '_>, logits: &Tensor, x: &Tensor) -> Result<Tensor> {
        let latent = self.latent.as_deref();
        let inwards = latent.map(|[inwards, _]| pass.project(Part::SharedExperts, inwards, x)).transpose()?;
        let input = inwards.as_ref().unwrap_or(x);
        let output = match self.experts.forward_routed(input, logits)? {
            None => self.route_and_run(pass, logits, input)?,
            Some(Routed { output, routing }) => {
                pass.watch.meter.lap(Stage::Experts);
                self.settle(pass, routing, (logits, input, &output))?;
                output
            }
        };
        match latent {
            None => Ok(output),
            Some([_, outwards]) => pass.project(Part::SharedExperts, outwards, &output),
        }
    }

    /// The chosen experts on `input`, by a router on the host.
    fn route_and_run(&self, pass: &mut Pass<'_, '_>, logits: &Tensor, input: &Tensor) -> Result<Tensor> {
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let routing = self.router.route(&logits)?;
        if let Some(probe) = &mut pass.watch.probe {
            probe.routing(self.layer, &routing)?;
        }
        pass.watch.meter.lap(Stage::Router);
        let output = self.experts.forward(input, &routing, pass.watch.meter)?;
        pass.watch.meter.lap(Stage::Experts);
        self.show(pass, (&logits, &routing), (input, &output))?;
        Ok(output)
    }

    /// Puts off asking who was chosen until the pass is launched, unless somebody looks on.
    fn settle(
        &self,
        pass: &mut Pass<'_, '_>,
        routing: LaterRouting,
        (logits, input, output): (&Tensor, &Tensor, &Tensor),
    ) -> Result<()> {
        let Some(probe) = &mut pass.watch.probe else {
            pass.unsettled.push((self.experts.spec().clone(), routing));
            return Ok(());
        };
        let routing = routing()?;
        probe.routing(self.layer, &routing)?;
        pass.watch.meter.experts(self.experts.spec().work(&routing));
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        self.show(pass, (&logits, &routing), (input, output))
    }

    /// Shows a probe, if there is one, what the experts made of their input.
    fn show(
        &self,
        pass: &mut Pass<'_, '_>,
        (logits, routing): (&[f32], &Routing),
        (input, output): (&Tensor, &Tensor),
    ) -> Result<()> {
        let Some(probe) = &mut pass.watch.probe else { return Ok(()) };
        let (layer, router, experts) = (self.layer, &self.router, self.experts.as_ref());
        probe.mixture(&Mixture { layer, router, logits, routing, input, output, experts })
    }
}

impl Mixer for MoeLayer {
    fn forward(&self, pass: &mut Pass<'_, '_>, _: usize, x: &Tensor, _: &mut KvCache) -> Result<Tensor> {
        self.apply(pass, x)
    }
}

/// The second half of a decoder layer.
pub(crate) enum FeedForward {
    /// Every token goes the same way.
    Dense(Mlp),
    /// A router chooses.
    Moe(MoeLayer),
}

impl Mixer for FeedForward {
    fn forward(&self, pass: &mut Pass<'_, '_>, _: usize, x: &Tensor, _: &mut KvCache) -> Result<Tensor> {
        match self {
            FeedForward::Dense(mlp) => mlp.apply(pass, x),
            FeedForward::Moe(moe) => moe.apply(pass, x),
        }
    }
}
