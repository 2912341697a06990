//! Totals at one moment, or between two: a window is the difference of two snapshots.
//!
//! Two dense twins stand beside the routed experts. *Iso-total* has the same parameters: every expert runs for every
//! token. *Iso-active* has the operations of what a token goes through: a dense layer as wide as k experts, whose weights
//! a step reads once however many tokens it has.
//!
//! Invariants: fields are plain numbers that a caller may write to any report; arithmetic saturates; a layer
//! that did nothing is absent from [`Counts::layers`] rather than present with zeros.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};

use crate::work::{ExpertWork, Part, Phase, Work, widen};

/// Work by part, in the order of [`Part::ALL`].
pub type PartWork = [Work; Part::ALL.len()];

/// What was counted, by layer, by part of the model and by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Work around the decoder layers.
    pub outside: PartWork,
    /// Work in the decoder layers, by index.
    pub layers: BTreeMap<usize, LayerCounts>,
    /// Tokens by phase, in the order of [`Phase::ALL`].
    pub tokens: [u64; Phase::ALL.len()],
}

/// What one decoder layer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerCounts {
    /// Work by part; that of the routed experts is in [`LayerCounts::experts`] in more detail.
    pub parts: PartWork,
    /// The routed experts; all zero in a layer that has none.
    pub experts: ExpertCounts,
    /// Tokens that each routed expert saw, by id, `[n_experts]`; empty in a layer that has none.
    pub tokens_per_expert: Vec<u64>,
    /// Experts that were fetched; all zero where every expert is in memory.
    pub fetches: FetchCounts,
}

/// How experts came that are not all in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchCounts {
    /// Experts of a step that were in memory.
    pub hits: u64,
    /// Experts of a step that had to be fetched, those fetched ahead included.
    pub misses: u64,
    /// Bytes that were fetched, needed or not.
    pub fetched_bytes: u64,
    /// Nanoseconds in which nothing was computed because experts had not come.
    pub stall_ns: u64,
    /// Experts that were fetched ahead because a router was asked early.
    pub prefetched: u64,
    /// Those of them that were then needed.
    pub prefetch_used: u64,
}

impl FetchCounts {
    /// Experts in memory of those that were needed; `None` where none was.
    pub fn hit_rate(&self) -> Option<f64> {
        share(self.hits, self.hits.saturating_add(self.misses))
    }

    /// Experts fetched ahead that were needed; `None` where none was fetched ahead.
    pub fn prefetch_hit_rate(&self) -> Option<f64> {
        share(self.prefetch_used, self.prefetched)
    }

    fn zip(self, other: FetchCounts, number: fn(u64, u64) -> u64) -> FetchCounts {
        FetchCounts {
            hits: number(self.hits, other.hits),
            misses: number(self.misses, other.misses),
            fetched_bytes: number(self.fetched_bytes, other.fetched_bytes),
            stall_ns: number(self.stall_ns, other.stall_ns),
            prefetched: number(self.prefetched, other.prefetched),
            prefetch_used: number(self.prefetch_used, other.prefetch_used),
        }
    }
}

impl Add for FetchCounts {
    type Output = FetchCounts;

    fn add(self, other: FetchCounts) -> FetchCounts {
        self.zip(other, u64::saturating_add)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// What routed experts did, beside what dense twins would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertCounts {
    /// Tokens that were routed; over several layers, token-layers.
    pub tokens: u64,
    /// Token-expert pairs that were computed.
    pub pairs: u64,
    /// Distinct experts touched, summed over steps.
    pub distinct: u64,
    /// Multiply-adds of the pairs: what was executed, and what the iso-active twin needs.
    pub executed_macs: u64,
    /// Multiply-adds of the iso-total dense twin: every expert runs for every token.
    pub iso_total_macs: u64,
    /// Bytes of the weights of the distinct experts.
    pub weight_bytes: u64,
    /// Bytes of the iso-total twin: the weights of every expert, once per step.
    pub iso_total_weight_bytes: u64,
    /// Bytes of the iso-active twin: the weights of k experts, once per step.
    pub iso_active_weight_bytes: u64,
}

impl Counts {
    /// The work of one part, in the layers and around them.
    pub fn part(&self, part: Part) -> Work {
        let layers = self.layers.values().map(|layer| layer.parts[part.index()]);
        layers.fold(self.outside[part.index()], Work::add)
    }

    /// The work of all parts.
    pub fn total(&self) -> Work {
        self.layers.values().map(LayerCounts::total).fold(sum(&self.outside), Work::add)
    }

    /// The routed experts of all layers.
    pub fn experts(&self) -> ExpertCounts {
        self.layers.values().fold(ExpertCounts::default(), |sum, layer| sum + layer.experts)
    }

