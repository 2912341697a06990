//! The selective scan.
//!
//! Every value of a head has a row of the state, whose entries lie side by side; four rows are summed together.

use super::{for_heads, product};
use crate::{
    KernelError, Kernels, Pool,
    arch::{
        LANES, Op, Simd,
        disjoint::{Cell, Grid},
    },
    error::{check_len, check_nonzero, rows_in},
    vector::lanes::{exp, load_padded, reduce_sum, store_part},
};

/// Rows of a state that are summed together.
const ROWS: usize = 4;

/// The shape of a selective scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanShape {
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups of consecutive heads that share inputs and outputs; they divide heads.
    pub groups: usize,
    /// Entries of the state for each value.
    pub state_dim: usize,
    /// Rates of decay of a head: `state_dim`, or 1 for one that all entries share.
    pub rates: usize,
}

/// What a selective scan reads.
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a> {
    /// `[tokens, heads, head_dim]`
    pub x: &'a [f32],
    /// `[tokens, heads]`
    pub step: &'a [f32],
    /// `[heads, rates]`
    pub rate: &'a [f32],
    /// `[tokens, groups, state_dim]`
    pub input: &'a [f32],
    /// `[tokens, groups, state_dim]`
    pub output: &'a [f32],
    /// `[heads]`
    pub skip: &'a [f32],
}

impl Kernels {
    /// Runs a selective scan over the tokens of one sequence: state `[heads, head_dim, state_dim]`,
    /// out `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// If a slice does not fit its shape, a dimension is zero, or groups do not divide heads.
    pub fn selective_scan(
        &self,
        pool: &Pool,
        inputs: &ScanInputs<'_>,
        shape: &ScanShape,
        (state, out): (&mut [f32], &mut [f32]),
    ) -> Result<(), KernelError> {
        let tokens = shape.check(inputs, state, out)?;
        if tokens == 0 {
            return Ok(());
        }
        let row_len = shape.heads * shape.head_dim;
        let grid = Grid::new(out, row_len, vec![0, tokens], shape.head_dim);
        let per_head = shape.head_dim * shape.state_dim;
        for_heads(pool, state, per_head, |first, states| {
            for (head, state) in (first..).zip(states.chunks_exact_mut(per_head)) {
                self.run(Head { inputs, shape, head, state, out: grid.take(head) });
            }
        });
        Ok(())
    }
}

impl ScanShape {
    /// Checks the slices and returns the number of tokens.
    fn check(&self, inputs: &ScanInputs<'_>, state: &[f32], out: &[f32]) -> Result<usize, KernelError> {
        let Self { heads, head_dim, groups, state_dim, rates } = *self;
        check_nonzero("heads", heads)?;
        check_nonzero("head_dim", head_dim)?;
        check_nonzero("groups", groups)?;
        check_nonzero("state_dim", state_dim)?;
        if !heads.is_multiple_of(groups) {
            return Err(KernelError::NotAMultiple { what: "heads", got: heads, of: groups });
        }
        if rates != 1 && rates != state_dim {
            return Err(KernelError::OutOfRange { what: "rates", limit: 2, got: rates });
        }
        let tokens = rows_in("step", inputs.step.len(), heads)?;
        check_len("x", product(&[tokens, heads, head_dim])?, inputs.x.len())?;
        check_len("rate", product(&[heads, rates])?, inputs.rate.len())?;
        check_len("input", product(&[tokens, groups, state_dim])?, inputs.input.len())?;
        check_len("output", inputs.input.len(), inputs.output.len())?;
        check_len("skip", heads, inputs.skip.len())?;
        check_len("out", inputs.x.len(), out.len())?;
        check_len("state", product(&[heads, head_dim, state_dim])?, state.len())?;
        Ok(tokens)
    }
}

/// All tokens of one head.
struct Head<'a> {
    inputs: &'a ScanInputs<'a>,
    shape: &'a ScanShape,
    head: usize,
    state: &'a mut [f32],
    out: Cell<'a>,
}

impl Op for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let ScanShape { heads, head_dim, groups, state_dim, rates } = *self.shape;
        let ScanInputs { x, step, rate, input, output, skip } = *self.inputs;
        for token in self.out.rows() {
            let place = token * heads + self.head;
            let group = (token * groups + self.head / (heads / groups)) * state_dim;
            let step = Step {
                size: step[place],
                rates: &rate[self.head * rates..][..rates],
                input: &input[group..][..state_dim],
                output: &output[group..][..state_dim],
                skip: skip[self.head],
            };
            let x = &x[place * head_dim..][..head_dim];
            let out = self.out.row(token);
            let (fours, rest) = self.state.split_at_mut(head_dim / ROWS * ROWS * state_dim);
            let values = x.chunks_exact(ROWS).zip(out.chunks_exact_mut(ROWS));
            for (state, (x, out)) in fours.chunks_exact_mut(ROWS * state_dim).zip(values) {
                out.copy_from_slice(&step.rows::<S, ROWS>(simd, x, state));
            }
            let first = head_dim / ROWS * ROWS;
            let values = x[first..].chunks_exact(1).zip(&mut out[first..]);
            for (state, (x, out)) in rest.chunks_exact_mut(state_dim).zip(values) {
                [*out] = step.rows::<S, 1>(simd, x, state);
            }
        }
    }
}

/// One token of one head.
struct Step<'a> {
    size: f32,
    rates: &'a [f32],
    input: &'a [f32],
    output: &'a [f32],
    skip: f32,
}

impl Step<'_> {
    /// The next state of `N` values, and what is read from it.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(&self, simd: S, x: &[f32], state: &mut [f32]) -> [f32; N] {
        let state_dim = self.input.len();
        let size = simd.splat(self.size);
        // A rate that all entries share fills the lanes; otherwise each run of lanes has its own.
        let shared = exp(simd, simd.mul(size, simd.splat(self.rates[0])));
        let mut sums = [simd.splat(0.0); N];
        for first in (0..state_dim).step_by(LANES) {
            let entries = first..(first + LANES).min(state_dim);
            let decay = match self.rates.get(entries.clone()) {
                Some(rates) if self.rates.len() == state_dim => {
                    exp(simd, simd.mul(size, load_padded(simd, rates, 0.0)))
                }
                _ => shared,
            };
            let input = load_padded(simd, &self.input[entries.clone()], 0.0);
            let output = load_padded(simd, &self.output[entries.clone()], 0.0);
            for ((sum, x), row) in sums.iter_mut().zip(x).zip(state.chunks_exact_mut(state_dim)) {
                let row = &mut row[entries.clone()];
                let written = simd.mul(simd.splat(self.size * x), input);
                let next = simd.fma(load_padded(simd, row, 0.0), decay, written);
                store_part(simd, next, row);
                *sum = simd.fma(next, output, *sum);
            }
        }
        std::array::from_fn(|row| reduce_sum(simd, sums[row]) + self.skip * x[row])
    }
}
