//! Which expert leaves when another one needs its place: pure rules without memory, files or clocks.
//!
//! Invariants: an order depends on what was asked for before and on nothing else; ties go to the lower id. The live cache
//! and the simulator rank by the same code.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// How often each expert was used, by layer and id: which experts are hot.
pub type Heat = BTreeMap<usize, Vec<u64>>;

/// A rule for what leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// The one that was used longest ago.
    #[default]
    Lru,
    /// The one that was used least often, and of those the one longest ago.
    Lfu,
    /// As LFU, with counts that are halved from time to time, so that old use is forgotten.
    Lfru,
    /// The one that was used least in another run; of equals the one longest ago.
    Hot(Arc<Heat>),
    /// As LRU, with an equal share of the places for each layer.
    Layer,
}

impl CachePolicy {
    /// Names of the policies; `hot` needs counts besides.
    pub const NAMES: [&'static str; 5] = ["lru", "lfu", "lfru", "hot", "layer"];

    /// The policy of a name that needs nothing else.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "lru" => Some(CachePolicy::Lru),
            "lfu" => Some(CachePolicy::Lfu),
            "lfru" => Some(CachePolicy::Lfru),
            "layer" => Some(CachePolicy::Layer),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            CachePolicy::Lru => "lru",
            CachePolicy::Lfu => "lfu",
            CachePolicy::Lfru => "lfru",
            CachePolicy::Hot(_) => "hot",
            CachePolicy::Layer => "layer",
        }
    }
}

impl fmt::Display for CachePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a policy knows of an expert.
#[derive(Clone, Debug, Default)]
struct Use {
    layer: usize,
    /// Number of the request that asked for it last.
    last: u64,
    /// How often it was asked for, in steps of [`ONE`] so that halves count too.
    count: u64,
    heat: u64,
}

/// One request.
const ONE: u64 = 1 << 16;
/// Requests after which counts are halved, for each expert there is.
const HALVED_AFTER: u64 = 4;

/// The state of a policy, for experts that are numbered from 0.
#[derive(Clone, Debug)]
pub(crate) struct Ranking {
    rule: Rule,
    uses: Vec<Use>,
    requests: u64,
    /// Places, and those that the experts of each layer hold.
    capacity: usize,
    held: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug)]
enum Rule {
    Policy(CachePolicy),
    /// When each expert will be asked for, the next time first.
    Future(Vec<VecDeque<u64>>),
}

impl Ranking {
    pub(crate) fn new(policy: CachePolicy, capacity: usize) -> Self {
        let (uses, held) = Default::default();
        Ranking { rule: Rule::Policy(policy), uses, requests: 0, capacity, held }
    }

    /// The order of one who knows what comes (Belady 1966): `requests` are all there will be.
    pub(crate) fn clairvoyant(requests: &[usize], capacity: usize) -> Self {
        let mut future: Vec<VecDeque<u64>> = Vec::new();
        for (time, &unit) in requests.iter().enumerate() {
            if unit >= future.len() {
                future.resize_with(unit + 1, VecDeque::new);
            }
            future[unit].push_back(time as u64);
        }
        Ranking { rule: Rule::Future(future), ..Ranking::new(CachePolicy::Lru, capacity) }
    }

    /// Whether it knows what comes, and needs no other rule.
    pub(crate) fn is_clairvoyant(&self) -> bool {
        matches!(self.rule, Rule::Future(_))
    }

    /// Experts of a layer, and the number of the first.
    pub(crate) fn add_layer(&mut self, layer: usize, n_experts: usize) -> usize {
        let first = self.uses.len();
        let heat = |expert: usize| match &self.rule {
            Rule::Policy(CachePolicy::Hot(heat)) => {
                heat.get(&layer).and_then(|counts| counts.get(expert)).copied().unwrap_or(0)
            }
            _ => 0,
        };
        let uses = (0..n_experts).map(|expert| Use { layer, heat: heat(expert), ..Use::default() });
        let uses: Vec<Use> = uses.collect();
        self.uses.extend(uses);
        self.held.entry(layer).or_default();
        first
    }

    /// An expert was asked for.
    pub(crate) fn asked(&mut self, unit: usize) {
        self.requests += 1;
        if let Rule::Future(future) = &mut self.rule {
            future[unit].pop_front();
        }
        if self.requests.is_multiple_of(HALVED_AFTER * self.uses.len() as u64)
            && matches!(self.rule, Rule::Policy(CachePolicy::Lfru))
        {
            self.uses.iter_mut().for_each(|of| of.count /= 2);
        }
        let of = &mut self.uses[unit];
        of.last = self.requests;
        of.count = of.count.saturating_add(ONE);
    }

