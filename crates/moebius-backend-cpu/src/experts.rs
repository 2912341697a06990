//! The experts of one layer: rows grouped by expert, each expert's weights read once.
//!
//! Shapes: x and out `[tokens, hidden]`; gate and up `[intermediate, hidden]`, down `[hidden, intermediate]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, Error, ExpertBank, ExpertSource, ExpertSpec, Projection, Result};
use moebius_expert_kernels::{Activation as KernelActivation, ExpertRows, PackedExperts};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

use crate::backend::Engine;
use crate::linear::pack;
use crate::slices::{filled, kernel, with_f32};

pub(crate) struct CpuExperts {
    spec: ExpertSpec,
    packed: PackedExperts,
    engine: Arc<Engine>,
}

impl CpuExperts {
    pub(crate) fn load(engine: &Arc<Engine>, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Self> {
        let bank = |projection| {
            let (held, shape) = (spec.format_of(projection), spec.shape(projection));
            let matrix = |expert| pack(engine, &source.get(expert, projection)?, held, shape);
            (0..spec.n_experts).map(matrix).collect::<Result<Vec<_>>>()
        };
        let (gate, up, down) = (bank(Projection::Gate)?, bank(Projection::Up)?, bank(Projection::Down)?);
        let packed =
            PackedExperts::new(gate, up, down, kernel_activation(spec.activation)).map_err(kernel)?;
        Ok(CpuExperts { spec: spec.clone(), packed, engine: engine.clone() })
    }
}

/// The kernels' name for an activation.
pub(crate) fn kernel_activation(activation: Activation) -> KernelActivation {
    match activation {
        Activation::Silu => KernelActivation::Silu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
    }
}

impl ExpertBank for CpuExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        if routing.tokens() != tokens || routing.n_experts() != self.spec.n_experts {
            return Err(Error::Shape {
                what: "routing".into(),
                expected: format!("{tokens} tokens over {} experts", self.spec.n_experts),
                got: format!("{} tokens over {} experts", routing.tokens(), routing.n_experts()),
            });
        }
        if hidden != self.spec.hidden {
            return Err(Error::Shape {
                what: "expert input".into(),
                expected: format!("[{tokens}, {}]", self.spec.hidden),
                got: format!("[{tokens}, {hidden}]"),
            });
        }
        let dispatch = routing.dispatch();
        let rows = ExpertRows {
            offsets: dispatch.offsets(),
            rows: dispatch.rows(),
            weights: dispatch.weights(),
            weight_on_input: routing.applies_to() == WeightTarget::Input,
        };
        let Engine { kernels, pool } = &*self.engine;
        let out = with_f32(x, |values| {
            filled(&[tokens, hidden], x, |out| {
                kernels.experts(pool, values, &self.packed, &rows, out).map_err(kernel)
            })
        })?;
        meter.experts(self.spec.work(routing, dispatch.n_active()));
        Ok(out)
    }
}
