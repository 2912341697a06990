//! Input rows as tiles read them: plain or quantised, a few rows side by side.
//!
//! A row is a sequence of *steps* of words; a word is an `i32` or the bits of an `f32`. Plain rows have one word a
//! column, rows of bf16 too or one for every two. Quantised ones have a scale `s` and bytes `b = round(x / s)`,
//! `s = max |x| / 127`, over 32 columns or over 256, and the sums of bytes that weights with an offset need: starts, see
//! [`crate::arch::Dots`], and pairs of two `i16`.
//!
//! Shapes: a step of 32 columns is scale, start, eight quads of bytes; one of 256 is scale, four pairs of sums over 32
//! columns each, sixteen starts of 16 columns, 64 quads. A block of `n` rows is stored `[words, n]`.
//! Invariants: a row is quantised from its own values alone.

mod bf16;

use std::{ops::Range, sync::Mutex};

use crate::{
    Kernels, Pool,
    arch::{Bf16Pairs, Op, Simd},
    scratch::Taken,
    tile::TileShape,
};

/// Blocks that one task copies: enough that a few decoded tokens stay on the calling thread.
const BLOCKS_PER_TASK: usize = 16;

/// Rows that one task quantises.
const ROWS_PER_TASK: usize = 16;

/// Words of a step of 32 columns.
pub(crate) const STEP32: usize = 10;
/// Words of a step of 256 columns, and where its parts begin.
pub(crate) const STEP256: usize = 85;
pub(crate) const SCALE: usize = 0;
pub(crate) const MIN_PAIRS: usize = 1;
pub(crate) const STARTS: usize = 5;
pub(crate) const QUADS: usize = 21;

/// The form of input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// As they are.
    Floats,
    /// Rounded to bf16, as `f32`.
    Rounded,
    /// Rounded to bf16, two neighbouring columns in a word, the earlier one in its upper half.
    Pairs(Bf16Pairs),
    /// Signed bytes with a scale for every 32 columns, and starts of so many times their sums.
    Blocks32 { times: i16 },
    /// Signed bytes with a scale for every 256 columns, and starts of so many times the sums of sixteen.
    Blocks256 { times: i16 },
}

impl Inputs {
    /// Most panels of weights that are multiplied together. Long units leave no registers for a second one.
    pub(crate) const fn panels(self) -> usize {
        match self {
            Self::Floats | Self::Rounded | Self::Pairs(_) => 4,
            Self::Blocks32 { .. } => 2,
            Self::Blocks256 { .. } => 1,
        }
    }

    /// Columns and words of a step. Only of pairs may the last one have fewer columns.
    pub(crate) const fn step(self) -> (usize, usize) {
        match self {
            Self::Floats | Self::Rounded => (1, 1),
            Self::Pairs(_) => (2, 1),
            Self::Blocks32 { .. } => (32, STEP32),
            Self::Blocks256 { .. } => (256, STEP256),
        }
    }

    /// The first word of a step whose inputs are multiplied by a factor.
    fn times(self, word: i32, factor: f32) -> i32 {
        match self {
            Self::Rounded => bf16::rounded_times(word, factor),
            Self::Pairs(_) => bf16::pair_times(word, factor),
            _ => (factor * f32::from_bits(word as u32)).to_bits() as i32,
        }
    }
}

/// Rows in one of the forms, in their own order.
pub(crate) struct InputRows<'a> {
    form: Inputs,
    values: Values<'a>,
    words_per_row: usize,
}

enum Values<'a> {
    Floats(&'a [f32]),
    Words(Taken<'a, i32>),
}

impl<'a> InputRows<'a> {
    /// Brings `x` `[rows, cols]` into a form.
    pub(crate) fn new(kernels: Kernels, pool: &'a Pool, form: Inputs, (cols, x): (usize, &'a [f32])) -> Self {
        let (step_cols, step_words) = form.step();
        let words_per_row = cols.div_ceil(step_cols) * step_words;
        if form == Inputs::Floats {
            return Self { form, values: Values::Floats(x), words_per_row };
        }
        let mut words = pool.words().take(x.len() / cols * words_per_row);
        let part = ROWS_PER_TASK * words_per_row;
        let parts: Vec<_> =
            words.chunks_mut(part).map(Mutex::new).zip(x.chunks(ROWS_PER_TASK * cols)).collect();
        pool.for_each(parts.len(), |index| {
            let (words, values) = &parts[index];
            let mut words = words.lock().expect("no task panics while it quantises");
            kernels.run(Quantize { form, cols, values, words: &mut words });
        });
        Self { form, values: Values::Words(words), words_per_row }
    }

    /// Writes a row, times a factor, as column `at` of a block `[words, height]`.
    fn copy(&self, (row, factor): (usize, f32), block: &mut [i32], (at, height): (usize, usize)) {
        let range = row * self.words_per_row..(row + 1) * self.words_per_row;
        let steps = block.chunks_exact_mut(height);
        match &self.values {
            Values::Floats(values) => {
                for (step, value) in steps.zip(&values[range]) {
                    step[at] = (factor * value).to_bits() as i32;
                }
            }
            Values::Words(words) => {
                if height == 1 {
                    block.copy_from_slice(&words[range]);
                } else {
                    for (step, word) in steps.zip(&words[range]) {
                        step[at] = *word;
                    }
                }
                if factor == 1.0 {
                    return;
                }
                let (_, step_words) = self.form.step();
                for step in block.chunks_exact_mut(height * step_words) {
                    step[at] = self.form.times(step[at], factor);
                }
            }
        }
    }
}

