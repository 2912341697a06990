//! Who has a place: the decisions of the cache without its memory, for the cache itself and for the simulator.
//!
//! A *visit* is one step of one layer: it asks for its experts in ascending id. At most [`WINDOW`] of them are under way
//! at a time and keep their places; those before them have been computed. So a long visit, such as a prompt's, passes
//! through a few places and leaves the others as they were.
//!
//! Invariants: what happens depends on the requests alone, never on what arrives when; an expert that is under way keeps
//! its place; no more experts have places than there are.

use std::collections::BTreeSet;

use crate::CachePolicy;
use crate::policy::Ranking;

/// Experts of a visit that are under way at a time.
pub(crate) const WINDOW: usize = 16;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// It has a place already.
    Hit,
    /// It gets a place, which another one may have to leave.
    Miss { leaves: Option<usize> },
}

/// The places and who has them.
#[derive(Clone, Debug)]
pub(crate) struct Residency {
    capacity: usize,
    ranking: Ranking,
    resident: BTreeSet<usize>,
    /// The visit's experts, ascending, and how many of them have been asked for.
    visit: Vec<usize>,
    asked: usize,
}

impl Residency {
    /// `capacity` places, at least one.
    pub(crate) fn new(policy: CachePolicy, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Residency::ranked(Ranking::new(policy, capacity), capacity)
    }

    /// Places with another order of leaving.
    pub(crate) fn ranked(ranking: Ranking, capacity: usize) -> Self {
        let (resident, visit) = Default::default();
        Residency { capacity: capacity.max(1), ranking, resident, visit, asked: 0 }
    }

    /// Experts of a layer, and the number of the first.
    pub(crate) fn add_layer(&mut self, layer: usize, n_experts: usize) -> usize {
        self.ranking.add_layer(layer, n_experts)
    }

    /// Begins a visit of `units`, ascending, and says how many of them may be under way at a time.
    pub(crate) fn begin(&mut self, units: &[usize]) -> usize {
        self.visit = units.to_vec();
        self.asked = 0;
        self.window()
    }

    /// Asks for the next expert of the visit. Those that are farther back than the window have been computed.
    pub(crate) fn request(&mut self) -> Option<(usize, Request)> {
        let &unit = self.visit.get(self.asked)?;
        let request = if self.resident.contains(&unit) {
            Request::Hit
        } else {
            let full = self.resident.len() >= self.capacity;
            let leaves = if full { self.victim(unit) } else { None };
            if let Some(leaves) = leaves {
                self.forget(leaves);
            }
            self.resident.insert(unit);
            self.ranking.entered(unit);
            Request::Miss { leaves }
        };
        self.ranking.asked(unit);
        self.asked += 1;
        Some((unit, request))
    }

    /// Takes the place of an expert that could not be fetched.
    pub(crate) fn forget(&mut self, unit: usize) {
        if self.resident.remove(&unit) {
            self.ranking.left(unit);
        }
    }

    /// Whether an expert has a place.
    pub(crate) fn has(&self, unit: usize) -> bool {
        self.resident.contains(&unit)
    }

    /// How many experts of a range have places.
    pub(crate) fn count(&self, units: std::ops::Range<usize>) -> usize {
        self.resident.range(units).count()
    }

    fn window(&self) -> usize {
        WINDOW.min(self.capacity)
    }

    fn victim(&self, newcomer: usize) -> Option<usize> {
        let under_way = (self.asked + 1).saturating_sub(self.window())..self.asked;
        let key = |unit: usize| -> Option<(u8, (u64, u64))> {
            let place = self.visit.binary_search(&unit).ok();
            let rank = || self.ranking.rank(unit, newcomer);
            match place {
                Some(place) if under_way.contains(&place) => None,
                _ if self.ranking.is_clairvoyant() => Some((0, rank())),
                // Its layer's turn comes again after those of all others.
                Some(place) if place < self.asked => Some((0, rank())),
                None => Some((1, rank())),
                // The visit needs it soon, the last ones latest.
                Some(place) => Some((2, (u64::MAX - place as u64, 0))),
            }
        };
        let keyed = self.resident.iter().filter_map(|&unit| Some((key(unit)?, unit)));
        keyed.min().map(|(_, unit)| unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(residency: &mut Residency, units: &[usize]) -> Vec<Request> {
        residency.begin(units);
        std::iter::from_fn(|| residency.request()).map(|(_, request)| request).collect()
    }

    const FRESH: Request = Request::Miss { leaves: None };

    #[test]
    fn what_the_visit_needs_stays() {
        let mut residency = Residency::new(CachePolicy::Lru, 3);
        residency.add_layer(0, 8);
        assert_eq!(visit(&mut residency, &[0, 1, 2]), [FRESH; 3]);
        // 0 is the oldest, but the visit is going to ask for it.
        assert_eq!(
            visit(&mut residency, &[0, 3, 4]),
            [Request::Hit, Request::Miss { leaves: Some(1) }, Request::Miss { leaves: Some(2) }]
        );
    }

    #[test]
    fn a_visit_of_more_experts_than_places_passes_through_them() {
        let mut residency = Residency::new(CachePolicy::Lru, 2);
        residency.add_layer(0, 8);
        visit(&mut residency, &[0, 1]);
        let requests = visit(&mut residency, &[0, 1, 2, 3]);
        assert_eq!(requests[..2], [Request::Hit; 2]);
        assert_eq!(requests[2..], [Request::Miss { leaves: Some(0) }, Request::Miss { leaves: Some(1) }]);
        assert_eq!(residency.count(0..8), 2);
    }

    #[test]
    fn one_place_is_enough() {
        let mut residency = Residency::new(CachePolicy::Layer, 0);
        residency.add_layer(0, 4);
        let requests = visit(&mut residency, &[1, 2, 3]);
        assert_eq!(requests, [FRESH, Request::Miss { leaves: Some(1) }, Request::Miss { leaves: Some(2) }]);
        assert!(residency.has(3) && !residency.has(1));
    }

    #[test]
    fn a_long_visit_leaves_what_other_layers_have() {
        let places = 40;
        let mut residency = Residency::new(CachePolicy::Lru, places);
        let (first, second) = (residency.add_layer(0, 64), residency.add_layer(1, 64));
        let hot: Vec<usize> = (first..first + 20).collect();
        visit(&mut residency, &hot);
        visit(&mut residency, &(second..second + 64).collect::<Vec<_>>());
        assert_eq!(residency.count(0..64), 20);
        assert_eq!(residency.count(0..128), places);
    }

    #[test]
    fn what_could_not_be_fetched_is_missed_again() {
        let mut residency = Residency::new(CachePolicy::Lfu, 2);
        residency.add_layer(0, 4);
        visit(&mut residency, &[1]);
        residency.forget(1);
        assert_eq!(visit(&mut residency, &[1]), [FRESH]);
    }
}
