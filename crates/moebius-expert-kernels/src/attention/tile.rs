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
//! Invariants: chunks begin at multiples of [`CHUNK`] and are joined in ascending order. A score is sixteen chains over
//! the columns, added pairwise; so is `t`, over the keys; and a row adds its values key by key. So its bits depend
//! neither on its neighbours in the tile nor on who computes which chunk, and a few rows, which are computed one by
//! one, have those of many, which [`together`] computes side by side.

use std::ops::Range;

use super::together;
use crate::{
    arch::{CACHE_LINE, LANES, Op, Simd, prefetch},
    vector::exp_row,
    vector::lanes::{exp, load_padded, reduce_max, store_part},
};

/// Keys of a chunk.
pub(super) const CHUNK: usize = 256;

/// Query rows of a tile at most.
pub(super) const ROWS: usize = 16;

/// Numbers that a chunk of a tile takes to work with.
pub(super) const SCORES: usize = ROWS * CHUNK;

/// Values that are added to one row after another while they are in the nearest cache.
const VALUES: usize = 32;

/// How far ahead keys are asked for: the last of a small page asks for some of the next.
const KEYS_AHEAD: usize = 8;

/// Numbers of a cache line.
const LINE: usize = CACHE_LINE / size_of::<f32>();

/// Rows of one width, each `stride` after the one before.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.width]
    }
}

impl Rows<'_> {
    /// Asks for some rows before they are read.
    #[inline(always)]
    fn fetch(&self, rows: Range<usize>) {
        for row in rows {
            for line in self.row(row).chunks(LINE) {
                prefetch(line.as_ptr().cast());
            }
        }
    }
}

/// Up to [`ROWS`] query rows, each with the positions that it sees, and what is there.
pub(super) struct Tile<'a> {
    pub(super) queries: Vec<(&'a [f32], Range<usize>)>,
    /// The same side by side, where that pays: see [`together`].
    pub(super) columns: Vec<[f32; LANES]>,
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
        first / CHUNK..self.end().div_ceil(CHUNK)
    }

    /// The end of the positions that some row sees.
    #[inline(always)]
    fn end(&self) -> usize {
        self.queries.iter().map(|(_, seen)| seen.end).max().unwrap_or(0)
    }

    /// The keys of one chunk that a row sees.
    #[inline(always)]
    pub(super) fn seen(&self, row: usize, chunk: usize) -> Range<usize> {
        intersection(&self.queries[row].1, &(chunk * CHUNK..(chunk + 1) * CHUNK))
    }

    /// Keys of one chunk by fours, with the places of their scores; the last is repeated where there are fewer. Keys
    /// further on and the values of these come nearer meanwhile.
    #[inline(always)]
    fn fours(&self, keys: &Range<usize>) -> impl Iterator<Item = ([&[f32]; 4], Range<usize>)> {
        let Range { start, end } = *keys;
        let last = self.end();
        (start..end).step_by(4).map(move |key| {
            self.keys.fetch(key + KEYS_AHEAD..last.min(key + KEYS_AHEAD + 4));
            self.values.fetch(key..end.min(key + 4));
            let four = [key, key + 1, key + 2, key + 3].map(|key| self.keys.row(key.min(end - 1)));
            let first = key % CHUNK;
            (four, first..first + (end - key).min(4))
        })
    }
}

/// For each row of a tile the largest score so far, and relative to it the sum of weights and of weighted values.
pub(super) struct Softmax<'a> {
    pub(super) largest: &'a mut [f32],
    pub(super) total: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) width: usize,
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

/// Computes one chunk into `softmax`; `scores` are [`SCORES`] numbers to work with.
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
        let seen = |row: usize| tile.seen(row, chunk);
        let rows = tile.queries.len();
        let common = (0..rows).map(seen).reduce(|a, b| intersection(&a, &b)).unwrap_or(0..0);
        if !tile.columns.is_empty() {
            return together::one_chunk(simd, tile, (chunk, &common), scores, softmax);
        }
        let scores = &mut scores.as_chunks_mut::<CHUNK>().0[..rows];
        score_together(simd, tile, &common, scores);
        for (row, scores) in scores.iter_mut().enumerate() {
            let seen = seen(row);
            for alone in beside(&seen, &common) {
                score_alone(simd, tile, row, &alone, scores);
            }
            if !seen.is_empty() {
                let (first, end) = (seen.start % CHUNK, seen.end - chunk * CHUNK);
                // Whole lanes, so that a key's chain follows from its position.
                let padded = first / LANES * LANES..end.next_multiple_of(LANES);
                scores[padded.start..first].fill(f32::NEG_INFINITY);
                scores[end..padded.end].fill(f32::NEG_INFINITY);
                (softmax.largest[row], softmax.total[row]) = exp_row(simd, &mut scores[padded]);
            }
        }
        for (row, sums) in softmax.sums.chunks_exact_mut(softmax.width).enumerate() {
            add_alone(simd, tile, beside(&seen(row), &common)[0].clone(), |key| scores[row][key], sums);
        }
        add_common(simd, tile, &common, |key, row| scores[row][key], softmax);
        for (row, sums) in softmax.sums.chunks_exact_mut(softmax.width).enumerate() {
            add_alone(simd, tile, beside(&seen(row), &common)[1].clone(), |key| scores[row][key], sums);
        }
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
pub(super) fn beside(seen: &Range<usize>, common: &Range<usize>) -> [Range<usize>; 2] {
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
            let [a, b] = dots(simd, &[query(2 * pair), query(2 * pair + 1)], &keys);
            store_scores(tile.scale, a, &mut first[here.clone()]);
            store_scores(tile.scale, b, &mut second[here.clone()]);
        }
        if let [last] = last {
            let [dots] = dots(simd, &[query(tile.queries.len() - 1)], &keys);
            store_scores(tile.scale, dots, &mut last[here]);
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
    for (keys, here) in tile.fours(keys) {
        let [dots] = dots(simd, &[tile.queries[row].0], &keys);
        store_scores(tile.scale, dots, &mut scores[here]);
    }
}

