//! Dense projections `y = x Wᵀ + b` and the embedding table.
//!
//! Shapes: x `[tokens, inputs]`, W `[outputs, inputs]`, b `[outputs]`, y `[tokens, outputs]`.

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Error, Linear, LinearSpec, Result, WeightFormat, WeightView};
use moebius_expert_kernels::{Formats, KernelError, PackedMatrix, Pool, Product, SharedBytes};

use crate::backend::Engine;
use crate::slices::{kernel, with_f32};

pub(crate) struct CpuLinear {
    spec: LinearSpec,
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
    engine: Arc<Engine>,
}

impl CpuLinear {
    pub(crate) fn load(
        engine: &Arc<Engine>,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self> {
        let weight = pack(&engine.pool, &weight, spec.format, (spec.outputs, spec.inputs))?;
        spec.check_bias(bias.as_deref())?;
        Ok(CpuLinear { spec: spec.clone(), weight, bias, engine: engine.clone() })
    }

    /// The projections as those of one engine, if all of them are.
    pub(crate) fn all_of<'a>(engine: &Arc<Engine>, linears: &[&'a dyn Linear]) -> Option<Vec<&'a CpuLinear>> {
        let own = |linear: &&'a dyn Linear| -> Option<&'a CpuLinear> {
            let own = linear.as_any()?.downcast_ref::<CpuLinear>()?;
            Arc::ptr_eq(&own.engine, engine).then_some(own)
        };
        linears.iter().map(own).collect()
    }

    /// What each of some projections of one engine gives for `x`, which is quantised once.
    pub(crate) fn forward_each(engine: &Engine, linears: &[&CpuLinear], x: &Tensor) -> Result<Vec<Tensor>> {
        let (tokens, _) = x.dims2()?;
        let outputs = linears.iter().map(|linear| engine.zeros(tokens * linear.spec.outputs));
        let mut outputs = outputs.collect::<Result<Vec<_>>>()?;
        with_f32(x, |values| {
            let products = linears.iter().zip(&mut outputs).map(|(linear, out)| Product {
                weight: &linear.weight,
                bias: linear.bias.as_deref(),
                out,
            });
            engine.kernels.matmul_each(&engine.pool, values, products.collect()).map_err(kernel)
        })?;
        let tensors = linears
            .iter()
            .zip(outputs)
            .map(|(linear, out)| Ok(Tensor::from_vec(out, (tokens, linear.spec.outputs), x.device())?));
        tensors.collect()
    }
}

/// Packs one stored matrix, which must be `[rows, cols]`, rounding each row to the format in which it is held. One that
/// is packed stays where it lies.
pub(crate) fn pack(
    pool: &Pool,
    view: &WeightView<'_>,
    held: WeightFormat,
    shape: (usize, usize),
) -> Result<PackedMatrix> {
    view.check(held, shape)?;
    let packed = match view.panels() {
        Some(panels) => SharedBytes::new(panels.owner.clone(), panels.range.clone())
            .and_then(|memory| PackedMatrix::from_packed(held, shape.0, shape.1, memory)),
        None => {
            let formats = Formats { stored: view.format, held };
            PackedMatrix::pack_with(pool, formats, shape, &view.bytes, &|bytes| view.was_read(bytes))
        }
    };
    packed.map_err(|error| refused(view, error))
}

/// What the kernels say of a matrix.
pub(crate) fn refused(view: &WeightView<'_>, error: KernelError) -> Error {
    Error::Weight { name: view.name.clone(), source: Box::new(error) }
}

impl Linear for CpuLinear {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Engine { kernels, pool } = &*self.engine;
        let (tokens, _) = x.dims2()?;
        with_f32(x, |values| {
            self.engine.filled(&[tokens, self.spec.outputs], |out| {
                kernels.matmul(pool, values, &self.weight, self.bias.as_deref(), out).map_err(kernel)
            })
        })
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let width = self.spec.inputs;
        self.engine.by_rows(&[ids.len(), width], width, |rows, out| {
            let mut rows = out.chunks_exact_mut(width).zip(&ids[rows]);
            rows.try_for_each(|(row, &id)| self.weight.row(id as usize, row))
        })
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