struct Quantize<'a> {
    form: Inputs,
    cols: usize,
    values: &'a [f32],
    words: &'a mut [i32],
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.form {
            Inputs::Floats => unreachable!("plain rows are borrowed"),
            Inputs::Rounded => bf16::round(self.values, self.words),
            Inputs::Pairs(_) => bf16::pair(self.cols, self.values, self.words),
            Inputs::Blocks32 { times } => {
                let (steps, _) = self.words.as_chunks_mut::<STEP32>();
                for (step, values) in steps.iter_mut().zip(self.values.as_chunks::<32>().0) {
                    let [scale, start, quads @ ..] = step;
                    let (of_bytes, inverse) = scale_of(values);
                    *scale = of_bytes.to_bits() as i32;
                    let mut sums = [0; 16];
                    for (values, quads) in values.as_chunks().0.iter().zip(quads.as_chunks_mut().0) {
                        let run = round_run(values, inverse, quads);
                        for lane in 0..16 {
                            sums[lane] += run[lane];
                        }
                    }
                    *start = S::start_word(halves_of(sums), times);
                }
            }
            Inputs::Blocks256 { times } => {
                let (steps, _) = self.words.as_chunks_mut::<STEP256>();
                for (step, values) in steps.iter_mut().zip(self.values.as_chunks::<256>().0) {
                    let (sums, quads) = step.split_at_mut(QUADS);
                    let quads: &mut [i32; 64] = quads.try_into().expect("the rest of a step");
                    let (scale, inverse) = scale_of(values);
                    sums[SCALE] = scale.to_bits() as i32;
                    let mut bytes = [0; 256];
                    for (byte, value) in bytes.iter_mut().zip(values) {
                        *byte = round(*value, inverse) as u8;
                    }
                    let [first, last] = quads_of(&bytes, quads);
                    let runs = first.as_chunks::<4>().0.iter().zip(last.as_chunks::<4>().0);
                    let mut totals = [0; 16];
                    for ((start, total), (first, last)) in
                        sums[STARTS..].iter_mut().zip(&mut totals).zip(runs)
                    {
                        let pair = [first.iter().sum::<i32>(), last.iter().sum::<i32>()];
                        *start = S::start_word(pair, times);
                        *total = pair[0] + pair[1];
                    }
                    for (pair, runs) in sums[MIN_PAIRS..STARTS].iter_mut().zip(totals.as_chunks::<4>().0) {
                        *pair = join([runs[0] + runs[1], runs[2] + runs[3]]);
                    }
                }
            }
        }
    }
}

/// The scale of the bytes that values are rounded to, and its inverse.
#[inline(always)]
fn scale_of(values: &[f32]) -> (f32, f32) {
    // Magnitudes as bits compare as they do as numbers, and a NaN is the largest of all.
    let largest = values.iter().fold(0, |max: u32, value| max.max(value.to_bits() & 0x7fff_ffff));
    let scale = f32::from_bits(largest) / 127.0;
    (scale, if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale })
}

/// A number whose lowest byte is the rounded value: adding 1.5 * 2^23 leaves the nearest whole number in the low bits of
/// the fraction.
#[inline(always)]
fn round(value: f32, inverse_scale: f32) -> i32 {
    (value * inverse_scale + 12_582_912.0).to_bits() as i32
}

/// Rounds sixteen values to bytes, and returns these as numbers.
#[inline(always)]
fn round_run(values: &[f32; 16], inverse_scale: f32, quads: &mut [i32; 4]) -> [i32; 16] {
    let (mut bytes, mut numbers) = ([0; 16], [0; 16]);
    for ((byte, number), value) in bytes.iter_mut().zip(&mut numbers).zip(values) {
        let rounded = round(*value, inverse_scale);
        (*byte, *number) = (rounded as u8, rounded << 24 >> 24);
    }
    for (quad, bytes) in quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *quad = i32::from_le_bytes(*bytes);
    }
    numbers
}

/// The sums of the first two and of the last two of every four.
#[inline(always)]
fn halves_of(numbers: [i32; 16]) -> [i32; 2] {
    let mut sums = numbers;
    for half in [8, 4] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    [sums[0] + sums[1], sums[2] + sums[3]]
}

