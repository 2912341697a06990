//! Two columns of bf16 at a time, by AVX-512 BF16.
//!
//! Invariants: columns are added in their order, as one by one; an odd last one goes with a zero, in tiles of all heights.

use std::arch::x86_64::__m512;

use super::{Tile, TileOp, TileShape};
use crate::{
    arch::{Avx512, Bf16Pairs, PairsOp, Simd},
    format::LanesBf16,
};

impl PairsOp for TileOp<'_, LanesBf16, Bf16Pairs> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: Avx512) {
        self.run_on(simd);
    }
}

impl Tile<Avx512, LanesBf16> for Bf16Pairs {
    #[inline(always)]
    fn shape() -> TileShape {
        TileShape { max_rows: 6, accumulators: 24 }
    }

    #[inline(always)]
    fn units(units: usize, _: usize) -> usize {
        units
    }

    #[inline(always)]
    fn multiply<const P: usize, const R: usize>(
        self,
        simd: Avx512,
        streams: [&[LanesBf16]; P],
        words: &[[i32; R]],
    ) -> [[__m512; R]; P] {
        let Self::Avx512(pairs) = self;
        let mut sums = [[simd.splat(0.0); R]; P];
        let (whole, end) = words.split_at(streams[0].len() / 2);
        let (mut columns, mut last): ([&[_]; P], _) = ([&[]; P], [LanesBf16::ZERO; P]);
        for (panel, stream) in streams.iter().enumerate() {
            let (both, odd) = stream.as_chunks::<2>();
            columns[panel] = &both[..whole.len()];
            last[panel] = odd.first().copied().unwrap_or(LanesBf16::ZERO);
        }
        for (k, inputs) in whole.iter().enumerate() {
            let mut weights = [pairs.input(0); P];
            for (weight, columns) in weights.iter_mut().zip(&columns) {
                *weight = pairs.columns(&columns[k]);
            }
            for row in 0..R {
                let input = pairs.input(inputs[row]);
                for panel in 0..P {
                    sums[panel][row] = pairs.dot(sums[panel][row], weights[panel], input);
                }
            }
        }
        for inputs in end {
            for panel in 0..P {
                let weights = pairs.columns(&[last[panel], LanesBf16::ZERO]);
                for row in 0..R {
                    sums[panel][row] = pairs.dot(sums[panel][row], weights, pairs.input(inputs[row]));
                }
            }
        }
        sums
    }
}
