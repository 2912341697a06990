//! The loops that multiply: a panel group times a block of input rows, held in registers.
//!
//! ```text
//! sums[panel][row][lane] = sum over k of panels[panel][k][lane] * block[k][row]
//! ```
//! Plain weights go column by column. Blocks of weights go 32 or 256 columns at a time: their products with
//! quantised inputs are whole numbers, added exactly, then scaled and added to the sums.
//!
//! Shapes: a block of `rows` input rows is stored `[words, rows]`, so that one step reads neighbours.
//! Invariants: each sum is one chain of fused multiply-adds, ascending from zero. Which tile a row falls into, and
//! what else is in it, does not change its bits.

#[cfg(target_arch = "x86_64")]
mod pairs;

use std::ops::Range;

use crate::{
    Kernels, PackedMatrix,
    arch::{Bf16Pairs, LANES, Op, Simd},
    format::{Dot, Lanes, LanesBf16, Panels, Unit, with_units},
    rows::{Block, Inputs, RowBlocks},
};

/// Input rows that stay in the second-level cache while the panels of a task pass by.
const CHUNK_BYTES: usize = 256 << 10;

/// How large the register tiles of an instruction set are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileShape {
    /// Rows of the tallest tile that others share the weights with.
    pub(crate) max_rows: usize,
    /// Accumulators that fit into registers: rows times panels of a tile.
    pub(crate) accumulators: usize,
}

/// Rows of the tallest tile of any instruction set.
const MAX_HEIGHT: usize = 12;

impl TileShape {
    /// Rows of the tallest tile that reads the weights for all rows that there are: as many as there are registers for.
    pub(crate) const fn max_rows_alone(self) -> usize {
        let fit = if self.accumulators < MAX_HEIGHT { self.accumulators } else { MAX_HEIGHT };
        if self.max_rows > fit { self.max_rows } else { fit }
    }
}

/// One way to multiply `P` panels with `R` rows on an instruction set.
trait Tile<S: Simd, U: Unit>: Copy {
    fn shape() -> TileShape;

    /// The units of a panel, given how many it has and the words of a row.
    #[inline(always)]
    fn units(_: usize, words: usize) -> usize {
        // Counted by what loops run over, so that the compiler sees no index beyond the units.
        words / U::INPUTS.step().1
    }

    fn multiply<const P: usize, const R: usize>(
        self,
        simd: S,
        streams: [&[U]; P],
        words: &[[i32; R]],
    ) -> [[S::V; R]; P];
}

/// Column by column.
#[derive(Clone, Copy)]
struct ByLanes;

impl<S: Simd, U: Lanes> Tile<S, U> for ByLanes {
    #[inline(always)]
    fn shape() -> TileShape {
        TileShape { max_rows: S::TILE_ROWS, accumulators: S::ACCUMULATORS }
    }

    #[inline(always)]
    fn multiply<const P: usize, const R: usize>(
        self,
        simd: S,
        streams: [&[U]; P],
        words: &[[i32; R]],
    ) -> [[S::V; R]; P] {
        let mut sums = [[simd.splat(0.0); R]; P];
        for (k, inputs) in words.iter().enumerate() {
            let mut weights = [simd.splat(0.0); P];
            for (weight, stream) in weights.iter_mut().zip(&streams) {
                *weight = stream[k].widen(simd);
            }
            for row in 0..R {
                let input = simd.splat(f32::from_bits(inputs[row] as u32));
                for panel in 0..P {
                    sums[panel][row] = simd.fma(weights[panel], input, sums[panel][row]);
                }
            }
        }
        sums
    }
}

/// Block by block.
#[derive(Clone, Copy)]
struct ByDots;

impl<S: Simd, U: Dot> Tile<S, U> for ByDots {
    #[inline(always)]
    fn shape() -> TileShape {
        TileShape { max_rows: S::DOT_ROWS, accumulators: S::DOT_ACCUMULATORS }
    }

