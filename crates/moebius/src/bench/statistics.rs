//! What several samples say together, and what chance says about experts.

/// Mean and deviation of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The mean; 0 without samples.
    pub mean: f64,
    /// The standard deviation of a sample, `sqrt(Σ (x - mean)² / (n - 1))`; `None` for fewer than two.
    pub deviation: Option<f64>,
}

impl Statistics {
    /// Of `samples`.
    pub fn of(samples: &[f64]) -> Self {
        let count = samples.len() as f64;
        let mean = if samples.is_empty() { 0.0 } else { samples.iter().sum::<f64>() / count };
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        Statistics { mean, deviation: (samples.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }
}

/// The middle of some samples, and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// A quarter of the samples is below.
    pub low: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub high: f64,
}

impl Quartiles {
    /// Of `samples`, between neighbours by their distance; `None` without any.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        Some(Quartiles { low: at(0.25), median: at(0.5), high: at(0.75) })
    }
}

/// Distinct experts that `rows` tokens touch in one layer on average if each chooses `top_k` of `n_experts` by
/// chance: `N (1 - (1 - k/N)^B)`.
pub fn expected_distinct(n_experts: usize, top_k: usize, rows: f64) -> f64 {
    let n_experts = n_experts as f64;
    n_experts * (1.0 - (1.0 - top_k as f64 / n_experts).powf(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_as_by_hand() {
        let stats = Statistics::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(stats.mean, 5.0);
        let deviation = stats.deviation.expect("eight samples");
        assert!((deviation - (32.0f64 / 7.0).sqrt()).abs() < 1e-12, "{deviation}");
    }

    #[test]
    fn quartiles_lie_between_samples() {
        let quartiles = |samples: &[f64]| Quartiles::of(samples).map(|q| (q.low, q.median, q.high));
        assert_eq!(quartiles(&[]), None);
        assert_eq!(quartiles(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(quartiles(&[5.0, 1.0, 3.0, 2.0, 4.0]), Some((2.0, 3.0, 4.0)));
        assert_eq!(quartiles(&[4.0, 1.0]), Some((1.75, 2.5, 3.25)));
    }

    #[test]
    fn one_sample_has_no_deviation() {
        assert_eq!(Statistics::of(&[3.0]), Statistics { mean: 3.0, deviation: None });
        assert_eq!(Statistics::of(&[]), Statistics { mean: 0.0, deviation: None });
        assert_eq!(Statistics::of(&[3.0, 3.0]).deviation, Some(0.0));
    }

    #[test]
    fn distinct_experts_grow_from_k_to_all_of_them() {
        let near = |got: f64, expected: f64| assert!((got - expected).abs() < 0.05, "{got}");
        near(expected_distinct(64, 8, 1.0), 8.0);
        near(expected_distinct(64, 8, 8.0), 42.0);
        near(expected_distinct(64, 8, 32.0), 63.1);
        near(expected_distinct(8, 8, 1.0), 8.0);
        near(expected_distinct(32, 8, 1e6), 32.0);
    }
}
