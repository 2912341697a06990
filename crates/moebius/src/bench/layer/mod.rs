//! One layer of experts by itself: sparse against its two dense twins, in time and in work.
//!
//! *Iso-total* runs every expert for every token, those that were not chosen with weight zero, so its output is the same.
//! *Iso-active* is a dense layer as wide as k experts. Reading weights bounds few tokens, arithmetic bounds many:
//!
//! ```text
//! bytes:      sparse / iso-total = E(B) / N     E(B) = N (1 - (1 - k/N)^B) by chance
//! operations: sparse / iso-total = k / N
//! ```
//!
//! Invariants: all forms of one sample run one after another, in an order that turns from sample to sample, and each after
//! the experts of another layer, whose weights then fill the caches, as in a model whose layers take turns; routing is new
//! in every sample, as far as a trace that is replayed goes.

mod replay;
mod routing;
mod session;

use std::time::Duration;

use moebius_backend::{Activation, ExpertSpec, WeightFormat};
use moebius_metering::{Counts, Energy};

use super::statistics::{Quartiles, expected_distinct};
use crate::{Error, Result};

pub use replay::TraceSource;
pub use routing::RoutingPattern;
pub use session::LayerSession;
pub(crate) use session::largest_difference;

/// Most of any size, so that products fit: wider than any published layer.
const MAX_SIZE: usize = 1 << 20;

/// A layer, and what to measure on it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of an expert.
    pub ffn: usize,
    /// Experts of the layer.
    pub n_experts: usize,
    /// Experts of a token, each at most all of them.
    pub experts_per_token: Vec<usize>,
    /// What weights are held in.
    pub format: WeightFormat,
    /// How tokens choose.
    pub routing: RoutingPattern,
    /// Samples of each form, at least 1, after one that does not count.
    pub repetitions: usize,
    /// Seed of weights, inputs and choices.
    pub seed: u64,
}

impl LayerPlan {
    /// Fails for sizes that make no layer, and for a trace of another layer; says which layer of a trace is replayed, where
    /// that was left open.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], [`Error::TraceMisfit`], and those of reading a trace.
    pub fn settle(&mut self) -> Result<()> {
        let sizes = [("hidden", self.hidden), ("ffn", self.ffn), ("experts", self.n_experts)];
        if let Some(&(name, got)) = sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
            return Err(Error::InvalidOption { name, expected: "1 to 1048576", got });
        }
        let block = self.format.block_len();
        if let Some(&(name, got)) = sizes[..2].iter().find(|(_, size)| !size.is_multiple_of(block)) {
            let expected = match block {
                32 => "a multiple of 32 for this format",
                _ => "a multiple of 256 for this format",
            };
            return Err(Error::InvalidOption { name, expected, got });
        }
        if self.experts_per_token.is_empty() {
            let expected = "at least one number";
            return Err(Error::InvalidOption { name: "experts per token", expected, got: 0 });
        }
        let in_range = |k: &&usize| !(1..=self.n_experts).contains(*k);
        match self.experts_per_token.iter().find(in_range) {
            Some(&got) => {
                let expected = "1 to the experts of the layer";
                Err(Error::InvalidOption { name: "experts per token", expected, got })
            }
            None => {
                let ks = self.ks();
                self.routing.settle(self.n_experts, &ks)
            }
        }
    }

    /// The layer's experts.
    pub(super) fn spec(&self) -> ExpertSpec {
        ExpertSpec {
            layer: 0,
            n_experts: self.n_experts,
            hidden: self.hidden,
            intermediate: self.ffn,
            format: self.format,
            down_format: self.format,
            activation: Activation::Silu,
            gated: true,
            biases: false,
        }
    }

    /// Experts of a token, ascending, each once.
    pub(super) fn ks(&self) -> Vec<usize> {
        let mut ks = self.experts_per_token.clone();
        ks.sort_unstable();
        ks.dedup();
        ks
    }
}

/// The samples of one form of the layer.
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// The time of each sample.
    pub samples: Vec<Duration>,
    /// What all samples together counted.
    pub counts: Counts,
    /// Energy of all samples together, if known.
    pub energy: Option<Energy>,
}

impl Timed {
    /// Adds a sample. Energy that is unknown for one of them is unknown for all.
    pub(crate) fn add(&mut self, time: Duration, counts: &Counts, energy: Option<Energy>) {
        self.energy = match self.samples.is_empty() {
            true => energy,
            false => self.energy.zip(energy).map(|(sum, one)| sum + one),
        };
        self.samples.push(time);
        self.counts = &self.counts + counts;
    }

    /// Milliseconds of a sample.
    pub fn millis(&self) -> Option<Quartiles> {
        let millis: Vec<f64> = self.samples.iter().map(|time| 1e3 * time.as_secs_f64()).collect();
        Quartiles::of(&millis)
    }

