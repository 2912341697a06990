//! The experts of one layer: rows grouped by expert, each expert's weights read once for up to 32 of them.
//!
//! ```text
//! h[pair] = act(gate x) (up x)      y[pair] = weight (down h[pair])      out[token] = Σ y[pair], ascending expert
//! ```
//!
//! Shapes: x and out `[tokens, hidden]`, h `[pairs, intermediate]`, y `[pairs, hidden]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, Error, ExpertBank, ExpertSource, ExpertSpec, Projection, Result};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

use crate::gpu::{Arg, Buffer};
use crate::inputs::Inputs;
use crate::plan::ExpertPlan;
use crate::slices::{blocks_for, computed};
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
        Ok(CudaExperts { spec: spec.clone(), gate, up, down, engine: engine.clone() })
    }

    /// What the pairs of a plan give, `[pairs, hidden]`.
    fn pairs(&self, x: &Tensor, plan: &ExpertPlan, words: &Buffer<u32>, on_input: bool) -> Result<Tensor> {
        let ExpertSpec { hidden, intermediate, format, down_format, .. } = self.spec;
        let engine = &*self.engine;
        let [rows, weights, ..] = plan.offsets(x.dim(0)?);
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
        let (tokens, hidden) = self.spec.check_call(x, routing)?;
        let plan = ExpertPlan::new(&routing.dispatch(), tokens)?;
        let gpu = &self.engine.gpu;
        let words = gpu.upload(&plan.words)?;
        let of_pairs = self.pairs(x, &plan, &words, routing.applies_to() == WeightTarget::Input)?;
        let of_pairs = crate::slices::Dense::new(&of_pairs)?;
        let [.., starts, lists] = plan.offsets(tokens);
        let before = [of_pairs.arg()?, words.read_from(starts), words.read_from(lists)];
        let grid = [tokens, blocks_for(hidden)];
        let out = computed(gpu, &[tokens, hidden], ("combine", grid), &before, &[hidden.into()])?;
        meter.experts(self.spec.work(routing));
        Ok(out)
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
