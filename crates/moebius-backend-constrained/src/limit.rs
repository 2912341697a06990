//! A link that is slower than the one that is there.
//!
//! Maths: a read of b bytes takes at least `latency + b / bandwidth`; reads pass one after another.
//!
//! Invariants: a limit only waits; what is read, and in which order, does not depend on it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How fast experts may come at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadLimit {
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// What every read takes besides.
    pub latency: Duration,
}

impl ReadLimit {
    /// The least time that `bytes` take.
    #[must_use]
    pub fn time_for(&self, bytes: u64) -> Duration {
        let seconds = bytes as f64 / self.bytes_per_second;
        self.latency + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
    }
}

/// A [`ReadLimit`] that several readers share.
#[derive(Debug)]
pub(crate) struct Throttle {
    limit: ReadLimit,
    /// When the link is free again.
    free: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(limit: ReadLimit) -> Self {
        Throttle { limit, free: Mutex::new(None) }
    }

    /// Takes the link for a read that begins `now`, and says when it may be done.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(now, |free| free.max(now));
        let end = begin + self.limit.time_for(bytes);
        *free = Some(end);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn reads_pass_one_after_another() {
        let throttle = Throttle::new(ReadLimit { bytes_per_second: 1e6, latency: MILLISECOND });
        let now = Instant::now();
        assert_eq!(throttle.take(4_000, now), now + 5 * MILLISECOND);
        assert_eq!(throttle.take(1_000, now + MILLISECOND), now + 7 * MILLISECOND);
        assert_eq!(throttle.take(0, now + 20 * MILLISECOND), now + 21 * MILLISECOND);
    }

    #[test]
    fn a_link_without_bandwidth_limit_costs_its_latency() {
        let limit = ReadLimit { bytes_per_second: f64::INFINITY, latency: MILLISECOND };
        assert_eq!(limit.time_for(u64::MAX), MILLISECOND);
    }
}