    /// An expert took a place.
    pub(crate) fn entered(&mut self, unit: usize) {
        *self.held.entry(self.uses[unit].layer).or_default() += 1;
    }

    /// An expert lost its place.
    pub(crate) fn left(&mut self, unit: usize) {
        if let Some(held) = self.held.get_mut(&self.uses[unit].layer) {
            *held = held.saturating_sub(1);
        }
    }

    /// What is compared: of two experts the one with the lower rank leaves when `newcomer` comes.
    pub(crate) fn rank(&self, unit: usize, newcomer: usize) -> (u64, u64) {
        let of = &self.uses[unit];
        match &self.rule {
            Rule::Future(future) => (u64::MAX - future[unit].front().copied().unwrap_or(u64::MAX), 0),
            Rule::Policy(CachePolicy::Lru) => (of.last, 0),
            Rule::Policy(CachePolicy::Lfu | CachePolicy::Lfru) => (of.count, of.last),
            Rule::Policy(CachePolicy::Hot(_)) => (of.heat, of.last),
            Rule::Policy(CachePolicy::Layer) => (self.claim(of.layer, self.uses[newcomer].layer), of.last),
        }
    }

    /// How well a layer's experts stand when one of `newcomer`'s layer comes: a layer that has its share pays with its
    /// own, another takes from the layer that has most.
    fn claim(&self, layer: usize, newcomer: usize) -> u64 {
        let held = |layer| self.held.get(&layer).copied().unwrap_or(0);
        let share = self.capacity / self.held.len().max(1);
        if layer == newcomer && held(layer) >= share { 0 } else { u64::MAX - held(layer) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of units 0 to 3, two in each of two layers, the one that leaves when `newcomer` comes.
    fn leaves(policy: CachePolicy, asked: &[usize], newcomer: usize) -> usize {
        let mut ranking = Ranking::new(policy, 4);
        ranking.add_layer(0, 2);
        ranking.add_layer(5, 3);
        (0..4).for_each(|unit| ranking.entered(unit));
        asked.iter().for_each(|&unit| ranking.asked(unit));
        (0..4).min_by_key(|&unit| ranking.rank(unit, newcomer)).unwrap()
    }

    #[test]
    fn each_policy_has_its_own_victim() {
        let asked = [0, 0, 0, 1, 1, 2, 3, 1];
        let heat: Heat = [(0, vec![1, 9]), (5, vec![7, 8])].into();
        assert_eq!(leaves(CachePolicy::Lru, &asked, 4), 0);
        assert_eq!(leaves(CachePolicy::Lfu, &asked, 4), 2);
        assert_eq!(leaves(CachePolicy::Hot(heat.into()), &asked, 4), 0);
        assert_eq!(leaves(CachePolicy::Layer, &asked, 4), 2);
        assert_eq!(leaves(CachePolicy::Layer, &asked, 0), 0);
    }

    #[test]
    fn ties_go_to_the_lower_id() {
        for name in CachePolicy::NAMES {
            let policy = CachePolicy::named(name).unwrap_or(CachePolicy::Hot(Arc::default()));
            assert_eq!(leaves(policy.clone(), &[], 0), 0, "{policy}");
            assert_eq!(policy.name(), name);
        }
    }

    #[test]
    fn old_use_is_forgotten_by_lfru_alone() {
        let asked: Vec<usize> = [0; 15].into_iter().chain([1; 9]).chain([2, 3].repeat(8)).collect();
        let asked = [asked, [0, 2, 3].repeat(20)].concat();
        assert_eq!((leaves(CachePolicy::Lfu, &asked, 4), leaves(CachePolicy::Lfru, &asked, 4)), (1, 1));
        let early = [vec![0; 60], [1, 2, 3].repeat(19)].concat();
        assert_eq!(leaves(CachePolicy::Lfu, &early, 4), 1);
        assert_eq!(leaves(CachePolicy::Lfru, &early, 4), 0);
    }

    #[test]
    fn who_knows_what_comes_lets_go_what_is_needed_last() {
        let mut ranking = Ranking::clairvoyant(&[0, 1, 2, 1, 2], 3);
        ranking.add_layer(0, 3);
        [0, 1, 2].into_iter().for_each(|unit| ranking.asked(unit));
        let mut order = [0, 1, 2];
        order.sort_by_key(|&unit| ranking.rank(unit, 0));
        assert_eq!(order, [0, 2, 1]);
    }
}
