//! Energy: what a counter says that wraps around, without what the machine takes anyway, and how sure that is.
//!
//! ```text
//! gross = Σ counters, end - start (a counter starts again at 0 after its largest value)
//! net   = gross - P_idle · t
//! ±     = P_gross · t_update + ΔP_idle · t        P_gross = gross / t
//! ```
//! A counter is brought up to date every `t_update`, about a millisecond for Intel's and AMD's RAPL and up to a tenth of a
//! second for NVIDIA's cards, so both ends of a stretch together are off by at most one update at its mean power. The uncertainty of the idle power is the standard
//! error of several stretches without work.
//!
//! Invariants: reading is the caller's business; what is not known is `None`; an estimate says that it is one.

use std::ops::Add;
use std::time::Duration;

/// How often RAPL brings its counters up to date.
pub const RAPL_UPDATE: Duration = Duration::from_millis(1);

/// How often NVIDIA's cards bring theirs up to date, at least: the longest interval of arXiv 2312.02741.
pub const NVML_UPDATE: Duration = Duration::from_millis(100);

/// More than any one socket or memory domain takes: bounds how long a counter may go unread before it could have
/// wrapped unnoticed.
const MOST_WATTS: f64 = 1_000.0;

/// Where a number of joules comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnergySource {
    /// Counters of the hardware.
    Counter,
    /// Watts that somebody stated, times seconds.
    Estimate,
}

impl EnergySource {
    /// A stable name for reports, in the spelling of a JSON value.
    pub const fn name(self) -> &'static str {
        match self {
            EnergySource::Counter => "counter",
            EnergySource::Estimate => "estimate",
        }
    }
}

/// Energy of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Energy {
    /// All that was taken, in joules.
    pub gross_joules: f64,
    /// What would have been taken without work; `None` if nobody measured that.
    pub idle_joules: Option<f64>,
    /// How far off the net joules may be to either side; `None` for an estimate.
    pub uncertainty_joules: Option<f64>,
    /// Where the numbers come from.
    pub source: EnergySource,
}

impl Energy {
    /// `microjoules` over `elapsed` of counters that are brought up to date every `update`, `idle` being the power without
    /// work, if known. `None` without time.
    pub fn counted(
        microjoules: u64,
        elapsed: Duration,
        update: Duration,
        idle: Option<Power>,
    ) -> Option<Energy> {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let gross_joules = microjoules as f64 * 1e-6;
        let ends = gross_joules / seconds * update.as_secs_f64();
        let drift = idle.map_or(0.0, |idle| idle.uncertainty_watts * seconds);
        Some(Energy {
            gross_joules,
            idle_joules: idle.map(|idle| idle.watts * seconds),
            uncertainty_joules: Some(ends + drift),
            source: EnergySource::Counter,
        })
    }

    /// `watts` that somebody stated, over `elapsed`. What idling takes is part of it.
    pub fn estimated(watts: f64, elapsed: Duration) -> Energy {
        Energy {
            gross_joules: watts * elapsed.as_secs_f64(),
            idle_joules: None,
            uncertainty_joules: None,
            source: EnergySource::Estimate,
        }
    }

    /// What the work took: all without what idling would have taken, if that is known.
    pub fn joules(&self) -> f64 {
        self.gross_joules - self.idle_joules.unwrap_or(0.0)
    }

    /// Net joules for each of `amount` things, such as tokens; `None` for none.
    pub fn joules_per(&self, amount: u64) -> Option<f64> {
        (amount > 0).then(|| self.joules() / amount as f64)
    }
}

/// Joins two stretches. Uncertainties add up, since what is wrong with one is often wrong with the other; a sum with an
/// estimate in it is an estimate.
impl Add for Energy {
    type Output = Energy;

    fn add(self, other: Energy) -> Energy {
        let both = |one: Option<f64>, other: Option<f64>| Some(one? + other?);
        let counted = [self.source, other.source] == [EnergySource::Counter; 2];
        Energy {
            gross_joules: self.gross_joules + other.gross_joules,
            idle_joules: both(self.idle_joules, other.idle_joules),
            uncertainty_joules: both(self.uncertainty_joules, other.uncertainty_joules),
            source: if counted { EnergySource::Counter } else { EnergySource::Estimate },
        }
    }
}

/// Power with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Power {
    /// The mean, in watts.
    pub watts: f64,
    /// Its standard error, in watts.
    pub uncertainty_watts: f64,
}

impl Power {
    /// The mean of the power in several stretches; `None` for fewer than two, which say nothing about uncertainty.
    pub fn of(watts: &[f64]) -> Option<Power> {
        let count = watts.len() as f64;
        if watts.len() < 2 {
            return None;
        }
        let mean = watts.iter().sum::<f64>() / count;
        let variance = watts.iter().map(|watts| (watts - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some(Power { watts: mean, uncertainty_watts: (variance / count).sqrt() })
    }
}

/// A counter of microjoules that starts again at 0 after its largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappingCounter {
    largest: u64,
    last: u64,
    total: u64,
}

impl WrappingCounter {
    /// A counter that stands at `now` and never beyond `largest`. `None` if it stands beyond, or never moves.
    pub fn new(largest: u64, now: u64) -> Option<WrappingCounter> {
        (largest > 0 && now <= largest).then_some(WrappingCounter { largest, last: now, total: 0 })
    }

