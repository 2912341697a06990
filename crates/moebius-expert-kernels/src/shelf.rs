//! The matrices of a bank of experts side by side in one buffer: alone they may be too small for large pages, and
//! memory in small ones is read more slowly, because processors look no farther ahead than a page.
//!
//! Invariants: a matrix starts with a cache line; bits are those that were packed.

use std::{ops::Range, sync::Arc};

use crate::{
    KernelError, PackedMatrix, SharedBytes, WeightFormat,
    arch::{CACHE_LINE, pages::prefer_large_pages, plain::bytes_of},
};

/// Matrices from which on each has large pages enough of its own.
const LARGE_BYTES: usize = 16 << 20;

/// Memory in the steps that it is read in.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; CACHE_LINE]);

struct Shelf(Vec<Line>);

impl AsRef<[u8]> for Shelf {
    fn as_ref(&self) -> &[u8] {
        bytes_of(&self.0)
    }
}

impl Shelf {
    fn with_room_for(n_matrices: usize, bytes: usize) -> Result<Self, KernelError> {
        let lines = bytes.div_ceil(CACHE_LINE);
        let all = lines.checked_mul(n_matrices);
        let all = all.ok_or(KernelError::SizeOverflow { rows: n_matrices, cols: bytes })?;
        let mut buffer = Vec::new();
        let too_much = |_| KernelError::OutOfMemory { bytes: all.saturating_mul(CACHE_LINE) };
        buffer.try_reserve_exact(all).map_err(too_much)?;
        prefer_large_pages(buffer.spare_capacity_mut());
        Ok(Self(buffer))
    }

    /// Copies bytes to the next free line and says where they lie.
    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let first = self.0.len() * CACHE_LINE;
        let (lines, rest) = bytes.as_chunks::<CACHE_LINE>();
        self.0.extend(lines.iter().map(|line| Line(*line)));
        if !rest.is_empty() {
            let mut line = [0; CACHE_LINE];
            line[..rest.len()].copy_from_slice(rest);
            self.0.push(Line(line));
        }
        first..first + bytes.len()
    }
}

impl PackedMatrix {
    /// Makes `n` matrices of one shape and format, one after another, and keeps them in one buffer unless they are
    /// large or lie in memory that somebody else keeps. At most one of them is in memory twice at a time.
    ///
    /// # Errors
    /// Those of `make`, and what `refused` makes of [`KernelError::OutOfMemory`].
    pub fn side_by_side<E>(
        n: usize,
        make: impl Fn(usize) -> Result<Self, E>,
        refused: impl Fn(KernelError) -> E,
    ) -> Result<Vec<Self>, E> {
        if n == 0 {
            return Ok(Vec::new());
        }
        let first = make(0)?;
        let shape = (first.format(), first.rows(), first.cols());
        if first.is_shared() || first.packed_bytes() >= LARGE_BYTES || first.as_bytes().is_err() {
            return std::iter::once(Ok(first)).chain((1..n).map(make)).collect();
        }
        let shelf = Shelf::with_room_for(n, first.packed_bytes());
        let mut shelf = shelf.map_err(&refused)?;
        let mut places = Vec::with_capacity(n);
        let mut next = first;
        loop {
            places.push(shelf.put(next.as_bytes().map_err(&refused)?));
            if places.len() == n {
                break;
            }
            next = make(places.len())?;
            debug_assert_eq!(
                (next.format(), next.rows(), next.cols()),
                shape,
                "matrices of a bank are alike"
            );
        }
        let shelf = Arc::new(shelf);
        let taken = places.into_iter().map(|place| Self::on_shelf(&shelf, place, shape));
        taken.collect::<Result<_, KernelError>>().map_err(refused)
    }

    fn on_shelf(
        shelf: &Arc<Shelf>,
        place: Range<usize>,
        (format, rows, cols): (WeightFormat, usize, usize),
    ) -> Result<Self, KernelError> {
        Self::from_packed(format, rows, cols, SharedBytes::new(shelf.clone(), place)?)
    }
}
