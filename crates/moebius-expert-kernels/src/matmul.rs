//! Matrix products with packed weights: `out = x w^T + bias`, one or several of the same `x`.
//!
//! Shapes: x `[tokens, cols]`, w `[rows, cols]`, bias `[rows]`, out `[tokens, rows]`.
//! Invariants: an output is one chain over `cols` ascending, then the bias.

use std::ops::Range;

use crate::{
    KernelError, Kernels, PackedMatrix, Pool,
    arch::{
        LANES,
        disjoint::{Cell, Grid, for_each_share},
    },
    error::{check_len, rows_in},
    rows::{InputRows, RowBlocks},
    shares::{Group, Shares},
    tile::{placed, put},
};

/// Panels for each thread, counted once for every run of rows, that leave room for tasks of several lengths.
const PANELS_PER_THREAD: usize = 16;

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
            let form = self.inputs(left[0].weight.format());
            let (alike, others) = left.into_iter().partition(|p| self.inputs(p.weight.format()) == form);
            let inputs = InputRows::new(*self, pool, form, (cols, x));
            let rows = RowBlocks::new(self, pool, &inputs, &[0, tokens], |token| (token, 1.0));
            self.multiply_each(pool, &rows, alike);
            left = others;
        }
        Ok(())
    }

    /// Multiplies at least one row with matrices that read it in its form.
    fn multiply_each(&self, pool: &Pool, rows: &RowBlocks<'_>, products: Vec<Product<'_>>) {
        let panels = |product: &Product<'_>| product.weight.rows().div_ceil(LANES);
        let across: usize = products.iter().map(panels).sum();
        let down = (pool.threads() * PANELS_PER_THREAD).div_ceil(across);
        let (bounds, n_blocks) = (rows.bounds(), rows.group(0).len());
        let blocks_per_run = n_blocks.div_ceil(down);
        let mut row_bounds: Vec<usize> = bounds[..n_blocks].iter().copied().step_by(blocks_per_run).collect();
        row_bounds.push(bounds[n_blocks]);
        let runs = row_bounds.len() - 1;
        let groups = products.iter().flat_map(|product| {
            let panels = panels(product);
            row_bounds.windows(2).map(move |run| Group { panels, cost: run[1] - run[0] })
        });
        let shares = Shares::new(pool, groups);
        let (parts, mut grids): (Vec<_>, Vec<_>) = (products.into_iter())
            .map(|Product { weight, bias, out }| {
                ((weight, bias), Grid::new(out, weight.rows(), row_bounds.clone(), LANES))
            })
            .unzip();
        for_each_share(pool, &shares, &mut grids, |group, cell| {
            let first_block = group % runs * blocks_per_run;
            let blocks = first_block..(first_block + blocks_per_run).min(n_blocks);
            self.multiply_part(parts[group / runs], rows, blocks, cell);
        });
    }

    /// Writes a cell of the outputs of a matrix: some blocks of rows by some panels.
    fn multiply_part(
        &self,
        (weight, bias): (&PackedMatrix, Option<&[f32]>),
        rows: &RowBlocks<'_>,
        blocks: Range<usize>,
        mut cell: Cell<'_>,
    ) {
        let columns = cell.columns();
        let mut sums = Vec::new();
        self.for_each_tile(panels_of(&columns), rows, blocks, |panels, block| {
            self.multiply(weight, &panels, &block, &mut sums);
            for (panel, row, sum) in placed(&sums, panels, &block.rows) {
                let first = panel * LANES;
                let out = &mut cell.row(row)[first - columns.start..];
                match bias {
                    None => put(out, sum, |_, sum| sum),
                    Some(bias) => {
                        let biased = sum.iter().zip(&bias[first..]).map(|(sum, bias)| sum + bias);
                        out.iter_mut().zip(biased).for_each(|(out, value)| *out = value);
                    }
                }
            }
        });
    }
}

/// The panels of a run of columns that starts with a panel.
pub(crate) fn panels_of(columns: &Range<usize>) -> Range<usize> {
    columns.start / LANES..columns.end.div_ceil(LANES)
}