    /// The experts of all layers that were fetched; `None` where every expert was in memory.
    pub fn fetches(&self) -> Option<FetchCounts> {
        let all = self.layers.values().fold(FetchCounts::default(), |sum, layer| sum + layer.fetches);
        (all != FetchCounts::default()).then_some(all)
    }

    /// The layers in which tokens were routed, with their indices.
    pub fn routed_layers(&self) -> impl Iterator<Item = (usize, &LayerCounts)> {
        self.layers.iter().filter(|(_, layer)| layer.experts.tokens > 0).map(|(idx, layer)| (*idx, layer))
    }

    /// The tokens of one phase.
    pub fn tokens_in(&self, phase: Phase) -> u64 {
        self.tokens[phase.index()]
    }

    /// The tokens of both phases.
    pub fn all_tokens(&self) -> u64 {
        self.tokens.iter().fold(0, |sum, &tokens| sum.saturating_add(tokens))
    }

    /// The work of the whole model if its routed experts were replaced by their iso-total twin.
    pub fn iso_total(&self) -> Work {
        let experts = self.experts();
        self.with_experts(experts.iso_total_macs, experts.iso_total_weight_bytes)
    }

    /// The work of the whole model if its routers and routed experts were replaced by the iso-active twin, which needs
    /// no router.
    pub fn iso_active(&self) -> Work {
        let experts = self.experts();
        self.with_experts(experts.executed_macs, experts.iso_active_weight_bytes) - self.part(Part::Router)
    }

    /// The same without the work of one part.
    #[must_use]
    pub fn without(&self, part: Part) -> Counts {
        let mut counts = self.clone();
        counts.outside[part.index()] = Work::default();
        counts.layers.values_mut().for_each(|layer| layer.parts[part.index()] = Work::default());
        counts.layers.retain(|_, layer| !layer.is_empty());
        counts
    }

    fn with_experts(&self, macs: u64, weight_bytes: u64) -> Work {
        self.total() - self.part(Part::Experts) + Work { macs, weight_bytes, cache_bytes: 0 }
    }

