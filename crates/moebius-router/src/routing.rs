//! The router's answer: which experts each token visits, and with which weight.
//!
//! Shapes: ids and weights are `[tokens, top_k]`, row-major; where a router drops experts, `[pairs]` with at most `top_k`
//! of them for a token.
//! Invariants: the ids of a token ascend strictly and are below `n_experts`; every weight is finite; the
//! number of pairs fits 32 bits.

use std::ops::Range;

use crate::config::WeightTarget;
use crate::dispatch::Dispatch;
use crate::error::RouterError;

/// The chosen experts and weights of a batch of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    n_experts: usize,
    top_k: usize,
    experts: Vec<u32>, // [pairs]
    weights: Vec<f32>, // [pairs]
    /// `[tokens]`: where the pairs of each token end; empty where each has `top_k`.
    ends: Vec<u32>,
    applies_to: WeightTarget,
}

impl Routing {
    /// A routing from another source than a [`Router`](crate::Router): a recorded trace, a test.
    ///
    /// `experts` and `weights` are `[tokens, top_k]` with the ids of each token in ascending order.
    ///
    /// # Errors
    /// [`RouterError::Parts`] for lengths that disagree, an id out of range or out of order, or a weight that
    /// is not finite; [`RouterError::TooManyPairs`] beyond 32-bit indices.
    pub fn from_parts(
        n_experts: usize,
        top_k: usize,
        experts: Vec<u32>,
        weights: Vec<f32>,
        applies_to: WeightTarget,
    ) -> Result<Self, RouterError> {
        check_lengths((n_experts, top_k), &experts, &weights)?;
        for (token, ids) in experts.chunks_exact(top_k).enumerate() {
            check_token(n_experts, token, ids)?;
        }
        check_weights(&weights)?;
        Ok(Self::from_valid((n_experts, top_k), experts, weights, Vec::new(), applies_to))
    }

    /// A routing from places: each token has `top_k` of them, and one with the id `n_experts` is empty. What a device that
    /// routes by itself gives back.
    ///
    /// # Errors
    /// Those of [`from_parts`](Self::from_parts), and [`RouterError::Parts`] for a token without an expert or with one
    /// after an empty place.
    pub fn from_places(
        n_experts: usize,
        top_k: usize,
        experts: &[u32],
        weights: &[f32],
        applies_to: WeightTarget,
    ) -> Result<Self, RouterError> {
        check_lengths((n_experts, top_k), experts, weights)?;
        let (mut ids, mut kept, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for (places, weights) in experts.chunks_exact(top_k).zip(weights.chunks_exact(top_k)) {
            let taken = places.iter().filter(|&&id| id as usize != n_experts).count();
            if taken == 0 {
                let expected = format!("an expert for token {}", ends.len());
                return Err(RouterError::Parts { field: "experts", expected, got: format!("{places:?}") });
            }
            check_token(n_experts, ends.len(), &places[..taken])?;
            ids.extend_from_slice(&places[..taken]);
            kept.extend_from_slice(&weights[..taken]);
            ends.push(ids.len() as u32); // `check_lengths` has bounded it
        }
        check_weights(&kept)?;
        Ok(Self::from_valid((n_experts, top_k), ids, kept, ends, applies_to))
    }

    /// A routing over `(n_experts, top_k)`; `ends` may be empty where each token has `top_k` pairs.
    pub(crate) fn from_valid(
        (n_experts, top_k): (usize, usize),
        experts: Vec<u32>,
        weights: Vec<f32>,
        mut ends: Vec<u32>,
        applies_to: WeightTarget,
    ) -> Self {
        // One form for equal routings: most tokens drop nothing under a low threshold.
        if ends.len() * top_k == experts.len() {
            ends.clear();
        }
        Self { n_experts, top_k, experts, weights, ends, applies_to }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        if self.ends.is_empty() { self.experts.len() / self.top_k } else { self.ends.len() }
    }

    /// Number of (token, expert) pairs: `tokens * top_k`, less those that were dropped.
    pub fn pairs(&self) -> usize {
        self.experts.len()
    }

    /// Experts per token; most of them where experts are dropped.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// Number of experts to choose from.
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    /// What the weights multiply.
    pub fn applies_to(&self) -> WeightTarget {
        self.applies_to
    }

    /// The experts of a token, ascending, `[top_k]` or fewer.
    ///
    /// # Panics
    /// If `token` is not below [`tokens`](Self::tokens).
    pub fn experts(&self, token: usize) -> &[u32] {
        &self.experts[self.pairs_of(token..token + 1)]
    }

    /// The weights of a token in the order of its experts, `[top_k]` or fewer.
    ///
    /// # Panics
    /// If `token` is not below [`tokens`](Self::tokens).
    pub fn weights(&self, token: usize) -> &[f32] {
        &self.weights[self.pairs_of(token..token + 1)]
    }

    /// The experts of all tokens, token by token, `[pairs]`.
    pub fn all_experts(&self) -> &[u32] {
        &self.experts
    }

    /// The weights of all tokens, token by token, `[pairs]`.
    pub fn all_weights(&self) -> &[f32] {
        &self.weights
    }

    /// Experts and weights, token by token.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u32], &[f32])> {
        (0..self.tokens()).map(|token| (self.experts(token), self.weights(token)))
    }

