//! Products of every head's inputs with the head's own matrix, all heads in one parallel region.
//!
//! ```text
//! out[t, h] = W_h x[t, h]
//! ```
//!
//! Shapes: x `[tokens, heads, cols]`, W_h `[rows, cols]`, out `[tokens, heads, rows]`.
//! Invariants: an output is one chain over `cols` ascending, as in a matrix product of the head alone.

use crate::{
    KernelError, Kernels, PackedMatrix, Pool,
    arch::{LANES, disjoint::Grid},
    error::{check_len, check_nonzero, rows_in},
    experts::check_alike,
    rows::{InputRows, RowBlocks},
    tile::placed,
};

/// Tasks for each thread, so that a slow one does not keep the others waiting for long.
const TASKS_PER_THREAD: usize = 4;

impl Kernels {
    /// Computes `out[t, h] = x[t, h] w[h]^T` for x `[tokens, heads, cols]` and out `[tokens, heads, rows]`, where
    /// every matrix has `rows` and `cols` and they share a format. No tokens are allowed.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`] without heads, [`KernelError::Shape`] or [`KernelError::MixedFormats`] for a
    /// matrix unlike the first (the head counts as expert), [`KernelError::NotAMultiple`] or
    /// [`KernelError::Length`] if a slice does not fit.
    pub fn matmul_heads(
        &self,
        pool: &Pool,
        x: &[f32],
        w: &[PackedMatrix],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_nonzero("heads", w.len())?;
        let (heads, rows, cols, format) = (w.len(), w[0].rows(), w[0].cols(), w[0].format());
        check_alike("head", w, (rows, cols), format)?;
        let tokens = rows_in("x", x.len(), heads * cols)?;
        check_len("out", tokens * heads * rows, out.len())?;
        if tokens == 0 {
            return Ok(());
        }
        let inputs = InputRows::new(*self, pool, self.inputs(format), (cols, x));
        // Row `h tokens + t` of the blocks is head `h` of token `t`.
        let offsets: Vec<usize> = (0..=heads).map(|head| head * tokens).collect();
        let source = |row: usize| (row % tokens * heads + row / tokens, 1.0);
        let blocks = RowBlocks::new(self, pool, &inputs, &offsets, source);
        let columns = columns_per_task(pool, heads, rows);
        let grid = Grid::new(out, heads * rows, vec![0, tokens], columns).by_number();
        pool.for_each(grid.len(), |index| {
            let mut cell = grid.take(index);
            let (head, first) = (cell.columns().start / rows, cell.columns().start % rows);
            let panels = first / LANES..(first + cell.columns().len()).div_ceil(LANES);
            let mut sums = Vec::new();
            self.for_each_tile(panels, &blocks, blocks.group(head), |panels, block| {
                self.multiply(&w[head], &panels, &block, &mut sums);
                for (panel, row, sum) in placed(&sums, panels, &block.rows) {
                    let out = &mut cell.row(row % tokens)[panel * LANES - first..];
                    out.iter_mut().zip(sum).for_each(|(out, sum)| *out = *sum);
                }
            });
        });
        Ok(())
    }
}

/// Whole panels of a head, as many to a task as divide the head evenly; all of a head that does not end with a panel.
fn columns_per_task(pool: &Pool, heads: usize, rows: usize) -> usize {
    if !rows.is_multiple_of(LANES) {
        return rows;
    }
    let panels = rows / LANES;
    let wanted = (heads * panels).div_ceil(pool.threads() * TASKS_PER_THREAD);
    let taken = (1..=wanted).rev().find(|&taken| panels.is_multiple_of(taken));
    taken.unwrap_or(1) * LANES
}
