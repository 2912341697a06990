//! Totals at one moment, or between two: a window is the difference of two snapshots.
//!
//! Invariants: fields are plain numbers that a caller may write to any report; arithmetic saturates; a layer
//! that routed nothing is absent from [`Counts::layers`] rather than present with zeros.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};

use crate::work::{ExpertWork, Part, Phase, Work, widen};

/// What was counted, by part of the model, by layer of experts and by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Work by part, in the order of [`Part::ALL`].
    pub parts: [Work; Part::ALL.len()],
    /// Routed experts by decoder layer.
    pub layers: BTreeMap<usize, ExpertCounts>,
    /// Tokens by phase, in the order of [`Phase::ALL`].
    pub tokens: [u64; Phase::ALL.len()],
}

/// What routed experts did, beside what a dense twin would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertCounts {
    /// Tokens that were routed; over several layers, token-layers.
    pub tokens: u64,
    /// Token-expert pairs that were computed.
    pub pairs: u64,
    /// Distinct experts touched, summed over steps.
    pub distinct: u64,
    /// Multiply-adds of the pairs.
    pub executed_macs: u64,
    /// Multiply-adds of the iso-total dense twin: every expert runs for every token.
    pub dense_twin_macs: u64,
    /// Bytes of the weights of the distinct experts.
    pub weight_bytes: u64,
    /// Bytes of the weights of every expert, once per step.
    pub dense_twin_weight_bytes: u64,
}

impl Counts {
    /// The work of one part.
    pub fn part(&self, part: Part) -> Work {
        self.parts[part.index()]
    }

    /// The work of all parts.
    pub fn total(&self) -> Work {
        self.parts.iter().fold(Work::default(), |sum, &work| sum + work)
    }

    /// The routed experts of all layers.
    pub fn experts(&self) -> ExpertCounts {
        self.layers.values().fold(ExpertCounts::default(), |sum, &layer| sum + layer)
    }

    /// The tokens of one phase.
    pub fn tokens_in(&self, phase: Phase) -> u64 {
        self.tokens[phase.index()]
    }

    /// The tokens of both phases.
    pub fn all_tokens(&self) -> u64 {
        self.tokens.iter().fold(0, |sum, &tokens| sum.saturating_add(tokens))
    }

    /// Multiply-adds of the whole model if its routed experts were replaced by their iso-total dense twin.
    pub fn dense_twin_macs(&self) -> u64 {
        let experts = self.experts();
        self.total().macs.saturating_sub(experts.executed_macs).saturating_add(experts.dense_twin_macs)
    }

    fn zip(&self, other: &Counts, work: fn(Work, Work) -> Work, number: fn(u64, u64) -> u64) -> Counts {
        let mut layers = BTreeMap::new();
        for layer in self.layers.keys().chain(other.layers.keys()) {
            let side = |counts: &Counts| counts.layers.get(layer).copied().unwrap_or_default();
            layers.insert(*layer, side(self).zip(side(other), number));
        }
        layers.retain(|_, experts| *experts != ExpertCounts::default());
        Counts {
            parts: std::array::from_fn(|part| work(self.parts[part], other.parts[part])),
            layers,
            tokens: std::array::from_fn(|phase| number(self.tokens[phase], other.tokens[phase])),
        }
    }
}

/// Joins what two windows counted.
impl Add for &Counts {
    type Output = Counts;

    fn add(self, other: &Counts) -> Counts {
        self.zip(other, Work::add, u64::saturating_add)
    }
}

/// What was counted from an earlier snapshot to this one.
impl Sub for &Counts {
    type Output = Counts;

    fn sub(self, earlier: &Counts) -> Counts {
        self.zip(earlier, Work::sub, u64::saturating_sub)
    }
}

impl ExpertCounts {
    /// The share of the twin's multiply-adds that were not executed; `None` without a twin.
    pub fn saved_share(&self) -> Option<f64> {
        saved_share(self.executed_macs, self.dense_twin_macs)
    }

    /// The share of the experts' bytes that were not touched; `None` without a twin.
    pub fn saved_bytes_share(&self) -> Option<f64> {
        saved_share(self.weight_bytes, self.dense_twin_weight_bytes)
    }

    fn zip(self, other: ExpertCounts, number: fn(u64, u64) -> u64) -> ExpertCounts {
        ExpertCounts {
            tokens: number(self.tokens, other.tokens),
            pairs: number(self.pairs, other.pairs),
            distinct: number(self.distinct, other.distinct),
            executed_macs: number(self.executed_macs, other.executed_macs),
            dense_twin_macs: number(self.dense_twin_macs, other.dense_twin_macs),
            weight_bytes: number(self.weight_bytes, other.weight_bytes),
            dense_twin_weight_bytes: number(self.dense_twin_weight_bytes, other.dense_twin_weight_bytes),
        }
    }
}

impl Add for ExpertCounts {
    type Output = ExpertCounts;

    fn add(self, other: ExpertCounts) -> ExpertCounts {
        self.zip(other, u64::saturating_add)
    }
}

