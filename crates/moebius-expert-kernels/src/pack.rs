//! Packing: a weight matrix as panels of sixteen output rows.
//!
//! Panel `p` holds, for each block of input columns in ascending order, the weights of rows `16 p .. 16 p + 16` side
//! by side: a kernel reads it front to back and adds sixteen outputs at once. The last panel is padded with zeros.
//!
//! Shapes: source `[rows, cols]` row-major; packed `[ceil(rows / 16), cols / block]` units of sixteen blocks.
//! Invariants: every weight is finite when it is packed; a matrix held as it was stored keeps its values exactly, otherwise each row is
//! rounded by itself.

use std::{
    borrow::Cow,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    KernelError, Pool, SharedBytes, WeightFormat,
    arch::{CACHE_LINE, LANES, disjoint::collect_rows, plain::bytes_of},
    error::{check_len, check_nonzero},
    format::{Panels, Unit, panels_of_format, with_units},
    units::Units,
};

/// Told of bytes that were read and will not be again.
pub type Done<'a> = &'a (dyn Fn(&[u8]) + Sync);

/// How a matrix comes and how it is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Formats {
    /// The format of the bytes.
    pub stored: WeightFormat,
    /// The format of the packed weights.
    pub held: WeightFormat,
}

impl From<WeightFormat> for Formats {
    /// Held as stored.
    fn from(format: WeightFormat) -> Self {
        Self { stored: format, held: format }
    }
}

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
    /// [`KernelError::ZeroDimension`], [`KernelError::NotAMultiple`], [`KernelError::SizeOverflow`] and
    /// [`KernelError::OutOfMemory`] for the shape, [`KernelError::Length`] if `bytes` has another size than the
    /// shape and format give, and [`KernelError::NonFinite`] for the first weight that is NaN or infinite.
    pub fn pack(
        pool: &Pool,
        formats: impl Into<Formats>,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, KernelError> {
        Self::pack_with(pool, formats, (rows, cols), bytes, &|_| {})
    }

    /// As [`PackedMatrix::pack`]; `done` is told of each part of `bytes` that was read and will not be again,
    /// from any thread. So a source that is larger than what is free can leave memory while it is packed.
    ///
    /// # Errors
    /// Those of [`PackedMatrix::pack`].
    pub fn pack_with(
        pool: &Pool,
        formats: impl Into<Formats>,
        (rows, cols): (usize, usize),
        bytes: &[u8],
        done: Done<'_>,
    ) -> Result<Self, KernelError> {
        let formats = formats.into();
        for format in [formats.stored, formats.held] {
            check_shape(format, rows, cols)?;
        }
        let overflow = KernelError::SizeOverflow { rows, cols };
        let expected = formats.stored.bytes_for(rows, cols).ok_or(overflow)?;
        check_len("bytes", expected, bytes.len())?;
        let source = Source { formats, rows, cols, bytes };
        let panels = panels_of_format!(formats.held, Units::Owned(source.pack(pool, done)?));
        Ok(Self { rows, cols, panels })
    }

    /// Takes over a matrix that was packed before, in the bytes of [`PackedMatrix::as_bytes`], without copying them.
    /// They may come from another machine with another instruction set. Weights are not looked at: that none is NaN
    /// or infinite was found when they were packed, and looking again would read all of them.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`], [`KernelError::NotAMultiple`] and [`KernelError::SizeOverflow`] for the shape,
    /// [`KernelError::Length`] if `memory` has another size than shape and format give, [`KernelError::Misaligned`]
    /// if it starts where the kernels cannot read (a multiple of 64 bytes always will do), [`KernelError::BigEndian`].
    pub fn from_packed(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        memory: SharedBytes,
    ) -> Result<Self, KernelError> {
        check_endian()?;
        check_shape(format, rows, cols)?;
        let expected = format.packed_bytes_for(rows, cols).ok_or(KernelError::SizeOverflow { rows, cols })?;
        check_len("memory", expected, memory.as_slice().len())?;
        let panels = panels_of_format!(format, Units::shared(memory)?);
        Ok(Self { rows, cols, panels })
    }

    /// The packed weights as [`PackedMatrix::from_packed`] takes them: [`WeightFormat::packed_bytes_for`] bytes, the
    /// same on every machine.
    ///
    /// # Errors
    /// [`KernelError::BigEndian`].
    pub fn as_bytes(&self) -> Result<&[u8], KernelError> {
        check_endian()?;
        Ok(with_units!(&self.panels, units => bytes_of(units)))
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
        with_units!(&self.panels, units => unpack_row(units, row, out));
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

    /// How a weight is held.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.panels.format()
    }

    /// The memory of the packed weights in bytes, padding included.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        with_units!(&self.panels, units => size_of_val::<[_]>(units))
    }

    /// Whether the weights lie in bytes that somebody else keeps.
    pub(crate) fn is_shared(&self) -> bool {
        with_units!(&self.panels, units => matches!(units, Units::Shared(_)))
    }

    pub(crate) fn panels(&self) -> &Panels {
        &self.panels
    }
}

fn check_shape(format: WeightFormat, rows: usize, cols: usize) -> Result<(), KernelError> {
    check_nonzero("rows", rows)?;
    check_nonzero("cols", cols)?;
    let of = format.block_len();
    if cols.is_multiple_of(of) {
        Ok(())
    } else {
        Err(KernelError::NotAMultiple { what: "cols", got: cols, of })
    }
}

