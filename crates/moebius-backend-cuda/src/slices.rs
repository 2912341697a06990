//! Tensors as kernels read them.

use candle_core::{DType, Tensor};
use moebius_backend::{Error, Result};

use crate::gpu::{Arg, Blocks, Buffer, Gpu, Launch, THREADS, tensor_arg};

/// An f32 tensor of the device with its elements in row-major order, copied only where they are not.
pub(crate) struct Dense(Tensor);

impl Dense {
    pub(crate) fn new(x: &Tensor) -> Result<Self> {
        if x.dtype() != DType::F32 {
            return Err(Error::Shape {
                what: "activation".into(),
                expected: "f32".into(),
                got: format!("{:?}", x.dtype()),
            });
        }
        Ok(Dense(x.contiguous()?))
    }

    /// For a kernel that reads it.
    pub(crate) fn arg(&self) -> Result<Arg<'_>> {
        tensor_arg(&self.0)
    }
}

/// A tensor of three dimensions whose rows a kernel can read where they lie: columns of something wider are not copied.
pub(crate) struct Rows {
    x: Dense,
    /// Elements from one head to the next, and from one row to the next.
    pub(crate) strides: [usize; 2],
}

impl Rows {
    pub(crate) fn new(x: &Tensor) -> Result<Self> {
        let (_, rows, width) = x.dims3()?;
        match *x.layout().stride() {
            [of_heads, of_rows, 1] if of_rows >= width && x.dtype() == DType::F32 => {
                Ok(Rows { x: Dense(x.clone()), strides: [of_heads, of_rows] })
            }
            _ => Ok(Rows { x: Dense::new(x)?, strides: [rows * width, width] }),
        }
    }

    pub(crate) fn arg(&self) -> Result<Arg<'_>> {
        self.x.arg()
    }
}

/// The argument of a tensor that may be missing.
pub(crate) fn optional(x: Option<&Dense>) -> Result<Arg<'_>> {
    x.map_or(Ok(Arg::NONE), Dense::arg)
}

/// Blocks for a thread each.
pub(crate) fn blocks_for(threads: usize) -> usize {
    threads.div_ceil(THREADS)
}

/// A new tensor of a shape, which a kernel on a grid writes; its parameters are those of `before`, the output, `after`.
pub(crate) fn computed(
    gpu: &Gpu,
    shape: &[usize],
    (kernel, blocks): (&str, impl Into<Blocks>),
    before: &[Arg<'_>],
    after: &[Arg<'_>],
) -> Result<Tensor> {
    let mut out: Buffer<f32> = gpu.unwritten(shape.iter().product())?;
    let args = [before, &[out.write()], after].concat();
    gpu.launch(&Launch { kernel, blocks: blocks.into(), args: &args })?;
    gpu.tensor(out, shape)
}

/// Fails unless a tensor has the dimensions that another one asks for.
pub(crate) fn expect_dims(what: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), expected: format!("{expected:?}"), got: format!("{got:?}") })
}
