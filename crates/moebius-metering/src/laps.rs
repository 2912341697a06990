//! Where the time of a step goes: the laps of one stopwatch.
//!
//! A forward pass is one sequence of operations, so one stopwatch is enough: whoever has finished a piece of work
//! books the time since the last lap to its [`Stage`], and the laps of a step add up to the step without gaps.
//! It stands still until [`Meter::time_stages`] starts it; then a lap costs a reading of the clock.
//!
//! Invariants: a lap never fails; times only grow. On a device that computes while the caller goes on, a lap is the
//! time to hand the work over, unless the stopwatch was told how to wait for the device ([`Meter::wait_before_laps`]).

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::meter::Meter;
use crate::work::Part;

/// What a step spends its time on. Finer than [`Part`] where operations differ in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Looking up the tokens' rows.
    Embedding,
    /// Norms of the residual stream, of queries and of keys.
    Norms,
    /// Attention's projections: query, key, value and output.
    Projections,
    /// Rotary positions, and writing keys and values into the cache.
    Positions,
    /// Scores, softmax and the weighted sum of values.
    Attention,
    /// The router's projection and its choice.
    Router,
    /// Routed experts: dispatch, gate, up, activation, down and combining, which are one operation.
    Experts,
    /// Experts that every token passes through.
    SharedExperts,
    /// Feed-forward layers without routing.
    Dense,
    /// The projection of the final hidden state to the vocabulary.
    LmHead,
    /// Copying the logits and choosing the tokens.
    Sampling,
    /// Everything else: residual sums, bookkeeping.
    Other,
}

impl Stage {
    /// Every stage, in the order in which a step passes them.
    pub const ALL: [Stage; 12] = [
        Stage::Embedding,
        Stage::Norms,
        Stage::Projections,
        Stage::Positions,
        Stage::Attention,
        Stage::Router,
        Stage::Experts,
        Stage::SharedExperts,
        Stage::Dense,
        Stage::LmHead,
        Stage::Sampling,
        Stage::Other,
    ];

    /// A stable name for reports, in the spelling of a JSON key.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Embedding => "embedding",
            Stage::Norms => "norms",
            Stage::Projections => "projections",
            Stage::Positions => "positions",
            Stage::Attention => "attention",
            Stage::Router => "router",
            Stage::Experts => "experts",
            Stage::SharedExperts => "shared_experts",
            Stage::Dense => "dense",
            Stage::LmHead => "lm_head",
            Stage::Sampling => "sampling",
            Stage::Other => "other",
        }
    }
}

/// The stage of a projection that works for a part.
impl From<Part> for Stage {
    fn from(part: Part) -> Stage {
        match part {
            Part::Router => Stage::Router,
            Part::Experts => Stage::Experts,
            Part::SharedExperts => Stage::SharedExperts,
            Part::Attention => Stage::Projections,
            Part::Dense => Stage::Dense,
            Part::LmHead => Stage::LmHead,
            Part::Other => Stage::Other,
        }
    }
}

/// Time by stage, since the meter was made or between two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    times: [Duration; Stage::ALL.len()],
}

impl StageTimes {
    /// The time of one stage.
    pub fn of(&self, stage: Stage) -> Duration {
        self.times[stage as usize]
    }

    /// The time of all stages.
    pub fn total(&self) -> Duration {
        self.times.iter().sum()
    }
}

/// Joins the laps of two stretches.
impl Add for StageTimes {
    type Output = StageTimes;

    fn add(self, other: StageTimes) -> StageTimes {
        StageTimes {
            times: std::array::from_fn(|stage| self.times[stage].saturating_add(other.times[stage])),
        }
    }
}

/// The laps from an earlier moment to this one.
impl Sub for StageTimes {
    type Output = StageTimes;

    fn sub(self, earlier: StageTimes) -> StageTimes {
        let times = std::array::from_fn(|stage| self.times[stage].saturating_sub(earlier.times[stage]));
        StageTimes { times }
    }
}

/// The stopwatch of a meter.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    running: AtomicBool,
    laps: Mutex<Laps>,
    wait: Wait,
}

