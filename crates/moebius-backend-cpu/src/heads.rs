//! Projections that every head has one of its own of, all heads in one parallel region.
//!
//! Shapes: x `[tokens, heads, inputs]`, W of a head `[outputs, inputs]`, y `[tokens, heads, outputs]`.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{HeadLinear, LinearSpec, Result, WeightView};
use moebius_expert_kernels::PackedMatrix;

use crate::backend::Engine;
use crate::linear::pack;
use crate::slices::{expect_dims, kernel, with_f32};

pub(crate) struct CpuHeads {
    spec: LinearSpec,
    weights: Vec<PackedMatrix>,
    engine: Arc<Engine>,
}

impl CpuHeads {
    pub(crate) fn load<'a>(
        engine: &Arc<Engine>,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Self> {
        let load = |head| pack(&engine.pool, &source(head)?, spec.format, (spec.outputs, spec.inputs));
        let weights = (0..heads).map(load).collect::<Result<_>>()?;
        Ok(CpuHeads { spec: spec.clone(), weights, engine: engine.clone() })
    }
}

impl HeadLinear for CpuHeads {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn heads(&self) -> usize {
        self.weights.len()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Engine { kernels, pool } = &*self.engine;
        let (tokens, ..) = x.dims3()?;
        expect_dims("input of the heads", &[tokens, self.heads(), self.spec.inputs], x.dims())?;
        with_f32(x, |values| {
            self.engine.filled(&[tokens, self.heads(), self.spec.outputs], |out| {
                kernels.matmul_heads(pool, values, &self.weights, out).map_err(kernel)
            })
        })
    }
}
