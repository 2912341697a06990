//! How fast this machine reads memory: the bound of decoding.

use std::{hint::black_box, time::Instant};

use crate::{
    Kernels, Pool,
    arch::{LANES, Op, Simd, pages::prefer_large_pages},
};

/// Values in one task: large enough that starting it costs nothing beside reading it.
const VALUES_PER_TASK: usize = 1 << 18;

impl Kernels {
    /// Reads a buffer of about `bytes` (at least 1 MiB) with all threads and returns the bandwidth in bytes per second:
    /// the better of one stream a thread and of four, each the median of `repetitions` (at least one). Choose a buffer
    /// well beyond the caches. It lies in large pages where the system gives them, as weights do.
    #[must_use]
    pub fn measure_read_bandwidth(&self, pool: &Pool, bytes: usize, repetitions: usize) -> f64 {
        let n_tasks = bytes.div_ceil(VALUES_PER_TASK * size_of::<f32>()).max(1);
        let len = n_tasks * VALUES_PER_TASK;
        let mut buffer = Vec::with_capacity(len);
        prefer_large_pages(buffer.spare_capacity_mut());
        // Written, not merely reserved: untouched pages may all share one page of zeros.
        buffer.resize(len, 1.0f32);
        let rate = |streams: usize| {
            let start = Instant::now();
            pool.for_each(n_tasks, |task| {
                let values = &buffer[task * VALUES_PER_TASK..][..VALUES_PER_TASK];
                black_box(match streams {
                    1 => self.run(ReadOp::<1> { values }),
                    _ => self.run(ReadOp::<4> { values }),
                });
            });
            size_of_val(buffer.as_slice()) as f64 / start.elapsed().as_secs_f64()
        };
        let median = |streams| {
            let mut rates: Vec<f64> = (0..repetitions.max(1)).map(|_| rate(streams)).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        median(1).max(median(4))
    }
}

/// Adds everything up from `N` places at once. Whether a processor's prefetchers are faster with one stream or with
/// some is its own affair; the kernels read in both ways.
struct ReadOp<'a, const N: usize> {
    values: &'a [f32],
}

impl<const N: usize> Op for ReadOp<'_, N> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        // As many chains of additions as hide their latency, shared by the streams.
        const CHAINS: usize = 8;
        let lanes = self.values.as_chunks::<LANES>().0;
        let stream_len = lanes.len() / N;
        let mut sums = [simd.splat(0.0); CHAINS];
        let per_stream = CHAINS / N;
        for step in (0..stream_len).step_by(per_stream) {
            for stream in 0..N {
                let run = &lanes[stream * stream_len + step..][..per_stream];
                for (sum, values) in sums[stream * per_stream..][..per_stream].iter_mut().zip(run) {
                    *sum = simd.add(*sum, simd.load(values));
                }
            }
        }
        let sum = sums.into_iter().fold(simd.splat(0.0), |sum, chain| simd.add(sum, chain));
        let mut lanes = [0.0; LANES];
        simd.store(sum, &mut lanes);
        lanes.iter().sum()
    }
}