/// Writes the quads of bytes; returns the sums of the first two and of the last two bytes of each. Of all at once, which
/// compiles to vectors where sums run by run, as of fewer bytes, would be gathered.
#[inline(always)]
fn quads_of(bytes: &[u8; 256], quads: &mut [i32; 64]) -> [[i32; 64]; 2] {
    let mut sums = [[0; 64]; 2];
    for (place, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
        let quad = i32::from_le_bytes(*bytes);
        quads[place] = quad;
        sums[0][place] = (quad << 24 >> 24) + (quad << 16 >> 24);
        sums[1][place] = (quad << 8 >> 24) + (quad >> 24);
    }
    sums
}

/// Two numbers of sixteen bits in a word.
#[inline(always)]
pub(crate) fn join([low, high]: [i32; 2]) -> i32 {
    low & 0xffff | high << 16
}

/// Rows cut into blocks of tile heights, each block stored `[words, rows]`.
pub(crate) struct RowBlocks<'a> {
    form: Inputs,
    words_per_row: usize,
    words: Taken<'a, i32>,
    /// The first row of each block, and the end.
    bounds: Vec<usize>,
    /// The first block of each group, and the end.
    groups: Vec<usize>,
}

/// Some rows that one tile takes.
pub(crate) struct Block<'a> {
    /// The rows, by number.
    pub(crate) rows: Range<usize>,
    /// The form of the rows.
    pub(crate) form: Inputs,
    /// `[words, rows]`
    pub(crate) words: &'a [i32],
    /// Most panels that are multiplied with them together.
    pub(crate) panels: usize,
}

impl<'a> RowBlocks<'a> {
    /// Copies rows. Rows `offsets[g]..offsets[g + 1]` form group `g`; no block crosses groups. `source` gives
    /// the number of a row among the inputs, and a factor for it.
    pub(crate) fn new(
        kernels: &Kernels,
        pool: &'a Pool,
        inputs: &InputRows<'_>,
        offsets: &[usize],
        source: impl Fn(usize) -> (usize, f32) + Sync,
    ) -> Self {
        let words_per_row = inputs.words_per_row;
        let (bounds, groups) = cut(kernels.tile(inputs.form), offsets);
        let mut words = pool.words().take(bounds[bounds.len() - 1] * words_per_row);
        let mut parts = Vec::with_capacity(bounds.len().div_ceil(BLOCKS_PER_TASK));
        let mut rest = &mut *words;
        for first in (0..bounds.len() - 1).step_by(BLOCKS_PER_TASK) {
            let blocks = &bounds[first..bounds.len().min(first + BLOCKS_PER_TASK + 1)];
            let (part, tail) = rest.split_at_mut((blocks[blocks.len() - 1] - blocks[0]) * words_per_row);
            parts.push((blocks, Mutex::new(part)));
            rest = tail;
        }
        pool.for_each(parts.len(), |part| {
            let (blocks, part) = &parts[part];
            let mut part = part.lock().expect("no task panics while it copies");
            for block in blocks.windows(2) {
                let height = block[1] - block[0];
                let start = (block[0] - blocks[0]) * words_per_row;
                let block_words = &mut part[start..start + height * words_per_row];
                for row in 0..height {
                    inputs.copy(source(block[0] + row), block_words, (row, height));
                }
            }
        });
        Self { form: inputs.form, words_per_row, words, bounds, groups }
    }

    /// The form of the rows.
    pub(crate) fn form(&self) -> Inputs {
        self.form
    }

    /// The bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.words_per_row * size_of::<i32>()
    }

    /// The blocks of a group, by number.
    pub(crate) fn group(&self, group: usize) -> Range<usize> {
        self.groups[group]..self.groups[group + 1]
    }

    /// A block by number, which so many panels are multiplied with together.
    pub(crate) fn block(&self, block: usize, panels: usize) -> Block<'_> {
        let rows = self.bounds[block]..self.bounds[block + 1];
        let words = &self.words[rows.start * self.words_per_row..rows.end * self.words_per_row];
        Block { form: self.form, words, rows, panels }
    }

    /// The first row of every block, and the end.
    pub(crate) fn bounds(&self) -> &[usize] {
        &self.bounds
    }
}

/// Cuts each group of rows into blocks: one if a tile takes all of them, else as tall ones as those that share weights.
/// Returns the bounds of blocks and of groups.
fn cut(tile: TileShape, offsets: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut bounds, mut groups) = (vec![0], vec![0]);
    for group in offsets.windows(2) {
        let rows = group[1] - group[0];
        let height = if rows <= tile.max_rows_alone() { rows.max(1) } else { tile.max_rows };
        bounds.extend((group[0]..group[1]).step_by(height).map(|row| group[1].min(row + height)));
        groups.push(bounds.len() - 1);
    }
    (bounds, groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_one_block_and_many_are_cut_into_those_that_share_weights() {
        let tile = TileShape { max_rows: 6, accumulators: 12 };
        let (bounds, groups) = cut(tile, &[0, 11, 11, 24, 25]);
        assert_eq!(bounds, [0, 11, 17, 23, 24, 25]);
        assert_eq!(groups, [0, 1, 1, 4, 5]);
    }
}
