//! Matrix product with packed weights: `out = x w^T + bias`.
//!
//! Shapes: x `[tokens, cols]`, w `[rows, cols]`, bias `[rows]`, out `[tokens, rows]`.
//! Invariants: an output is one chain over `cols` ascending, then the bias.

use std::ops::Range;

use crate::{
    KernelError, Kernels, PackedMatrix, Pool,
    arch::{LANES, disjoint::Grid},
    error::{check_len, rows_in},
    rows::{InputRows, RowBlocks},
    tile::placed,
};

/// Tasks for each thread, so that a slow one does not keep the others waiting for long.
const TASKS_PER_THREAD: usize = 4;

/// Panels in one task at most: neighbours are read as one stream.
const MAX_PANELS_PER_TASK: usize = 16;

impl Kernels {
    /// Computes `out = x w^T + bias` for x `[tokens, cols]` and out `[tokens, rows]`, where `w` has `rows`
    /// and `cols`, and `bias`, if any, `rows` values. No tokens are allowed.
    ///
    /// # Errors
    /// [`KernelError::NotAMultiple`] or [`KernelError::Length`] if a slice does not fit these shapes.
    pub fn matmul(
        &self,
        pool: &Pool,
        x: &[f32],
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let tokens = rows_in("x", x.len(), w.cols())?;
        check_len("out", tokens * w.rows(), out.len())?;
        if let Some(bias) = bias {
            check_len("bias", w.rows(), bias.len())?;
        }
        if tokens == 0 {
            return Ok(());
        }
        let inputs = InputRows::new(*self, pool, w.format().inputs(), (w.cols(), x));
        let rows = RowBlocks::new(self, pool, &inputs, &[0, tokens], |token| (token, 1.0));
        let columns = panels_per_task(pool, w.rows().div_ceil(LANES)) * LANES;
        let down = (pool.threads() * TASKS_PER_THREAD).div_ceil(w.rows().div_ceil(columns));
        let (bounds, n_blocks) = (rows.bounds(), rows.group(0).len());
        let blocks_per_task = n_blocks.div_ceil(down);
        let mut row_bounds: Vec<usize> =
            bounds[..n_blocks].iter().copied().step_by(blocks_per_task).collect();
        row_bounds.push(tokens);
        let grid = Grid::new(out, w.rows(), row_bounds, columns);
        pool.for_each(grid.cells(), |index| {
            let first_block = index / grid.cells_across() * blocks_per_task;
            let blocks = first_block..(first_block + blocks_per_task).min(n_blocks);
            let mut cell = grid.take(index);
            let columns = cell.columns();
            let mut sums = Vec::new();
            self.for_each_tile(panels_of(&columns), &rows, blocks, |panels, block| {
                self.multiply(w, &panels, &block, &mut sums);
                for (panel, row, sum) in placed(&sums, panels, &block.rows) {
                    let first = panel * LANES;
                    let out = &mut cell.row(row)[first - columns.start..];
                    match bias {
                        None => out.iter_mut().zip(sum).for_each(|(out, sum)| *out = *sum),
                        Some(bias) => {
                            let biased = sum.iter().zip(&bias[first..]).map(|(sum, bias)| sum + bias);
                            out.iter_mut().zip(biased).for_each(|(out, value)| *out = value);
                        }
                    }
                }
            });
        });
        Ok(())
    }
}

/// How many neighbouring panels one task takes, out of `n_panels`.
pub(crate) fn panels_per_task(pool: &Pool, n_panels: usize) -> usize {
    n_panels.div_ceil(pool.threads() * TASKS_PER_THREAD).min(MAX_PANELS_PER_TASK)
}

/// The panels of a run of columns that starts with a panel.
pub(crate) fn panels_of(columns: &Range<usize>) -> Range<usize> {
    columns.start / LANES..columns.end.div_ceil(LANES)
}