    /// Time of each sample over that of the same sample of `other`.
    pub fn over(&self, other: &Timed) -> Option<Quartiles> {
        let pairs = self.samples.iter().zip(&other.samples).filter(|(_, other)| !other.is_zero());
        let ratios: Vec<f64> = pairs.map(|(time, other)| time.as_secs_f64() / other.as_secs_f64()).collect();
        Quartiles::of(&ratios)
    }

    /// Weights read per second.
    pub fn weight_bytes_per_second(&self) -> Option<f64> {
        self.per_second(self.counts.total().weight_bytes)
    }

    /// Floating point operations per second.
    pub fn flops_per_second(&self) -> Option<f64> {
        self.per_second(self.counts.total().macs.saturating_mul(2))
    }

    /// An amount of one sample out of that of all.
    pub fn per_sample(&self, amount: u64) -> Option<f64> {
        (!self.samples.is_empty()).then(|| amount as f64 / self.samples.len() as f64)
    }

    fn per_second(&self, amount: u64) -> Option<f64> {
        let seconds: f64 = self.samples.iter().map(Duration::as_secs_f64).sum();
        (amount > 0 && seconds > 0.0).then(|| amount as f64 / seconds)
    }
}

/// What one number of tokens gave.
#[derive(Clone, Debug)]
pub struct LayerRow {
    /// Tokens of the batch.
    pub tokens: usize,
    /// Experts of the layer.
    pub n_experts: usize,
    /// All experts for every token.
    pub iso_total: Timed,
    /// For every number of experts of a token, ascending.
    pub cells: Vec<LayerCell>,
}

/// What one number of experts of a token gave.
#[derive(Clone, Debug)]
pub struct LayerCell {
    /// Experts of a token.
    pub top_k: usize,
    /// The chosen experts.
    pub sparse: Timed,
    /// The dense layer as wide as k experts.
    pub iso_active: Timed,
    /// Largest difference between outputs of sparse and iso-total.
    pub max_difference: f32,
}

impl LayerCell {
    /// Distinct experts that a batch touched, on average.
    pub fn distinct(&self) -> Option<f64> {
        self.sparse.per_sample(self.sparse.counts.experts().distinct)
    }

    /// What [`LayerCell::distinct`] is by chance for `tokens` tokens over `n_experts` experts.
    pub fn expected_distinct(&self, n_experts: usize, tokens: usize) -> f64 {
        expected_distinct(n_experts, self.top_k, tokens as f64)
    }

    /// Experts touched for each that a dense layer of the active width reads: from 1 on sparse reads more.
    pub fn bytes_over_iso_active(&self) -> Option<f64> {
        let experts = self.sparse.counts.experts();
        let dense = experts.iso_active_weight_bytes;
        (dense > 0).then(|| experts.weight_bytes as f64 / dense as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> LayerPlan {
        LayerPlan {
            hidden: 64,
            ffn: 32,
            n_experts: 8,
            experts_per_token: vec![2, 1, 2],
            format: WeightFormat::Q8_0,
            routing: RoutingPattern::Uniform,
            repetitions: 2,
            seed: 0,
        }
    }

    #[test]
    fn sizes_that_make_no_layer_are_refused() {
        assert!(plan().settle().is_ok());
        assert_eq!(plan().ks(), [1, 2]);
        for (mut plan, message) in [
            (LayerPlan { hidden: 0, ..plan() }, "invalid hidden: expected 1 to 1048576, got 0"),
            (LayerPlan { n_experts: usize::MAX, ..plan() }, "invalid experts"),
            (LayerPlan { ffn: 33, ..plan() }, "invalid ffn: expected a multiple of 32"),
            (LayerPlan { format: WeightFormat::Q4K, ..plan() }, "invalid hidden: expected a multiple of 256"),
            (LayerPlan { experts_per_token: vec![9], ..plan() }, "invalid experts per token"),
            (LayerPlan { experts_per_token: vec![0], ..plan() }, "invalid experts per token"),
        ] {
            let error = plan.settle().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn ratios_are_those_of_samples_side_by_side() {
        let timed = |millis: &[u64]| Timed {
            samples: millis.iter().map(|&ms| Duration::from_millis(ms)).collect(),
            ..Timed::default()
        };
        let ratio = timed(&[1, 4, 9]).over(&timed(&[10, 20, 30])).unwrap();
        assert!((ratio.median - 0.2).abs() < 1e-12, "{ratio:?}");
        assert_eq!(timed(&[]).over(&timed(&[1])), None);
        assert_eq!(timed(&[3, 1, 2]).millis().map(|q| q.median), Some(2.0));
        assert_eq!(timed(&[1]).flops_per_second(), None);
    }
}
