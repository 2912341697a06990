//! What is added to the residual stream, and what is written to the cache.

use moebius_backend::Backend;

use super::{ROWS, WIDTHS};
use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Samples, strided, tensor, values_of};
use crate::{Failure, OPS_TOLERANCE, oracle};

pub fn additions_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(37);
    for (width, rows) in WIDTHS.iter().flat_map(|&width| ROWS.map(|rows| (width, rows))) {
        let (x, y) = (samples.vector(rows * width), samples.vector(rows * width));
        let shape = [rows, width];
        let (x_tensor, y_tensor) = (tensor(&x, &shape, device)?, tensor(&y, &shape, device)?);
        for factor in [1.0, 0.22] {
            let expected = oracle::added(&x, &y, factor);
            for (x, y) in [(&x_tensor, &y_tensor), (&strided(&x_tensor)?, &strided(&y_tensor)?)] {
                let out = values_of(&ops.add(x, y, factor)?, &shape)?;
                let case = || format!("{shape:?}, strides {:?}, factor {factor}", x.stride());
                expected.check(&out, OPS_TOLERANCE).map_err(|f| f.at(case()))?;
            }
        }
        let wider = tensor(&vec![1.0; rows * (width + 1)], &[rows, width + 1], device)?;
        ensure_refused(
            &format!("addition of {:?} to {shape:?}", wider.dims()),
            ops.add(&x_tensor, &wider, 1.0),
        )?;
    }
    Ok(())
}

pub fn rows_are_written_where_they_belong(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(38);
    for (heads, capacity, width) in [(1, 1, 1), (3, 40, 5), (2, 64, 16), (5, 300, 33)] {
        for tokens in [0, 1, 2, 30, 250].into_iter().filter(|&tokens| tokens <= capacity) {
            for position in [0, (capacity - tokens) / 2, capacity - tokens] {
                let mut expected = samples.vector(heads * capacity * width);
                let cache = tensor(&expected, &[heads, capacity, width], device)?;
                let rows = samples.vector(tokens * heads * width);
                for (index, row) in rows.chunks_exact(width).enumerate() {
                    let (token, head) = (index / heads, index % heads);
                    expected[(head * capacity + position + token) * width..][..width].copy_from_slice(row);
                }
                ops.write_rows(&cache, &tensor(&rows, &[tokens, heads, width], device)?, position)?;
                let written = values_of(&cache, &[heads, capacity, width])?;
                ensure(written == expected, || {
                    format!(
                        "{tokens} rows from {position} on in [{heads}, {capacity}, {width}] are elsewhere"
                    )
                })?;
            }
        }
        let one_more = tensor(&vec![1.0; heads * width], &[1, heads, width], device)?;
        let cache = tensor(&vec![0.0; heads * capacity * width], &[heads, capacity, width], device)?;
        let refused = ops.write_rows(&cache, &one_more, capacity);
        ensure_refused(&format!("a row at position {capacity} of as many"), refused)?;
    }
    Ok(())
}