/// Units hold numbers in the order of the machine, and packed bytes are those of little-endian ones.
fn check_endian() -> Result<(), KernelError> {
    if cfg!(target_endian = "big") { Err(KernelError::BigEndian) } else { Ok(()) }
}

fn unpack_row<U: Unit>(units: &[U], row: usize, out: &mut [f32]) {
    let per_panel = out.len() / U::COLS;
    let panel = &units[row / LANES * per_panel..][..per_panel];
    for (out, unit) in out.chunks_exact_mut(U::COLS).zip(panel) {
        unit.row(row % LANES, out);
    }
}

/// Some blocks of sixteen rows, copied near each other: in the source, rows of a round length would push each other
/// out of the cache.
struct Piece([[u8; PIECE_BYTES + CACHE_LINE]; LANES]);

/// Bytes of a row in a [`Piece`].
const PIECE_BYTES: usize = 1024;

impl Piece {
    /// How many blocks of a row fit.
    const fn blocks<U: Unit>() -> usize {
        PIECE_BYTES / U::BYTES
    }

    fn copy<U: Unit>(&mut self, rows: &[&[u8]; LANES], blocks: &Range<usize>) {
        for (piece, row) in self.0.iter_mut().zip(rows) {
            let row = &row[blocks.start * U::BYTES..blocks.end * U::BYTES];
            piece[..row.len()].copy_from_slice(row);
        }
    }

    /// A block of each row.
    #[inline(always)]
    fn blocks_at<U: Unit>(&self, index: usize) -> [&[u8]; LANES] {
        self.0.each_ref().map(|row| &row[index * U::BYTES..][..U::BYTES])
    }
}

/// A row-major matrix to be packed; sizes are checked.
struct Source<'a> {
    formats: Formats,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl Source<'_> {
    fn pack<U: Unit>(&self, pool: &Pool, done: Done<'_>) -> Result<Vec<U>, KernelError> {
        let per_panel = self.cols / U::COLS;
        let row_bytes = per_panel * U::BYTES;
        let first_bad = &AtomicUsize::new(usize::MAX);
        let padding = &vec![0; row_bytes];
        let units = collect_rows(pool, (self.rows.div_ceil(LANES), per_panel), |panel, units| {
            let stored = self.rows_of(panel);
            let held = self.hold::<U>(stored, panel * LANES, first_bad);
            let mut rows = [padding.as_slice(); LANES];
            for (row, held) in rows.iter_mut().zip(held.chunks_exact(row_bytes)) {
                *row = held;
            }
            let mut piece = Piece([[0; PIECE_BYTES + CACHE_LINE]; LANES]);
            for first in (0..per_panel).step_by(Piece::blocks::<U>()) {
                let blocks = first..per_panel.min(first + Piece::blocks::<U>());
                piece.copy::<U>(&rows, &blocks);
                for index in blocks {
                    let unit = U::gather(&piece.blocks_at::<U>(index - first));
                    if !unit.is_finite() {
                        self.report(&unit, (panel * LANES, index * U::COLS), first_bad);
                    }
                    units.push(unit);
                }
            }
            done(stored);
        })?;
        match first_bad.load(Ordering::Relaxed) {
            usize::MAX => Ok(units),
            index => Err(KernelError::NonFinite { row: index / self.cols, col: index % self.cols }),
        }
    }

    /// The stored bytes of a panel's rows.
    fn rows_of(&self, panel: usize) -> &[u8] {
        let row_bytes = self.bytes.len() / self.rows;
        let rows = panel * LANES..self.rows.min((panel + 1) * LANES);
        &self.bytes[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// The rows in the format in which they will be held.
    fn hold<'b, U: Unit>(
        &self,
        stored: &'b [u8],
        first_row: usize,
        first_bad: &AtomicUsize,
    ) -> Cow<'b, [u8]> {
        if self.formats.stored == self.formats.held {
            return Cow::Borrowed(stored);
        }
        let row_bytes = self.bytes.len() / self.rows;
        let mut held = vec![0; stored.len() / row_bytes * (self.cols / U::COLS * U::BYTES)];
        let mut values = vec![0.0; self.cols];
        let rows = stored.chunks_exact(row_bytes).zip(held.chunks_exact_mut(self.cols / U::COLS * U::BYTES));
        for (row, (stored, held)) in (first_row..).zip(rows) {
            self.formats.stored.decode(stored, &mut values).expect("a row has whole blocks");
            if let Some(col) = values.iter().position(|value| !value.is_finite()) {
                first_bad.fetch_min(row * self.cols + col, Ordering::Relaxed);
                continue;
            }
            self.formats.held.encode(&values, held).expect("a row has whole blocks");
        }
        Cow::Owned(held)
    }

    /// Notes the first weight of a unit that is not finite.
    fn report<U: Unit>(&self, unit: &U, (first_row, first_col): (usize, usize), first_bad: &AtomicUsize) {
        let mut values = vec![0.0; U::COLS];
        for lane in 0..LANES {
            unit.row(lane, &mut values);
            if let Some(col) = values.iter().position(|value| !value.is_finite()) {
                first_bad.fetch_min((first_row + lane) * self.cols + first_col + col, Ordering::Relaxed);
                return;
            }
        }
    }
}
