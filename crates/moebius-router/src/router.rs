//! The one router: a checked configuration applied to rows of logits.
//!
//! Per token: scores of the experts that are not masked, ranks (`score + bias`, or the raw logit where a score would
//! lose order), selection, dropping, weights.
//!
//! Shapes: logits `[tokens, n_experts]` in, [`Routing`] of at most `[tokens, top_k]` out.
//! Invariants: one scratch for all tokens; a token's result depends on its own row alone.

use crate::config::{RouterConfig, Score};
use crate::error::RouterError;
use crate::routing::{Routing, check_pairs};
use crate::score::{drop_light, finish_weights, sigmoid, softmax, softmax_in_place, sparse_mixer};
use crate::select::Selector;

/// Routes tokens to experts as its [`RouterConfig`] says.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    layer: usize,
    config: RouterConfig,
}

impl Router {
    /// Checks `config`; `layer` (counted from 0) names the router in errors.
    ///
    /// # Errors
    /// [`RouterError::Config`] names the first field that is out of range, of the wrong length, not finite,
    /// or at odds with another: every router that exists can route every row of ordinary numbers.
    pub fn new(layer: usize, config: RouterConfig) -> Result<Self, RouterError> {
        config.validate(layer)?;
        Ok(Self { layer, config })
    }

    /// The configuration that was checked.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// The decoder layer, counted from 0.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The same router with `top_k` experts per token.
    ///
    /// # Errors
    /// [`RouterError::Config`] if the formula does not allow it: out of range, not 2 for SparseMixer, not a
    /// divisor of the experts for one-per-group, more than the kept groups hold.
    pub fn with_top_k(&self, top_k: usize) -> Result<Self, RouterError> {
        Self::new(self.layer, RouterConfig { top_k, ..self.config.clone() })
    }

    /// Chooses experts and weights for every row of `logits` `[tokens, n_experts]`.
    ///
    /// Minus infinity is a legal logit (probability 0) as long as one logit of the row is finite.
    ///
    /// # Errors
    /// [`RouterError::LogitsLength`] if the rows are not whole, [`RouterError::NanLogit`],
    /// [`RouterError::InfiniteLogit`] or [`RouterError::NoExpertAllowed`] for the first row without an
    /// answer, [`RouterError::TooManyPairs`] beyond 32-bit indices.
    pub fn route(&self, logits: &[f32]) -> Result<Routing, RouterError> {
        let RouterConfig { n_experts, top_k, applies_to, .. } = self.config;
        if !logits.len().is_multiple_of(n_experts) {
            return Err(RouterError::LogitsLength { layer: self.layer, n_experts, len: logits.len() });
        }
        let pairs = logits.len() / n_experts * top_k;
        check_pairs(pairs)?;

        let mut experts = Vec::with_capacity(pairs);
        let mut weights = Vec::with_capacity(pairs);
        let mut ends = Vec::new();
        let mut scratch = Scratch::new(&self.config);
        let mut allowed_row = Vec::new();
        for (token, row) in logits.chunks_exact(n_experts).enumerate() {
            let row = if self.config.masked.is_empty() {
                row
            } else {
                allowed_row.clear();
                allowed_row.extend_from_slice(row);
                self.config.masked.iter().for_each(|&id| allowed_row[id as usize] = f32::NEG_INFINITY);
                &allowed_row
            };
            self.check_row(token, row)?;
            let first = experts.len();
            scratch.choose(&self.config, row, &mut experts, &mut weights);
            if self.config.drop_below > 0.0 {
                drop_light(&self.config, row, first, &mut experts, &mut weights);
                ends.push(experts.len() as u32); // `check_pairs` has bounded it
            }
            finish_weights(&self.config, &experts[first..], &mut weights[first..]);
        }
        Ok(Routing::from_valid((n_experts, top_k), experts, weights, ends, applies_to))
    }

