//! The selective scan.
//!
//! Every value of a head has a row of the state, whose entries lie side by side.

use super::{for_heads, product};
use crate::{
    KernelError, Kernels, Pool,
    arch::{LANES, Op, Simd, disjoint::Cell},
    error::{check_len, check_nonzero, rows_in},
    vector::lanes::{exp, load_padded, reduce_sum, store_part},
};

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
        let states = (state, shape.head_dim * shape.state_dim);
        for_heads(pool, states, (out, tokens, shape.head_dim), |first, states, out| {
            self.run(Heads { inputs, shape, first, states, out });
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

/// All tokens of some heads.
struct Heads<'a> {
    inputs: &'a ScanInputs<'a>,
    shape: &'a ScanShape,
    first: usize,
    states: &'a mut [f32],
    out: Cell<'a>,
}

impl Op for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let ScanShape { heads, head_dim, groups, state_dim, rates } = *self.shape;
        let ScanInputs { x, step, rate, input, output, skip } = *self.inputs;
        for (nth, state) in self.states.chunks_exact_mut(head_dim * state_dim).enumerate() {
            let head = self.first + nth;
            for token in self.out.rows() {
                let place = token * heads + head;
                let group = (token * groups + head / (heads / groups)) * state_dim;
                let step = Step {
                    size: step[place],
                    rates: &rate[head * rates..][..rates],
                    input: &input[group..][..state_dim],
                    output: &output[group..][..state_dim],
                    skip: skip[head],
                };
                let x = &x[place * head_dim..][..head_dim];
                let out = &mut self.out.row(token)[nth * head_dim..][..head_dim];
                step.values(simd, x, (state, out));
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
    /// The next states of all values, and what is read from them.
    #[inline(always)]
    fn values<S: Simd>(&self, simd: S, x: &[f32], (state, out): (&mut [f32], &mut [f32])) {
        let state_dim = self.input.len();
        let shared = self.decay(simd, self.rates);
        let rates = if self.rates.len() == state_dim { self.rates } else { &[] };
        for ((row, x), out) in state.chunks_exact_mut(state_dim).zip(x).zip(out) {
            let written = simd.splat(self.size * x);
            let mut sum = simd.splat(0.0);
            let coefficients = self.input.chunks(LANES).zip(self.output.chunks(LANES));
            for (run, (entries, (input, output))) in row.chunks_mut(LANES).zip(coefficients).enumerate() {
                let decay = match rates.get(run * LANES..) {
                    Some(rates) if !rates.is_empty() => self.decay(simd, rates),
                    _ => shared,
                };
                let fresh = simd.mul(written, load_padded(simd, input, 0.0));
                let next = simd.fma(load_padded(simd, entries, 0.0), decay, fresh);
                store_part(simd, next, entries);
                sum = simd.fma(next, load_padded(simd, output, 0.0), sum);
            }
            *out = reduce_sum(simd, sum) + self.skip * x;
        }
    }

    /// What the first lanes of a state are multiplied with; a single rate is that of all lanes.
    #[inline(always)]
    fn decay<S: Simd>(&self, simd: S, rates: &[f32]) -> S::V {
        let rates = match rates {
            [rate] => simd.splat(*rate),
            rates => load_padded(simd, rates, 0.0),
        };
        exp(simd, simd.mul(simd.splat(self.size), rates))
    }
}
