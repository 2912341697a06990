//! Writing to one buffer from several tasks, each to its own part.
//!
//! All helpers are safe to call: that parts do not overlap follows from how they are numbered, and that no part is
//! handed out twice is checked at run time, or follows from the pool's running every task once.

use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range,
    slice,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{CACHE_LINE, pages::prefer_large_pages, prefetch};
use crate::{KernelError, Pool, shares::Shares};

/// A row-major matrix cut into cells: runs of rows by runs of columns.
///
/// Invariants: `row_bounds` ascends within the rows, so cells of different places share no element.
pub(crate) struct Grid<'a> {
    start: *mut f32,
    row_len: usize,
    row_bounds: Vec<usize>,
    column_step: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as the grid, and whoever asks for a cell sees
// to it that no element is in two that live at one time, so threads never reach the same element.
unsafe impl Sync for Grid<'_> {}

impl<'a> Grid<'a> {
    /// Cuts `buffer`, a matrix `[rows, row_len]`, before the rows in `row_bounds` (the first is the first row
    /// of the first cell, the last ends the last) and after every `column_step` columns.
    pub(crate) fn new(
        buffer: &'a mut [f32],
        row_len: usize,
        row_bounds: Vec<usize>,
        column_step: usize,
    ) -> Self {
        assert!(row_len > 0 && column_step > 0, "a grid has columns");
        assert!(row_bounds.is_sorted(), "row bounds ascend");
        let rows = buffer.len() / row_len;
        assert!(row_bounds.last().is_some_and(|&end| end <= rows), "row bounds lie within the buffer");
        Self { start: buffer.as_mut_ptr(), row_len, row_bounds, column_step, buffer: PhantomData }
    }

    /// The same, whose cells are taken by number.
    pub(crate) fn by_number(self) -> Cells<'a> {
        let cells = self.down() * self.across();
        Cells { grid: self, taken: (0..cells).map(|_| AtomicBool::new(false)).collect() }
    }

    fn down(&self) -> usize {
        self.row_bounds.len() - 1
    }

    fn across(&self) -> usize {
        self.row_len.div_ceil(self.column_step)
    }

    /// Neighbours of one run of rows as one cell.
    ///
    /// # Safety
    /// No other cell with one of its elements exists as long as this one does.
    unsafe fn cell(&self, down: usize, across: Range<usize>) -> Cell<'_> {
        assert!(across.end <= self.across(), "the cells lie within the grid");
        Cell {
            start: self.start,
            row_len: self.row_len,
            rows: self.row_bounds[down]..self.row_bounds[down + 1],
            columns: across.start * self.column_step..(across.end * self.column_step).min(self.row_len),
            grid: PhantomData,
        }
    }
}

/// Runs `task` for all panels of `shares`, whose groups are the runs of rows of the grids, grid after grid, and whose
/// panels are the cells side by side: with the number of the group and the cell of some of its panels.
///
/// # Panics
/// If the grids have other numbers of runs of rows, or fewer cells side by side than a group has panels.
pub(crate) fn for_each_share(
    pool: &Pool,
    shares: &Shares,
    grids: &mut [Grid<'_>],
    task: impl Fn(usize, Cell<'_>) + Sync,
) {
    let grids = &*grids;
    let down = grids.first().map_or(1, Grid::down);
    assert!(grids.iter().all(|grid| grid.down() == down), "the grids have equally many runs of rows");
    pool.for_each(shares.tasks(), |index| {
        for (group, panels) in shares.panels(index) {
            // SAFETY: shares give every panel of a group to one task and to no other (its invariant), the pool runs
            // each task once, a group is one run of rows of one grid, and the exclusive borrow of the grids leaves no
            // other cell of them.
            let cell = unsafe { grids[group / down].cell(group % down, panels) };
            task(group, cell);
        }
    });
}

/// A grid whose cells are numbered row by row; each can be taken once.
pub(crate) struct Cells<'a> {
    grid: Grid<'a>,
    taken: Box<[AtomicBool]>,
}

impl Cells<'_> {
    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.taken.len()
    }

    /// Takes a cell for writing.
    ///
    /// # Panics
    /// If the cell was taken before: two tasks would write the same elements.
    pub(crate) fn take(&self, cell: usize) -> Cell<'_> {
        assert!(!self.taken[cell].swap(true, Ordering::Relaxed), "cell {cell} is taken twice");
        let (down, across) = (cell / self.grid.across(), cell % self.grid.across());
        // SAFETY: every cell is handed out once, and cells of different numbers share no element.
        unsafe { self.grid.cell(down, across..across + 1) }
    }
}

/// The exclusive right to write some columns of some rows.
pub(crate) struct Cell<'a> {
    start: *mut f32,
    row_len: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    grid: PhantomData<&'a mut f32>,
}

