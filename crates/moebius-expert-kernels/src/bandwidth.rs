//! How fast this machine reads memory: the bound of decoding.

use std::{hint::black_box, time::Instant};

use crate::{
    Kernels, Pool,
    arch::{LANES, Op, Simd},
};

/// Values in one task: large enough that starting it costs nothing beside reading it.
const VALUES_PER_TASK: usize = 1 << 18;

impl Kernels {
    /// Reads a buffer of about `bytes` (at least 1 MiB) `repetitions` times (at least once) with all threads
    /// and returns the median bandwidth in bytes per second. Choose a buffer well beyond the caches.
    #[must_use]
    pub fn measure_read_bandwidth(&self, pool: &Pool, bytes: usize, repetitions: usize) -> f64 {
        let n_tasks = bytes.div_ceil(VALUES_PER_TASK * size_of::<f32>()).max(1);
        // Written, not merely reserved: untouched pages may all share one page of zeros.
        let buffer = vec![1.0f32; n_tasks * VALUES_PER_TASK];
        let mut rates: Vec<f64> = (0..repetitions.max(1))
            .map(|_| {
                let start = Instant::now();
                pool.for_each(n_tasks, |task| {
                    let values = &buffer[task * VALUES_PER_TASK..][..VALUES_PER_TASK];
                    black_box(self.run(ReadOp { values }));
                });
                size_of_val(buffer.as_slice()) as f64 / start.elapsed().as_secs_f64()
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

/// Adds everything up from several places at once, as the matrix kernels read: one stream alone leaves the
/// prefetchers of many processors half idle.
struct ReadOp<'a> {
    values: &'a [f32],
}

/// Places read at once.
const STREAMS: usize = 4;

impl Op for ReadOp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let lanes = self.values.as_chunks::<LANES>().0;
        let stream_len = lanes.len() / STREAMS;
        let mut streams = [lanes; STREAMS];
        for (index, stream) in streams.iter_mut().enumerate() {
            *stream = &lanes[index * stream_len..][..stream_len];
        }
        let mut sums = [simd.splat(0.0); STREAMS];
        for step in 0..stream_len {
            for (sum, stream) in sums.iter_mut().zip(&streams) {
                *sum = simd.add(*sum, simd.load(&stream[step]));
            }
        }
        let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
        let mut lanes = [0.0; LANES];
        simd.store(sum, &mut lanes);
        lanes.iter().sum()
    }
}
