//! The one loop that multiplies: a panel group times a block of input rows, held in registers.
//!
//! ```text
//! sums[panel][row][lane] = sum over k of panels[panel][k][lane] * block[k][row]
//! ```
//!
//! Shapes: a block of `rows` input rows is stored `[cols, rows]`, so that one step reads neighbours.
//! Invariants: each sum is one chain of fused multiply-adds over `k` ascending from zero. Which tile a row falls
//! into, and what else is in it, does not change its bits.

use std::{ops::Range, sync::Mutex};

use crate::{
    Kernels, PackedMatrix, Pool,
    arch::{LANES, Op, Simd},
    format::{Lanes, Panels, with_lanes},
};

/// Tile heights that exist; each is used by the instruction sets whose registers it fits.
const HEIGHTS: [usize; 7] = [12, 8, 6, 4, 3, 2, 1];

/// Blocks that one task copies: enough that a few decoded tokens stay on the calling thread.
const BLOCKS_PER_TASK: usize = 16;

/// Multiplies a group of panels with one block of rows.
struct TileOp<'a, L> {
    /// `[n_panels, cols]`
    panels: &'a [L],
    /// `[cols, height]`
    block: &'a [f32],
    height: usize,
    /// `[n_panels, height, 16]`, overwritten.
    sums: &'a mut [[f32; LANES]],
}

impl<L: Lanes> Op for TileOp<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.height {
            12 if S::TILE_ROWS >= 12 => self.run_height::<S, 12>(simd),
            8 if S::TILE_ROWS >= 8 => self.run_height::<S, 8>(simd),
            6 if S::TILE_ROWS >= 6 => self.run_height::<S, 6>(simd),
            4 if S::TILE_ROWS >= 4 => self.run_height::<S, 4>(simd),
            3 if S::TILE_ROWS >= 3 => self.run_height::<S, 3>(simd),
            2 => self.run_height::<S, 2>(simd),
            1 => self.run_height::<S, 1>(simd),
            height => unreachable!("a block has the height of a tile, not {height}"),
        }
    }
}

impl<L: Lanes> TileOp<'_, L> {
    /// Takes as many panels at a time as their accumulators fit into registers.
    #[inline(always)]
    fn run_height<S: Simd, const R: usize>(self, simd: S) {
        let (steps, rest) = self.block.as_chunks::<R>();
        debug_assert!(rest.is_empty());
        let mut panels = self.panels;
        let mut sums = self.sums;
        let cols = steps.len();
        while !panels.is_empty() {
            let left = panels.len() / cols;
            let taken = if R * 4 <= S::ACCUMULATORS && left >= 4 {
                tile::<S, L, 4, R>(simd, panels, steps, sums);
                4
            } else if R * 2 <= S::ACCUMULATORS && left >= 2 {
                tile::<S, L, 2, R>(simd, panels, steps, sums);
                2
            } else {
                tile::<S, L, 1, R>(simd, panels, steps, sums);
                1
            };
            panels = &panels[taken * cols..];
            sums = &mut sums[taken * R..];
        }
    }
}

#[inline(always)]
fn tile<S: Simd, L: Lanes, const P: usize, const R: usize>(
    simd: S,
    panels: &[L],
    steps: &[[f32; R]],
    sums: &mut [[f32; LANES]],
) {
    let cols = steps.len();
    let mut streams = [panels; P];
    for (index, stream) in streams.iter_mut().enumerate() {
        *stream = &panels[index * cols..][..cols];
    }
    let mut accumulators = [[simd.splat(0.0); R]; P];
    for (k, inputs) in steps.iter().enumerate() {
        let mut weights = [simd.splat(0.0); P];
        for (weight, stream) in weights.iter_mut().zip(&streams) {
            *weight = stream[k].widen(simd);
        }
        for row in 0..R {
            let input = simd.splat(inputs[row]);
            for panel in 0..P {
                accumulators[panel][row] = simd.fma(weights[panel], input, accumulators[panel][row]);
            }
        }
    }
    for (panel, sums) in sums.chunks_exact_mut(R).take(P).enumerate() {
        for (row, sum) in sums.iter_mut().enumerate() {
            simd.store(accumulators[panel][row], sum);
        }
    }
}

