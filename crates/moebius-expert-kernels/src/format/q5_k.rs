//! `q5_k`: 256 weights of five bits in eight runs of 32, each with a scale and a minimum, see [`super::runs`].
//!
//! Block in a file: sixteen bytes of scales and minima, 32 bytes of upper bits (bit `r` of byte `c` belongs to column `c`
//! of run `r`), then the 128 bytes of `q4_k` with the lower four bits.

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
    Levels { max_code: 31.0, start_steps: [30.0, 30.5, 31.0, 31.5, 32.0, 32.5, 33.0, 33.5] };

/// Where the lower bits begin in a block.
const LOWER: usize = HEAD_BYTES + RUN;
/// Quads of two runs: the upper bits of each, then lower ones.
const PAIR_QUADS: usize = 2 + 8;

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct UnitQ5K {
    factors: RunFactors,
    /// Of two runs at a time. Bit `j` of byte `b` of a row's upper bits belongs to column `4 j + b` of the run.
    quads: [[[u8; QUAD_BYTES]; PAIR_QUADS]; RUNS / 2],
}

/// Bit `place` of each of 32 bytes, as four bytes: bit `j` of byte `b` comes from byte `4 j + b`.
fn upper_bits(bytes: &[[u8; 4]], place: usize) -> [u8; 4] {
    let mut bits = 0;
    for (j, quad) in bytes.iter().enumerate() {
        bits |= (u32::from_le_bytes(*quad) >> place & 0x0101_0101) << j;
    }
    bits.to_le_bytes()
}

impl Unit for UnitQ5K {
    const COLS: usize = runs::COLS;
    const BYTES: usize = LOWER + 128;
    /// Starts are not read; with those of `q6_k`, which the same layers hold, one set of inputs serves both.
    const INPUTS: Inputs = UnitQ6K::INPUTS;

    #[inline(always)]
    fn encode(values: &[f32], bytes: &mut [u8]) {
        let (head, bytes) = bytes.split_at_mut(HEAD_BYTES);
        let (upper_bits, lower) = bytes.split_at_mut(RUN);
        let codes = runs::encode(values, head, &LEVELS);
        upper_bits.fill(0);
        for (run, codes) in codes.iter().enumerate() {
            for (byte, code) in upper_bits.iter_mut().zip(codes) {
                *byte |= code >> 4 << run;
            }
        }
        for (bytes, codes) in lower.as_chunks_mut::<RUN>().0.iter_mut().zip(codes.as_chunks::<2>().0) {
            let [lower, upper] = codes;
            for at in 0..RUN {
                bytes[at] = lower[at] & 15 | upper[at] << 4;
            }
        }
    }
    fn decode(bytes: &[u8], values: &mut [f32]) {
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = runs::factors_of(bytes, run);
            let lower = &bytes[LOWER + run / 2 * RUN..];
            for ((value, lower), upper) in values.iter_mut().zip(lower).zip(&bytes[HEAD_BYTES..]) {
                let code = lower >> (4 * (run % 2)) & 15 | (upper >> run & 1) << 4;
                *value = scale * f32::from(code) - minimum;
            }
        }
    }
    #[inline]
    fn gather(blocks: &[&[u8]; LANES]) -> Self {
        let lower: [_; 32] = gather_quads(blocks, LOWER);
        let mut quads = [[[0; QUAD_BYTES]; PAIR_QUADS]; RUNS / 2];
        for (quads, lower) in quads.iter_mut().zip(lower.as_chunks::<8>().0) {
            quads[2..].copy_from_slice(lower);
        }
        for (lane, block) in blocks.iter().enumerate() {
            let (bytes, _) = block[HEAD_BYTES..LOWER].as_chunks();
            for run in 0..RUNS {
                quads[run / 2][run % 2][4 * lane..4 * lane + 4].copy_from_slice(&upper_bits(bytes, run));
            }
        }
        Self { factors: RunFactors::gather(blocks), quads }
    }
    fn is_finite(&self) -> bool {
        self.factors.is_finite()
    }
    fn row(&self, lane: usize, values: &mut [f32]) {
        for (run, values) in values.chunks_exact_mut(RUN).enumerate() {
            let (scale, minimum) = self.factors.of(lane, run);
            let bytes = bytes_of_lane(&self.quads[run / 2], lane);
            let (upper, lower) = (bytes[run % 2], bytes[2..].as_flattened());
            for (col, (value, lower)) in values.iter_mut().zip(lower).enumerate() {
                let code = lower >> (4 * (run % 2)) & 15 | (upper[col % 4] >> (col / 4) & 1) << 4;
                *value = scale * f32::from(code) - minimum;
            }
        }
    }
    fn multiply(kernels: Kernels, panels: &[Self], block: &Block<'_>, sums: &mut [[f32; LANES]]) {
        tile::multiply_dots(kernels, panels, block, sums);
    }
}

impl UnitQ5K {
    /// Adds the products of quad `J` of a run.
    #[inline(always)]
    fn add_quad<S: Simd, const Q: usize, const R: usize, const J: i32>(
        simd: S,
        units: [&Self; Q],
        (step, run): (&[[i32; R]; STEP256], usize),
        dots: [[S::Sums; R]; Q],
    ) -> [[S::Sums; R]; Q] {
        let codes: [_; Q] = of_group!(units, unit => {
            let quads = &unit.quads[run / 2];
            let lower = simd.quads(&quads[2 + J as usize]);
            let lower = if run % 2 == 1 { simd.high_nibbles(lower) } else { simd.low_nibbles(lower) };
            simd.with_high_bit::<J>(lower, simd.quads(&quads[run % 2]))
        });
        add_products(simd, codes, &step[QUADS + run * 8 + J as usize], dots)
    }

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
            let factors = of_group!(units, unit => unit.factors.run_scales(run));
            let none = [[simd.start(0); R]; Q];
            let mut dots = Self::add_quad::<S, Q, R, 0>(simd, units, (step, run), none);
            dots = Self::add_quad::<S, Q, R, 1>(simd, units, (step, run), dots);
            dots = Self::add_quad::<S, Q, R, 2>(simd, units, (step, run), dots);
            dots = Self::add_quad::<S, Q, R, 3>(simd, units, (step, run), dots);
            if S::FIVE_BIT_QUADS < 8 {
                totals = add_run(simd, factors, dots, totals);
                dots = none;
            }
            dots = Self::add_quad::<S, Q, R, 4>(simd, units, (step, run), dots);
            dots = Self::add_quad::<S, Q, R, 5>(simd, units, (step, run), dots);
            dots = Self::add_quad::<S, Q, R, 6>(simd, units, (step, run), dots);
            dots = Self::add_quad::<S, Q, R, 7>(simd, units, (step, run), dots);
            totals = add_run(simd, factors, dots, totals);
        }
        totals
    }
}

impl Dot for UnitQ5K {
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
