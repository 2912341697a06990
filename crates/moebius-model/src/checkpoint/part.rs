//! Which matrix of a stored tensor is meant: families store several in one, side by side, interleaved or transposed.
//!
//! Shapes: a tensor counts as `[rows, cols]`, all its dimensions but the last as rows.

use std::fmt;
use std::ops::Range;

/// Where a matrix lies in a tensor. How many rows it has is said by whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Rows `first`, `first + step`, ... of the tensor.
    Rows {
        /// The first row.
        first: usize,
        /// From one to the next.
        step: usize,
    },
    /// Columns `first`, `first + step`, ... of a run of rows, as rows: the matrix is stored transposed.
    Columns {
        /// The first row of the run, which is as long as the matrix has columns.
        from_row: usize,
        /// The first column.
        first: usize,
        /// From one to the next.
        step: usize,
    },
}

impl Part {
    /// The tensor from its first row on.
    pub(crate) const WHOLE: Part = Part::Rows { first: 0, step: 1 };

    /// Number `index` of the equal matrices that a tensor consists of, if the part is one.
    pub(super) fn index(self, (rows, _): (usize, usize)) -> Option<usize> {
        match self {
            Part::Rows { first, step: 1 } if rows > 0 && first.is_multiple_of(rows) => Some(first / rows),
            _ => None,
        }
    }

    /// Whether a matrix of this shape lies inside a tensor of `rows` by `cols`.
    pub(super) fn fits(self, (rows, cols): (usize, usize), (all_rows, all_cols): (usize, usize)) -> bool {
        let reaches = |first: usize, step: usize, count: usize, all: usize| {
            let last = count.checked_sub(1).and_then(|steps| steps.checked_mul(step)?.checked_add(first));
            last.is_some_and(|last| last < all)
        };
        match self {
            Part::Rows { first, step } => cols == all_cols && reaches(first, step, rows, all_rows),
            Part::Columns { from_row, first, step } => {
                reaches(from_row, 1, cols, all_rows) && reaches(first, step, rows, all_cols)
            }
        }
    }

    /// The rows of the tensor from the first to the last that a matrix of this shape touches.
    pub(super) fn span(self, (rows, cols): (usize, usize)) -> Range<usize> {
        match self {
            Part::Rows { first, step } => first..first + rows.saturating_sub(1) * step + 1,
            Part::Columns { from_row, .. } => from_row..from_row + cols,
        }
    }

    /// Where an element of the matrix lies: its row, counted from the span's first, and its column.
    pub(super) fn source(self, row: usize, col: usize) -> (usize, usize) {
        match self {
            Part::Rows { step, .. } => (row * step, col),
            Part::Columns { first, step, .. } => (col, first + row * step),
        }
    }

    /// The elements of a matrix, row by row, out of the rows of its span, which have `all_cols` elements of `size`
    /// bytes each.
    pub(super) fn gather(
        self,
        span: &[u8],
        (rows, cols): (usize, usize),
        all_cols: usize,
        size: usize,
    ) -> Vec<u8> {
        let mut out = vec![0; rows * cols * size];
        if let Part::Rows { step, .. } = self {
            for (out, row) in out.chunks_exact_mut(cols * size).zip(span.chunks(cols * size).step_by(step)) {
                out.copy_from_slice(row);
            }
            return out;
        }
        for (row_tile, col_tile) in tiles(rows, cols) {
            for col in col_tile {
                for row in row_tile.clone() {
                    let (from_row, from_col) = self.source(row, col);
                    let from = &span[(from_row * all_cols + from_col) * size..][..size];
                    out[(row * cols + col) * size..][..size].copy_from_slice(from);
                }
            }
        }
        out
    }
}

