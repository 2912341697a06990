//! The meter: counters that a forward pass adds to and anyone may read.
//!
//! Layers report once or a few times per step, so a lock that nobody contends keeps their work by layer and part without
//! fixing the number of layers in advance.
//!
//! Invariants: adding never fails, never blocks on I/O and saturates; totals do not depend on who adds when.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::counts::{Counts, FetchCounts};
use crate::laps::Stopwatch;
use crate::work::{ExpertWork, Phase, Site, Work, widen};

/// Counts work since it was made. It only grows: what happened in between is the difference of two snapshots.
#[derive(Debug, Default)]
pub struct Meter {
    counts: Mutex<Counts>,
    pub(crate) stopwatch: Stopwatch,
}

impl Meter {
    /// A meter that has counted nothing.
    pub fn new() -> Meter {
        Meter::default()
    }

    /// Adds the work of one part. Routed experts go through [`Meter::experts`], which knows their twins.
    pub fn add(&self, site: impl Into<Site>, work: Work) {
        if work == Work::default() {
            return;
        }
        let Site { layer, part } = site.into();
        let mut counts = self.lock();
        let parts = match layer {
            None => &mut counts.outside,
            Some(layer) => &mut counts.layers.entry(layer).or_default().parts,
        };
        parts[part.index()] = parts[part.index()] + work;
    }

    /// Adds one step of the routed experts of one layer, also as work of [`Part::Experts`](crate::Part::Experts).
    pub fn experts(&self, work: ExpertWork<'_>) {
        if work.experts.is_empty() {
            return;
        }
        self.lock().layers.entry(work.layer).or_default().add_experts(work);
    }

    /// Adds what one step of a layer fetched.
    pub fn fetched(&self, layer: usize, fetches: FetchCounts) {
        if fetches == FetchCounts::default() {
            return;
        }
        let mut counts = self.lock();
        let sum = &mut counts.layers.entry(layer).or_default().fetches;
        *sum = *sum + fetches;
    }

    /// Adds tokens that went through the model.
    pub fn tokens(&self, phase: Phase, n_tokens: usize) {
        let tokens = &mut self.lock().tokens[phase.index()];
        *tokens = tokens.saturating_add(widen(n_tokens));
    }

    /// The totals so far. Exact between two steps; during one, some of its work may be in and some not.
    pub fn snapshot(&self) -> Counts {
        self.lock().clone()
    }

    /// Counts stay whole whatever another thread did while it held the lock, so a poisoned one serves as well.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::work::Part;

