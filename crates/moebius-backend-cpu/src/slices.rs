//! The one place that reads a tensor's storage.

use std::ops::Range;

use candle_core::{CpuStorage, Storage, Tensor};
use moebius_backend::{Error, Result};
use moebius_expert_kernels::KernelError;

/// Calls `f` with the elements of an f32 tensor in row-major order, copying only what is not contiguous.
pub(crate) fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (start, end) = x.layout().contiguous_offsets().expect("a contiguous tensor is one range");
    with_range(&x, start..end, f)
}

/// Calls `f` with the elements of several tensors, each as in [`with_f32`].
pub(crate) fn with_all<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let dense = tensors.iter().map(|x| x.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
    let storages: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for ((slice, x), (storage, layout)) in slices.iter_mut().zip(&dense).zip(&storages) {
        let (start, end) = layout.contiguous_offsets().expect("a contiguous tensor is one range");
        *slice = &floats(storage, x)?[start..end];
    }
    f(slices)
}

/// Calls `f` with the rows of a tensor of three dimensions and the distance from one row to the next: columns of
/// something wider are read where they lie, from the first element to the last; other strides are copied.
pub(crate) fn with_rows<T>(x: &Tensor, f: impl FnOnce((&[f32], usize)) -> Result<T>) -> Result<T> {
    let (heads, rows, width) = x.dims3()?;
    let layout = x.layout();
    let [of_heads, of_rows, 1] = *layout.stride() else {
        return with_f32(x, |values| f((values, width)));
    };
    // With one head its stride says nothing.
    let evenly = of_rows >= width && (heads == 1 || of_heads == rows * of_rows);
    if !evenly || x.elem_count() == 0 {
        return with_f32(x, |values| f((values, width)));
    }
    let start = layout.start_offset();
    with_range(x, start..start + (heads * rows - 1) * of_rows + width, |values| f((values, of_rows)))
}

fn with_range<T>(x: &Tensor, range: Range<usize>, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, _) = x.storage_and_layout();
    f(&floats(&storage, x)?[range])
}

/// All elements behind a tensor, whatever part of them it shows.
fn floats<'a>(storage: &'a Storage, x: &Tensor) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(values),
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

/// Fails unless a tensor has the dimensions that another one asks for.
pub(crate) fn expect_dims(what: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), expected: format!("{expected:?}"), got: format!("{got:?}") })
}