/// What waits for a device, if there is one to wait for.
#[derive(Default)]
struct Wait(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wait").field(&self.0.get().is_some()).finish()
    }
}

#[derive(Debug, Default)]
struct Laps {
    last: Option<Instant>,
    times: StageTimes,
}

impl Stopwatch {
    /// Sums of durations stay whole whatever another thread did while it held the lock.
    fn laps(&self) -> MutexGuard<'_, Laps> {
        self.laps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter {
    /// Starts or stops timing stages.
    pub fn time_stages(&self, on: bool) {
        self.stopwatch.running.store(on, Relaxed);
    }

    /// Calls `wait` before the clock is read, from now on, whenever stages are timed: it returns when a device has done
    /// what it was given. A lap is then the time of its stage's work, and the device is idle between stages. The first call
    /// counts.
    pub fn wait_before_laps(&self, wait: impl Fn() + Send + Sync + 'static) {
        // A meter times one device.
        let _ = self.stopwatch.wait.0.set(Box::new(wait));
    }

    /// Waits for the device, if there is one.
    fn wait(&self) {
        if let Some(wait) = self.stopwatch.wait.0.get() {
            wait();
        }
    }

    /// Begins a step: the time since the last lap belongs to nobody.
    pub fn begin_laps(&self) {
        if self.stopwatch.running.load(Relaxed) {
            self.wait();
            self.stopwatch.laps().last = Some(Instant::now());
        }
    }

    /// Books the time since the last lap to `stage`.
    pub fn lap(&self, stage: Stage) {
        if !self.stopwatch.running.load(Relaxed) {
            return;
        }
        self.wait();
        let mut laps = self.stopwatch.laps();
        let now = Instant::now();
        if let Some(last) = laps.last.replace(now) {
            laps.times.times[stage as usize] += now.saturating_duration_since(last);
        }
    }

    /// The times so far.
    pub fn stage_times(&self) -> StageTimes {
        self.stopwatch.laps().times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_at_the_index_of_its_value_and_names_differ() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
        let names: std::collections::BTreeSet<_> = Stage::ALL.map(Stage::name).into_iter().collect();
        assert_eq!(names.len(), Stage::ALL.len());
    }

    #[test]
    fn a_device_is_waited_for_before_each_reading_while_stages_are_timed() {
        let meter = Meter::new();
        let waits = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = waits.clone();
        meter.wait_before_laps(move || {
            counted.fetch_add(1, Relaxed);
        });
        meter.begin_laps();
        meter.lap(Stage::Experts);
        assert_eq!(waits.load(Relaxed), 0);
        meter.time_stages(true);
        meter.begin_laps();
        meter.lap(Stage::Experts);
        assert_eq!(waits.load(Relaxed), 2);
    }

    #[test]
    fn a_stopwatch_that_was_not_started_stands_still() {
        let meter = Meter::new();
        meter.begin_laps();
        meter.lap(Stage::Experts);
        assert_eq!(meter.stage_times(), StageTimes::default());
    }

    #[test]
    fn laps_add_up_to_the_step_and_what_lies_between_steps_is_left_out() {
        let meter = Meter::new();
        meter.time_stages(true);
        meter.lap(Stage::Other); // nothing has begun
        assert_eq!(meter.stage_times(), StageTimes::default());
        let pause = || (0..20_000).for_each(|n| _ = std::hint::black_box(n));
        let mut inside = Duration::ZERO;
        for _ in 0..3 {
            pause();
            let started = Instant::now();
            meter.begin_laps();
            pause();
            meter.lap(Stage::Router);
            pause();
            meter.lap(Stage::Experts);
            inside += started.elapsed();
        }
        let times = meter.stage_times();
        assert!(times.of(Stage::Router) > Duration::ZERO && times.of(Stage::Experts) > Duration::ZERO);
        assert_eq!(times.total(), times.of(Stage::Router) + times.of(Stage::Experts));
        assert!(times.total() <= inside, "{times:?} in {inside:?}");
        assert_eq!(times - times, StageTimes::default());
        assert_eq!((times + times) - times, times);
    }
}
