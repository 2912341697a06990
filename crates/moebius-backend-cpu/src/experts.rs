//! The experts of one layer: rows grouped by expert, each expert's weights read once.
//!
//! Shapes: x and out `[tokens, hidden]`; gate, if any, and up `[intermediate, hidden]`, down `[hidden, intermediate]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, BankBiases, ExpertBank, ExpertSource, ExpertSpec, Projection, Result};
use moebius_expert_kernels::{
    Activation as KernelActivation, ExpertBiases, ExpertRows, PackedExperts, PackedMatrix,
};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

use crate::backend::Engine;
use crate::linear::pack;
use crate::slices::{kernel, with_f32};

pub(crate) struct CpuExperts {
    spec: ExpertSpec,
    packed: PackedExperts,
    engine: Arc<Engine>,
}

impl CpuExperts {
    pub(crate) fn load(engine: &Arc<Engine>, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Self> {
        let bank = |projection| {
            let (held, shape) = (spec.format_of(projection), spec.shape(projection));
            let matrix = |expert| pack(&engine.pool, &source.get(expert, projection)?, held, shape);
            PackedMatrix::side_by_side(spec.n_experts, matrix, kernel)
        };
        let gate = spec.gated.then(|| bank(Projection::Gate)).transpose()?;
        let (up, down) = (bank(Projection::Up)?, bank(Projection::Down)?);
        let BankBiases { gate: gate_bias, up: up_bias, down: down_bias } = spec.read_biases(source)?;
        let biases = ExpertBiases { gate: gate_bias, up: up_bias, down: down_bias };
        let packed = PackedExperts::new(gate, up, down, kernel_activation(spec.activation))
            .and_then(|packed| packed.with_biases(biases))
            .map_err(kernel)?;
        Ok(CpuExperts { spec: spec.clone(), packed, engine: engine.clone() })
    }
}

/// The kernels' name for an activation.
pub(crate) fn kernel_activation(activation: Activation) -> KernelActivation {
    match activation {
        Activation::Silu => KernelActivation::Silu,
        Activation::Gelu => KernelActivation::Gelu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
        Activation::ReluSquared => KernelActivation::ReluSquared,
        Activation::ClampedSwiglu { limit } => KernelActivation::ClampedSwiglu { limit },
    }
}

impl ExpertBank for CpuExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, hidden) = self.spec.check_call(x, routing)?;
        let dispatch = routing.dispatch();
        let rows = ExpertRows {
            offsets: dispatch.offsets(),
            rows: dispatch.rows(),
            weights: dispatch.weights(),
            weight_on_input: routing.applies_to() == WeightTarget::Input,
        };
        let Engine { kernels, pool } = &*self.engine;
        let out = with_f32(x, |values| {
            self.engine.filled(&[tokens, hidden], |out| {
                kernels.experts(pool, values, &self.packed, &rows, out).map_err(kernel)
            })
        })?;
        meter.experts(self.spec.work(routing));
        Ok(out)
    }
}