#[inline(always)]
fn store_scores(scale: f32, dots: [f32; 4], scores: &mut [f32]) {
    for (score, dot) in scores.iter_mut().zip(dots) {
        *score = scale * dot;
    }
}

/// The dot products of some queries with four keys, all of one length.
#[inline(always)]
fn dots<S: Simd, const R: usize>(simd: S, queries: &[&[f32]; R], keys: &[&[f32]; 4]) -> [[f32; 4]; R] {
    let sums = if 4 * R > S::ACCUMULATORS {
        let [a, b, c, d] = *keys;
        let (first, second) = (products(simd, queries, &[a, b]), products(simd, queries, &[c, d]));
        let mut sums = [[simd.splat(0.0); 4]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [first[row][0], first[row][1], second[row][0], second[row][1]];
        }
        sums
    } else {
        products(simd, queries, keys)
    };
    let mut out = [[0.0; 4]; R];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = simd.sum_lanes(sums);
    }
    out
}

/// The lanes of the dot products of some queries with some keys.
#[inline(always)]
fn products<S: Simd, const R: usize, const K: usize>(
    simd: S,
    queries: &[&[f32]; R],
    keys: &[&[f32]; K],
) -> [[S::V; K]; R] {
    let len = keys[0].len();
    let mut sums = [[simd.splat(0.0); K]; R];
    for at in (0..len).step_by(LANES) {
        let here = at..len.min(at + LANES);
        let mut columns = [simd.splat(0.0); K];
        for (columns, key) in columns.iter_mut().zip(keys) {
            *columns = load_padded(simd, &key[here.clone()], 0.0);
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            let query = load_padded(simd, &query[here.clone()], 0.0);
            for (sum, columns) in sums.iter_mut().zip(columns) {
                *sum = simd.fma(query, columns, *sum);
            }
        }
    }
    sums
}

/// Adds the values of keys that all rows see to their sums; `weight` is asked with a key's place in its chunk and a row.
#[inline(always)]
pub(super) fn add_common<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    keys: &Range<usize>,
    weight: impl Fn(usize, usize) -> f32,
    softmax: &mut Softmax<'_>,
) {
    // As many as stay in the nearest cache.
    for first in keys.clone().step_by(VALUES) {
        let values = Values { rows: tile.values, keys: first..keys.end.min(first + VALUES) };
        if S::ACCUMULATORS < 16 {
            values.add_rows::<S, 2, 2>(simd, &weight, softmax.sums);
        } else {
            values.add_rows::<S, 4, 4>(simd, &weight, softmax.sums);
        }
    }
}

/// Adds to a row's sums the values of keys that it sees without the others; `weight` is asked with places in a chunk.
#[inline(always)]
pub(super) fn add_alone<S: Simd>(
    simd: S,
    tile: &Tile<'_>,
    keys: Range<usize>,
    weight: impl Fn(usize) -> f32,
    sums: &mut [f32],
) {
    Values { rows: tile.values, keys }.add::<S, 1, 4>(simd, |key, _| weight(key), sums);
}

/// The values of some keys of one chunk.
pub(super) struct Values<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) keys: Range<usize>,
}

impl Values<'_> {
    /// Adds them, each times its weight, to all rows of sums, `R` rows and `16 G` columns at a time.
    #[inline(always)]
    fn add_rows<S: Simd, const R: usize, const G: usize>(
        &self,
        simd: S,
        weight: impl Fn(usize, usize) -> f32,
        sums: &mut [f32],
    ) {
        let width = self.rows.width;
        let mut row = 0;
        for sums in sums.chunks_mut(R * width) {
            if sums.len() == R * width {
                self.add::<S, R, G>(simd, |key, of| weight(key, row + of), sums);
            } else {
                for (of, sums) in sums.chunks_exact_mut(width).enumerate() {
                    self.add::<S, 1, 4>(simd, |key, _| weight(key, row + of), sums);
                }
            }
            row += R;
        }
    }

    /// Adds them, each times its weight, to `R` rows of sums, in groups of `16 G` columns. `weight` is asked with a
    /// key's place in its chunk and a row.
    #[inline(always)]
    pub(super) fn add<S: Simd, const R: usize, const G: usize>(
        &self,
        simd: S,
        weight: impl Fn(usize, usize) -> f32,
        sums: &mut [f32],
    ) {
        if self.keys.is_empty() {
            return;
        }
        let width = self.rows.width;
        let mut column = 0;
        while column + G * LANES <= width {
            self.add_columns::<S, R, G>(simd, &weight, sums, column..column + G * LANES);
            column += G * LANES;
        }
        while column < width {
            self.add_columns::<S, R, 1>(simd, &weight, sums, column..width.min(column + LANES));
            column += LANES;
        }
    }

    #[inline(always)]
    fn add_columns<S: Simd, const R: usize, const G: usize>(
        &self,
        simd: S,
        weight: &impl Fn(usize, usize) -> f32,
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
            for (row, totals) in totals.iter_mut().enumerate() {
                let weight = simd.splat(weight(key % CHUNK, row));
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
