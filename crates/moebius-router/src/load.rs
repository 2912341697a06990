//! How evenly the experts are used.
//!
//! With counts `n[e]` and shares `p[e] = n[e] / sum n`, over `E` experts: entropy `-sum p ln p`, at most
//! `ln E`; coefficient of variation `std(n) / mean(n)` (population); Jain's index `(sum n)^2 / (E * sum n^2)`,
//! from `1/E` (one expert does all) to 1 (even); `min(n)` and `max(n)` over `mean(n)`.
//!
//! Shapes: counts and shares are `[n_experts]`.
//! Invariants: what is unknown, because nothing was routed, is `None`.

use std::ops::Range;

use crate::error::RouterError;
use crate::routing::Routing;

/// Counts, over any number of routings, how many tokens each expert received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertLoad {
    counts: Vec<u64>,
    tokens: u64,
}

impl ExpertLoad {
    /// A load over `n_experts` experts without tokens.
    pub fn new(n_experts: usize) -> Self {
        Self { counts: vec![0; n_experts], tokens: 0 }
    }

    /// The load of `tokens` tokens with its `counts` `[n_experts]`.
    pub fn from_counts(counts: Vec<u64>, tokens: u64) -> Self {
        Self { counts, tokens }
    }

    /// Adds one token with the ids of its experts.
    ///
    /// # Panics
    /// If an id is not below the number of experts.
    pub fn add_token(&mut self, experts: &[u32]) {
        experts.iter().for_each(|&expert| self.counts[expert as usize] += 1);
        self.tokens += 1;
    }

    /// Adds the tokens of a routing.
    ///
    /// # Errors
    /// [`RouterError::LoadMismatch`] if the routing is over another number of experts; nothing is added then.
    pub fn add(&mut self, routing: &Routing) -> Result<(), RouterError> {
        self.add_rows(routing, 0..routing.tokens())
    }

    /// Adds the tokens `rows` of a routing: one sequence of a batch.
    ///
    /// # Errors
    /// Those of [`add`](Self::add).
    ///
    /// # Panics
    /// If the rows are not all below the routing's [`tokens`](Routing::tokens).
    pub fn add_rows(&mut self, routing: &Routing, rows: Range<usize>) -> Result<(), RouterError> {
        self.check(routing.n_experts())?;
        for &expert in &routing.all_experts()[routing.pairs_of(rows.clone())] {
            self.counts[expert as usize] += 1;
        }
        self.tokens += rows.len() as u64;
        Ok(())
    }

    /// Adds the tokens of another load.
    ///
    /// # Errors
    /// [`RouterError::LoadMismatch`] if it is over another number of experts; nothing is added then.
    pub fn merge(&mut self, other: &ExpertLoad) -> Result<(), RouterError> {
        self.check(other.counts.len())?;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.tokens += other.tokens;
        Ok(())
    }

    /// `[n_experts]`: how many tokens each expert received.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Tokens routed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The statistics of the counts.
    pub fn stats(&self) -> LoadStats {
        LoadStats::from_counts(&self.counts)
    }

    fn check(&self, got: usize) -> Result<(), RouterError> {
        let expected = self.counts.len();
        if expected == got { Ok(()) } else { Err(RouterError::LoadMismatch { expected, got }) }
    }
}

/// Statistics of the tokens per expert; all are `None` where no token was routed.
///
/// ```
/// use moebius_router::LoadStats;
///
/// let stats = LoadStats::from_counts(&[6, 2, 0, 0]);
/// assert_eq!(stats.shares, Some(vec![0.75, 0.25, 0.0, 0.0]));
/// // Mean 2, squared deviations 16 + 0 + 4 + 4 = 24, variance 6.
/// assert!((stats.coefficient_of_variation.unwrap() - 6.0_f64.sqrt() / 2.0).abs() < 1e-12);
/// assert_eq!(stats.jain_index, Some(0.4)); // 8^2 / (4 * (36 + 4))
/// assert_eq!((stats.min_over_mean, stats.max_over_mean), (Some(0.0), Some(3.0)));
/// assert_eq!(stats.unused, Some(vec![2, 3]));
/// assert_eq!(LoadStats::from_counts(&[0, 0]).jain_index, None);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadStats {
    /// `[n_experts]`: share of all (token, expert) pairs.
    pub shares: Option<Vec<f64>>,
    /// Entropy of the shares in nats.
    pub entropy_nats: Option<f64>,
    /// Entropy over `ln(n_experts)`, 0 to 1; `None` for a single expert too.
    pub normalized_entropy: Option<f64>,
    /// Population standard deviation over mean; 0 is even.
    pub coefficient_of_variation: Option<f64>,
    /// Jain's fairness index, `1 / n_experts` to 1.
    pub jain_index: Option<f64>,
    /// Load of the idlest expert over the mean load; 1 is even, 0 is unused.
    pub min_over_mean: Option<f64>,
    /// Load of the busiest expert over the mean load; 1 is even.
    pub max_over_mean: Option<f64>,
    /// Ids of the experts without tokens, ascending.
    pub unused: Option<Vec<u32>>,
}

impl LoadStats {
    /// The statistics of `counts` `[n_experts]`.
    pub fn from_counts(counts: &[u64]) -> Self {
        let total = counts.iter().sum::<u64>() as f64;
        let Some(&max) = counts.iter().max().filter(|&&max| max > 0) else {
            return Self::default();
        };
        let min = counts.iter().fold(max, |min, &count| min.min(count));
        let n_experts = counts.len() as f64;
        let mean = total / n_experts;
        let shares: Vec<f64> = counts.iter().map(|&count| count as f64 / total).collect();
        let used_shares = shares.iter().filter(|&&share| share > 0.0);
        let entropy = used_shares.map(|share| share * share.recip().ln()).sum::<f64>();
        let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / n_experts;
        let sum_of_squares = counts.iter().map(|&count| (count as f64).powi(2)).sum::<f64>();
        let unused = (0..).zip(counts).filter(|&(_, &count)| count == 0).map(|(expert, _)| expert);
        Self {
            entropy_nats: Some(entropy),
            normalized_entropy: (counts.len() > 1).then(|| entropy / n_experts.ln()),
            coefficient_of_variation: Some(variance.sqrt() / mean),
            jain_index: Some(total * total / (n_experts * sum_of_squares)),
            min_over_mean: Some(min as f64 / mean),
            max_over_mean: Some(max as f64 / mean),
            unused: Some(unused.collect()),
            shares: Some(shares),
        }
    }
}
