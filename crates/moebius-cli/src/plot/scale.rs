//! How values lie along an axis: coordinates, the range that holds all of them, and where ticks stand.

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero if all values are above it.
    Linear,
    /// By powers of two, each with a tick.
    Log2,
    /// By powers of ten.
    Log10,
}

/// Most ticks of a linear axis.
const MAX_TICKS: f64 = 8.0;
/// Decades from which on a logarithmic axis has ticks at whole decades only.
const MANY_DECADES: f64 = 2.5;

impl Scale {
    /// Where a value stands; `None` if it cannot be shown.
    pub(super) fn coordinate(self, value: f64) -> Option<f64> {
        let at = match self {
            Scale::Linear => value,
            Scale::Log2 if value > 0.0 => value.log2(),
            Scale::Log10 if value > 0.0 => value.log10(),
            Scale::Log2 | Scale::Log10 => return None,
        };
        at.is_finite().then_some(at)
    }

    /// The value at a coordinate.
    fn value(self, at: f64) -> f64 {
        match self {
            Scale::Linear => at,
            Scale::Log2 => at.exp2(),
            Scale::Log10 => 10f64.powf(at),
        }
    }

    /// Coordinates from end to end that hold all of `values`, with some air; `None` if none can be shown.
    pub(super) fn range(self, values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for at in values.filter_map(|value| self.coordinate(value)) {
            (low, high) = (low.min(at), high.max(at));
        }
        if low > high {
            return None;
        }
        let air = match self {
            Scale::Linear => 0.05 * (high - low).max(high.abs().max(1e-9) * 0.1),
            Scale::Log2 => 0.2,
            Scale::Log10 => 0.08 * (high - low).max(0.5),
        };
        let from_zero = self == Scale::Linear && low >= 0.0;
        Some((if from_zero { 0.0 } else { low - air }, high + air))
    }

    /// Coordinates of ticks within a range, ascending.
    pub(super) fn ticks(self, (low, high): (f64, f64)) -> Vec<f64> {
        match self {
            Scale::Linear => {
                let step = round_step((high - low) / MAX_TICKS);
                multiples(low, high, step)
            }
            Scale::Log2 => multiples(low, high, ((high - low) / 12.0).ceil().max(1.0)),
            Scale::Log10 => {
                let steps: &[f64] = if high - low > MANY_DECADES { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let decades = multiples(low.floor(), high, 1.0);
                let all = decades.iter().flat_map(|decade| steps.iter().map(move |s| decade + s.log10()));
                all.filter(|at| (low..=high).contains(at)).collect()
            }
        }
    }

    /// What is written at a tick.
    pub(super) fn label(self, at: f64) -> String {
        let value = self.value(at);
        let size = value.abs();
        if size != 0.0 && !(1e-3..1e5).contains(&size) {
            return format!("{value:.0e}");
        }
        let decimals = if size == 0.0 { 0 } else { (2 - size.log10().floor() as i32).clamp(0, 5) as usize };
        let text = format!("{value:.decimals$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    }
}

/// The smallest of 1, 2, 5, 10, 20, ... (or tenths of them) that is at least `step`.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * decade >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * decade
}

/// Multiples of `step` from `low` to `high`.
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}