    /// Where the pairs of consecutive `tokens` stand.
    pub(crate) fn pairs_of(&self, tokens: Range<usize>) -> Range<usize> {
        if self.ends.is_empty() {
            return tokens.start * self.top_k..tokens.end * self.top_k;
        }
        let end = |tokens: usize| if tokens == 0 { 0 } else { self.ends[tokens - 1] as usize };
        end(tokens.start)..end(tokens.end)
    }

    /// The same choice with every expert named, those that were not chosen with weight zero: what the iso-total dense twin
    /// runs. Experts add up in ascending id, so the sum is the same.
    ///
    /// # Errors
    /// [`RouterError::TooManyPairs`] beyond 32-bit indices.
    pub fn over_all_experts(&self) -> Result<Self, RouterError> {
        let pairs = self.tokens().saturating_mul(self.n_experts);
        check_pairs(pairs)?;
        let mut weights = vec![0.0; pairs];
        for ((ids, chosen), all) in self.iter().zip(weights.chunks_exact_mut(self.n_experts)) {
            ids.iter().zip(chosen).for_each(|(&id, &weight)| all[id as usize] = weight);
        }
        let experts = (0..self.tokens()).flat_map(|_| 0..self.n_experts as u32).collect();
        Ok(Self::from_valid((self.n_experts, self.n_experts), experts, weights, Vec::new(), self.applies_to))
    }

    /// The same pairs grouped by expert: what expert kernels want.
    pub fn dispatch(&self) -> Dispatch {
        Dispatch::new(self)
    }
}

fn refuse(field: &'static str, expected: String, got: String) -> Result<(), RouterError> {
    Err(RouterError::Parts { field, expected, got })
}

/// Checks that `[tokens, top_k]` ids and weights are whole and can be counted.
fn check_lengths(
    (n_experts, top_k): (usize, usize),
    experts: &[u32],
    weights: &[f32],
) -> Result<(), RouterError> {
    if !(1..=n_experts).contains(&top_k) {
        return refuse("top_k", format!("1 to {n_experts}"), top_k.to_string());
    }
    if !experts.len().is_multiple_of(top_k) {
        return refuse("experts", format!("a multiple of {top_k} ids"), experts.len().to_string());
    }
    if weights.len() != experts.len() {
        return refuse("weights", format!("{} values", experts.len()), weights.len().to_string());
    }
    check_pairs(experts.len())
}

/// Checks that the ids of a token ascend and are there.
fn check_token(n_experts: usize, token: usize, ids: &[u32]) -> Result<(), RouterError> {
    if ids.iter().all(|&id| (id as usize) < n_experts) && ids.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    refuse("experts", format!("ascending ids below {n_experts} for token {token}"), format!("{ids:?}"))
}

fn check_weights(weights: &[f32]) -> Result<(), RouterError> {
    match weights.iter().find(|weight| !weight.is_finite()) {
        Some(weight) => refuse("weights", "finite numbers".into(), weight.to_string()),
        None => Ok(()),
    }
}

/// Checks that pairs, and so tokens, can be counted in 32 bits.
pub(crate) fn check_pairs(pairs: usize) -> Result<(), RouterError> {
    if u32::try_from(pairs).is_ok() { Ok(()) } else { Err(RouterError::TooManyPairs { pairs }) }
}
