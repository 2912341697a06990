//! A stretch of time over a meter, and what can be said of it.
//!
//! Maths: rate = amount / seconds; flops = 2 · multiply-adds; saved = 1 - executed / twin, where the iso-total twin runs
//! every routed expert for every token and leaves all else as it is.
//!
//! Invariants: a ratio whose denominator is zero, or whose numerator nobody counted, is `None`.

use std::time::{Duration, Instant};

use crate::counts::{Counts, ExpertCounts, saved_share};
use crate::meter::Meter;
use crate::work::Phase;

/// An open stretch of time: the totals at its start and when that was.
#[derive(Debug, Clone)]
pub struct Window {
    start: Counts,
    opened: Instant,
}

/// What was counted in a window, and how long it was open.
///
/// To join the readings of several windows, add their fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// What was counted.
    pub counts: Counts,
    /// Wall-clock time.
    pub elapsed: Duration,
}

impl Window {
    /// Opens a window now.
    pub fn open(meter: &Meter) -> Window {
        Window::open_at(meter, Instant::now())
    }

    /// Opens a window that began at `opened`, over the totals as they stand.
    pub fn open_at(meter: &Meter, opened: Instant) -> Window {
        Window { start: meter.snapshot(), opened }
    }

    /// Closes the window now. `meter` must be the one that it was opened on.
    pub fn close(self, meter: &Meter) -> Reading {
        self.close_at(meter, Instant::now())
    }

    /// Closes the window as of `closed`; a moment before it was opened counts as no time at all.
    pub fn close_at(self, meter: &Meter, closed: Instant) -> Reading {
        Reading {
            counts: &meter.snapshot() - &self.start,
            elapsed: closed.saturating_duration_since(self.opened),
        }
    }
}

impl Reading {
    /// Seconds that the window was open.
    pub fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64()
    }

    /// Tokens of a phase per second of the window. It is the speed of that phase if the window held no other.
    pub fn tokens_per_second(&self, phase: Phase) -> Option<f64> {
        ratio(self.counts.tokens_in(phase), self.seconds())
    }

    /// Bytes of weights and cache touched per second.
    pub fn bytes_per_second(&self) -> Option<f64> {
        ratio(self.counts.total().bytes(), self.seconds())
    }

    /// Bytes of weights and cache touched per token of either phase.
    pub fn bytes_per_token(&self) -> Option<f64> {
        ratio(self.counts.total().bytes(), self.counts.all_tokens() as f64)
    }

    /// Floating point operations executed by all parts.
    pub fn flops(&self) -> u64 {
        flops(self.counts.total().macs)
    }

    /// Floating point operations executed per second.
    pub fn flops_per_second(&self) -> Option<f64> {
        ratio(self.flops(), self.seconds())
    }

    /// Floating point operations executed by the routed experts.
    pub fn expert_flops(&self) -> u64 {
        flops(self.experts().executed_macs)
    }

    /// Floating point operations of the experts' iso-total dense twin: every expert runs for every token.
    pub fn iso_total_expert_flops(&self) -> u64 {
        flops(self.experts().iso_total_macs)
    }

    /// Floating point operations of the experts' iso-active dense twin, a dense layer as wide as k experts: as many as
    /// were executed.
    pub fn iso_active_expert_flops(&self) -> u64 {
        self.expert_flops()
    }

    /// The share of the experts' operations that sparsity saved against the iso-total dense twin.
    pub fn expert_saved_share(&self) -> Option<f64> {
        self.experts().saved_share()
    }

    /// The share of the whole model's operations that sparsity saved against the iso-total twin, every counted part
    /// included.
    pub fn model_saved_share(&self) -> Option<f64> {
        saved_share(self.counts.total().macs, self.counts.iso_total().macs)
    }

    /// Experts that each token went through in each layer, on average.
    pub fn experts_per_token_layer(&self) -> Option<f64> {
        let experts = self.experts();
        ratio(experts.pairs, experts.tokens as f64)
    }

    /// Distinct experts whose weights were touched per token and layer, on average. For one sequence in decode it
    /// is k; the more tokens share an expert within a step, the further it falls below k.
    pub fn distinct_experts_per_token_layer(&self) -> Option<f64> {
        let experts = self.experts();
        ratio(experts.distinct, experts.tokens as f64)
    }

    /// The routed experts of all layers.
    pub fn experts(&self) -> ExpertCounts {
        self.counts.experts()
    }
}

fn flops(macs: u64) -> u64 {
    macs.saturating_mul(2)
}

