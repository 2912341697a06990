//! The gated delta rule.
//!
//! Columns of a state do not meet, so that sixteen of them, or four times as many, go through all rows twice: once to
//! look up what is known of the key, once to correct it and to answer the query.

use std::ops::Range;

use super::{for_heads, product};
use crate::{
    KernelError, Kernels, Pool,
    arch::{LANES, Op, Simd, disjoint::Cell},
    error::{check_len, check_nonzero, rows_in},
    vector::lanes::{load_padded, store_part},
};

/// Runs of lanes that are worked on together, where there are as many.
const RUNS: usize = 4;

/// The shape of a gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Heads of values, a multiple of `key_heads`; consecutive ones share a key head.
    pub value_heads: usize,
    /// Width of a value.
    pub value_dim: usize,
}

/// What a gated delta rule reads.
#[derive(Debug, Clone, Copy)]
pub struct DeltaInputs<'a> {
    /// `[tokens, key_heads, key_dim]`
    pub query: &'a [f32],
    /// `[tokens, key_heads, key_dim]`
    pub key: &'a [f32],
    /// `[tokens, value_heads, value_dim]`
    pub value: &'a [f32],
    /// Logarithms of the factors on the state, `[tokens, value_heads]`.
    pub log_decay: &'a [f32],
    /// Factors on the corrections, `[tokens, value_heads]`.
    pub strength: &'a [f32],
}

impl Kernels {
    /// Runs a gated delta rule over the tokens of one sequence: state `[value_heads, key_dim, value_dim]`,
    /// out `[tokens, value_heads, value_dim]`.
    ///
    /// # Errors
    /// If a slice does not fit its shape, a dimension is zero, or key heads do not divide value heads.
    pub fn delta_rule(
        &self,
        pool: &Pool,
        inputs: &DeltaInputs<'_>,
        shape: &DeltaShape,
        (state, out): (&mut [f32], &mut [f32]),
    ) -> Result<(), KernelError> {
        let tokens = shape.check(inputs, state, out)?;
        if tokens == 0 {
            return Ok(());
        }
        let states = (state, shape.key_dim * shape.value_dim);
        for_heads(pool, states, (out, tokens, shape.value_dim), |first, states, out| {
            self.run(Heads { inputs, shape, first, states, out });
        });
        Ok(())
    }
}

impl DeltaShape {
    /// Checks the slices and returns the number of tokens.
    fn check(&self, inputs: &DeltaInputs<'_>, state: &[f32], out: &[f32]) -> Result<usize, KernelError> {
        let Self { key_heads, key_dim, value_heads, value_dim } = *self;
        check_nonzero("key_heads", key_heads)?;
        check_nonzero("key_dim", key_dim)?;
        check_nonzero("value_heads", value_heads)?;
        check_nonzero("value_dim", value_dim)?;
        if !value_heads.is_multiple_of(key_heads) {
            return Err(KernelError::NotAMultiple { what: "value_heads", got: value_heads, of: key_heads });
        }
        let tokens = rows_in("log_decay", inputs.log_decay.len(), value_heads)?;
        check_len("strength", inputs.log_decay.len(), inputs.strength.len())?;
        check_len("query", product(&[tokens, key_heads, key_dim])?, inputs.query.len())?;
        check_len("key", inputs.query.len(), inputs.key.len())?;
        check_len("value", product(&[tokens, value_heads, value_dim])?, inputs.value.len())?;
        check_len("out", inputs.value.len(), out.len())?;
        check_len("state", product(&[value_heads, key_dim, value_dim])?, state.len())?;
        Ok(tokens)
    }
}

/// All tokens of some heads.
struct Heads<'a> {
    inputs: &'a DeltaInputs<'a>,
    shape: &'a DeltaShape,
    first: usize,
    states: &'a mut [f32],
    out: Cell<'a>,
}

