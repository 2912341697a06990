//! Attention of a few query rows that share keys and values, chunk of keys by chunk.
//!
//! ```text
//! of a chunk:  m = max s_j,  t = sum exp(s_j - m),  o = sum exp(s_j - m) v_j        s_j = scale q . k_j
//! joined:      M = max(m, m'),  t e^(m - M) + t' e^(m' - M),  o e^(m - M) + o' e^(m' - M)
//! ```
//! Softmax in parts as in FlashAttention (arXiv 2205.14135). A sink `s` joins last, as a part with `m' = s, t' = 1,
//! o' = 0`.
//!
//! Shapes: queries `[rows, head_dim]`, keys `[positions, head_dim]`, values `[positions, value_dim]`.
//! Invariants: chunks begin at multiples of [`CHUNK`] and are joined in ascending order, and a row adds its values key
//! by key; so its bits depend neither on its neighbours in the tile nor on who computes which chunk.

use std::ops::Range;

use crate::{
    arch::{LANES, Op, Simd},
    vector::exp_row,
    vector::lanes::{exp, load_padded, reduce_max, store_part},
};

/// Keys of a chunk.
pub(super) const CHUNK: usize = 256;

/// Query rows of a tile at most.
pub(super) const ROWS: usize = 16;

/// Values that are added to one row after another while they are in the nearest cache.
const VALUES: usize = 32;

/// Rows of one width, each `stride` after the one before.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.width]
    }
}

/// Up to [`ROWS`] query rows, each with the positions that it sees, and what is there.
pub(super) struct Tile<'a> {
    pub(super) queries: Vec<(&'a [f32], Range<usize>)>,
    pub(super) keys: Rows<'a>,
    pub(super) values: Rows<'a>,
    /// For each of the tile's heads, or none. Heads vary fastest among the queries.
    pub(super) sinks: &'a [f32],
    pub(super) scale: f32,
}

impl Tile<'_> {
    /// The chunks that some row sees.
    pub(super) fn chunks(&self) -> Range<usize> {
        let first = self.queries.iter().map(|(_, seen)| seen.start).min().unwrap_or(0);
        let end = self.queries.iter().map(|(_, seen)| seen.end).max().unwrap_or(0);
        first / CHUNK..end.div_ceil(CHUNK)
    }

    /// Keys of one chunk by fours, with the places of their scores; the last is repeated where there are fewer.
    #[inline(always)]
    fn fours(&self, keys: &Range<usize>) -> impl Iterator<Item = ([&[f32]; 4], Range<usize>)> {
        let Range { start, end } = *keys;
        (start..end).step_by(4).map(move |key| {
            let four = std::array::from_fn(|i| self.keys.row((key + i).min(end - 1)));
            let first = key % CHUNK;
            (four, first..first + (end - key).min(4))
        })
    }
}

/// For each row of a tile the largest score so far, and relative to it the sum of weights and of weighted values.
pub(super) struct Softmax<'a> {
    largest: &'a mut [f32],
    total: &'a mut [f32],
    sums: &'a mut [f32],
    width: usize,
}

impl<'a> Softmax<'a> {
    /// The numbers that `rows` rows of values of this width take.
    pub(super) fn len(rows: usize, width: usize) -> usize {
        rows * (2 + width)
    }

    /// What such numbers say.
    pub(super) fn of(numbers: &'a mut [f32], width: usize) -> Self {
        let rows = numbers.len() / (2 + width);
        let (largest, rest) = numbers.split_at_mut(rows);
        let (total, sums) = rest.split_at_mut(rows);
        Self { largest, total, sums, width }
    }

    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.largest.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.sums.fill(0.0);
    }

    /// The weighted values `[rows, width]`; means once [`Finish`] ran.
    pub(super) fn sums(&self) -> &[f32] {
        self.sums
    }
}

/// Computes one chunk into `softmax`; `scores` are `[rows, CHUNK]` numbers to work with.
pub(super) struct OneChunk<'a, 'b> {
    pub(super) tile: &'a Tile<'a>,
    pub(super) chunk: usize,
    pub(super) scores: &'a mut [f32],
    pub(super) softmax: &'a mut Softmax<'b>,
}

