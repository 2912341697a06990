//! `q4_k`: 256 weights of four bits in eight runs of 32, each with a scale and a minimum, see [`super::runs`].
//!
//! Block in a file: sixteen bytes of scales and minima, then 128 bytes. Bytes `32 i .. 32 i + 32` hold run `2 i` in their
//! lower halves, `2 i + 1` in the upper.

use super::{
    Dot, Unit, add_products, add_run,
    affine::Levels,
    bytes_of_lane, gather_quads, of_group, prefetch,
    q6_k::UnitQ6K,
    runs::{self, HEAD_BYTES, RUN, RUNS, RunFactors},
};
use crate::{
    Kernels,
    arch::{LANES, QUAD_BYTES, Simd},
    rows::{Block, Inputs, QUADS, STEP256},
    tile,
};

const LEVELS: Levels =
    Levels { max_code: 15.0, start_steps: [14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 17.0, 17.5] };

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct UnitQ4K {
    factors: RunFactors,
    quads: [[u8; QUAD_BYTES]; 32],
}

impl Unit for UnitQ4K {
    const COLS: usize = runs::COLS;
    const BYTES: usize = HEAD_BYTES + 128;
    /// Starts are not read; with those of `q6_k`, which the same layers hold, one set of inputs serves both.
    const INPUTS: Inputs = UnitQ6K::INPUTS;

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let (head, bytes) = bytes.split_at_mut(HEAD_BYTES);
        let codes = runs::encode(values, head, &LEVELS);
        for (bytes, codes) in bytes.as_chunks_mut::<RUN>().0.iter_mut().zip(codes.as_chunks::<2>().0) {
            let [lower, upper] = codes;
            for at in 0..RUN {
                bytes[at] = lower[at] | upper[at] << 4;
            }
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = runs::factors_of(bytes, run);
            for (value, byte) in values.iter_mut().zip(&bytes[HEAD_BYTES + run / 2 * RUN..]) {
                *value = scale * f32::from(byte >> (4 * (run % 2)) & 15) - minimum;
            }
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        Self { factors: RunFactors::gather(blocks), quads: gather_quads(blocks, HEAD_BYTES) }
    }
    fn is_finite(&self) -> bool {
        self.factors.is_finite()
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        let bytes = bytes_of_lane(&self.quads, lane);
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = self.factors.of(lane, run);
            for (value, byte) in values.iter_mut().zip(&bytes.as_flattened()[run / 2 * RUN..]) {
                *value = scale * f32::from(byte >> (4 * (run % 2)) & 15) - minimum;
            }
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ4K {
    /// Adds the products of two neighbouring runs, which share their bytes.
    #[inline(always)]
    fn add_runs<S: Simd, const Q: usize, const R: usize>(
        simd: S,
        units: [&Self; Q],
        (step, pair): (&[[i32; R]; STEP256], usize),
        totals: [[S::I; R]; Q],
    ) -> [[S::I; R]; Q] {
        let mut totals = totals;
        for upper in [false, true] {
            let run = 2 * pair + usize::from(upper);
            prefetch::<_, _, R>(units, (run, RUNS));
            let mut dots = [[simd.start(0); R]; Q];
            for j in 0..8 {
                let codes: [_; Q] = of_group!(units, unit => {
                    let weights = simd.quads(&unit.quads[pair * 8 + j]);
                    if upper { simd.high_nibbles(weights) } else { simd.low_nibbles(weights) }
                });
                dots = add_products(simd, codes, &step[QUADS + run * 8 + j], dots);
            }
            let factors = of_group!(units, unit => unit.factors.run_scales(run));
            totals = add_run(simd, factors, dots, totals);
        }
        totals
    }
}

impl Dot for UnitQ4K {
    #[inline(always)]
    fn add<S: Simd, const P: usize, const R: usize>(
        simd: S,
        units: [&Self; P],
        step: &[[i32; R]],
        sums: [[S::V; R]; P],
    ) -> [[S::V; R]; P] {
        let step: &[[i32; R]; STEP256] = step.try_into().expect("a whole step");
        let mut totals = [[simd.zero(); R]; P];
        for pair in 0..RUNS / 2 {
            totals = Self::add_runs(simd, units, (step, pair), totals);
        }
        let mut sums = sums;
        for panel in 0..P {
            sums[panel] = units[panel].factors.scale(simd, step, totals[panel], sums[panel]);
        }
        sums
    }
}