impl Cell<'_> {
    /// The rows of the cell, counted in the whole matrix.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns of the cell, counted in the whole matrix.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Asks for some columns of a row, counted in the cell, so that they are near when they are written.
    #[inline]
    pub(crate) fn fetch(&self, row: usize, first: usize, len: usize) {
        let start = self.start.wrapping_add(row * self.row_len + self.columns.start + first);
        for line in (0..len).step_by(CACHE_LINE / size_of::<f32>()) {
            prefetch(start.wrapping_add(line).cast());
        }
    }

    /// The cell's part of a row, which is counted in the whole matrix.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} lies outside the cell");
        // SAFETY: row and columns lie within the borrowed buffer (checked by `new` and above), no other cell holds
        // these elements (whoever made this one saw to it), and `&mut self` keeps slices of this one apart.
        unsafe {
            let first = self.start.add(row * self.row_len + self.columns.start);
            slice::from_raw_parts_mut(first, self.columns.len())
        }
    }
}

/// Builds a buffer of `len` numbers in parallel: `fill` is called once for every chunk of `chunk_len`, the last perhaps
/// shorter, with its number and zeros that it may overwrite. These are written by the thread that fills the chunk, just
/// before, so that no thread walks through the whole buffer and nearby caches hold what is filled.
///
/// # Errors
/// [`KernelError::OutOfMemory`].
///
/// # Panics
/// If `fill` does, or `chunk_len` is zero.
pub(crate) fn collect_chunks(
    pool: &Pool,
    (len, chunk_len): (usize, usize),
    fill: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Vec<f32>, KernelError> {
    let mut buffer = Vec::new();
    let bytes = len.saturating_mul(size_of::<f32>());
    buffer.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory { bytes })?;
    pool.for_each_chunk(&mut buffer.spare_capacity_mut()[..len], chunk_len, |index, slots| {
        slots.fill(MaybeUninit::new(0.0));
        // SAFETY: all of these slots have just been written.
        fill(index, unsafe { slots.assume_init_mut() });
    });
    // SAFETY: the reserved capacity is enough, and every one of the first `len` slots was written: they are in a chunk,
    // and `for_each_chunk` has returned, so the closure has run on all chunks.
    unsafe { buffer.set_len(len) };
    Ok(buffer)
}

/// A row that is filled element by element, in ascending order.
pub(crate) struct RowSlots<'a, T> {
    slots: &'a mut [MaybeUninit<T>],
    filled: usize,
}

impl<T> RowSlots<'_, T> {
    /// Writes the next element.
    #[inline]
    pub(crate) fn push(&mut self, element: T) {
        self.slots[self.filled].write(element);
        self.filled += 1;
    }
}

/// Builds a `[rows, row_len]` buffer in parallel, without touching its memory before: `fill` is called once per row
/// and pushes all of its elements.
///
/// # Errors
/// [`KernelError::SizeOverflow`] or [`KernelError::OutOfMemory`] if the buffer cannot be had.
///
/// # Panics
/// If a row is not filled.
pub(crate) fn collect_rows<T: Copy + Send>(
    pool: &Pool,
    (rows, row_len): (usize, usize),
    fill: impl Fn(usize, &mut RowSlots<'_, T>) + Sync,
) -> Result<Vec<T>, KernelError> {
    struct Start<T>(*mut MaybeUninit<T>);
    impl<T> Start<T> {
        fn get(&self) -> *mut MaybeUninit<T> {
            self.0
        }
    }
    // SAFETY: tasks write `T: Send` values to disjoint rows behind the pointer and read nothing.
    unsafe impl<T: Send> Sync for Start<T> {}

    let overflow = KernelError::SizeOverflow { rows, cols: row_len };
    let len = rows.checked_mul(row_len).ok_or(overflow.clone())?;
    let bytes = len.checked_mul(size_of::<T>()).ok_or(overflow)?;
    let mut buffer: Vec<T> = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory { bytes })?;
    prefer_large_pages(buffer.spare_capacity_mut());
    let start = Start(buffer.spare_capacity_mut().as_mut_ptr());
    pool.for_each(rows, |index| {
        // SAFETY: `index < rows`, so the row lies within the reserved `len` elements; the pool runs each index
        // once, so no two tasks have the same row, and nothing else reaches the buffer until all are done.
        let slots = unsafe { slice::from_raw_parts_mut(start.get().add(index * row_len), row_len) };
        let mut row = RowSlots { slots, filled: 0 };
        fill(index, &mut row);
        assert_eq!(row.filled, row_len, "row {index} is not filled");
    });
    // SAFETY: `for_each` has returned, so all `rows * row_len` elements are written; the capacity is enough.
    unsafe { buffer.set_len(len) };
    Ok(buffer)
}