impl Op for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let DeltaShape { key_heads, key_dim, value_heads, value_dim } = *self.shape;
        let DeltaInputs { query, key, value, log_decay, strength } = *self.inputs;
        for (nth, state) in self.states.chunks_exact_mut(key_dim * value_dim).enumerate() {
            let head = self.first + nth;
            for token in self.out.rows() {
                let place = token * value_heads + head;
                let shared = (token * key_heads + head / (value_heads / key_heads)) * key_dim;
                let step = Step {
                    query: &query[shared..][..key_dim],
                    key: &key[shared..][..key_dim],
                    decay: log_decay[place].exp(),
                    strength: strength[place],
                };
                let value = &value[place * value_dim..][..value_dim];
                let out = &mut self.out.row(token)[nth * value_dim..][..value_dim];
                let wide = value_dim - value_dim % (RUNS * LANES);
                for first in (0..wide).step_by(RUNS * LANES) {
                    step.columns::<S, RUNS>(simd, first..first + RUNS * LANES, value, (state, out));
                }
                for first in (wide..value_dim).step_by(LANES) {
                    step.columns::<S, 1>(simd, first..(first + LANES).min(value_dim), value, (state, out));
                }
            }
        }
    }
}

/// One token of one head.
struct Step<'a> {
    query: &'a [f32],
    key: &'a [f32],
    decay: f32,
    strength: f32,
}

impl Step<'_> {
    /// The columns of `N` runs of lanes; a single run may be short.
    #[inline(always)]
    fn columns<S: Simd, const N: usize>(
        &self,
        simd: S,
        columns: Range<usize>,
        value: &[f32],
        (state, out): (&mut [f32], &mut [f32]),
    ) {
        let value_dim = value.len();
        let decay = simd.splat(self.decay);
        let mut known = [simd.splat(0.0); N];
        for (row, key) in state.chunks_exact_mut(value_dim).zip(self.key) {
            let key = simd.splat(*key);
            let row = &mut row[columns.clone()];
            let mut entries = load::<S, N>(simd, row);
            for (entries, known) in entries.iter_mut().zip(&mut known) {
                *entries = simd.mul(*entries, decay);
                *known = simd.fma(*entries, key, *known);
            }
            store::<S, N>(simd, entries, row);
        }
        let strength = simd.splat(self.strength);
        let mut changes = load::<S, N>(simd, &value[columns.clone()]);
        for (change, known) in changes.iter_mut().zip(&known) {
            *change = simd.mul(simd.sub(*change, *known), strength);
        }
        let mut answers = [simd.splat(0.0); N];
        for (row, (key, query)) in state.chunks_exact_mut(value_dim).zip(self.key.iter().zip(self.query)) {
            let (key, query) = (simd.splat(*key), simd.splat(*query));
            let row = &mut row[columns.clone()];
            let mut entries = load::<S, N>(simd, row);
            for ((entries, change), answer) in entries.iter_mut().zip(&changes).zip(&mut answers) {
                *entries = simd.fma(key, *change, *entries);
                *answer = simd.fma(*entries, query, *answer);
            }
            store::<S, N>(simd, entries, row);
        }
        store::<S, N>(simd, answers, &mut out[columns]);
    }
}

/// `N` full runs of lanes, or a single one that may be short.
#[inline(always)]
fn load<S: Simd, const N: usize>(simd: S, values: &[f32]) -> [S::V; N] {
    let mut runs = [simd.splat(0.0); N];
    match <&[[f32; LANES]; N]>::try_from(values.as_chunks().0) {
        Ok(full) => {
            for (run, full) in runs.iter_mut().zip(full) {
                *run = simd.load(full);
            }
        }
        Err(_) => runs[0] = load_padded(simd, values, 0.0),
    }
    runs
}

/// Puts back what [`load`] takes.
#[inline(always)]
fn store<S: Simd, const N: usize>(simd: S, runs: [S::V; N], values: &mut [f32]) {
    match <&mut [[f32; LANES]; N]>::try_from(values.as_chunks_mut().0) {
        Ok(full) => {
            for (run, full) in runs.iter().zip(full) {
                simd.store(*run, full);
            }
        }
        Err(_) => store_part(simd, runs[0], values),
    }
}