impl Kernels {
    /// Visits every tile of a task: panel groups outside, so that their weights stay in the cache over all
    /// blocks of rows. A group has as many panels as the tallest block allows in registers.
    pub(crate) fn for_each_tile(
        &self,
        panels: Range<usize>,
        rows: &RowBlocks,
        blocks: Range<usize>,
        mut visit: impl FnMut(Range<usize>, Block<'_>),
    ) {
        let tallest = blocks.clone().map(|block| rows.block(block).rows.len()).max().unwrap_or(1);
        let group = match self.tile().accumulators / tallest {
            0 | 1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        for first in panels.clone().step_by(group) {
            for block in blocks.clone() {
                visit(first..(first + group).min(panels.end), rows.block(block));
            }
        }
    }

    /// Multiplies a panel group of `w` with a block of rows; `sums` becomes `[panels, rows, 16]`.
    pub(crate) fn multiply(
        &self,
        w: &PackedMatrix,
        panels: &Range<usize>,
        block: &Block<'_>,
        sums: &mut Vec<[f32; LANES]>,
    ) {
        let height = block.rows.len();
        sums.resize(panels.len() * height, [0.0; LANES]);
        let group = panels.start * w.cols()..panels.end * w.cols();
        let block = block.values;
        with_lanes!(w.panels(), lanes => self.run(TileOp { panels: &lanes[group], block, height, sums }));
    }
}

/// The places of `sums`: panel, row and values, for the panels and rows that were multiplied.
pub(crate) fn placed<'a>(
    sums: &'a [[f32; LANES]],
    panels: Range<usize>,
    rows: &Range<usize>,
) -> impl Iterator<Item = (usize, usize, &'a [f32; LANES])> {
    let rows = rows.clone();
    let places = panels.flat_map(move |panel| rows.clone().map(move |row| (panel, row)));
    places.zip(sums).map(|((panel, row), sum)| (panel, row, sum))
}

/// Input rows cut into blocks of tile heights, each block stored `[cols, rows]`.
pub(crate) struct RowBlocks {
    cols: usize,
    values: Vec<f32>,
    /// The first row of each block, and the end.
    bounds: Vec<usize>,
    /// The first block of each group, and the end.
    groups: Vec<usize>,
}

/// Some rows that one tile takes.
pub(crate) struct Block<'a> {
    /// The rows, by number.
    pub(crate) rows: Range<usize>,
    /// `[cols, rows]`
    values: &'a [f32],
}

impl RowBlocks {
    /// Copies rows of `cols` values. Rows `offsets[g]..offsets[g + 1]` form group `g`; no block crosses groups.
    /// `source` gives the values of a row and a factor for them.
    pub(crate) fn new<'a>(
        pool: &Pool,
        max_height: usize,
        cols: usize,
        offsets: &[usize],
        source: impl Fn(usize) -> (&'a [f32], f32) + Sync,
    ) -> Self {
        let (bounds, groups) = cut(max_height, offsets);
        let mut values = vec![0.0; bounds[bounds.len() - 1] * cols];
        let mut parts = Vec::with_capacity(bounds.len().div_ceil(BLOCKS_PER_TASK));
        let mut rest = values.as_mut_slice();
        for first in (0..bounds.len() - 1).step_by(BLOCKS_PER_TASK) {
            let blocks = &bounds[first..bounds.len().min(first + BLOCKS_PER_TASK + 1)];
            let (part, tail) = rest.split_at_mut((blocks[blocks.len() - 1] - blocks[0]) * cols);
            parts.push((blocks, Mutex::new(part)));
            rest = tail;
        }
        pool.for_each(parts.len(), |part| {
            let (blocks, part) = &parts[part];
            let mut part = part.lock().expect("no task panics while it copies");
            for block in blocks.windows(2) {
                let height = block[1] - block[0];
                let start = (block[0] - blocks[0]) * cols;
                let block_values = &mut part[start..start + height * cols];
                for row in 0..height {
                    let (values, factor) = source(block[0] + row);
                    for (step, value) in block_values.chunks_exact_mut(height).zip(values) {
                        step[row] = factor * value;
                    }
                }
            }
        });
        Self { cols, values, bounds, groups }
    }

    /// The blocks of a group, by number.
    pub(crate) fn group(&self, group: usize) -> Range<usize> {
        self.groups[group]..self.groups[group + 1]
    }

    /// A block by number.
    pub(crate) fn block(&self, block: usize) -> Block<'_> {
        let rows = self.bounds[block]..self.bounds[block + 1];
        Block { values: &self.values[rows.start * self.cols..rows.end * self.cols], rows }
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
