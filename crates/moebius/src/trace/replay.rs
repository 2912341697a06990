//! A trace as a cache of experts would have seen it.
//!
//! Invariants: a visit is one step of one layer with the distinct experts of its tokens, in the order of the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use moebius_backend_constrained::{CachePolicy, Replay, Replayed};

use super::reader::{TraceReader, TraceRecord};
use crate::{Error, Result};

/// A policy that misses this many times as often as is unavoidable fails, if many requests are concerned. What is asked for
/// the first time is not counted: it has to come, whatever fits.
const FAILING: f64 = 2.0;
/// The share of requests whose misses matter.
const MATTERS: f64 = 0.1;

/// A trace that caches of any size can be tried on.
#[derive(Clone, Debug)]
pub struct CacheTrace {
    replay: Replay,
    tokens: u64,
}

/// What came of one size and policy.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheTrial {
    /// The policy's name.
    pub policy: &'static str,
    /// Experts that had places.
    pub places: usize,
    /// What one who knows all that comes would have missed.
    pub unavoidable: u64,
    /// Experts that were asked for at all, each of which is missed once.
    pub first: u64,
    /// Hits and misses, by layer.
    pub replayed: Replayed,
}

/// What is to blame for misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheVerdict {
    /// Few requests miss.
    Fits,
    /// Many miss, and most of them need not.
    PolicyFailure,
    /// Many miss, whoever decides.
    WorkingSetDoesNotFit,
}

impl CacheVerdict {
    /// The verdict in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CacheVerdict::Fits => "fits",
            CacheVerdict::PolicyFailure => "policy failure",
            CacheVerdict::WorkingSetDoesNotFit => "working set does not fit",
        }
    }
}

impl CacheTrial {
    /// What is to blame.
    #[must_use]
    pub fn verdict(&self) -> CacheVerdict {
        let (misses, all) =
            (self.replayed.all_misses(), self.replayed.all_misses() + self.replayed.all_hits());
        let again = |misses: u64| misses.saturating_sub(self.first) as f64;
        if again(misses) <= MATTERS * all as f64 {
            CacheVerdict::Fits
        } else if again(misses) > FAILING * again(self.unavoidable) {
            CacheVerdict::PolicyFailure
        } else {
            CacheVerdict::WorkingSetDoesNotFit
        }
    }
}

impl CacheTrace {
    /// Reads a trace.
    ///
    /// # Errors
    /// Those of reading; [`Error::Trace`] for a trace of counts, which tells no order.
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = TraceReader::open(path)?;
        let layers: Vec<(usize, usize)> =
            reader.header().layers.iter().map(|layer| (layer.layer, layer.experts as usize)).collect();
        let mut trace = CacheTrace { replay: Replay { layers, visits: Vec::new() }, tokens: 0 };
        let mut step: Option<u32> = None;
        let mut chosen: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for record in reader.by_ref() {
            let TraceRecord::Token(token) = record? else {
                let reason = "expected the choices of each token, got counts".into();
                return Err(Error::Trace { path: path.into(), reason });
            };
            if step.replace(token.step) != Some(token.step) {
                trace.visit(std::mem::take(&mut chosen));
            }
            trace.tokens += 1;
            for (position, route) in token.routes.iter().enumerate() {
                chosen.entry(position).or_default().extend(route.experts.iter().map(|&id| id as usize));
            }
        }
        trace.visit(chosen);
        Ok(trace)
    }

    /// The step that ended.
    fn visit(&mut self, chosen: BTreeMap<usize, BTreeSet<usize>>) {
        let visits = chosen.into_iter().filter(|(_, experts)| !experts.is_empty());
        self.replay.visits.extend(visits.map(|(layer, experts)| (layer, experts.into_iter().collect())));
    }

    /// Experts of all layers.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.replay.units()
    }

    /// Tokens that were routed.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The policy of a name; `hot` knows what this very trace uses most.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<CachePolicy> {
        match name {
            "hot" => Some(CachePolicy::Hot(self.replay.heat().into())),
            name => CachePolicy::named(name),
        }
    }

    /// What a policy does with so many places.
    #[must_use]
    pub fn run(&self, policy: &CachePolicy, places: usize) -> Replayed {
        self.replay.run(policy, places)
    }

    /// Tries each policy, and who knows all that comes, on so many places.
    #[must_use]
    pub fn trials(&self, policies: &[CachePolicy], places: usize) -> Vec<CacheTrial> {
        let best = self.replay.belady(places);
        let unavoidable = best.all_misses();
        let first = self.replay.used();
        let trial = |policy, replayed| CacheTrial { policy, places, unavoidable, first, replayed };
        let tried = policies.iter().map(|policy| trial(policy.name(), self.run(policy, places)));
        let mut trials: Vec<CacheTrial> = tried.collect();
        trials.push(trial("belady", best));
        trials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict where ten misses of each are of experts that were asked for the first time.
    fn trial(hits: u64, misses: u64, unavoidable: u64) -> CacheVerdict {
        let replayed = Replayed { hits: vec![hits], misses: vec![misses + 10] };
        let unavoidable = unavoidable + 10;
        CacheTrial { policy: "lru", places: 1, unavoidable, first: 10, replayed }.verdict()
    }

    #[test]
    fn a_verdict_blames_the_policy_only_for_what_another_could_avoid() {
        assert_eq!(trial(95, 5, 1), CacheVerdict::Fits);
        assert_eq!(trial(0, 0, 0), CacheVerdict::Fits);
        assert_eq!(trial(50, 50, 24), CacheVerdict::PolicyFailure);
        assert_eq!(trial(50, 50, 25), CacheVerdict::WorkingSetDoesNotFit);
    }
}