    #[inline(always)]
    fn multiply<const P: usize, const R: usize>(
        self,
        simd: S,
        streams: [&[U]; P],
        words: &[[i32; R]],
    ) -> [[S::V; R]; P] {
        let (_, step_words) = U::INPUTS.step();
        let mut sums = [[simd.splat(0.0); R]; P];
        for (k, step) in words.chunks_exact(step_words).enumerate() {
            sums = U::add(simd, streams.map(|stream| &stream[k]), step, sums);
        }
        sums
    }
}

/// Multiplies a group of panels with one block of rows.
struct TileOp<'a, U, T> {
    /// `[n_panels, units]`
    panels: &'a [U],
    block: &'a Block<'a>,
    /// `[n_panels, height, 16]`, overwritten.
    sums: &'a mut [[f32; LANES]],
    tile: T,
}

impl<U: Lanes> Op for TileOp<'_, U, ByLanes> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.run_on(simd);
    }
}

impl<U: Dot> Op for TileOp<'_, U, ByDots> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.run_on(simd);
    }
}

impl<U: Unit, T> TileOp<'_, U, T> {
    #[inline(always)]
    fn run_on<S: Simd>(self, simd: S)
    where
        T: Tile<S, U>,
    {
        macro_rules! heights {
            ($($height:literal)+) => {
                match self.block.rows.len() {
                    $($height if $height <= T::shape().max_rows_alone() => self.run_height::<S, $height>(simd),)+
                    height => unreachable!("a block has the height of a tile, not {height}"),
                }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// Takes as many panels at a time as their accumulators fit into registers.
    #[inline(always)]
    fn run_height<S: Simd, const R: usize>(self, simd: S)
    where
        T: Tile<S, U>,
    {
        let (words, rest) = self.block.words.as_chunks::<R>();
        debug_assert!(rest.is_empty());
        let fits = |panels: usize| R * panels <= T::shape().accumulators;
        let (by, mut panels) = (self.tile, self.panels);
        let mut sums = self.sums;
        let n_panels = sums.len() / R;
        let units = panels.len() / n_panels;
        while !panels.is_empty() {
            let left = panels.len() / units;
            let ever = const { U::INPUTS.panels() };
            let most = left.min(self.block.panels);
            let taken = if ever >= 4 && most >= 4 && fits(4) {
                tile::<S, U, T, 4, R>((simd, by), (panels, units), words, sums);
                4
            } else if ever >= 2 && most >= 2 && fits(2) {
                tile::<S, U, T, 2, R>((simd, by), (panels, units), words, sums);
                2
            } else {
                tile::<S, U, T, 1, R>((simd, by), (panels, units), words, sums);
                1
            };
            panels = &panels[taken * units..];
            sums = &mut sums[taken * R..];
        }
    }
}

#[inline(always)]
fn tile<S: Simd, U: Unit, T: Tile<S, U>, const P: usize, const R: usize>(
    (simd, by): (S, T),
    (panels, units): (&[U], usize),
    words: &[[i32; R]],
    sums: &mut [[f32; LANES]],
) {
    let units = T::units(units, words.len());
    let mut streams = [panels; P];
    for (index, stream) in streams.iter_mut().enumerate() {
        *stream = &panels[index * units..][..units];
    }
    let totals = by.multiply(simd, streams, words);
    for (totals, sums) in totals.iter().zip(sums.chunks_exact_mut(R)) {
        for (total, sum) in totals.iter().zip(sums) {
            simd.store(*total, sum);
        }
    }
}

/// [`Unit::multiply`] for plain weights.
pub(crate) fn multiply_lanes<U: Lanes>(
    kernels: Kernels,
    panels: &[U],
    block: &Block<'_>,
    sums: &mut [[f32; LANES]],
) {
    kernels.run(TileOp { panels, block, sums, tile: ByLanes });
}

/// [`Unit::multiply`] for weights in bf16 and pairs of inputs.
pub(crate) fn multiply_pairs(
    pairs: Bf16Pairs,
    panels: &[LanesBf16],
    block: &Block<'_>,
    sums: &mut [[f32; LANES]],
) {
    let op = TileOp { panels, block, sums, tile: pairs };
    match op.tile {
        #[cfg(target_arch = "x86_64")]
        Bf16Pairs::Avx512(pairs) => pairs.run(op),
    }
}

/// The register tiles for pairs of inputs.
fn shape_of_pairs(pairs: Bf16Pairs) -> TileShape {
    match pairs {
        #[cfg(target_arch = "x86_64")]
        Bf16Pairs::Avx512(_) => <Bf16Pairs as Tile<crate::arch::Avx512, LanesBf16>>::shape(),
    }
}

/// [`Unit::multiply`] for blocks of weights.
pub(crate) fn multiply_dots<U: Dot>(
    kernels: Kernels,
    panels: &[U],
    block: &Block<'_>,
    sums: &mut [[f32; LANES]],
) {
    kernels.run(TileOp { panels, block, sums, tile: ByDots });
}

struct ShapeOp(Inputs);

impl Op for ShapeOp {
    type Output = TileShape;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> TileShape {
        match self.0 {
            Inputs::Floats | Inputs::Rounded => <ByLanes as Tile<S, LanesBf16>>::shape(),
            Inputs::Pairs(pairs) => shape_of_pairs(pairs),
            Inputs::Blocks32 { .. } | Inputs::Blocks256 { .. } => {
                <ByDots as Tile<S, crate::format::UnitQ8_0>>::shape()
            }
        }
    }
}

impl Kernels {
    /// The register tiles of the instruction set for a form of inputs.
    pub(crate) fn tile(&self, inputs: Inputs) -> TileShape {
        self.run(ShapeOp(inputs))
    }

    /// Visits every tile of a task: chunks of blocks that stay in a cache, in each of them all panel groups, whose
    /// weights stay in a nearer cache, with all blocks of the chunk. Weights that one block of rows reads come from
    /// memory, and one run of it is read faster than several at a time or by turns: all panels are one group then, and
    /// blocks of weights are multiplied panel by panel. Panels that the next block of rows reads again share the inputs.
    pub(crate) fn for_each_tile(
        &self,
        panels: Range<usize>,
        rows: &RowBlocks<'_>,
        blocks: Range<usize>,
        mut visit: impl FnMut(Range<usize>, Block<'_>),
    ) {
        let bounds = &rows.bounds()[blocks.start..=blocks.end];
        let tallest = bounds.windows(2).map(|block| block[1] - block[0]).max().unwrap_or(1);
        let fit = match self.tile(rows.form()).accumulators / tallest {
            0 | 1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let read_once = blocks.len() == 1;
        let together = match rows.form() {
            Inputs::Blocks32 { .. } if read_once => 1,
            form => fit.min(form.panels()),
        };
        let group = if read_once { panels.len().max(1) } else { together };
        let chunk = (CHUNK_BYTES / (tallest * rows.row_bytes())).max(1);
        for first_block in blocks.clone().step_by(chunk) {
            for first in panels.clone().step_by(group) {
                for block in first_block..(first_block + chunk).min(blocks.end) {
                    visit(first..(first + group).min(panels.end), rows.block(block, together));
                }
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
        sums.resize(panels.len() * block.rows.len(), [0.0; LANES]);
        let units = w.cols() / w.format().block_len();
        let group = panels.start * units..panels.end * units;
        with_units!(w.panels(), all => Unit::multiply(*self, &all[group], block, sums));
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

/// Replaces the beginning of `out` by `with` of its values and those of a panel, as far as both reach.
#[inline(always)]
pub(crate) fn put(out: &mut [f32], values: &[f32; LANES], with: impl Fn(f32, f32) -> f32) {
    // Nearly every panel is whole; the copy says that the two do not overlap, so that vectors are used.
    if let Some(out) = out.first_chunk_mut::<LANES>() {
        let mut new = *out;
        for lane in 0..LANES {
            new[lane] = with(new[lane], values[lane]);
        }
        *out = new;
    } else {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = with(*out, *value));
    }
}