impl Part {
    /// Puts the elements of a matrix, row by row, into the rows of its span: the other way of [`Part::gather`].
    pub(super) fn scatter(
        self,
        matrix: &[u8],
        (rows, cols): (usize, usize),
        span: &mut [u8],
        (all_cols, size): (usize, usize),
    ) {
        if let Part::Rows { step, .. } = self {
            for (row, from) in matrix.chunks_exact(cols * size).enumerate() {
                span[row * step * cols * size..][..cols * size].copy_from_slice(from);
            }
            return;
        }
        for (row_tile, col_tile) in tiles(rows, cols) {
            for col in col_tile {
                for row in row_tile.clone() {
                    let (to_row, to_col) = self.source(row, col);
                    let from = &matrix[(row * cols + col) * size..][..size];
                    span[(to_row * all_cols + to_col) * size..][..size].copy_from_slice(from);
                }
            }
        }
    }
}

/// Cuts `rows` by `cols` into squares small enough that neither side of a transposition leaves the caches.
fn tiles(rows: usize, cols: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    const SIDE: usize = 64;
    let cut = |n: usize| (0..n).step_by(SIDE).map(move |start| start..(start + SIDE).min(n));
    cut(rows).flat_map(move |rows| cut(cols).map(move |cols| (rows.clone(), cols)))
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Rows { first, step } => write!(f, "rows {first}+{step}"),
            Part::Columns { from_row, first, step } => {
                write!(f, "columns {first}+{step} from row {from_row}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_picked_by_step() {
        let tensor: Vec<u8> = (0..24).collect(); // [4, 6]
        let rows = Part::Rows { first: 1, step: 2 };
        assert!(rows.fits((2, 6), (4, 6)) && !rows.fits((3, 6), (4, 6)) && !rows.fits((2, 5), (4, 6)));
        assert_eq!(rows.span((2, 6)), 1..4);
        assert_eq!(rows.gather(&tensor[6..], (2, 6), 6, 1), [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23]);
        let columns = Part::Columns { from_row: 2, first: 1, step: 2 };
        assert!(
            columns.fits((3, 2), (4, 6)) && !columns.fits((4, 2), (4, 6)) && !columns.fits((3, 3), (4, 6))
        );
        assert_eq!(columns.span((3, 2)), 2..4);
        assert_eq!(columns.gather(&tensor[12..], (3, 2), 6, 1), [13, 19, 15, 21, 17, 23]);
    }

    #[test]
    fn what_was_gathered_is_scattered_to_where_it_was() {
        let tensor: Vec<u8> = (0..48).collect(); // [4, 6], two bytes each
        for (part, matrix) in [
            (Part::Rows { first: 1, step: 2 }, (2, 6)),
            (Part::Columns { from_row: 1, first: 1, step: 2 }, (3, 2)),
        ] {
            let span = part.span(matrix);
            let bytes = part.gather(&tensor[span.start * 12..], matrix, 6, 2);
            let mut scattered = vec![0; span.len() * 12];
            part.scatter(&bytes, matrix, &mut scattered, (6, 2));
            assert_eq!(part.gather(&scattered, matrix, 6, 2), bytes);
            let untouched = scattered.iter().filter(|&&byte| byte == 0).count();
            assert_eq!(untouched, span.len() * 12 - bytes.len());
        }
    }

    #[test]
    fn a_transposition_larger_than_a_tile_is_whole() {
        let (rows, cols) = (130, 70);
        let tensor: Vec<u8> = (0..rows * cols).flat_map(|n| (n as u16).to_le_bytes()).collect(); // [cols, rows]
        let whole = Part::Columns { from_row: 0, first: 0, step: 1 };
        let matrix = whole.gather(&tensor, (rows, cols), rows, 2);
        let element = |row: usize, col: usize| {
            u16::from_le_bytes([matrix[(row * cols + col) * 2], matrix[(row * cols + col) * 2 + 1]])
        };
        assert!((0..rows).all(|row| (0..cols).all(|col| element(row, col) as usize == col * rows + row)));
    }

    #[test]
    fn equal_matrices_one_after_another_have_numbers() {
        assert_eq!(Part::Rows { first: 12, step: 1 }.index((4, 9)), Some(3));
        assert_eq!(Part::Rows { first: 13, step: 1 }.index((4, 9)), None);
        assert_eq!(Part::Rows { first: 0, step: 2 }.index((4, 9)), None);
        assert_eq!(Part::Columns { from_row: 0, first: 0, step: 1 }.index((4, 9)), None);
    }
}
