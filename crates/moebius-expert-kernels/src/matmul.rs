//! Matrix products with packed weights: `out = x w^T + bias`, one or several of the same `x`.
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

/// One of several products that read the same input rows.
#[derive(Debug)]
pub struct Product<'a> {
    /// The matrix: `[rows, cols]`.
    pub weight: &'a PackedMatrix,
    /// Added to every output: `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// What is written: `[tokens, rows]`.
    pub out: &'a mut [f32],
}

impl Product<'_> {
    fn check(&self, tokens: usize, cols: usize) -> Result<(), KernelError> {
        check_len("cols", cols, self.weight.cols())?;
        check_len("out", tokens * self.weight.rows(), self.out.len())?;
        self.bias.map_or(Ok(()), |bias| check_len("bias", self.weight.rows(), bias.len()))
    }
}

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
        self.matmul_each(pool, x, vec![Product { weight: w, bias, out }])
    }

    /// Computes several products of x `[tokens, cols]` with matrices of equally many columns, as [`Kernels::matmul`]
    /// does one, with the same bits. Inputs are quantised once for all matrices that read them in one form, and
    /// threads meet once.
    ///
    /// # Errors
    /// Those of [`Kernels::matmul`]; nothing is written then.
    pub fn matmul_each(&self, pool: &Pool, x: &[f32], products: Vec<Product<'_>>) -> Result<(), KernelError> {
        let Some(cols) = products.first().map(|product| product.weight.cols()) else { return Ok(()) };
        let tokens = rows_in("x", x.len(), cols)?;
        products.iter().try_for_each(|product| product.check(tokens, cols))?;
        let mut left = products;
        while tokens > 0 && !left.is_empty() {
            let form = left[0].weight.format().inputs();
            let (alike, others) = left.into_iter().partition(|p| p.weight.format().inputs() == form);
            let inputs = InputRows::new(*self, pool, form, (cols, x));
            let rows = RowBlocks::new(self, pool, &inputs, &[0, tokens], |token| (token, 1.0));
            self.multiply_each(pool, &rows, alike);
            left = others;
        }
        Ok(())
    }

    /// Multiplies at least one row with matrices that read it in its form.
    fn multiply_each(&self, pool: &Pool, rows: &RowBlocks, products: Vec<Product<'_>>) {
        let panels = |product: &Product<'_>| product.weight.rows().div_ceil(LANES);
        let per_task = panels_per_task(pool, products.iter().map(panels).sum());
        let across: usize = products.iter().map(|product| panels(product).div_ceil(per_task)).sum();
        let down = (pool.threads() * TASKS_PER_THREAD).div_ceil(across);
        let (bounds, n_blocks) = (rows.bounds(), rows.group(0).len());
        let blocks_per_task = n_blocks.div_ceil(down);
        let mut row_bounds: Vec<usize> =
            bounds[..n_blocks].iter().copied().step_by(blocks_per_task).collect();
        row_bounds.push(bounds[n_blocks]);
        let mut n_tasks = 0;
        let parts: Vec<Part<'_>> = (products.into_iter())
            .map(|Product { weight, bias, out }| {
                let grid = Grid::new(out, weight.rows(), row_bounds.clone(), per_task * LANES);
                let first_task = n_tasks;
                n_tasks += grid.cells();
                Part { weight, bias, grid, first_task }
            })
            .collect();
        pool.for_each(n_tasks, |task| {
            let part = &parts[parts.partition_point(|part| part.first_task <= task) - 1];
            let cell = task - part.first_task;
            let first_block = cell / part.grid.cells_across() * blocks_per_task;
            let blocks = first_block..(first_block + blocks_per_task).min(n_blocks);
            part.multiply(self, rows, blocks, cell);
        });
    }
}

/// A product with its outputs cut into tasks, which are numbered over all products.
struct Part<'a> {
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    grid: Grid<'a>,
    first_task: usize,
}

impl Part<'_> {
    /// Writes a cell of the outputs: some blocks of rows by some panels.
    fn multiply(&self, kernels: &Kernels, rows: &RowBlocks, blocks: Range<usize>, cell: usize) {
        let mut cell = self.grid.take(cell);
        let columns = cell.columns();
        let mut sums = Vec::new();
        kernels.for_each_tile(panels_of(&columns), rows, blocks, |panels, block| {
            kernels.multiply(self.weight, &panels, &block, &mut sums);
            for (panel, row, sum) in placed(&sums, panels, &block.rows) {
                let first = panel * LANES;
                let out = &mut cell.row(row)[first - columns.start..];
                match self.bias {
                    None => out.iter_mut().zip(sum).for_each(|(out, sum)| *out = *sum),
                    Some(bias) => {
                        let biased = sum.iter().zip(&bias[first..]).map(|(sum, bias)| sum + bias);
                        out.iter_mut().zip(biased).for_each(|(out, value)| *out = value);
                    }
                }
            }
        });
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
