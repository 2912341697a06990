//! Layers that carry a state from token to token: causal convolutions, gated delta rules, selective scans.
//!
//! ```text
//! conv   y_t = bias + sum_j w_j x_(t + 1 - kernel + j)                                      for each channel
//! delta  S = e^g S;  S = S + k (b (v - S^T k))^T;  y = S^T q        (arXiv 2412.06464)      for each value head
//! scan   h = e^(s a) h + s x B;  y = h . C + D x                    (arXiv 2312.00752, 2405.21060), for each value
//! ```
//! Shapes: rows are tokens; states are `[kernel - 1, channels]`, `[value_heads, key_dim, value_dim]` and
//! `[heads, head_dim, state_dim]`, read and replaced in place.
//! Invariants: tokens follow one another in every head and channel, and sums run over rows of a state in ascending
//! order or in sixteen chains: bits do not depend on where a sequence is cut, or on threads.

mod delta;
mod scan;

pub use delta::{DeltaInputs, DeltaShape};
pub use scan::{ScanInputs, ScanShape};

use crate::{
    KernelError, Kernels, Pool,
    arch::{
        LANES, Op, Simd,
        disjoint::{Cell, Grid},
    },
    error::{check_len, check_nonzero, rows_in},
    vector::lanes::{load_padded, softplus, store_part},
};

/// Values of a state that are worth a task of their own.
const VALUES_PER_TASK: usize = 4 << 10;

impl Kernels {
    /// Convolves some rows: `window` is `[kernel - 1 + rows, channels]`, the rows with those that came before;
    /// weight `[kernel, channels]`, bias `[channels]`, out `[rows, channels]`.
    ///
    /// # Errors
    /// If a slice does not fit these shapes or `channels` is zero.
    pub fn causal_conv(
        &self,
        window: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        channels: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let kernel = rows_in("weight", weight.len(), channels)?;
        check_nonzero("kernel", kernel)?;
        check_len("bias", channels, bias.map_or(channels, <[f32]>::len))?;
        rows_in("out", out.len(), channels)?;
        check_len("window", out.len() + (kernel - 1) * channels, window.len())?;
        self.run(Conv { window, weight, bias, channels, out });
        Ok(())
    }

    /// Replaces each element by `ln(1 + e^x)`.
    pub fn softplus(&self, x: &mut [f32]) {
        self.run(Softplus { x });
    }
}

struct Conv<'a> {
    window: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    channels: usize,
    out: &'a mut [f32],
}

impl Op for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let bias = self.bias.unwrap_or_default();
        for (row, out) in self.out.chunks_exact_mut(self.channels).enumerate() {
            let window = &self.window[row * self.channels..];
            for (part, out) in out.chunks_mut(LANES).enumerate() {
                let columns = part * LANES..part * LANES + out.len();
                let mut sum = load_padded(simd, bias.get(columns.clone()).unwrap_or_default(), 0.0);
                let taps = window.chunks(self.channels).zip(self.weight.chunks_exact(self.channels));
                for (x, weight) in taps {
                    let (x, weight) = (&x[columns.clone()], &weight[columns.clone()]);
                    sum = simd.fma(load_padded(simd, x, 0.0), load_padded(simd, weight, 0.0), sum);
                }
                store_part(simd, sum, out);
            }
        }
    }
}

struct Softplus<'a> {
    x: &'a mut [f32],
}

impl Op for Softplus<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for part in self.x.chunks_mut(LANES) {
            store_part(simd, softplus(simd, load_padded(simd, part, 0.0)), part);
        }
    }
}

/// Runs `task` on the states of some heads at a time, with the number of the first and their columns of `out`, which is
/// `[tokens, heads * width]`.
fn for_heads(
    pool: &Pool,
    (states, per_head): (&mut [f32], usize),
    (out, tokens, width): (&mut [f32], usize, usize),
    task: impl Fn(usize, &mut [f32], Cell<'_>) + Sync,
) {
    let heads_per_task = (VALUES_PER_TASK / per_head).max(1);
    let row_len = states.len() / per_head * width;
    let grid = Grid::new(out, row_len, vec![0, tokens], heads_per_task * width).by_number();
    pool.for_each_chunk(states, heads_per_task * per_head, |index, states| {
        task(index * heads_per_task, states, grid.take(index));
    });
}

/// Elements of a shape.
fn product(dims: &[usize]) -> Result<usize, KernelError> {
    let checked =
        |a: usize, &b: &usize| a.checked_mul(b).ok_or(KernelError::SizeOverflow { rows: a, cols: b });
    dims.iter().try_fold(1, checked)
}
