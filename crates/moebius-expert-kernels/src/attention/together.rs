//! A chunk of attention for many query rows side by side: a lane is a row.
//!
//! A key's scores with all rows are products of its columns, one number each, with columns of the queries, sixteen
//! rows each; so nothing is added across lanes, and the softmaxes of all rows advance together.
//!
//! Shapes: queries `[16 chains, head_dim / 16]` of sixteen rows, scores `[CHUNK]` of sixteen rows.
//! Invariants: every sum has the order that [`super::tile`] has for a row alone.

use std::ops::Range;

use super::tile::{CHUNK, ROWS, Softmax, Tile, add_alone, add_common, beside};
use crate::{
    arch::{LANES, Simd},
    vector::lanes::exp,
};

/// Rows from which on lanes without a row cost less than sums across lanes.
const MIN_ROWS: usize = 9;

/// The order in which the chains of a dot product become ready for pairwise sums: halves first.
const CHAINS: [usize; LANES] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

/// Whether a tile has enough rows, of whole chains.
pub(super) fn pays(tile: &Tile<'_>) -> bool {
    const { assert!(ROWS == LANES, "a lane is a row") };
    tile.queries.len() >= MIN_ROWS && tile.keys.width.is_multiple_of(LANES)
}

/// Computes one chunk, of which all rows see the keys `common`, into a cleared `softmax`.
#[inline(always)]
pub(super) fn one_chunk<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    (chunk, common): (usize, &Range<usize>),
    scores: &mut [f32],
    softmax: &mut Softmax<'_>,
) {
    let rows = tile.queries.len();
    let seen = |row: usize| tile.seen(row, chunk);
    let some = (0..rows).map(seen).filter(|seen| !seen.is_empty());
    let Some(any) = some.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else { return };
    let scores = scores.as_chunks_mut::<LANES>().0;
    let here = any.start % CHUNK..any.end - chunk * CHUNK;
    if S::ACCUMULATORS < 16 {
        score::<S, 4>(simd, tile, &any, &mut scores[here.clone()]);
    } else {
        score::<S, 8>(simd, tile, &any, &mut scores[here.clone()]);
    }
    for row in 0..rows {
        for hidden in beside(&any, &seen(row)) {
            for score in &mut scores[hidden.start - chunk * CHUNK..hidden.end - chunk * CHUNK] {
                score[row] = f32::NEG_INFINITY;
            }
        }
    }
    let (largest, total) = weigh(simd, here.start, &mut scores[here.clone()]);
    softmax.largest.copy_from_slice(&largest[..rows]);
    softmax.total.copy_from_slice(&total[..rows]);
    add(simd, tile, (chunk, common), scores, softmax);
}

/// Scores of all rows with some keys, `K` at a time: `[keys]` of sixteen rows.
#[inline(always)]
fn score<S: Simd, const K: usize>(
    simd: S,
    tile: &Tile<'_>,
    keys: &Range<usize>,
    scores: &mut [[f32; LANES]],
) {
    let columns = tile.keys.width / LANES;
    let mut queries = vec![[0.0f32; LANES]; tile.keys.width];
    for (row, (query, _)) in tile.queries.iter().enumerate() {
        for (chain, column) in CHAINS.into_iter().zip(queries.chunks_exact_mut(columns)) {
            for (at, column) in column.iter_mut().enumerate() {
                column[row] = query[at * LANES + chain];
            }
        }
    }
    let scale = simd.splat(tile.scale);
    for (first, scores) in (keys.start..).step_by(K).zip(scores.chunks_mut(K)) {
        let few: [&[[f32; LANES]]; K] = std::array::from_fn(|key| {
            let key = tile.keys.row((first + key).min(keys.end - 1));
            &key.as_chunks::<LANES>().0[..columns]
        });
        // Sums of two, four and eight chains that wait for their other halves.
        let mut waiting = [[simd.splat(0.0); K]; 5];
        for (number, queries) in queries.chunks_exact(columns).enumerate() {
            let chain = CHAINS[number];
            let mut sums = [simd.splat(0.0); K];
            for (at, query) in queries.iter().enumerate() {
                let query = simd.load(query);
                for key in 0..K {
                    sums[key] = simd.fma(query, simd.splat(few[key][at][chain]), sums[key]);
                }
            }
            let ready = number.trailing_ones() as usize;
            for earlier in &waiting[..ready] {
                for key in 0..K {
                    sums[key] = simd.add(earlier[key], sums[key]);
                }
            }
            waiting[ready] = sums;
        }
        for (sum, score) in waiting[4].into_iter().zip(scores) {
            simd.store(simd.mul(scale, sum), score);
        }
    }
}

/// Replaces scores by `exp(score - largest)`, the first of which is that of key `first` of the chunk; returns each
/// row's largest and the sum of its weights. A row of minus infinities has no weights.
#[inline(always)]
fn weigh<S: Simd>(simd: S, first: usize, scores: &mut [[f32; LANES]]) -> ([f32; LANES], [f32; LANES]) {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for score in scores.iter() {
        largest = simd.max(largest, simd.load(score));
    }
    // Finite where a row sees nothing, so that its weights are zero and not undefined.
    let base = simd.max(simd.splat(f32::MIN), largest);
    let mut chains = [simd.splat(0.0); LANES];
    for (key, score) in (first..).zip(scores) {
        let weight = exp(simd, simd.sub(simd.load(score), base));
        chains[key % LANES] = simd.add(chains[key % LANES], weight);
        simd.store(weight, score);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for chain in 0..width {
            chains[chain] = simd.add(chains[chain], chains[chain + width]);
        }
        width /= 2;
    }
    let (mut largest_out, mut total) = ([0.0; LANES], [0.0; LANES]);
    simd.store(largest, &mut largest_out);
    simd.store(chains[0], &mut total);
    (largest_out, total)
}

/// Adds the weighted values of the keys that each row sees to its sums.
#[inline(always)]
fn add<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    (chunk, common): (usize, &Range<usize>),
    weights: &[[f32; LANES]],
    softmax: &mut Softmax<'_>,
) {
    let width = softmax.width;
    let alone = |row: usize, part: usize| beside(&tile.seen(row, chunk), common)[part].clone();
    for (row, sums) in softmax.sums.chunks_exact_mut(width).enumerate() {
        add_alone(simd, tile, alone(row, 0), |key| weights[key][row], sums);
    }
    add_common(simd, tile, common, |key, row| weights[key][row], softmax);
    for (row, sums) in softmax.sums.chunks_exact_mut(width).enumerate() {
        add_alone(simd, tile, alone(row, 1), |key| weights[key][row], sums);
    }
}
