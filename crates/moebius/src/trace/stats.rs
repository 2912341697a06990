//! What a trace says of each layer, added up in one pass.
//!
//! Co-activation: with `p(a)` the share of tokens that chose expert `a` and `p(a, b)` that which chose both, the lift is
//! `p(a, b) / (p(a) p(b))`; 1 is chance. Reuse: the share of a token's experts that the token before it in its sequence
//! had chosen too. Entropy of the weights: `-sum w ln w / ln k` with weights that sum to 1; 1 is even.
//!
//! Shapes: loads `[experts]`, co-activations `[experts, experts]`.
//! Invariants: what the trace does not tell, such as anything of single tokens in one of counts, is `None`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use moebius_router::ExpertLoad;

use super::TokenRoutes;
use super::header::{TraceHeader, TraceKind, TraceLayer};
use super::reader::{TraceReader, TraceRecord, add_to};
use crate::{LayerRoute, Result};

/// Pairs of more experts than this are not counted: no picture of them can be read, and memory grows with the square.
const MAX_PAIRED_EXPERTS: usize = 512;

/// What a trace says.
#[derive(Clone, Debug)]
pub struct TraceStats {
    /// Its header.
    pub header: TraceHeader,
    /// Tokens that were routed.
    pub tokens: u64,
    /// Sequences that they belong to; `None` in a trace of counts.
    pub sequences: Option<u64>,
    /// Forward passes; `None` in a trace of counts.
    pub steps: Option<u64>,
    /// Bytes after the last whole record: what a program that was killed left.
    pub incomplete_bytes: usize,
    /// By layer, in the header's order.
    pub layers: Vec<LayerTraceStats>,
}

/// What a trace says of one layer.
#[derive(Clone, Debug)]
pub struct LayerTraceStats {
    /// Which layer, of how many experts.
    pub layer: TraceLayer,
    /// How often each expert was chosen.
    pub load: ExpertLoad,
    /// Experts of a token on average; `None` without tokens.
    pub experts_per_token: Option<f64>,
    /// Mean entropy of a token's weights, 0 to 1; `None` without weights or with one expert a token.
    pub weight_entropy: Option<f64>,
    /// Mean share of the largest weight of a token in its sum; `None` without weights.
    pub largest_weight_share: Option<f64>,
    /// Mean share of a token's experts that the token before it had too; `None` where none follows another.
    pub reuse: Option<f64>,
    /// Which experts go together; `None` in a trace of counts and for very many experts.
    pub coactivation: Option<Coactivation>,
}

/// How often two experts of a layer were chosen together.
#[derive(Clone, Debug)]
pub struct Coactivation {
    n_experts: usize,
    /// `[experts, experts]`, symmetric; on the diagonal how often each was chosen.
    counts: Vec<u32>,
    tokens: u64,
}

/// Two experts that go together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLift {
    /// The lower id.
    pub first: u32,
    /// The higher id.
    pub second: u32,
    /// Tokens that chose both.
    pub tokens: u64,
    /// Times as often as by chance.
    pub lift: f64,
}

impl TraceStats {
    /// Reads the trace at `path`.
    ///
    /// # Errors
    /// Those of [`TraceReader`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = TraceReader::open(path)?;
        let header = reader.header().clone();
        let mut sums: Vec<LayerSums> = header.layers.iter().map(LayerSums::new).collect();
        let mut loads: Vec<ExpertLoad> =
            header.layers.iter().map(|layer| ExpertLoad::new(layer.experts as usize)).collect();
        let (mut last, mut steps) = (HashMap::<u32, TokenRoutes>::new(), HashSet::new());
        for record in reader.by_ref() {
            let record = record?;
            add_to(&mut loads, &record);
            let TraceRecord::Token(token) = record else { continue };
            let before = last
                .get(&token.sequence)
                .filter(|before| Some(token.position) == before.position.checked_add(1));
            for (index, (sums, route)) in sums.iter_mut().zip(&token.routes).enumerate() {
                sums.add(route, before.map(|before| &before.routes[index]));
            }
            steps.insert(token.step);
            last.insert(token.sequence, token);
        }
        let of_tokens = header.kind == TraceKind::Tokens;
        let known = |number: usize| of_tokens.then_some(number as u64);
        Ok(TraceStats {
            tokens: loads.first().map_or(0, ExpertLoad::tokens),
            sequences: known(last.len()),
            steps: known(steps.len()),
            incomplete_bytes: reader.incomplete_bytes(),
            layers: sums.into_iter().zip(loads).map(|(sums, load)| sums.finish(load, of_tokens)).collect(),
            header,
        })
    }
}

