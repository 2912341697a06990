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
};

/// Tile heights that exist; each is used by the instruction sets whose registers it fits.
const HEIGHTS: [usize; 7] = [12, 8, 6, 4, 3, 2, 1];

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
    Words(Vec<i32>),
}

impl<'a> InputRows<'a> {
    /// Brings `x` `[rows, cols]` into a form.
    pub(crate) fn new(kernels: Kernels, pool: &Pool, form: Inputs, (cols, x): (usize, &'a [f32])) -> Self {
        let (step_cols, step_words) = form.step();
        let words_per_row = cols.div_ceil(step_cols) * step_words;
        if form == Inputs::Floats {
            return Self { form, values: Values::Floats(x), words_per_row };
        }
        let mut words = vec![0; x.len() / cols * words_per_row];
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
                    *scale = quantize(values, quads).to_bits() as i32;
                    *start = S::start_word(pair_of(quads), times);
                }
            }
            Inputs::Blocks256 { times } => {
                let (steps, _) = self.words.as_chunks_mut::<STEP256>();
                for (step, values) in steps.iter_mut().zip(self.values.as_chunks::<256>().0) {
                    let (sums, quads) = step.split_at_mut(QUADS);
                    sums[SCALE] = quantize(values, quads).to_bits() as i32;
                    let mut runs = [0; 16];
                    for (run, quads) in quads.as_chunks::<4>().0.iter().enumerate() {
                        let [even, odd] = pair_of(quads);
                        sums[STARTS + run] = S::start_word([even, odd], times);
                        runs[run] = even + odd;
                    }
                    for (pair, runs) in sums[MIN_PAIRS..STARTS].iter_mut().zip(runs.as_chunks::<4>().0) {
                        *pair = join([runs[0] + runs[1], runs[2] + runs[3]]);
                    }
                }
            }
        }
    }
}

/// Rounds values to bytes and returns their scale.
#[inline(always)]
fn quantize<const N: usize>(values: &[f32; N], quads: &mut [i32]) -> f32 {
    // Magnitudes as bits compare as they do as numbers, and a NaN is the largest of all.
    let largest = values.iter().fold(0, |max: u32, value| max.max(value.to_bits() & 0x7fff_ffff));
    let scale = f32::from_bits(largest) / 127.0;
    let inverse = if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale };
    let mut bytes = [0u8; N];
    for (byte, value) in bytes.iter_mut().zip(values) {
        // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits of the fraction.
        *byte = (value * inverse + 12_582_912.0).to_bits() as u8;
    }
    for (quad, bytes) in quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *quad = i32::from_le_bytes(*bytes);
    }
    scale
}

/// The sums of the first two and of the last two bytes of every quad.
#[inline(always)]
fn pair_of(quads: &[i32]) -> [i32; 2] {
    let mut sums = [0; 2];
    for quad in quads {
        let [a, b, c, d] = quad.to_le_bytes().map(|byte| i32::from(byte as i8));
        sums[0] += a + b;
        sums[1] += c + d;
    }
    sums
}

/// Two numbers of sixteen bits in a word.
#[inline(always)]
pub(crate) fn join([low, high]: [i32; 2]) -> i32 {
    low & 0xffff | high << 16
}

/// Rows cut into blocks of tile heights, each block stored `[words, rows]`.
pub(crate) struct RowBlocks {
    form: Inputs,
    words_per_row: usize,
    words: Vec<i32>,
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

impl RowBlocks {
    /// Copies rows. Rows `offsets[g]..offsets[g + 1]` form group `g`; no block crosses groups. `source` gives
    /// the number of a row among the inputs, and a factor for it.
    pub(crate) fn new(
        kernels: &Kernels,
        pool: &Pool,
        inputs: &InputRows<'_>,
        offsets: &[usize],
        source: impl Fn(usize) -> (usize, f32) + Sync,
    ) -> Self {
        let words_per_row = inputs.words_per_row;
        let (bounds, groups) = cut(kernels.tile(inputs.form).max_rows, offsets);
        let mut words = vec![0; bounds[bounds.len() - 1] * words_per_row];
        let mut parts = Vec::with_capacity(bounds.len().div_ceil(BLOCKS_PER_TASK));
        let mut rest = words.as_mut_slice();
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

/// Cuts each group of rows into tile heights, tallest first; returns the bounds of blocks and of groups.
fn cut(max_height: usize, offsets: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut bounds, mut groups) = (vec![0], vec![0]);
    for group in offsets.windows(2) {
        let mut row = group[0];
        for height in HEIGHTS.into_iter().filter(|&height| height <= max_height) {
            while row + height <= group[1] {
                row += height;
                bounds.push(row);
            }
        }
        groups.push(bounds.len() - 1);
    }
    (bounds, groups)
}