impl Op for OneChunk<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { tile, chunk, scores, softmax } = self;
        softmax.clear();
        let scores = scores.as_chunks_mut::<CHUNK>().0;
        let keys = chunk * CHUNK..(chunk + 1) * CHUNK;
        let seen = |row: usize| intersection(&tile.queries[row].1, &keys);
        let rows = tile.queries.len();
        let common = (0..rows).map(seen).reduce(|a, b| intersection(&a, &b)).unwrap_or(0..0);
        score_together(simd, tile, &common, scores);
        for (row, scores) in scores.iter_mut().enumerate() {
            let seen = seen(row);
            for alone in beside(&seen, &common) {
                score_alone(simd, tile, row, &alone, scores);
            }
            if !seen.is_empty() {
                let scores = &mut scores[seen.start - keys.start..seen.end - keys.start];
                (softmax.largest[row], softmax.total[row]) = exp_row(simd, scores);
            }
        }
        let alone = |row: usize, part: usize| beside(&seen(row), &common)[part].clone();
        add_alone(simd, tile, scores, |row| alone(row, 0), softmax.sums);
        add_together(simd, tile, scores, &common, softmax.sums);
        add_alone(simd, tile, scores, |row| alone(row, 1), softmax.sums);
    }
}

/// Joins what `next`, later keys, says to `softmax`.
pub(super) struct Join<'a, 'b> {
    pub(super) softmax: &'a mut Softmax<'b>,
    pub(super) next: &'a Softmax<'b>,
}

impl Op for Join<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { softmax, next } = self;
        let width = softmax.width;
        let rows = softmax.sums.chunks_exact_mut(width).zip(next.sums.chunks_exact(width));
        for (row, (sums, next_sums)) in rows.enumerate() {
            if next.largest[row] == f32::NEG_INFINITY {
                continue;
            }
            let (old, new) = (simd.splat(softmax.largest[row]), simd.splat(next.largest[row]));
            let largest = simd.max(old, new);
            let (old, new) = (exp(simd, simd.sub(old, largest)), exp(simd, simd.sub(new, largest)));
            softmax.largest[row] = reduce_max(simd, largest);
            let total = simd.mul(simd.splat(next.total[row]), new);
            let total = simd.fma(simd.splat(softmax.total[row]), old, total);
            softmax.total[row] = reduce_max(simd, total);
            for (sums, next) in sums.chunks_mut(LANES).zip(next_sums.chunks(LANES)) {
                let added = simd.mul(load_padded(simd, next, 0.0), new);
                let joined = simd.fma(load_padded(simd, sums, 0.0), old, added);
                store_part(simd, joined, sums);
            }
        }
    }
}

/// Divides the weighted values by the sum of their weights and the sink's.
pub(super) struct Finish<'a, 'b> {
    pub(super) softmax: &'a mut Softmax<'b>,
    pub(super) sinks: &'a [f32],
}

impl Op for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Softmax { largest, total, sums, width } = self.softmax;
        for (row, sums) in sums.chunks_exact_mut(*width).enumerate() {
            let mut total = simd.splat(total[row]);
            let mut weight = simd.splat(1.0);
            if !self.sinks.is_empty() {
                let sink = simd.splat(self.sinks[row % self.sinks.len()]);
                let old = simd.splat(largest[row]);
                let largest = simd.max(old, sink);
                weight = exp(simd, simd.sub(old, largest));
                total = simd.fma(total, weight, exp(simd, simd.sub(sink, largest)));
            }
            for sums in sums.chunks_mut(LANES) {
                let sum = simd.mul(load_padded(simd, sums, 0.0), weight);
                store_part(simd, simd.div(sum, total), sums);
            }
        }
    }
}

fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// What lies before and after `common`, a part of `seen`; without a common part everything lies before it.
fn beside(seen: &Range<usize>, common: &Range<usize>) -> [Range<usize>; 2] {
    if common.is_empty() {
        return [seen.clone(), seen.end..seen.end];
    }
    [seen.start..common.start, common.end..seen.end]
}

/// Scores of all rows with keys that they all see, two rows at a time.
#[inline(always)]
fn score_together<S: Simd>(simd: S, tile: &Tile<'_>, common: &Range<usize>, scores: &mut [[f32; CHUNK]]) {
    let query = |row: usize| tile.queries[row].0;
    for (keys, here) in tile.fours(common) {
        let (pairs, last) = scores.as_chunks_mut::<2>();
        for (pair, [first, second]) in pairs.iter_mut().enumerate() {
            let [a, b] = [query(2 * pair), query(2 * pair + 1)];
            let [a0, a1, b0, b1] = dots(simd, [(a, keys[0]), (a, keys[1]), (b, keys[0]), (b, keys[1])]);
            let [a2, a3, b2, b3] = dots(simd, [(a, keys[2]), (a, keys[3]), (b, keys[2]), (b, keys[3])]);
            store_scores(tile.scale, [a0, a1, a2, a3], &mut first[here.clone()]);
            store_scores(tile.scale, [b0, b1, b2, b3], &mut second[here.clone()]);
        }
        if let [last] = last {
            let row = tile.queries.len() - 1;
            store_scores(tile.scale, dots(simd, keys.map(|key| (query(row), key))), &mut last[here]);
        }
    }
}