impl From<ExpertWork> for ExpertCounts {
    /// Counts one step of one layer. Without tokens neither the layer nor its twin runs, so nothing counts.
    fn from(work: ExpertWork) -> ExpertCounts {
        if work.tokens == 0 {
            return ExpertCounts::default();
        }
        let tokens = widen(work.tokens);
        let n_experts = widen(work.n_experts);
        let pairs = widen(work.pairs);
        let distinct = widen(work.active_experts);
        ExpertCounts {
            tokens,
            pairs,
            distinct,
            executed_macs: pairs.saturating_mul(work.macs_per_token_expert),
            dense_twin_macs: tokens.saturating_mul(n_experts).saturating_mul(work.macs_per_token_expert),
            weight_bytes: distinct.saturating_mul(work.bytes_per_expert),
            dense_twin_weight_bytes: n_experts.saturating_mul(work.bytes_per_expert),
        }
    }
}

/// `1 - executed / twin`, or `None` when the twin is empty.
pub(crate) fn saved_share(executed: u64, twin: u64) -> Option<f64> {
    (twin > 0).then(|| 1.0 - executed as f64 / twin as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// OLMoE's layer: 64 experts of 3 matrices 2048 x 1024 in bf16, 8 per token.
    const OLMOE: ExpertWork = ExpertWork {
        layer: 3,
        tokens: 10,
        n_experts: 64,
        pairs: 80,
        active_experts: 40,
        macs_per_token_expert: 6_291_456,
        bytes_per_expert: 12_582_912,
    };

    #[test]
    fn one_layer_counts_as_by_hand() {
        let counted = ExpertCounts::from(OLMOE);
        let by_hand = ExpertCounts {
            tokens: 10,
            pairs: 80,
            distinct: 40,
            executed_macs: 503_316_480,
            dense_twin_macs: 4_026_531_840,
            weight_bytes: 503_316_480,
            dense_twin_weight_bytes: 805_306_368,
        };
        assert_eq!(counted, by_hand);
        assert_eq!(counted.saved_share(), Some(0.875));
        assert_eq!(counted.saved_bytes_share(), Some(0.375));
    }

    #[test]
    fn a_layer_without_tokens_counts_nothing_and_saves_nothing_known() {
        let counted = ExpertCounts::from(ExpertWork { tokens: 0, ..OLMOE });
        assert_eq!(counted, ExpertCounts::default());
        assert_eq!(counted.saved_share(), None);
        assert_eq!(counted.saved_bytes_share(), None);
    }

    #[test]
    fn absurd_sizes_saturate() {
        let counted = ExpertCounts::from(ExpertWork {
            tokens: usize::MAX,
            n_experts: usize::MAX,
            pairs: usize::MAX,
            macs_per_token_expert: u64::MAX,
            bytes_per_expert: u64::MAX,
            ..OLMOE
        });
        assert_eq!(counted.executed_macs, u64::MAX);
        assert_eq!(counted.dense_twin_macs, u64::MAX);
        assert_eq!(counted + counted, ExpertCounts { distinct: 80, ..counted });
    }

    #[test]
    fn the_twin_of_a_model_replaces_only_its_experts() {
        let mut counts = Counts::default();
        counts.parts[Part::Attention.index()].macs = 1_000;
        counts.parts[Part::Experts.index()].macs = 200;
        let experts = ExpertCounts { executed_macs: 200, dense_twin_macs: 800, ..ExpertCounts::default() };
        counts.layers.insert(0, experts);
        assert_eq!(counts.total().macs, 1_200);
        assert_eq!(counts.dense_twin_macs(), 1_800);
    }

    #[test]
    fn a_layer_that_did_not_run_in_the_window_is_absent() {
        let ran = |layers: &[usize]| Counts {
            layers: layers.iter().map(|&layer| (layer, ExpertCounts::from(OLMOE))).collect(),
            ..Counts::default()
        };
        let window = &ran(&[0, 1]) - &ran(&[0]);
        assert_eq!(window, ran(&[1]));
    }

    prop_compose! {
        fn arb_work()(
            layer in 0usize..4,
            tokens in 0usize..100,
            n_experts in 1usize..300,
            macs in 1u64..1_000_000_000,
            bytes in 0u64..1_000_000_000,
        )(
            top_k in 1..=n_experts,
            active in 1..=n_experts,
            (layer, tokens, n_experts, macs, bytes) in Just((layer, tokens, n_experts, macs, bytes)),
        ) -> ExpertWork {
            ExpertWork {
                layer,
                tokens,
                n_experts,
                pairs: tokens * top_k,
                active_experts: active,
                macs_per_token_expert: macs,
                bytes_per_expert: bytes,
            }
        }
    }

    proptest! {
        #[test]
        fn the_twin_is_never_cheaper_than_what_was_executed(work in arb_work()) {
            let counted = ExpertCounts::from(work);
            prop_assert!(counted.executed_macs <= counted.dense_twin_macs);
            prop_assert!(counted.weight_bytes <= counted.dense_twin_weight_bytes);
        }

        #[test]
        fn k_of_n_experts_save_one_minus_k_over_n(work in arb_work()) {
            prop_assume!(work.tokens > 0);
            let saved = ExpertCounts::from(work).saved_share().expect("tokens were routed");
            let ideal = 1.0 - (work.pairs / work.tokens) as f64 / work.n_experts as f64;
            prop_assert!((saved - ideal).abs() < 1e-12, "{} against {}", saved, ideal);
        }
    }
}
