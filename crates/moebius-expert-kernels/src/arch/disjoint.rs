//! Writing to one buffer from several tasks, each to its own part.
//!
//! Both helpers are safe to call: that parts do not overlap follows from how they are numbered, and that no
//! part is handed out twice is checked at run time.

use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range,
    slice,
    sync::atomic::{AtomicBool, Ordering},
};

use super::pages::prefer_large_pages;
use crate::{KernelError, Pool};

/// A row-major matrix cut into cells: runs of rows by runs of columns. Each cell can be taken once.
///
/// Invariants: `row_bounds` ascends within the rows, so cells with different numbers share no element.
pub(crate) struct Grid<'a> {
    start: *mut f32,
    row_len: usize,
    row_bounds: Vec<usize>,
    column_step: usize,
    taken: Box<[AtomicBool]>,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as the grid, and `take` hands every
// element to at most one cell, so threads never reach the same element.
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
        let cells = (row_bounds.len() - 1) * row_len.div_ceil(column_step);
        let taken = (0..cells).map(|_| AtomicBool::new(false)).collect();
        Self { start: buffer.as_mut_ptr(), row_len, row_bounds, column_step, taken, buffer: PhantomData }
    }

    /// How many cells lie side by side.
    pub(crate) fn cells_across(&self) -> usize {
        self.row_len.div_ceil(self.column_step)
    }

    /// How many cells there are; they are numbered row by row.
    pub(crate) fn cells(&self) -> usize {
        self.taken.len()
    }

    /// Takes a cell for writing.
    ///
    /// # Panics
    /// If the cell was taken before: two tasks would write the same elements.
    pub(crate) fn take(&self, cell: usize) -> Cell<'_> {
        let (down, across) = (cell / self.cells_across(), cell % self.cells_across());
        self.take_run(down, across..across + 1)
    }

    /// Takes neighbours of one run of rows as one cell.
    ///
    /// # Panics
    /// As [`Grid::take`], or if there are none.
    pub(crate) fn take_run(&self, down: usize, across: Range<usize>) -> Cell<'_> {
        assert!(!across.is_empty() && across.end <= self.cells_across(), "the cells lie within the grid");
        for cell in across.clone() {
            let cell = down * self.cells_across() + cell;
            assert!(!self.taken[cell].swap(true, Ordering::Relaxed), "cell {cell} is taken twice");
        }
        Cell {
            start: self.start,
            row_len: self.row_len,
            rows: self.row_bounds[down]..self.row_bounds[down + 1],
            columns: across.start * self.column_step..(across.end * self.column_step).min(self.row_len),
            grid: PhantomData,
        }
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

    /// The cell's part of a row, which is counted in the whole matrix.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} lies outside the cell");
        // SAFETY: row and columns lie within the borrowed buffer (checked by `new` and above), the cell was
        // taken once, so no other cell holds these elements, and `&mut self` keeps slices of this one apart.
        unsafe {
            let first = self.start.add(row * self.row_len + self.columns.start);
            slice::from_raw_parts_mut(first, self.columns.len())
        }
    }
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