    fn zip(&self, other: &Counts, work: fn(Work, Work) -> Work, number: fn(u64, u64) -> u64) -> Counts {
        let (mut layers, nothing) = (BTreeMap::new(), LayerCounts::default());
        for layer in self.layers.keys().chain(other.layers.keys()) {
            let side = |counts: &'_ Counts| counts.layers.get(layer).unwrap_or(&nothing).clone();
            layers.entry(*layer).or_insert_with(|| side(self).zip(&side(other), work, number));
        }
        layers.retain(|_, layer| !layer.is_empty());
        Counts {
            outside: std::array::from_fn(|part| work(self.outside[part], other.outside[part])),
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

impl LayerCounts {
    /// The work of all parts.
    pub fn total(&self) -> Work {
        sum(&self.parts)
    }

    /// Adds one step of the routed experts. Without tokens neither they nor their twins run, so nothing counts.
    pub(crate) fn add_experts(&mut self, work: ExpertWork<'_>) {
        let (counted, tokens_per_expert) = count_experts(work);
        if counted == ExpertCounts::default() {
            return;
        }
        self.experts = self.experts + counted;
        self.tokens_per_expert = zip_long(&self.tokens_per_expert, &tokens_per_expert, u64::saturating_add);
        let part = &mut self.parts[Part::Experts.index()];
        *part =
            *part + Work { macs: counted.executed_macs, weight_bytes: counted.weight_bytes, cache_bytes: 0 };
    }

    fn is_empty(&self) -> bool {
        self.parts == PartWork::default()
            && self.experts == ExpertCounts::default()
            && self.fetches == FetchCounts::default()
    }

    fn zip(
        &self,
        other: &LayerCounts,
        work: fn(Work, Work) -> Work,
        number: fn(u64, u64) -> u64,
    ) -> LayerCounts {
        let experts = self.experts.zip(other.experts, number);
        let tokens_per_expert = match experts.tokens {
            0 => Vec::new(),
            _ => zip_long(&self.tokens_per_expert, &other.tokens_per_expert, number),
        };
        LayerCounts {
            parts: std::array::from_fn(|part| work(self.parts[part], other.parts[part])),
            experts,
            tokens_per_expert,
            fetches: self.fetches.zip(other.fetches, number),
        }
    }
}

impl ExpertCounts {
    /// The share of the iso-total twin's multiply-adds that were not executed; `None` without a twin.
    pub fn saved_share(&self) -> Option<f64> {
        saved_share(self.executed_macs, self.iso_total_macs)
    }

    /// The share of the iso-total twin's bytes that were not touched; `None` without a twin.
    pub fn saved_bytes_share(&self) -> Option<f64> {
        saved_share(self.weight_bytes, self.iso_total_weight_bytes)
    }

    fn zip(self, other: ExpertCounts, number: fn(u64, u64) -> u64) -> ExpertCounts {
        ExpertCounts {
            tokens: number(self.tokens, other.tokens),
            pairs: number(self.pairs, other.pairs),
            distinct: number(self.distinct, other.distinct),
            executed_macs: number(self.executed_macs, other.executed_macs),
            iso_total_macs: number(self.iso_total_macs, other.iso_total_macs),
            weight_bytes: number(self.weight_bytes, other.weight_bytes),
            iso_total_weight_bytes: number(self.iso_total_weight_bytes, other.iso_total_weight_bytes),
            iso_active_weight_bytes: number(self.iso_active_weight_bytes, other.iso_active_weight_bytes),
        }
    }
}

impl Add for ExpertCounts {
    type Output = ExpertCounts;

    fn add(self, other: ExpertCounts) -> ExpertCounts {
        self.zip(other, u64::saturating_add)
    }
}

/// One step of one layer, and how many tokens each expert got.
fn count_experts(work: ExpertWork<'_>) -> (ExpertCounts, Vec<u64>) {
    let ExpertWork {
        tokens,
        n_experts,
        top_k,
        experts,
        macs_per_token_expert: macs,
        bytes_per_expert: bytes,
        ..
    } = work;
    if tokens == 0 {
        return Default::default();
    }
    let mut tokens_per_expert = vec![0; n_experts];
    for &id in experts {
        if let Some(tokens) = tokens_per_expert.get_mut(id as usize) {
            *tokens += 1;
        }
    }
    let distinct = widen(tokens_per_expert.iter().filter(|&&tokens| tokens > 0).count());
    let (tokens, pairs) = (widen(tokens), widen(experts.len()));
    let (n_experts, top_k) = (widen(n_experts), widen(top_k));
    let counted = ExpertCounts {
        tokens,
        pairs,
        distinct,
        executed_macs: pairs.saturating_mul(macs),
        iso_total_macs: tokens.saturating_mul(n_experts).saturating_mul(macs),
        weight_bytes: distinct.saturating_mul(bytes),
        iso_total_weight_bytes: n_experts.saturating_mul(bytes),
        iso_active_weight_bytes: top_k.saturating_mul(bytes),
    };
    (counted, tokens_per_expert)
}

fn sum(parts: &PartWork) -> Work {
    parts.iter().fold(Work::default(), |sum, &work| sum + work)
}

/// Joins two lists item by item; the shorter one goes on with zeros.
fn zip_long(one: &[u64], other: &[u64], number: fn(u64, u64) -> u64) -> Vec<u64> {
    let at = |list: &[u64], idx: usize| list.get(idx).copied().unwrap_or(0);
    (0..one.len().max(other.len())).map(|idx| number(at(one, idx), at(other, idx))).collect()
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
    fn olmoe(experts: &[u32]) -> ExpertWork<'_> {
        ExpertWork {
            layer: 3,
            tokens: experts.len() / 8,
            n_experts: 64,
            top_k: 8,
            experts,
            macs_per_token_expert: 6_291_456,
            bytes_per_expert: 12_582_912,
        }
    }

    /// Ten tokens: each its own eight of the first forty experts, five times around.
    fn ids() -> Vec<u32> {
        (0..80).map(|pair| pair % 40).collect()
    }

    fn layer(work: ExpertWork<'_>) -> LayerCounts {
        let mut layer = LayerCounts::default();
        layer.add_experts(work);
        layer
    }

    #[test]
    fn one_layer_counts_as_by_hand() {
        let counted = layer(olmoe(&ids()));
        let by_hand = ExpertCounts {
            tokens: 10,
            pairs: 80,
            distinct: 40,
            executed_macs: 503_316_480,
            iso_total_macs: 4_026_531_840,
            weight_bytes: 503_316_480,
            iso_total_weight_bytes: 805_306_368,
            iso_active_weight_bytes: 100_663_296,
        };
        assert_eq!(counted.experts, by_hand);
        assert_eq!(counted.experts.saved_share(), Some(0.875));
        assert_eq!(counted.experts.saved_bytes_share(), Some(0.375));
        assert_eq!(counted.tokens_per_expert, [vec![2; 40], vec![0; 24]].concat());
        let work = Work { macs: 503_316_480, weight_bytes: 503_316_480, cache_bytes: 0 };
        assert_eq!((counted.parts[Part::Experts.index()], counted.total()), (work, work));
    }

    #[test]
    fn steps_of_a_layer_add_up() {
        let mut counted = layer(olmoe(&ids()));
        counted.add_experts(olmoe(&ids()[..8]));
        assert_eq!((counted.experts.tokens, counted.experts.distinct), (11, 48));
        assert_eq!(counted.tokens_per_expert[..9], [3, 3, 3, 3, 3, 3, 3, 3, 2]);
        assert_eq!(counted.experts.iso_active_weight_bytes, 2 * 100_663_296);
    }

    #[test]
    fn a_layer_without_tokens_counts_nothing_and_saves_nothing_known() {
        let counted = layer(olmoe(&[]));
        assert_eq!(counted, LayerCounts::default());
        assert_eq!(counted.experts.saved_share(), None);
        assert_eq!(counted.experts.saved_bytes_share(), None);
    }

    #[test]
    fn absurd_sizes_saturate() {
        let work =
            ExpertWork { macs_per_token_expert: u64::MAX, bytes_per_expert: u64::MAX, ..olmoe(&[1; 8]) };
        let counted = layer(work).experts;
        assert_eq!((counted.executed_macs, counted.iso_total_macs), (u64::MAX, u64::MAX));
        assert_eq!(counted + counted, ExpertCounts { tokens: 2, pairs: 16, distinct: 2, ..counted });
    }

    #[test]
    fn the_twins_of_a_model_replace_its_experts_and_the_iso_active_one_its_routers() {
        let mut counts = Counts::default();
        counts.outside[Part::LmHead.index()].macs = 1_000;
        let mut layer = LayerCounts::default();
        layer.parts[Part::Router.index()] = Work { macs: 70, weight_bytes: 7, cache_bytes: 0 };
        layer.add_experts(ExpertWork {
            layer: 0,
            tokens: 2,
            n_experts: 8,
            top_k: 2,
            experts: &[0, 1, 0, 5],
            macs_per_token_expert: 50,
            bytes_per_expert: 100,
        });
        counts.layers.insert(0, layer);
        assert_eq!(counts.total(), Work { macs: 1_270, weight_bytes: 307, cache_bytes: 0 });
        assert_eq!(counts.iso_total(), Work { macs: 1_870, weight_bytes: 807, cache_bytes: 0 });
        assert_eq!(counts.iso_active(), Work { macs: 1_200, weight_bytes: 200, cache_bytes: 0 });
        let without = counts.without(Part::Router);
        assert_eq!((without.total().macs, without.part(Part::Router)), (1_200, Work::default()));
        assert_eq!(without.experts(), counts.experts());
    }

    #[test]
    fn a_layer_that_did_not_run_in_the_window_is_absent() {
        let ids = ids();
        let ran = |layers: &[usize]| Counts {
            layers: layers.iter().map(|&idx| (idx, layer(olmoe(&ids)))).collect(),
            ..Counts::default()
        };
        let window = &ran(&[0, 1]) - &ran(&[0]);
        assert_eq!(window, ran(&[1]));
        assert_eq!(window.routed_layers().map(|(idx, _)| idx).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_layer_whose_experts_did_not_run_in_the_window_has_no_list_of_them() {
        let mut before = Counts::default();
        before.layers.insert(0, layer(olmoe(&ids())));
        let mut after = before.clone();
        after.layers.get_mut(&0).expect("it is there").parts[Part::Attention.index()].macs = 5;
        let window = &after - &before;
        assert_eq!(window.layers[&0].tokens_per_expert, [0; 0]);
        assert_eq!(window.routed_layers().count(), 0);
        assert_eq!(window.total().macs, 5);
    }

    proptest! {
        #[test]
        fn no_twin_is_cheaper_than_its_definition_allows(
            n_experts in 1usize..300,
            tokens in 0usize..50,
            seed in 0usize..1000,
            macs in 1u64..1_000_000_000,
            bytes in 0u64..1_000_000_000,
        ) {
            let top_k = 1 + seed % n_experts;
            let experts: Vec<u32> =
                (0..tokens).flat_map(|t| (0..top_k).map(move |j| ((seed * t + j) % n_experts) as u32)).collect();
            let counted = layer(ExpertWork {
                layer: 0, tokens, n_experts, top_k, experts: &experts, macs_per_token_expert: macs, bytes_per_expert: bytes,
            });
            let experts = counted.experts;
            prop_assert!(experts.executed_macs <= experts.iso_total_macs);
            prop_assert!(experts.weight_bytes <= experts.iso_total_weight_bytes);
            prop_assert!(experts.iso_active_weight_bytes <= experts.weight_bytes);
            prop_assert_eq!(counted.tokens_per_expert.iter().sum::<u64>(), experts.pairs);
            if let Some(saved) = experts.saved_share() {
                let ideal = 1.0 - top_k as f64 / n_experts as f64;
                prop_assert!((saved - ideal).abs() < 1e-12, "{} against {}", saved, ideal);
            }
        }
    }
}
