//! A link that is slower than the one that is there.
//!
//! Maths: a read of b bytes takes at least `latency + b / bandwidth`.
//!

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_link_without_bandwidth_limit_costs_its_latency() {
        let limit = ReadLimit { bytes_per_second: f64::INFINITY, latency: MILLISECOND };
        assert_eq!(limit.time_for(u64::MAX), MILLISECOND);
    }
}