/// Scores of one row with some keys.
#[inline(always)]
fn score_alone<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    row: usize,
    keys: &Range<usize>,
    scores: &mut [f32; CHUNK],
) {
    let query = tile.queries[row].0;
    for (keys, here) in tile.fours(keys) {
        store_scores(tile.scale, dots(simd, keys.map(|key| (query, key))), &mut scores[here]);
    }
}

#[inline(always)]
fn store_scores(scale: f32, dots: [f32; 4], scores: &mut [f32]) {
    for (score, dot) in scores.iter_mut().zip(dots) {
        *score = scale * dot;
    }
}

/// Four dot products of rows of one length.
#[inline(always)]
fn dots<S: Simd>(simd: S, pairs: [(&[f32], &[f32]); 4]) -> [f32; 4] {
    let len = pairs[0].0.len();
    let mut sums = [simd.splat(0.0); 4];
    for at in (0..len).step_by(LANES) {
        let end = len.min(at + LANES);
        for (sum, (a, b)) in sums.iter_mut().zip(&pairs) {
            *sum = simd.fma(load_padded(simd, &a[at..end], 0.0), load_padded(simd, &b[at..end], 0.0), *sum);
        }
    }
    simd.sum_lanes(sums)
}

/// Adds to each row's sums the values of keys that it sees without the others.
#[inline(always)]
fn add_alone<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    scores: &[[f32; CHUNK]],
    keys: impl Fn(usize) -> Range<usize>,
    sums: &mut [f32],
) {
    for (row, (scores, sums)) in scores.iter().zip(sums.chunks_exact_mut(tile.values.width)).enumerate() {
        let values = Values { rows: tile.values, keys: keys(row) };
        values.add::<S, 1, 4>(simd, [scores], sums);
    }
}

/// Adds to all sums the values of keys that all rows see, two rows at a time.
#[inline(always)]
fn add_together<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    scores: &[[f32; CHUNK]],
    common: &Range<usize>,
    sums: &mut [f32],
) {
    let rows = tile.values;
    for first in common.clone().step_by(VALUES) {
        let values = Values { rows, keys: first..common.end.min(first + VALUES) };
        for (scores, sums) in scores.chunks(2).zip(sums.chunks_mut(2 * rows.width)) {
            match scores {
                [first, second] => values.add::<S, 2, 2>(simd, [first, second], sums),
                _ => values.add::<S, 1, 4>(simd, [&scores[0]], sums),
            }
        }
    }
}

/// The values of some keys of one chunk.
struct Values<'a> {
    rows: Rows<'a>,
    keys: Range<usize>,
}

impl Values<'_> {
    /// Adds them, each times its weight, to `R` rows of sums, in groups of `16 G` columns.
    #[inline(always)]
    fn add<S: Simd, const R: usize, const G: usize>(
        &self,
        simd: S,
        weights: [&[f32; CHUNK]; R],
        sums: &mut [f32],
    ) {
        if self.keys.is_empty() {
            return;
        }
        let width = self.rows.width;
        let mut column = 0;
        while column + G * LANES <= width {
            self.add_columns::<S, R, G>(simd, weights, sums, column..column + G * LANES);
            column += G * LANES;
        }
        while column < width {
            self.add_columns::<S, R, 1>(simd, weights, sums, column..width.min(column + LANES));
            column += LANES;
        }
    }

    #[inline(always)]
    fn add_columns<S: Simd, const R: usize, const G: usize>(
        &self,
        simd: S,
        weights: [&[f32; CHUNK]; R],
        sums: &mut [f32],
        columns: Range<usize>,
    ) {
        let mut totals = [[simd.splat(0.0); G]; R];
        for (totals, sums) in totals.iter_mut().zip(sums.chunks_exact(self.rows.width)) {
            load_groups(simd, &sums[columns.clone()], totals);
        }
        let mut values = [simd.splat(0.0); G];
        for key in self.keys.clone() {
            load_groups(simd, &self.rows.row(key)[columns.clone()], &mut values);
            for (totals, weights) in totals.iter_mut().zip(&weights) {
                let weight = simd.splat(weights[key % CHUNK]);
                for (total, value) in totals.iter_mut().zip(values) {
                    *total = simd.fma(weight, value, *total);
                }
            }
        }
        for (totals, sums) in totals.iter().zip(sums.chunks_exact_mut(self.rows.width)) {
            for (total, sums) in totals.iter().zip(sums[columns.clone()].chunks_mut(LANES)) {
                store_part(simd, *total, sums);
            }
        }
    }
}

/// Loads a row of up to `16 G` numbers.
#[inline(always)]
fn load_groups<S: Simd, const G: usize>(simd: S, row: &[f32], groups: &mut [S::V; G]) {
    for (group, part) in groups.iter_mut().zip(row.chunks(LANES)) {
        *group = load_padded(simd, part, 0.0);
    }
}
