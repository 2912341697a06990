//! A chunk of attention for many query rows side by side: a lane is a row.
//!
//! A key's scores with all rows are products of its columns, one number each, with columns of the queries, sixteen
//! rows each; so nothing is added across lanes, and the softmaxes of all rows advance together.
//!
//! Shapes: queries `[head_dim / 16, 16 chains]` of sixteen rows, scores `[CHUNK]` of sixteen rows.
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

/// The columns of some queries of one width, sixteen rows each, in the order of their chains; none if there are too few
/// queries, or chains of several lengths.
pub(super) fn columns(queries: &[(&[f32], Range<usize>)]) -> Vec<[f32; LANES]> {
    const { assert!(ROWS == LANES, "a lane is a row") };
    let width = queries.first().map_or(0, |(query, _)| query.len());
    if queries.len() < MIN_ROWS || !width.is_multiple_of(LANES) {
        return Vec::new();
    }
    let mut columns = vec![[0.0; LANES]; width];
    for (row, (query, _)) in queries.iter().enumerate() {
        for (columns, query) in
            columns.as_chunks_mut::<LANES>().0.iter_mut().zip(query.as_chunks::<LANES>().0)
        {
            for (column, chain) in columns.iter_mut().zip(CHAINS) {
                column[row] = query[chain];
            }
        }
    }
    columns
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
        score::<S, 4, 1>(simd, tile, &any, &mut scores[here.clone()]);
    } else {
        score::<S, 2, 8>(simd, tile, &any, &mut scores[here.clone()]);
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

/// Scores of all rows with some keys: `[keys]` of sixteen rows. `C` chains of `K` keys are in registers together.
#[inline(always)]
fn score<S: Simd, const K: usize, const C: usize>(
    simd: S,
    tile: &Tile<'_>,
    keys: &Range<usize>,
    scores: &mut [[f32; LANES]],
) {
    let queries = tile.columns.as_chunks::<LANES>().0;
    let scale = simd.splat(tile.scale);
    for (first, scores) in (keys.start..).step_by(K).zip(scores.chunks_mut(K)) {
        let few: [&[[f32; LANES]]; K] = std::array::from_fn(|key| {
            let key = tile.keys.row((first + key).min(keys.end - 1));
            &key.as_chunks::<LANES>().0[..queries.len()]
        });
        // Sums of one group of chains, of two, four, eight and sixteen, that wait for their other halves.
        let mut waiting = [[simd.splat(0.0); K]; 5];
        for group in 0..LANES / C {
            let mut sums = chains::<S, K, C>(simd, queries, &few, group);
            let ready = group.trailing_ones() as usize;
            for earlier in &waiting[..ready] {
                for key in 0..K {
                    sums[key] = simd.add(earlier[key], sums[key]);
                }
            }
            waiting[ready] = sums;
        }
        let whole = (LANES / C).ilog2() as usize;
        for (sum, score) in waiting[whole].into_iter().zip(scores) {
            simd.store(simd.mul(scale, sum), score);
        }
    }
}

/// The sums of a group of `C` chains, a power of two, added pairwise.
#[inline(always)]
fn chains<S: Simd, const K: usize, const C: usize>(
    simd: S,
    queries: &[[[f32; LANES]; LANES]],
    keys: &[&[[f32; LANES]]; K],
    group: usize,
) -> [S::V; K] {
    let first = group * C;
    let mut sums = [[simd.splat(0.0); K]; C];
    for (at, queries) in queries.iter().enumerate() {
        for chain in 0..C {
            let query = simd.load(&queries[first + chain]);
            for key in 0..K {
                let column = simd.splat(keys[key][at][CHAINS[first + chain]]);
                sums[chain][key] = simd.fma(query, column, sums[chain][key]);
            }
        }
    }
    let mut width = C;
    while width > 1 {
        width /= 2;
        for chain in 0..width {
            let pair = sums[2 * chain].into_iter().zip(sums[2 * chain + 1]);
            for (sum, (a, b)) in sums[chain].iter_mut().zip(pair) {
                *sum = simd.add(a, b);
            }
        }
    }
    sums[0]
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
