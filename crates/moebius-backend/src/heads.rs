//! Projections that every head has one of its own of, such as the absorbed ones of latent attention
//! (arXiv 2405.04434).
//!
//! ```text
//! y[t, h] = W_h x[t, h]
//! ```
//!
//! Shapes: x `[tokens, heads, inputs]`, W_h `[outputs, inputs]`, y `[tokens, heads, outputs]`, all f32.
//! Invariants: a row of a head depends on nothing but that row and the head's matrix.

use candle_core::{DType, Tensor};

use crate::{Backend, Error, Linear, LinearSpec, Result, WeightView};

/// The matrices of all heads on a device.
pub trait HeadLinear: Send + Sync {
    /// What each of them is.
    fn spec(&self) -> &LinearSpec;

    /// How many there are.
    fn heads(&self) -> usize;

    /// Each head's rows times its own matrix: `[tokens, heads, inputs]` to `[tokens, heads, outputs]`, both f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has another shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
}

/// A [`Linear`] for each head: what a backend without kernels for heads has.
pub(crate) struct OneByOne {
    spec: LinearSpec,
    linears: Vec<Box<dyn Linear>>,
}

impl OneByOne {
    pub(crate) fn load<'a, B: Backend + ?Sized>(
        backend: &B,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Self> {
        let load = |head| backend.load_linear(spec, source(head)?, None);
        Ok(OneByOne { spec: spec.clone(), linears: (0..heads).map(load).collect::<Result<_>>()? })
    }
}

impl HeadLinear for OneByOne {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn heads(&self) -> usize {
        self.linears.len()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, heads, inputs) = x.dims3()?;
        if (heads, inputs) != (self.heads(), self.spec.inputs) {
            return Err(Error::Shape {
                what: format!("input of `{}`", self.spec.name),
                expected: format!("[{tokens}, {}, {}]", self.heads(), self.spec.inputs),
                got: format!("{:?}", x.dims()),
            });
        }
        if tokens == 0 {
            // A part of an empty tensor begins beyond its end, where reading it panics.
            return Ok(Tensor::zeros((0, heads, self.spec.outputs), DType::F32, x.device())?);
        }
        let of_head =
            |head: usize| self.linears[head].forward(&x.narrow(1, head, 1)?.squeeze(1)?.contiguous()?);
        let outputs: Vec<_> = (0..heads).map(of_head).collect::<Result<_>>()?;
        Ok(Tensor::stack(&outputs, 1)?)
    }
}
