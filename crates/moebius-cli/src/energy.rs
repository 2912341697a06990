//! Energy as people and programs read it: measured with its uncertainty, estimated and marked so, or unknown.

use std::time::Duration;

use moebius::metering::format::{UNKNOWN, si};
use moebius::metering::{Energy, EnergySource};
use moebius::{CounterState, EnergyMeter};
use serde::Serialize;

use crate::rows::Record;

/// Long enough to know what idling takes.
const IDLE: Duration = Duration::from_millis(500);

/// Looks for counters, and what idling takes by them; without any, energy is estimated from `watts`.
pub(crate) fn opened(watts: Option<f64>) -> EnergyMeter {
    let mut meter = EnergyMeter::open(watts);
    meter.measure_idle(IDLE);
    meter
}

/// Joules for each of `amount` things called `each`, such as `1.2 ± 0.1 J a run` or `~1.2 J a run (est.)`.
pub(crate) fn text(energy: Option<Energy>, amount: u64, each: &str) -> String {
    let Some((energy, joules)) = energy.and_then(|energy| Some((energy, energy.joules_per(amount)?))) else {
        return UNKNOWN.into();
    };
    let off = energy.uncertainty_joules.map(|joules| joules / amount as f64);
    let number = self::joules(Some(joules), off);
    match energy.source {
        EnergySource::Estimate => format!("~{number} a {each} (est.)"),
        EnergySource::Counter => format!("{number} a {each}"),
    }
}

/// Joules with how far off they may be, if that is known.
pub(crate) fn joules(joules: Option<f64>, uncertainty: Option<f64>) -> String {
    match (joules.map(millis), uncertainty.map(millis)) {
        (None, _) => UNKNOWN.into(),
        (Some(joules), None) => joules,
        (Some(joules), Some(off)) => format!("{joules} ± {off}"),
    }
}

/// Joules, below one in thousandths, which `si` has no prefix for.
fn millis(joules: f64) -> String {
    if joules.abs() < 1.0 { si(Some(1e3 * joules), "mJ") } else { si(Some(joules), "J") }
}

/// Energy for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Joules {
    joules: f64,
    idle_joules: Option<f64>,
    uncertainty_joules: Option<f64>,
    source: &'static str,
}

impl From<Energy> for Joules {
    fn from(energy: Energy) -> Self {
        Joules {
            joules: energy.joules(),
            idle_joules: energy.idle_joules,
            uncertainty_joules: energy.uncertainty_joules,
            source: energy.source.name(),
        }
    }
}

/// Why nothing is known and what to do about it, in brackets; nothing if something is.
pub(crate) fn why_unknown(meter: &EnergyMeter) -> String {
    match meter.state() {
        _ if meter.is_known() => String::new(),
        CounterState::Absent => " (no counter that can be read; --watts W estimates)".into(),
        state => format!(" ({})", state.hint().unwrap_or_default()),
    }
}

/// Adds what is known of a form's energy to a row.
pub(crate) fn add(record: &mut Record, form: &str, energy: Option<Energy>) {
    record.add(&format!("{form}_energy_joules"), energy.map(|energy| energy.joules()));
    record.add(&format!("{form}_energy_idle_joules"), energy.and_then(|energy| energy.idle_joules));
    let off = energy.and_then(|energy| energy.uncertainty_joules);
    record.add(&format!("{form}_energy_uncertainty_joules"), off);
    record.add(&format!("{form}_energy_source"), energy.map(|energy| energy.source.name()));
}

#[cfg(test)]
mod tests {
    use moebius::metering::RAPL_UPDATE;

    use super::*;

    #[test]
    fn energy_is_measured_estimated_or_unknown_and_says_which() {
        assert_eq!(text(None, 3, "run"), "n/a");
        let estimate = Energy::estimated(65.0, Duration::from_secs(2));
        assert_eq!(text(Some(estimate), 2, "run"), "~65 J a run (est.)");
        assert_eq!(text(Some(estimate), 0, "run"), "n/a");
        let counted = Energy::counted(4_000_000, Duration::from_secs(1), RAPL_UPDATE, None);
        assert_eq!(text(counted, 8, "token"), "500 mJ ± 0.5 mJ a token");
    }
}
