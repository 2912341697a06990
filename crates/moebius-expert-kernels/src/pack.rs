//! Packing: a weight matrix as panels of sixteen output rows.
//!
//! Panel `p` holds, for each input column `k` in ascending order, the weights `w[16 p .. 16 p + 16][k]` side by
//! side: a kernel reads it front to back and adds sixteen outputs at once. The last panel is padded with zeros.
//!
//! Shapes: source `[rows, cols]` row-major; packed `[ceil(rows / 16), cols, 16]`.
//! Invariants: every weight is finite; values are kept exactly.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    KernelError, Pool, WeightFormat,
    arch::{LANES, disjoint::collect_rows},
    error::{check_len, check_nonzero},
    format::{Lanes, Panels, panels_of_format, with_lanes},
};

/// Told of bytes that were read and will not be again.
pub type Done<'a> = &'a (dyn Fn(&[u8]) + Sync);

/// A weight matrix `[rows, cols]`, read-only, laid out for the kernels; it maps `cols` inputs to `rows` outputs.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    panels: Panels,
}

impl PackedMatrix {
    /// Packs the little-endian bytes of a row-major matrix `[rows, cols]`, in parallel over panels.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`], [`KernelError::SizeOverflow`] and [`KernelError::OutOfMemory`] for the
    /// shape, [`KernelError::Length`] if `bytes` has another size than the shape and format give, and
    /// [`KernelError::NonFinite`] for the first weight that is NaN or infinite.
    pub fn pack(
        pool: &Pool,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, KernelError> {
        Self::pack_with(pool, format, (rows, cols), bytes, &|_| {})
    }

    /// As [`PackedMatrix::pack`]; `done` is told of each part of `bytes` that was read and will not be again,
    /// from any thread. So a source that is larger than what is free can leave memory while it is packed.
    ///
    /// # Errors
    /// Those of [`PackedMatrix::pack`].
    pub fn pack_with(
        pool: &Pool,
        format: WeightFormat,
        (rows, cols): (usize, usize),
        bytes: &[u8],
        done: Done<'_>,
    ) -> Result<Self, KernelError> {
        check_nonzero("rows", rows)?;
        check_nonzero("cols", cols)?;
        let expected = format.bytes_for(rows, cols).ok_or(KernelError::SizeOverflow { rows, cols })?;
        check_len("bytes", expected, bytes.len())?;
        let panels = panels_of_format!(format, pack_panels(pool, (rows, cols), bytes, done)?);
        Ok(Self { rows, cols, panels })
    }

    /// Writes one weight row as `f32`, exactly: `out` is `[cols]`. Serves the lookup in a tied embedding.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for the row, [`KernelError::Length`] for `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if row >= self.rows {
            return Err(KernelError::OutOfRange { what: "row", limit: self.rows, got: row });
        }
        check_len("out", self.cols, out.len())?;
        with_lanes!(&self.panels, lanes => self.unpack_row(lanes, row, out));
        Ok(())
    }

    /// Output rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How a weight is stored.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.panels.format()
    }

    /// The memory of the packed weights in bytes, padding included.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        with_lanes!(&self.panels, lanes => size_of_val(lanes.as_slice()))
    }

    pub(crate) fn panels(&self) -> &Panels {
        &self.panels
    }

    fn unpack_row<L: Lanes>(&self, panels: &[L], row: usize, out: &mut [f32]) {
        let panel = &panels[row / LANES * self.cols..][..self.cols];
        for (out, lanes) in out.iter_mut().zip(panel) {
            *out = lanes.get(row % LANES);
        }
    }
}

fn pack_panels<L: Lanes>(
    pool: &Pool,
    (rows, cols): (usize, usize),
    bytes: &[u8],
    done: Done<'_>,
) -> Result<Vec<L>, KernelError> {
    let row_bytes = cols * L::ELEMENT_BYTES;
    let first_bad = AtomicUsize::new(usize::MAX);
    let padding = vec![0; row_bytes];
    let lanes = collect_rows(pool, (rows.div_ceil(LANES), cols), |panel| {
        let first_row = panel * LANES;
        let mut sources = [padding.as_slice(); LANES];
        let panel_bytes = &bytes[first_row * row_bytes..rows.min(first_row + LANES) * row_bytes];
        for (source, row) in sources.iter_mut().zip(panel_bytes.chunks_exact(row_bytes)) {
            *source = row;
        }
        let first_bad = &first_bad;
        move |col| {
            let lanes = L::gather(&sources, col);
            if !lanes.is_finite() {
                let lane = (0..LANES).find(|&lane| !lanes.get(lane).is_finite()).expect("one is not");
                first_bad.fetch_min((first_row + lane) * cols + col, Ordering::Relaxed);
            }
            if col + 1 == cols {
                done(panel_bytes);
            }
            lanes
        }
    })?;
    match first_bad.into_inner() {
        usize::MAX => Ok(lanes),
        index => Err(KernelError::NonFinite { row: index / cols, col: index % cols }),
    }
}
