//! The experts of one layer: rows grouped by expert, each expert's weights read once for up to 32 of them.
//!
//! ```text
//! h[pair] = act(gate x) (up x)      y[pair] = weight (down h[pair])      out[token] = Σ y[pair], ascending expert
//! ```
//!
//! Shapes: x and out `[tokens, hidden]`, h `[pairs, intermediate]`, y `[pairs, hidden]`.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use moebius_backend::{
    Activation, Error, ExpertBank, ExpertSource, ExpertSpec, Linear, Projection, Result, Routed,
};
use moebius_metering::Meter;
use moebius_router::{Router, Routing, WeightTarget};

use crate::gpu::{Arg, Buffer};
use crate::inputs::Inputs;
use crate::plan::{ExpertPlan, PlanShape};
use crate::routing::{DeviceRouter, Planned, has_room_for};
use crate::slices::{Dense, blocks_for, computed, expect_dims};
use crate::weights::{Engine, Stack};

/// What an expert has, as the kernels are told.
const HAS_GATE: u32 = 1;
const HAS_BIAS: u32 = 2;
const WEIGHTS_INPUT: u32 = 4;

/// One projection of all experts.
struct Bank {
    stack: Stack,
    bias: Option<Buffer<f32>>,
}

pub(crate) struct CudaExperts {
    spec: ExpertSpec,
    gate: Option<Bank>,
    up: Bank,
    down: Bank,
    /// What chooses among the experts, if a block has room for it.
    router: Option<Arc<Router>>,
    /// The same on the device, from its first use on.
    device_router: OnceLock<DeviceRouter>,
    engine: Arc<Engine>,
}

impl CudaExperts {
    pub(crate) fn load(engine: &Arc<Engine>, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Self> {
        let bank = |projection, bias: Option<Vec<f32>>| {
            let (held, shape) = (spec.format_of(projection), spec.shape(projection));
            let matrix = |expert| source.get(expert, projection);
            let stack = Stack::load(engine, held, shape, spec.n_experts, matrix)?;
            let bias = bias.map(|bias| engine.gpu.upload(&bias)).transpose()?;
            Ok::<_, Error>(Bank { stack, bias })
        };
        let biases = spec.read_biases(source)?;
        let gate = spec.gated.then(|| bank(Projection::Gate, biases.gate)).transpose()?;
        let (up, down) = (bank(Projection::Up, biases.up)?, bank(Projection::Down, biases.down)?);
        let (router, device_router) = (None, OnceLock::new());
        Ok(CudaExperts { spec: spec.clone(), gate, up, down, router, device_router, engine: engine.clone() })
    }

    /// The router on the device.
    fn device_router(&self, router: &Arc<Router>) -> Result<&DeviceRouter> {
        if self.device_router.get().is_none() {
            let made = DeviceRouter::new(&self.engine.gpu, router.clone())?;
            // Another thread may have been faster; one is as good as the other.
            let _ = self.device_router.set(made);
        }
        Ok(self.device_router.get().expect("it was set"))
    }

    /// What the experts of a plan give for its tokens, `[tokens, hidden]`.
    fn run(&self, x: &Tensor, shape: &PlanShape, words: &Buffer<u32>, on_input: bool) -> Result<Tensor> {
        let hidden = self.spec.hidden;
        let of_pairs = Dense::new(&self.pairs(x, shape, words, on_input)?)?;
        let [.., starts, lists] = shape.offsets();
        let before = [of_pairs.arg()?, words.read_from(starts), words.read_from(lists)];
        let grid = [shape.tokens, blocks_for(hidden)];
        computed(&self.engine.gpu, &[shape.tokens, hidden], ("combine", grid), &before, &[hidden.into()])
    }

    /// What the pairs of a plan give, `[pairs, hidden]`.
    fn pairs(&self, x: &Tensor, plan: &PlanShape, words: &Buffer<u32>, on_input: bool) -> Result<Tensor> {
        let ExpertSpec { hidden, intermediate, format, down_format, .. } = self.spec;
        let engine = &*self.engine;
        let [rows, weights, ..] = plan.offsets();
        let flags =
            [(self.gate.is_some(), HAS_GATE), (self.spec.biases, HAS_BIAS), (on_input, WEIGHTS_INPUT)];
        let flags: u32 = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        let (kind, limit) = activation_args(self.spec.activation);

        let inputs = Inputs::new(engine, x, &[format])?;
        let gate = self.gate.as_ref();
        let before = [
            &[
                words.read(),
                gate.map_or(Arg::NONE, |gate| gate.stack.words.read()),
                self.up.stack.words.read(),
            ],
            &inputs.args()?[..],
            &[words.read_from(rows), words.read_from(weights)],
            &[gate.map_or(Arg::NONE, Bank::bias), self.up.bias()],
        ];
        let kernel = format!("experts_up_{format}_{}", plan.tiles);
        let grid = [plan.pieces, self.up.stack.panels()];
        let after = [intermediate.into(), flags.into(), kind, limit];
        let shape = [plan.pairs, intermediate];
        let inner = computed(&engine.gpu, &shape, (&kernel, grid), &before.concat(), &after)?;

        let inputs = Inputs::new(engine, &inner, &[down_format])?;
        let before = [
            &[words.read(), self.down.stack.words.read()],
            &inputs.args()?[..],
            &[words.read_from(weights), self.down.bias()],
        ];
        let kernel = format!("experts_down_{down_format}_{}", plan.tiles);
        let grid = [plan.pieces, self.down.stack.panels()];
        let after = [hidden.into(), flags.into()];
        computed(&engine.gpu, &[plan.pairs, hidden], (&kernel, grid), &before.concat(), &after)
    }
}

impl Bank {
    fn bias(&self) -> Arg<'_> {
        self.bias.as_ref().map_or(Arg::NONE, Buffer::read)
    }
}

impl ExpertBank for CudaExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, _) = self.spec.check_call(x, routing)?;
        let ExpertPlan { shape, words } = ExpertPlan::new(&routing.dispatch(), tokens)?;
        let words = self.engine.gpu.upload(&words)?;
        let out = self.run(x, &shape, &words, routing.applies_to() == WeightTarget::Input)?;
        meter.experts(self.spec.work(routing));
        Ok(out)
    }

    fn routed_by(&mut self, _: &Arc<dyn Linear>, router: &Router) {
        let fits = router.config().n_experts == self.spec.n_experts && has_room_for(router.config());
        self.router = fits.then(|| Arc::new(router.clone()));
    }

    fn forward_routed(&self, x: &Tensor, logits: &Tensor) -> Result<Option<Routed>> {
        let Some(router) = &self.router else { return Ok(None) };
        expect_dims("expert input", &[logits.dim(0)?, self.spec.hidden], x.dims())?;
        let Planned { shape, words, routing } = self.device_router(router)?.plan(&self.engine, logits)?;
        let output = self.run(x, &shape, &words, router.config().applies_to == WeightTarget::Input)?;
        Ok(Some(Routed { output, routing }))
    }
}

/// Number and limit of an activation, as the kernels are told.
pub(crate) fn activation_args(activation: Activation) -> (Arg<'static>, Arg<'static>) {
    let (kind, limit): (u32, f32) = match activation {
        Activation::Silu => (0, 0.0),
        Activation::Gelu => (1, 0.0),
        Activation::GeluTanh => (2, 0.0),
        Activation::ReluSquared => (3, 0.0),
        Activation::ClampedSwiglu { limit } => (4, limit),
    };
    (Arg::from(kind), Arg::from(limit))
}
