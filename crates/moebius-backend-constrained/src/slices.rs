//! The one place that reads a tensor's storage.

use candle_core::{CpuStorage, Storage, Tensor};
use moebius_backend::{Error, Result};
use moebius_expert_kernels::KernelError;

/// Calls `f` with the elements of an f32 tensor in row-major order, copying only what is not contiguous.
pub(crate) fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (start, end) = x.layout().contiguous_offsets().expect("a contiguous tensor is one range");
    let (storage, _) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => f(&values[start..end]),
        _ => Err(Error::Shape {
            what: "activation".into(),
            expected: "f32 on the cpu".into(),
            got: format!("{:?} on {:?}", x.dtype(), x.device()),
        }),
    }
}

/// A kernel's refusal as this backend's error.
pub(crate) fn kernel(error: KernelError) -> Error {
    Error::Kernel(Box::new(error))
}