    /// Takes what the counter stands at after `elapsed` since it was looked at last, and gives the microjoules since it
    /// was made. `None` if it stands where it cannot, or could have gone around more than once: what it counted from
    /// then on is still counted.
    pub fn advance(&mut self, now: u64, elapsed: Duration) -> Option<u64> {
        if now > self.largest {
            return None;
        }
        let moved = if now >= self.last { now - self.last } else { self.largest - self.last + now };
        self.last = now;
        if elapsed.as_secs_f64() * MOST_WATTS * 1e6 >= self.largest as f64 {
            return None;
        }
        self.total = self.total.saturating_add(moved);
        Some(self.total)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{got} against {expected}");
    }

    #[test]
    fn net_energy_is_without_what_idling_takes() {
        let idle = Power { watts: 20.0, uncertainty_watts: 0.5 };
        let energy = Energy::counted(130_000_000, 2 * SECOND, RAPL_UPDATE, Some(idle)).expect("time passed");
        near(energy.joules(), 130.0 - 40.0);
        near(energy.uncertainty_joules.expect("counted"), 65.0 * 0.001 + 0.5 * 2.0);
        near(energy.joules_per(9).expect("nine tokens"), 10.0);
        let slow = Energy::counted(130_000_000, 2 * SECOND, NVML_UPDATE, Some(idle)).expect("time passed");
        near(slow.uncertainty_joules.expect("counted"), 65.0 * 0.1 + 0.5 * 2.0);
        assert_eq!(energy.joules_per(0), None);
    }

    #[test]
    fn without_an_idle_power_the_gross_is_all_there_is() {
        let energy = Energy::counted(1_000_000, SECOND, RAPL_UPDATE, None).expect("time passed");
        assert_eq!((energy.joules(), energy.idle_joules), (1.0, None));
    }

    #[test]
    fn a_stretch_without_time_has_no_energy() {
        assert_eq!(Energy::counted(5, Duration::ZERO, RAPL_UPDATE, None), None);
    }

    #[test]
    fn an_estimate_is_watts_times_seconds_and_spreads_to_sums() {
        let estimate = Energy::estimated(65.0, 2 * SECOND);
        near(estimate.joules(), 130.0);
        assert_eq!((estimate.source.name(), estimate.uncertainty_joules), ("estimate", None));
        let counted = Energy::counted(1_000_000, SECOND, RAPL_UPDATE, None).expect("time passed");
        let sum = estimate + counted;
        near(sum.joules(), 131.0);
        assert_eq!((sum.source, sum.uncertainty_joules), (EnergySource::Estimate, None));
        assert_eq!((counted + counted).source, EnergySource::Counter);
        near((counted + counted).uncertainty_joules.expect("counted"), 0.002);
    }

    #[test]
    fn the_uncertainty_of_a_mean_shrinks_with_its_samples() {
        assert_eq!(Power::of(&[]), None);
        assert_eq!(Power::of(&[10.0]), None);
        assert_eq!(Power::of(&[10.0, 10.0]), Some(Power { watts: 10.0, uncertainty_watts: 0.0 }));
        let power = Power::of(&[9.0, 11.0, 9.0, 11.0]).expect("four samples");
        near(power.watts, 10.0);
        near(power.uncertainty_watts, (4.0f64 / 3.0 / 4.0).sqrt());
    }

    #[test]
    fn a_counter_that_starts_again_goes_on_counting() {
        let mut counter = WrappingCounter::new(262_143_328_850, 262_143_000_000).expect("it stands in range");
        assert_eq!(counter.advance(262_143_328_850, SECOND), Some(328_850));
        assert_eq!(counter.advance(1_000, SECOND), Some(329_850));
        assert_eq!(counter.advance(1_000, SECOND), Some(329_850));
        assert_eq!(counter.advance(5_000, SECOND), Some(333_850));
    }

    #[test]
    fn a_counter_beyond_its_range_is_not_believed() {
        assert_eq!(WrappingCounter::new(100, 101), None);
        assert_eq!(WrappingCounter::new(0, 0), None);
        let mut counter = WrappingCounter::new(1 << 40, 5).expect("it stands in range");
        assert_eq!(counter.advance((1 << 40) + 1, SECOND), None);
        assert_eq!(counter.advance(15, SECOND), Some(10));
    }

    #[test]
    fn a_counter_that_nobody_looked_at_for_too_long_is_not_believed() {
        // 65 kJ go around in a minute at 1 kW.
        let mut counter = WrappingCounter::new(65_532_610_987, 0).expect("it stands in range");
        assert_eq!(counter.advance(7, 66 * SECOND), None);
        assert_eq!(counter.advance(9, SECOND), Some(2));
    }

    proptest! {
        #[test]
        fn steps_add_up_to_the_way_whatever_the_counter_stands_at(
            start in 0u64..=1_000_000_000,
            steps in prop::collection::vec(0u64..1_000_000_000, 0..20),
        ) {
            let largest = 1_000_000_000;
            let mut counter = WrappingCounter::new(largest, start).expect("it stands in range");
            let (mut at, mut sum) = (start, 0);
            for step in steps {
                at = if at + step > largest { at + step - largest } else { at + step };
                sum += step;
                prop_assert_eq!(counter.advance(at, Duration::from_millis(1)), Some(sum));
            }
        }
    }
}