    /// How one row of logits `[n_experts]` is judged before anything is chosen: for people who want to look.
    ///
    /// # Errors
    /// Those of [`Router::route`].
    pub fn judge(&self, row: &[f32]) -> Result<Judgement, RouterError> {
        let n_experts = self.config.n_experts;
        if row.len() != n_experts {
            return Err(RouterError::LogitsLength { layer: self.layer, n_experts, len: row.len() });
        }
        self.check_row(0, row)?;
        let mut scores = vec![0.0; n_experts];
        match self.config.score {
            Score::Sigmoid => scores.iter_mut().zip(row).for_each(|(score, &logit)| *score = sigmoid(logit)),
            Score::Softmax | Score::SoftmaxOverTopK | Score::SparseMixer { .. } => softmax(row, &mut scores),
        }
        let bias = self.config.selection_bias.as_ref();
        let ranks = bias.map(|bias| scores.iter().zip(bias).map(|(score, bias)| score + bias).collect());
        Ok(Judgement { scores, ranks })
    }

    fn check_row(&self, token: usize, row: &[f32]) -> Result<(), RouterError> {
        let layer = self.layer;
        // Without short-circuit, so that the usual row is one straight pass.
        let (mut illegal, mut allowed) = (false, false);
        for &logit in row {
            illegal |= logit.is_nan() | (logit == f32::INFINITY);
            allowed |= logit > f32::NEG_INFINITY;
        }
        if illegal {
            let illegal_at = row.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY);
            let expert = illegal_at.expect("the pass above saw an illegal logit");
            return Err(match row[expert].is_nan() {
                true => RouterError::NanLogit { layer, token, expert },
                false => RouterError::InfiniteLogit { layer, token, expert },
            });
        }
        if allowed { Ok(()) } else { Err(RouterError::NoExpertAllowed { layer, token }) }
    }
}

/// What a router makes of a row of logits before it chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The score of each expert, `[n_experts]`. Where the formula ranks logits and takes a softmax over the chosen ones
    /// alone, this is the softmax over all, which orders them alike.
    pub scores: Vec<f32>,
    /// Scores with the selection bias, where there is one: what decides who is chosen.
    pub ranks: Option<Vec<f32>>,
}

/// Working memory of [`Router::route`], allocated once per call.
struct Scratch {
    scores: Vec<f32>, // [n_experts]
    ranks: Vec<f32>,  // [n_experts] with a selection bias
    selector: Selector,
}

impl Scratch {
    fn new(config: &RouterConfig) -> Self {
        let scores = if config.ranks_logits() { 0 } else { config.n_experts };
        let ranks = config.selection_bias.as_ref().map_or(0, Vec::len);
        Self { scores: vec![0.0; scores], ranks: vec![0.0; ranks], selector: Selector::new(config) }
    }

    /// Appends the chosen experts of one row and their scores, not yet renormalised or scaled.
    fn choose(&mut self, config: &RouterConfig, row: &[f32], experts: &mut Vec<u32>, weights: &mut Vec<f32>) {
        let first = experts.len();
        if let Score::SparseMixer { jitter_eps } = config.score {
            let pairs = sparse_mixer(row, &config.masked, jitter_eps);
            experts.extend(pairs.map(|(id, _)| id));
            weights.extend(pairs.map(|(_, weight)| weight));
            return;
        }
        if config.ranks_logits() {
            self.selector.select(row, experts);
            weights.extend(experts[first..].iter().map(|&id| row[id as usize]));
            match config.score {
                Score::Sigmoid => weights[first..].iter_mut().for_each(|logit| *logit = sigmoid(*logit)),
                _ => softmax_in_place(&mut weights[first..]),
            }
            return;
        }
        match config.score {
            Score::Sigmoid => {
                self.scores.iter_mut().zip(row).for_each(|(score, &logit)| *score = sigmoid(logit));
            }
            _ => softmax(row, &mut self.scores),
        }
        let ranks = match &config.selection_bias {
            None => &self.scores,
            Some(bias) => {
                for ((rank, score), bias) in self.ranks.iter_mut().zip(&self.scores).zip(bias) {
                    *rank = score + bias;
                }
                &self.ranks
            }
        };
        self.selector.select(ranks, experts);
        weights.extend(experts[first..].iter().map(|&id| self.scores[id as usize]));
    }
}
