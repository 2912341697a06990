//! What a cache would have done: replays visits without fetching anything.
//!
//! Invariants: decisions are those of the live cache, hit for hit, whatever it prefetches; nobody misses less often than
//! [`Replay::belady`] does.

use crate::CachePolicy;
use crate::policy::Ranking;
use crate::residency::{Request, Residency};

/// What was asked for: layers with experts, and visits of them in order.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Index of each layer and the number of its experts.
    pub layers: Vec<(usize, usize)>,
    /// Each a position in `layers` and the experts that some token chose there, ascending.
    pub visits: Vec<(usize, Vec<usize>)>,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Hits by layer, in the order of [`Replay::layers`].
    pub hits: Vec<u64>,
    /// Misses likewise.
    pub misses: Vec<u64>,
}

impl Replayed {
    /// Requests that found a place, of all; `None` if there were none.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let (hits, misses) = (self.all_hits(), self.all_misses());
        (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
    }

    /// Hits of all layers.
    #[must_use]
    pub fn all_hits(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// Misses of all layers.
    #[must_use]
    pub fn all_misses(&self) -> u64 {
        self.misses.iter().sum()
    }
}

impl Replay {
    /// Experts of all layers.
    #[must_use]
    pub fn units(&self) -> usize {
        self.layers.iter().map(|(_, experts)| experts).sum()
    }

    /// How often each expert is asked for.
    #[must_use]
    pub fn heat(&self) -> crate::Heat {
        let mut heat: crate::Heat =
            self.layers.iter().map(|&(layer, experts)| (layer, vec![0; experts])).collect();
        for (position, experts) in &self.visits {
            let counts = heat.get_mut(&self.layers[*position].0).expect("visits are of its layers");
            experts.iter().for_each(|&expert| counts[expert] += 1);
        }
        heat
    }

    /// Experts that are asked for at all: nobody misses fewer times.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.heat().values().flatten().filter(|&&count| count > 0).count() as u64
    }

    /// What `policy` does with so many places.
    #[must_use]
    pub fn run(&self, policy: &CachePolicy, capacity: usize) -> Replayed {
        self.through(Residency::new(policy.clone(), capacity))
    }

    /// What one does who knows all that comes (Belady 1966), and who like the others must take what is asked for and keep
    /// what is under way.
    #[must_use]
    pub fn belady(&self, capacity: usize) -> Replayed {
        let firsts: Vec<usize> = (self.layers.iter())
            .scan(0, |next, (_, experts)| Some(std::mem::replace(next, *next + experts)))
            .collect();
        let units = |(position, experts): &(usize, Vec<usize>)| {
            let first = firsts[*position];
            experts.iter().map(move |expert| first + expert).collect::<Vec<_>>()
        };
        let requests: Vec<usize> = self.visits.iter().flat_map(units).collect();
        self.through(Residency::ranked(Ranking::clairvoyant(&requests, capacity), capacity))
    }

    fn through(&self, mut residency: Residency) -> Replayed {
        let layers = self.layers.iter();
        let firsts: Vec<usize> =
            layers.map(|&(layer, experts)| residency.add_layer(layer, experts)).collect();
        let zeros = vec![0; self.layers.len()];
        let mut replayed = Replayed { hits: zeros.clone(), misses: zeros };
        for (position, experts) in &self.visits {
            let units: Vec<usize> = experts.iter().map(|expert| firsts[*position] + expert).collect();
            residency.begin(&units);
            while let Some((_, request)) = residency.request() {
                let counts = if request == Request::Hit { &mut replayed.hits } else { &mut replayed.misses };
                counts[*position] += 1;
            }
        }
        replayed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policies(heat: crate::Heat) -> Vec<CachePolicy> {
        let named = CachePolicy::NAMES.iter();
        named.map(|name| CachePolicy::named(name).unwrap_or(CachePolicy::Hot(heat.clone().into()))).collect()
    }

    #[test]
    fn a_loop_over_more_experts_than_places_defeats_lru_alone() {
        let visits = (0..90).map(|step| (0, vec![step % 3])).collect();
        let replay = Replay { layers: vec![(4, 3)], visits };
        assert_eq!(replay.run(&CachePolicy::Lru, 2).all_hits(), 0);
        // Of three in turn with two places, one who knows what comes misses every second time.
        assert_eq!(replay.belady(2).all_misses(), 2 + 44);
        assert_eq!(replay.run(&CachePolicy::Lru, 3).all_misses(), 3);
        assert_eq!(replay.heat(), [(4, vec![30; 3])].into());
    }

    fn replays() -> impl Strategy<Value = Replay> {
        let layers = prop::collection::vec(1usize..24, 1..4);
        layers.prop_flat_map(|experts| {
            let visit = (0..experts.len()).prop_flat_map({
                let experts = experts.clone();
                move |layer| {
                    let chosen = prop::collection::btree_set(0..experts[layer], 1..=experts[layer]);
                    (Just(layer), chosen.prop_map(|chosen| chosen.into_iter().collect()))
                }
            });
            let layers: Vec<_> = experts.iter().copied().enumerate().collect();
            prop::collection::vec(visit, 0..40)
                .prop_map(move |visits| Replay { layers: layers.clone(), visits })
        })
    }

    proptest! {
        #[test]
        fn nobody_beats_who_knows_what_comes(replay in replays(), capacity in 1usize..40) {
            let best = replay.belady(capacity).all_misses();
            for policy in policies(replay.heat()) {
                let replayed = replay.run(&policy, capacity);
                prop_assert!(best <= replayed.all_misses(), "{policy}: {} < {best}", replayed.all_misses());
            }
        }

        #[test]
        fn with_a_place_for_each_only_the_first_request_misses(replay in replays()) {
            let used = replay.used();
            for policy in policies(replay.heat()) {
                prop_assert_eq!(replay.run(&policy, replay.units()).all_misses(), used);
            }
        }
    }
}