    /// 2 of 4 experts for each of 3 tokens, all of them touched.
    const LAYER: ExpertWork<'_> = ExpertWork {
        layer: 1,
        n_experts: 4,
        tokens: 3,
        top_k: 2,
        experts: &[0, 1, 2, 3, 0, 3],
        macs_per_token_expert: 10,
        bytes_per_expert: 100,
    };

    #[test]
    fn parts_do_not_mix() {
        let meter = Meter::new();
        let work = |factor| Work { macs: factor, weight_bytes: 10 * factor, cache_bytes: 100 * factor };
        for (factor, part) in (1..).zip(Part::ALL) {
            meter.add(part, work(factor));
            meter.add(part.in_layer(2), work(10 * factor));
        }
        let counts = meter.snapshot();
        for (factor, part) in (1..).zip(Part::ALL) {
            assert_eq!(counts.part(part), work(11 * factor), "{part:?}");
            assert_eq!(counts.outside[part.index()], work(factor), "{part:?}");
            assert_eq!(counts.layers[&2].parts[part.index()], work(10 * factor), "{part:?}");
        }
        assert_eq!(counts.total(), work(11 * 28));
    }

    #[test]
    fn phases_do_not_mix() {
        let meter = Meter::new();
        meter.tokens(Phase::Prefill, 7);
        meter.tokens(Phase::Decode, 1);
        meter.tokens(Phase::Decode, 1);
        let counts = meter.snapshot();
        assert_eq!(counts.tokens_in(Phase::Prefill), 7);
        assert_eq!(counts.tokens_in(Phase::Decode), 2);
        assert_eq!(counts.all_tokens(), 9);
    }

    #[test]
    fn experts_count_in_their_layer_and_as_a_part() {
        let meter = Meter::new();
        meter.experts(LAYER);
        meter.experts(LAYER);
        meter.experts(ExpertWork { layer: 5, tokens: 1, experts: &[1, 2], ..LAYER });
        let counts = meter.snapshot();
        assert_eq!(counts.layers.keys().copied().collect::<Vec<_>>(), [1, 5]);
        assert_eq!(counts.layers[&1].experts.pairs, 12);
        assert_eq!(counts.layers[&1].tokens_per_expert, [4, 2, 2, 4]);
        assert_eq!(counts.layers[&5].experts.pairs, 2);
        let experts = counts.experts();
        assert_eq!((experts.tokens, experts.distinct), (7, 10));
        assert_eq!((experts.executed_macs, experts.iso_total_macs), (140, 280));
        assert_eq!(counts.part(Part::Experts), Work { macs: 140, weight_bytes: 1_000, cache_bytes: 0 });
    }

    #[test]
    fn fetches_add_up_by_layer_and_are_none_where_all_is_in_memory() {
        let meter = Meter::new();
        meter.experts(LAYER);
        assert_eq!(meter.snapshot().fetches(), None);
        let fetches =
            FetchCounts { hits: 3, misses: 1, fetched_bytes: 100, stall_ns: 7, ..Default::default() };
        meter.fetched(1, fetches);
        meter.fetched(4, FetchCounts { prefetched: 4, prefetch_used: 1, ..fetches });
        let all = meter.snapshot().fetches().unwrap();
        assert_eq!((all.hits, all.misses, all.fetched_bytes, all.stall_ns), (6, 2, 200, 14));
        assert_eq!((all.hit_rate(), all.prefetch_hit_rate()), (Some(0.75), Some(0.25)));
        assert_eq!(meter.snapshot().layers[&1].fetches, fetches);
        assert_eq!(fetches.prefetch_hit_rate(), None);
    }

    #[test]
    fn a_step_without_tokens_leaves_no_trace() {
        let meter = Meter::new();
        meter.experts(ExpertWork { experts: &[], ..LAYER });
        meter.add(Part::Router.in_layer(0), Work::default());
        assert_eq!(meter.snapshot(), Counts::default());
    }

    #[test]
    fn counters_stop_at_the_top_of_their_range() {
        let meter = Meter::new();
        let nearly = Work { macs: u64::MAX - 1, weight_bytes: u64::MAX - 1, cache_bytes: u64::MAX - 1 };
        meter.add(Part::Other, nearly);
        meter.add(Part::Other, nearly);
        let full = Work { macs: u64::MAX, weight_bytes: u64::MAX, cache_bytes: u64::MAX };
        assert_eq!(meter.snapshot().part(Part::Other), full);
    }

    #[test]
    fn threads_lose_nothing() {
        let meter = Meter::new();
        std::thread::scope(|scope| {
            for layer in 0..4 {
                let meter = &meter;
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        meter.add(Part::Attention, Work { macs: 3, weight_bytes: 2, cache_bytes: 1 });
                        meter.experts(ExpertWork { layer: layer % 2, ..LAYER });
                        meter.tokens(Phase::Decode, 1);
                    }
                });
            }
        });
        let counts = meter.snapshot();
        let attention = Work { macs: 12_000, weight_bytes: 8_000, cache_bytes: 4_000 };
        assert_eq!(counts.part(Part::Attention), attention);
        assert_eq!(counts.layers[&0], counts.layers[&1]);
        assert_eq!(counts.experts().executed_macs, 4_000 * 60);
        assert_eq!(counts.tokens_in(Phase::Decode), 4_000);
    }

    fn run(meter: &Meter, steps: &[(usize, u64, usize)]) {
        for &(part, amount, tokens) in steps {
            meter.add(
                Part::ALL[part],
                Work { macs: amount, weight_bytes: amount / 2, cache_bytes: amount / 3 },
            );
            meter.experts(ExpertWork { layer: part, experts: &[1, 2].repeat(tokens), ..LAYER });
            meter.tokens(Phase::ALL[part % 2], tokens);
        }
    }

    proptest! {
        #[test]
        fn two_windows_in_a_row_add_up_to_the_window_around_them(
            before in prop::collection::vec((0usize..7, 0u64..1_000_000, 0usize..50), 0..8),
            first in prop::collection::vec((0usize..7, 0u64..1_000_000, 0usize..50), 0..8),
            second in prop::collection::vec((0usize..7, 0u64..1_000_000, 0usize..50), 0..8),
        ) {
            let meter = Meter::new();
            run(&meter, &before);
            let start = meter.snapshot();
            run(&meter, &first);
            let middle = meter.snapshot();
            run(&meter, &second);
            let end = meter.snapshot();
            prop_assert_eq!(&(&middle - &start) + &(&end - &middle), &end - &start);
            prop_assert_eq!(&start + &(&end - &start), end);
        }
    }
}