fn ratio(amount: u64, per: f64) -> Option<f64> {
    (amount > 0 && per > 0.0).then(|| amount as f64 / per)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{ExpertWork, Part, Work};

    fn close_after(meter: &Meter, elapsed: Duration, work: impl FnOnce()) -> Reading {
        let opened = Instant::now();
        let window = Window::open_at(meter, opened);
        work();
        window.close_at(meter, opened + elapsed)
    }

    #[test]
    fn a_reading_agrees_with_a_count_by_hand() {
        let meter = Meter::new();
        meter.add(Part::Attention, Work { macs: 999, weight_bytes: 999, cache_bytes: 999 });
        let reading = close_after(&meter, Duration::from_millis(500), || {
            meter.add(
                Part::Attention.in_layer(1),
                Work { macs: 1_000, weight_bytes: 4_000, cache_bytes: 200 },
            );
            for layer in 0..2 {
                meter.experts(ExpertWork {
                    layer,
                    n_experts: 8,
                    tokens: 4,
                    top_k: 2,
                    experts: &[0, 1, 0, 2, 0, 3, 1, 4], // 5 of them
                    macs_per_token_expert: 100,
                    bytes_per_expert: 400,
                });
            }
            meter.tokens(Phase::Decode, 4);
        });
        assert_eq!(reading.tokens_per_second(Phase::Decode), Some(8.0));
        assert_eq!(reading.bytes_per_second(), Some(16_400.0)); // (4_200 + 2 layers · 5 experts · 400) / 0.5
        assert_eq!(reading.bytes_per_token(), Some(2_050.0));
        assert_eq!(reading.flops(), 5_200); // 2 · (1_000 + 2 layers · 8 pairs · 100)
        assert_eq!(reading.flops_per_second(), Some(10_400.0));
        assert_eq!(reading.expert_flops(), 3_200);
        assert_eq!(reading.iso_total_expert_flops(), 12_800);
        assert_eq!(reading.expert_saved_share(), Some(0.75));
        assert_eq!(reading.model_saved_share(), Some(1.0 - 2_600.0 / 7_400.0));
        assert_eq!(reading.experts_per_token_layer(), Some(2.0));
        assert_eq!(reading.distinct_experts_per_token_layer(), Some(1.25));
    }

    #[test]
    fn what_was_not_counted_is_unknown() {
        let reading = close_after(&Meter::new(), Duration::from_secs(1), || ());
        assert_eq!(reading.tokens_per_second(Phase::Prefill), None);
        assert_eq!(reading.tokens_per_second(Phase::Decode), None);
        assert_eq!(reading.bytes_per_second(), None);
        assert_eq!(reading.bytes_per_token(), None);
        assert_eq!(reading.flops_per_second(), None);
        assert_eq!(reading.expert_saved_share(), None);
        assert_eq!(reading.model_saved_share(), None);
        assert_eq!(reading.experts_per_token_layer(), None);
        assert_eq!(reading.distinct_experts_per_token_layer(), None);
    }

    #[test]
    fn without_time_there_are_no_rates() {
        let meter = Meter::new();
        let reading = close_after(&meter, Duration::ZERO, || {
            meter.add(Part::Dense, Work { macs: 1, weight_bytes: 1, cache_bytes: 1 });
            meter.tokens(Phase::Prefill, 1);
        });
        assert_eq!(reading.tokens_per_second(Phase::Prefill), None);
        assert_eq!(reading.bytes_per_second(), None);
        assert_eq!(reading.flops_per_second(), None);
        assert_eq!(reading.bytes_per_token(), Some(2.0));
    }

    #[test]
    fn a_model_without_experts_saves_exactly_nothing_and_has_no_expert_share() {
        let meter = Meter::new();
        let reading = close_after(&meter, Duration::from_secs(1), || {
            meter.add(Part::Dense, Work { macs: 7, ..Work::default() });
        });
        assert_eq!(reading.model_saved_share(), Some(0.0));
        assert_eq!(reading.expert_saved_share(), None);
    }

    #[test]
    fn a_window_that_closes_before_it_opens_has_no_length() {
        let meter = Meter::new();
        let opened = Instant::now();
        let window = Window::open_at(&meter, opened + Duration::from_secs(1));
        assert_eq!(window.close_at(&meter, opened).elapsed, Duration::ZERO);
    }

    #[test]
    fn the_clock_of_a_window_runs_forward() {
        let meter = Meter::new();
        let before = Instant::now();
        let reading = Window::open(&meter).close(&meter);
        assert!(reading.elapsed <= before.elapsed());
        assert_eq!(reading.counts, Counts::default());
    }
}
