//! The one place that reads a tensor's storage, or writes to it.

use candle_core::{CpuStorage, InplaceOp2, Layout, Storage, Tensor};
use moebius_backend::{AttentionSpan, Error, Result};
use moebius_expert_kernels::{KernelError, Pool};

use crate::backend::VALUES_PER_TASK;

/// Calls `f` with the elements of an f32 tensor in row-major order, copying only what is not contiguous.
pub(crate) fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (start, end) = x.layout().contiguous_offsets().expect("a contiguous tensor is one range");
    let (storage, _) = x.storage_and_layout();
    f(&floats(&storage, &x)?[start..end])
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

/// Keys and values of a sequence where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Cached<'a> {
    pub(crate) keys: &'a [f32],
    /// From the first element to the last.
    pub(crate) values: &'a [f32],
    /// From one value to the next.
    pub(crate) value_stride: usize,
}

/// Calls `f` with the keys and values of some sequences.
pub(crate) fn with_caches<T>(
    spans: &[&AttentionSpan<'_>],
    f: impl FnOnce(&[Cached<'_>]) -> Result<T>,
) -> Result<T> {
    let keys = spans.iter().map(|span| span.keys.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
    let values = spans.iter().map(|span| evenly_spaced(span.values)).collect::<Result<Vec<_>>>()?;
    let keys: Vec<_> = keys.iter().map(|keys| (keys, keys.storage_and_layout())).collect();
    let values: Vec<_> =
        values.iter().map(|(values, stride)| (values, values.storage_and_layout(), *stride)).collect();
    let mut caches = Vec::with_capacity(spans.len());
    for ((keys, (key_storage, key_layout)), (values, (storage, layout), value_stride)) in
        keys.iter().zip(&values)
    {
        let (start, end) = key_layout.contiguous_offsets().expect("a contiguous tensor is one range");
        let keys = &floats(key_storage, keys)?[start..end];
        let (heads, rows, width) = values.dims3()?;
        let len = if values.elem_count() == 0 { 0 } else { (heads * rows - 1) * value_stride + width };
        let values = &floats(storage, values)?[layout.start_offset()..][..len];
        caches.push(Cached { keys, values, value_stride: *value_stride });
    }
    f(&caches)
}

/// A tensor of three dimensions whose rows follow each other at one distance, and this: columns of something wider stay
/// where they are, other strides are copied.
fn evenly_spaced(x: &Tensor) -> Result<(Tensor, usize)> {
    let (heads, rows, width) = x.dims3()?;
    if let [of_heads, of_rows, 1] = *x.stride() {
        // With one head its stride says nothing.
        let evenly = of_rows >= width && (heads == 1 || of_heads == rows * of_rows);
        if evenly && x.elem_count() > 0 {
            return Ok((x.clone(), of_rows));
        }
    }
    Ok((x.contiguous()?, width))
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

/// Writes rows `[tokens, heads, width]` into `cache`, `[heads, capacity, width]`, from a position on.
pub(crate) struct WriteRows<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) position: usize,
}

impl WriteRows<'_> {
    /// Fails unless the rows fit.
    pub(crate) fn run(&self, cache: &Tensor, rows: &Tensor) -> Result<()> {
        let ((heads, capacity, width), (tokens, ..)) = (cache.dims3()?, rows.dims3()?);
        expect_dims("rows to cache", &[tokens, heads, width], rows.dims())?;
        if self.position.checked_add(tokens).is_none_or(|end| end > capacity) {
            return Err(Error::Shape {
                what: "rows to cache".into(),
                expected: format!(
                    "at most {} from position {} on",
                    capacity.saturating_sub(self.position),
                    self.position
                ),
                got: format!("{tokens}"),
            });
        }
        if rows.elem_count() == 0 {
            return Ok(());
        }
        Ok(cache.inplace_op2(&rows.contiguous()?, self)?)
    }
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "write_rows"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        rows: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (&[heads, capacity, width], Some((start, end))) =
            (cache_layout.dims(), cache_layout.contiguous_offsets())
        else {
            return Err(candle_core::Error::RequiresContiguous { op: self.name() });
        };
        let (first, last) = layout.contiguous_offsets().expect("the rows are made contiguous");
        let (CpuStorage::F32(cache), CpuStorage::F32(rows)) = (&mut *cache, rows) else {
            return Err(candle_core::Error::Msg("expected a cache and rows of f32".into()));
        };
        let (cache, rows) = (&mut cache[start..end], &rows[first..last]);
        let tokens = rows.len() / (heads * width);
        // A decoded token stays on the calling thread.
        let heads_per_task = VALUES_PER_TASK.div_ceil(tokens * width);
        self.pool.for_each_chunk(cache, heads_per_task * capacity * width, |task, heads_out| {
            let first_head = task * heads_per_task;
            for (head, out) in (first_head..).zip(heads_out.chunks_exact_mut(capacity * width)) {
                let out = out[self.position * width..].chunks_exact_mut(width);
                for (row, out) in rows.chunks_exact(heads * width).zip(out) {
                    out.copy_from_slice(&row[head * width..][..width]);
                }
            }
        });
        Ok(())
    }
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
