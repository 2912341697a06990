//! The one place that reads a tensor's storage.

use candle_core::{CpuStorage, Storage, Tensor};
use moebius_backend::{Error, Result};
use moebius_expert_kernels::KernelError;

/// Calls `f` with the elements of an f32 tensor in row-major order, copying only what is not contiguous.
pub(crate) fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().expect("a contiguous tensor is one range");
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => f(&values[start..end]),
        _ => Err(Error::Shape {
            what: "activation".into(),
            expected: "f32 on the cpu".into(),
            got: format!("{:?} on {:?}", x.dtype(), x.device()),
        }),
    }
}

/// A new tensor from the elements that `fill` writes.
pub(crate) fn filled(
    shape: &[usize],
    like: &Tensor,
    fill: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    let mut out = vec![0.0; shape.iter().product()];
    fill(&mut out)?;
    Ok(Tensor::from_vec(out, shape, like.device())?)
}

/// A kernel's refusal as this backend's error.
pub(crate) fn kernel(error: KernelError) -> Error {
    Error::Kernel(Box::new(error))
}
