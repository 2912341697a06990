//! The meter: counters that a forward pass adds to and anyone may read.
//!
//! Parts and tokens are relaxed atomics, since layers may add to them from any thread. Routed experts report once
//! per layer and step, so a lock that nobody contends keeps them by layer without fixing their number in advance.
//!
//! Invariants: adding never fails, never blocks on I/O and saturates; totals do not depend on who adds when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::counts::{Counts, ExpertCounts};
use crate::laps::Stopwatch;
use crate::work::{ExpertWork, Part, Phase, Work, widen};

/// Counts work since it was made. It only grows: what happened in between is the difference of two snapshots.
#[derive(Debug, Default)]
pub struct Meter {
    parts: [WorkCell; Part::ALL.len()],
    tokens: [AtomicU64; Phase::ALL.len()],
    layers: Mutex<BTreeMap<usize, ExpertCounts>>,
    pub(crate) stopwatch: Stopwatch,
}

#[derive(Debug, Default)]
struct WorkCell {
    macs: AtomicU64,
    weight_bytes: AtomicU64,
    cache_bytes: AtomicU64,
}

impl Meter {
    /// A meter that has counted nothing.
    pub fn new() -> Meter {
        Meter::default()
    }

    /// Adds the work of one part. Routed experts go through [`Meter::experts`], which knows their twin.
    pub fn add(&self, part: Part, work: Work) {
        let cell = &self.parts[part.index()];
        saturating_add(&cell.macs, work.macs);
        saturating_add(&cell.weight_bytes, work.weight_bytes);
        saturating_add(&cell.cache_bytes, work.cache_bytes);
    }

    /// Adds one step of the routed experts of one layer: to its layer, and as work of [`Part::Experts`].
    pub fn experts(&self, work: ExpertWork) {
        let counted = ExpertCounts::from(work);
        if counted == ExpertCounts::default() {
            return;
        }
        {
            let mut layers = self.lock_layers();
            let layer = layers.entry(work.layer).or_default();
            *layer = *layer + counted;
        }
        self.add(
            Part::Experts,
            Work { macs: counted.executed_macs, weight_bytes: counted.weight_bytes, cache_bytes: 0 },
        );
    }

    /// Adds tokens that went through the model.
    pub fn tokens(&self, phase: Phase, n_tokens: usize) {
        saturating_add(&self.tokens[phase.index()], widen(n_tokens));
    }

    /// The totals so far. Exact between two steps; during one, some of its work may be in and some not.
    pub fn snapshot(&self) -> Counts {
        Counts {
            parts: std::array::from_fn(|part| self.parts[part].load()),
            layers: self.lock_layers().clone(),
            tokens: std::array::from_fn(|phase| self.tokens[phase].load(Relaxed)),
        }
    }

    /// Counts stay whole whatever another thread did while it held the lock, so a poisoned one serves as well.
    fn lock_layers(&self) -> MutexGuard<'_, BTreeMap<usize, ExpertCounts>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkCell {
    fn load(&self) -> Work {
        Work {
            macs: self.macs.load(Relaxed),
            weight_bytes: self.weight_bytes.load(Relaxed),
            cache_bytes: self.cache_bytes.load(Relaxed),
        }
    }
}

/// Most work touches no cache, and adding nothing need not take the cache line from other cores.
fn saturating_add(counter: &AtomicU64, amount: u64) {
    if amount == 0 {
        return;
    }
    let mut seen = counter.load(Relaxed);
    while let Err(now) = counter.compare_exchange_weak(seen, seen.saturating_add(amount), Relaxed, Relaxed) {
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2 of 4 experts for each of 3 tokens, all of them touched.
    const LAYER: ExpertWork = ExpertWork {
        layer: 1,
        tokens: 3,
        n_experts: 4,
        pairs: 6,
        active_experts: 4,
        macs_per_token_expert: 10,
        bytes_per_expert: 100,
    };

    #[test]
    fn parts_do_not_mix() {
        let meter = Meter::new();
        for (factor, part) in (1..).zip(Part::ALL) {
            meter.add(part, Work { macs: factor, weight_bytes: 10 * factor, cache_bytes: 100 * factor });
        }
        let counts = meter.snapshot();
        for (factor, part) in (1..).zip(Part::ALL) {
            let expected = Work { macs: factor, weight_bytes: 10 * factor, cache_bytes: 100 * factor };
            assert_eq!(counts.part(part), expected, "{part:?}");
        }
        assert_eq!(counts.total(), Work { macs: 28, weight_bytes: 280, cache_bytes: 2_800 });
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
        meter.experts(ExpertWork { layer: 5, tokens: 1, pairs: 2, active_experts: 2, ..LAYER });
        let counts = meter.snapshot();
        assert_eq!(counts.layers.keys().copied().collect::<Vec<_>>(), [1, 5]);
        assert_eq!(counts.layers[&1].pairs, 12);
        assert_eq!(counts.layers[&5].pairs, 2);
        let experts = counts.experts();
        assert_eq!((experts.tokens, experts.distinct), (7, 10));
        assert_eq!((experts.executed_macs, experts.dense_twin_macs), (140, 280));
        assert_eq!(counts.part(Part::Experts), Work { macs: 140, weight_bytes: 1_000, cache_bytes: 0 });
    }

    #[test]
    fn a_step_without_tokens_leaves_no_trace() {
        let meter = Meter::new();
        meter.experts(ExpertWork { tokens: 0, ..LAYER });
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
            meter.experts(ExpertWork { layer: part, tokens, ..LAYER });
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
