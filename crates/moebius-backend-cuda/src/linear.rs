//! Dense projections `y = x Wᵀ + b`, those of each head, and the embedding table.
//!
//! Shapes: x `[tokens, inputs]`, W `[outputs, inputs]`, b `[outputs]`, y `[tokens, outputs]`.

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Error, HeadLinear, Linear, LinearSpec, Result, WeightFormat, WeightView};

use crate::inputs::Inputs;
use crate::plan::{TILE, tiles_for};
use crate::product::{Bank, Target, Task};
use crate::slices::{blocks_for, computed, expect_dims};
use crate::weights::{Engine, Stack};

pub(crate) struct CudaLinear {
    spec: LinearSpec,
    bank: Bank,
    engine: Arc<Engine>,
}

impl CudaLinear {
    pub(crate) fn load(
        engine: &Arc<Engine>,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self> {
        spec.check_bias(bias.as_deref())?;
        let bias = bias.map(|bias| engine.gpu.upload(&bias)).transpose()?;
        let shape = (spec.outputs, spec.inputs);
        let view = std::cell::Cell::new(Some(weight));
        let stack = Stack::load(engine, spec.format, shape, 1, |_| {
            Ok(view.take().expect("one matrix is asked for once"))
        })?;
        Ok(CudaLinear { spec: spec.clone(), bank: Bank { stack, bias }, engine: engine.clone() })
    }

    /// The projections as those of one engine, if all of them are.
    pub(crate) fn all_of<'a>(
        engine: &Arc<Engine>,
        linears: &[&'a dyn Linear],
    ) -> Option<Vec<&'a CudaLinear>> {
        let own = |linear: &&'a dyn Linear| -> Option<&'a CudaLinear> {
            let own = linear.as_any()?.downcast_ref::<CudaLinear>()?;
            Arc::ptr_eq(&own.engine, engine).then_some(own)
        };
        linears.iter().map(own).collect()
    }

    /// What each of some projections gives for `x`, which is split once.
    pub(crate) fn forward_each(engine: &Engine, linears: &[&CudaLinear], x: &Tensor) -> Result<Vec<Tensor>> {
        let (tokens, inputs) = x.dims2()?;
        for linear in linears {
            let what = format!("input of `{}`", linear.spec.name);
            expect_dims(&what, &[tokens, linear.spec.inputs], &[tokens, inputs])?;
        }
        let formats: Vec<WeightFormat> = linears.iter().map(|linear| linear.spec.format).collect();
        let inputs = Inputs::new(engine, x, &formats)?;
        linears.iter().map(|linear| linear.multiply(&inputs)).collect()
    }

    fn multiply(&self, inputs: &Inputs) -> Result<Tensor> {
        multiply(&self.engine, &self.bank, (&self.spec, 1), inputs)
    }
}

/// Each head's rows of `inputs` with its own matrix: `[rows, outputs]`.
fn multiply(
    engine: &Engine,
    bank: &Bank,
    (spec, heads): (&LinearSpec, usize),
    inputs: &Inputs,
) -> Result<Tensor> {
    let tokens = inputs.rows / heads;
    let tiles = tiles_for(tokens, engine.has_room_for(&[spec.format]));
    let lots = heads * tokens.div_ceil(tiles * TILE);
    let mut out = engine.gpu.unwritten(inputs.rows * spec.outputs)?;
    let task = Task::Dense { bank, heads, tiles, lots };
    task.launch(engine, inputs, &Target::numbers(out.write()))?;
    engine.gpu.tensor(out, &[inputs.rows, spec.outputs])
}

/// A projection of its own for every head, in one launch.
pub(crate) struct CudaHeads {
    spec: LinearSpec,
    heads: usize,
    bank: Bank,
    engine: Arc<Engine>,
}

impl CudaHeads {
    pub(crate) fn load<'a>(
        engine: &Arc<Engine>,
        spec: &LinearSpec,
        heads: usize,
        source: impl Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Self> {
        let stack = Stack::load(engine, spec.format, (spec.outputs, spec.inputs), heads, source)?;
        Ok(CudaHeads { spec: spec.clone(), heads, bank: Bank { stack, bias: None }, engine: engine.clone() })
    }
}

impl HeadLinear for CudaHeads {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn heads(&self) -> usize {
        self.heads
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, heads, inputs) = x.dims3()?;
        let what = format!("input of `{}`", self.spec.name);
        expect_dims(&what, &[tokens, self.heads, self.spec.inputs], &[tokens, heads, inputs])?;
        let rows = x.contiguous()?.reshape((tokens * heads, inputs))?;
        let inputs = Inputs::new(&self.engine, &rows, &[self.spec.format])?;
        let y = multiply(&self.engine, &self.bank, (&self.spec, heads), &inputs)?;
        Ok(y.reshape((tokens, heads, self.spec.outputs))?)
    }
}

impl Linear for CudaLinear {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut outputs = CudaLinear::forward_each(&self.engine, &[self], x)?;
        Ok(outputs.pop().expect("one projection has one output"))
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.spec.outputs) {
            return Err(Error::Shape {
                what: format!("row of `{}`", self.spec.name),
                expected: format!("below {}", self.spec.outputs),
                got: id.to_string(),
            });
        }
        let gpu = &self.engine.gpu;
        let (count, cols) = (ids.len(), self.spec.inputs);
        let numbers = gpu.upload(ids)?;
        let kernel = format!("rows_{}", self.spec.format);
        let before = [self.bank.stack.words.read(), numbers.read()];
        let grid = [blocks_for(count * cols), 1];
        computed(gpu, &[count, cols], (&kernel, grid), &before, &[count.into(), cols.into()])
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
