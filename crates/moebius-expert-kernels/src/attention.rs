//! Causal attention over a cache of keys and values, with grouped heads and an optional window.
//!
//! ```text
//! p = softmax over lo <= j <= pos of  scale q . k_j,   out = sum of p_j v_j,   lo = max(0, pos + 1 - window)
//! ```
//! Query head `h` reads key head `h / (heads / kv_heads)` (arXiv 1706.03762, 2305.13245).
//!
//! Shapes: queries `[tokens, heads, head_dim]`, keys `[kv_heads, capacity, head_dim]`,
//! values `[kv_heads, capacity, value_dim]`, out `[tokens, heads, value_dim]`.
//! Invariants: a row's bits depend on its query and the keys and values that it sees: not on other rows,
//! the capacity, or how a prompt was cut into chunks.

use crate::{
    KernelError, Kernels, Pool,
    arch::{LANES, Op, Simd, disjoint::Grid},
    error::{check_len, check_nonzero, rows_in},
    vector::lanes::{dot, load_padded, store_part},
    vector::softmax_row,
};

/// Query rows that one task computes at most.
const ROWS_PER_TASK: usize = 16;

/// Groups of sixteen value columns that are summed at once.
const COLUMN_GROUPS: usize = 4;

/// The shape of one attention call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// The width of a query and a key.
    pub head_dim: usize,
    /// The width of a value.
    pub value_dim: usize,
    /// Positions for which each head's cache has room.
    pub capacity: usize,
    /// The position of the first query row; row `i` sits at `first_position + i` and sees no later key.
    pub first_position: usize,
    /// The factor of the scores, often `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a row sees, its own included; all earlier ones if `None`.
    pub window: Option<usize>,
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[tokens, heads, head_dim]`
    pub queries: &'a [f32],
    /// `[kv_heads, capacity, head_dim]`, filled up to the position of the last query row.
    pub keys: &'a [f32],
    /// `[kv_heads, capacity, value_dim]`, filled likewise.
    pub values: &'a [f32],
}

impl AttentionShape {
    /// Checks the inputs and returns the number of tokens.
    fn check(&self, inputs: &AttentionInputs<'_>, out: &[f32]) -> Result<usize, KernelError> {
        check_nonzero("heads", self.heads)?;
        check_nonzero("kv_heads", self.kv_heads)?;
        check_nonzero("head_dim", self.head_dim)?;
        check_nonzero("value_dim", self.value_dim)?;
        check_nonzero("window", self.window.unwrap_or(1))?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(KernelError::NotAMultiple { what: "heads", got: self.heads, of: self.kv_heads });
        }
        let product =
            |a: usize, b: usize| a.checked_mul(b).ok_or(KernelError::SizeOverflow { rows: a, cols: b });
        let tokens = rows_in("queries", inputs.queries.len(), product(self.heads, self.head_dim)?)?;
        let slots = product(self.kv_heads, self.capacity)?;
        check_len("keys", product(slots, self.head_dim)?, inputs.keys.len())?;
        check_len("values", product(slots, self.value_dim)?, inputs.values.len())?;
        check_len("out", product(tokens, product(self.heads, self.value_dim)?)?, out.len())?;
        let end = self.first_position.saturating_add(tokens);
        if end > self.capacity {
            let limit = self.capacity.saturating_add(1);
            return Err(KernelError::OutOfRange { what: "first_position + tokens", limit, got: end });
        }
        Ok(tokens)
    }
}

impl Kernels {
    /// Computes causal attention: out `[tokens, heads, value_dim]`.
    ///
    /// # Errors
    /// If a slice does not fit the shape, `heads` is no multiple of `kv_heads`, a dimension is zero, or the
    /// query rows reach beyond the capacity.
    pub fn attention(
        &self,
        pool: &Pool,
        inputs: &AttentionInputs<'_>,
        shape: &AttentionShape,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let tokens = shape.check(inputs, out)?;
        if tokens == 0 {
            return Ok(());
        }
        let mut row_bounds: Vec<usize> = (0..tokens).step_by(ROWS_PER_TASK).collect();
        row_bounds.push(tokens);
        let grid = Grid::new(out, shape.heads * shape.value_dim, row_bounds, shape.value_dim);
        let (head_dim, value_dim) = (shape.head_dim, shape.value_dim);
        pool.for_each(grid.cells(), |index| {
            let mut cell = grid.take(index);
            let head = index % shape.heads;
            let kv_head = head / (shape.heads / shape.kv_heads);
            let keys = &inputs.keys[kv_head * shape.capacity * head_dim..][..shape.capacity * head_dim];
            let values = &inputs.values[kv_head * shape.capacity * value_dim..][..shape.capacity * value_dim];
            let mut scores = Vec::new();
            for row in cell.rows() {
                let position = shape.first_position + row;
                let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                scores.resize(position + 1 - first, 0.0);
                self.run(RowOp {
                    query: &inputs.queries[(row * shape.heads + head) * head_dim..][..head_dim],
                    keys: &keys[first * head_dim..(position + 1) * head_dim],
                    values: &values[first * value_dim..(position + 1) * value_dim],
                    scale: shape.scale,
                    scores: &mut scores,
                    out: cell.row(row),
                });
            }
        });
        Ok(())
    }
}

/// Attention of one query row over the keys that it sees.
struct RowOp<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scale: f32,
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Op for RowOp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let keys = self.keys.chunks_exact(self.query.len());
        for (score, key) in self.scores.iter_mut().zip(keys) {
            *score = self.scale * dot(simd, self.query, key);
        }
        softmax_row(simd, self.scores);
        let value_dim = self.out.len();
        let mut column = 0;
        while column < value_dim {
            let out = &mut self.out[column..];
            let values = &self.values[column..];
            if out.len() >= COLUMN_GROUPS * LANES {
                weighted_sum::<S, COLUMN_GROUPS>(simd, self.scores, values, value_dim, out);
                column += COLUMN_GROUPS * LANES;
            } else {
                weighted_sum::<S, 1>(simd, self.scores, values, value_dim, out);
                column += LANES;
            }
        }
    }
}

/// The first `16 G` columns of the sum of value rows, `row_len` apart, each times its weight.
#[inline(always)]
fn weighted_sum<S: Simd, const G: usize>(
    simd: S,
    weights: &[f32],
    values: &[f32],
    row_len: usize,
    out: &mut [f32],
) {
    let mut sums = [simd.splat(0.0); G];
    let width = out.len().min(G * LANES);
    for (weight, row) in weights.iter().zip(values.chunks(row_len)) {
        let weight = simd.splat(*weight);
        let row = &row[..width];
        for (group, sum) in sums.iter_mut().enumerate() {
            *sum = simd.fma(weight, load_padded(simd, &row[group * LANES..], 0.0), *sum);
        }
    }
    for (group, sum) in sums.into_iter().enumerate() {
        store_part(simd, sum, &mut out[group * LANES..]);
    }
}
