//! How fast this machine multiplies and adds from registers: the bound of long prompts.
//!
//! Weights are read from the nearest cache and change from step to step, so that no product is computed once for all
//! steps; inputs and sums stay in registers, as many as the kernels' tiles keep there. So a peak is what the instructions
//! that the kernels use can reach, and not what the processor might with others.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    Kernels, Pool,
    arch::{Bf16Pairs, LANES, Op, QUAD_BYTES, Simd},
};

/// Weights of one pass: small enough for the nearest cache, with room to spare.
const STEPS: usize = 128;
/// Passes of a task: some tens of microseconds, beside which starting it costs little.
const PASSES: usize = 64;
/// Tasks of a thread in a round, so that a slow thread leaves work to the others.
const TASKS_PER_THREAD: usize = 4;
/// More sums than any instruction set keeps.
const MOST_SUMS: usize = 24;

/// Operations per second, of which a product and its addition are two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Of 8-bit whole numbers, as block formats are multiplied.
    pub int8_ops_per_second: f64,
    /// Of 32-bit floating-point numbers, as all others are.
    pub f32_ops_per_second: f64,
    /// Of pairs of bf16, as weights in bf16 are multiplied by [`Kernels::with_bf16_inputs`]; `None` where that takes
    /// 32-bit numbers.
    pub bf16_ops_per_second: Option<f64>,
}

impl Kernels {
    /// Multiplies with all threads for about `time` in each arithmetic, and takes the median of short rounds.
    #[must_use]
    pub fn measure_peaks(&self, pool: &Pool, time: Duration) -> Peaks {
        Peaks {
            int8_ops_per_second: median_rate(pool, time, || self.run(Int8Op { weights: black_box(&[0; _]) })),
            f32_ops_per_second: median_rate(pool, time, || self.run(F32Op { weights: black_box(&[0.0; _]) })),
            bf16_ops_per_second: self
                .bf16_pairs()
                .map(|pairs| median_rate(pool, time, || multiply_pairs(pairs))),
        }
    }
}

/// The median over rounds of what `task`, which says how many operations it did, reaches on all threads.
fn median_rate(pool: &Pool, time: Duration, task: impl Fn() -> u64 + Sync) -> f64 {
    let n_tasks = TASKS_PER_THREAD * pool.threads();
    let (begun, mut rates) = (Instant::now(), Vec::new());
    while rates.is_empty() || begun.elapsed() < time {
        let start = Instant::now();
        let ops = AtomicU64::new(0);
        pool.for_each(n_tasks, |_| {
            ops.fetch_add(task(), Ordering::Relaxed);
        });
        rates.push(ops.into_inner() as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct Int8Op<'a> {
    weights: &'a [u8; STEPS * QUAD_BYTES],
}

impl Op for Int8Op<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let mut sums = [simd.start(0); MOST_SUMS];
        // One input for all would make all sums one.
        let inputs: [S::Input; MOST_SUMS] = std::array::from_fn(|_| simd.input(black_box(0x0101_0101)));
        for _ in 0..PASSES {
            for quads in self.weights.as_chunks::<QUAD_BYTES>().0 {
                let quads = simd.quads(quads);
                for (sum, &input) in sums[..S::DOT_ACCUMULATORS].iter_mut().zip(&inputs) {
                    *sum = simd.dot(*sum, quads, input);
                }
            }
        }
        for sum in &sums[..S::DOT_ACCUMULATORS] {
            keep(simd, simd.widen_i32(simd.finish(*sum)));
        }
        2 * (PASSES * STEPS * S::DOT_ACCUMULATORS * QUAD_BYTES) as u64
    }
}

struct F32Op<'a> {
    weights: &'a [f32; STEPS * LANES],
}

impl Op for F32Op<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        // Two inputs, since products of one alone could be shared, and sums that nothing says are equal.
        let mut sums: [S::V; MOST_SUMS] = std::array::from_fn(|_| simd.splat(black_box(0.0)));
        let inputs = [simd.splat(black_box(1.0)), simd.splat(black_box(2.0))];
        for _ in 0..PASSES {
            for weights in self.weights.as_chunks::<LANES>().0 {
                let weights = simd.load(weights);
                for (index, sum) in sums[..S::ACCUMULATORS].iter_mut().enumerate() {
                    *sum = simd.fma(weights, inputs[index % 2], *sum);
                }
            }
        }
        sums[..S::ACCUMULATORS].iter().for_each(|&sum| keep(simd, sum));
        2 * (PASSES * STEPS * S::ACCUMULATORS * LANES) as u64
    }
}

/// Does so with pairs of bf16.
fn multiply_pairs(pairs: Bf16Pairs) -> u64 {
    match pairs {
        #[cfg(target_arch = "x86_64")]
        Bf16Pairs::Avx512(pairs) => avx512_bf16::multiply(pairs),
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512_bf16 {
    use super::*;
    use crate::{
        arch::{Avx512, Avx512Bf16, PairsOp},
        format::LanesBf16,
    };

    /// As many sums as the tiles keep.
    const SUMS: usize = 24;

    pub(super) fn multiply(pairs: Avx512Bf16) -> u64 {
        pairs.run(Bf16Op { pairs, weights: black_box(&[LanesBf16::ZERO; _]) })
    }

    struct Bf16Op<'a> {
        pairs: Avx512Bf16,
        weights: &'a [LanesBf16; 2 * STEPS],
    }

    impl PairsOp for Bf16Op<'_> {
        type Output = u64;

        #[inline(always)]
        fn run(self, simd: Avx512) -> u64 {
            let mut sums: [_; SUMS] = std::array::from_fn(|_| simd.splat(black_box(0.0)));
            let inputs = [self.pairs.input(black_box(0)), self.pairs.input(black_box(1))];
            for _ in 0..PASSES {
                for columns in self.weights.as_chunks::<2>().0 {
                    let weights = self.pairs.columns(columns);
                    for (index, sum) in sums.iter_mut().enumerate() {
                        *sum = self.pairs.dot(*sum, weights, inputs[index % 2]);
                    }
                }
            }
            sums.iter().for_each(|&sum| keep(simd, sum));
            2 * (PASSES * STEPS * SUMS * 2 * LANES) as u64
        }
    }
}

/// Makes the compiler believe that somebody needs `v`.
#[inline(always)]
fn keep<S: Simd>(simd: S, v: S::V) {
    let mut lanes = [0.0; LANES];
    simd.store(v, &mut lanes);
    black_box(lanes);
}