impl Coactivation {
    /// Tokens that chose both experts; on the diagonal those that chose the one.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn tokens(&self, first: usize, second: usize) -> u64 {
        u64::from(self.counts[first * self.n_experts + second])
    }

    /// Times as often as by chance that two experts were chosen together; `None` where one was never chosen.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn lift(&self, first: usize, second: usize) -> Option<f64> {
        let alone = self.tokens(first, first) as f64 * self.tokens(second, second) as f64;
        (alone > 0.0).then(|| self.tokens(first, second) as f64 * self.tokens as f64 / alone)
    }

    /// The pairs that say most, by how far their number is above chance: `p(a, b) ln lift`, the largest first.
    pub fn strongest(&self, pairs: usize) -> Vec<PairLift> {
        let mut found: Vec<PairLift> = (0..self.n_experts)
            .flat_map(|first| (first + 1..self.n_experts).map(move |second| (first, second)))
            .filter_map(|(first, second)| {
                let (tokens, lift) = (self.tokens(first, second), self.lift(first, second)?);
                (lift > 1.0).then_some(PairLift { first: first as u32, second: second as u32, tokens, lift })
            })
            .collect();
        let says = |pair: &PairLift| pair.tokens as f64 * pair.lift.ln();
        found.sort_by(|a, b| says(b).total_cmp(&says(a)).then((a.first, a.second).cmp(&(b.first, b.second))));
        found.truncate(pairs);
        found
    }
}

/// What is added up of a layer beside its load.
struct LayerSums {
    layer: TraceLayer,
    /// `[experts, experts]`, empty where there are too many.
    pairs: Vec<u32>,
    entropy: Mean,
    largest: Mean,
    reuse: Mean,
}

/// A mean under way.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl LayerSums {
    fn new(layer: &TraceLayer) -> Self {
        let n_experts = Some(layer.experts as usize).filter(|&n| n <= MAX_PAIRED_EXPERTS).unwrap_or(0);
        let (entropy, largest, reuse) = Default::default();
        LayerSums { layer: *layer, pairs: vec![0; n_experts * n_experts], entropy, largest, reuse }
    }

    fn add(&mut self, route: &LayerRoute, before: Option<&LayerRoute>) {
        if !self.pairs.is_empty() {
            for &first in &route.experts {
                for &second in &route.experts {
                    let cell =
                        &mut self.pairs[first as usize * self.layer.experts as usize + second as usize];
                    *cell = cell.saturating_add(1);
                }
            }
        }
        if let Some(before) = before.filter(|_| !route.experts.is_empty()) {
            let known = |id: &&u32| before.experts.binary_search(id).is_ok();
            self.reuse.add(route.experts.iter().filter(known).count() as f64 / route.experts.len() as f64);
        }
        let sum: f64 = route.weights.iter().map(|&weight| f64::from(weight.abs())).sum();
        if sum > 0.0 {
            let shares = || {
                route.weights.iter().map(|&weight| f64::from(weight.abs()) / sum).filter(|&share| share > 0.0)
            };
            self.largest.add(shares().fold(0.0, f64::max));
            if self.layer.k > 1 {
                let entropy: f64 = shares().map(|share| share * share.recip().ln()).sum();
                self.entropy.add(entropy / f64::from(self.layer.k).ln());
            }
        }
    }

    fn finish(self, load: ExpertLoad, of_tokens: bool) -> LayerTraceStats {
        let tokens = load.tokens();
        let pairs = load.counts().iter().sum::<u64>();
        let n_experts = self.layer.experts as usize;
        let coactivation = (of_tokens && !self.pairs.is_empty()).then_some(Coactivation {
            n_experts,
            counts: self.pairs,
            tokens,
        });
        LayerTraceStats {
            layer: self.layer,
            experts_per_token: (tokens > 0).then(|| pairs as f64 / tokens as f64),
            weight_entropy: self.entropy.get(),
            largest_weight_share: self.largest.get(),
            reuse: self.reuse.get(),
            coactivation,
            load,
        }
    }
}
