//! From logits to one token: greedy, or drawn from a filtered distribution.
//!
//! Order: repetition penalty, top-k, top-p, min-p, temperature, draw. It is llama.cpp's, whose flags the command
//! line shares; transformers applies the temperature before the filters. Filters that come first see the model's
//! own confidence, so a high temperature evens out the plausible tokens and never lets the tail back in.
//!
//! Maths: penalty (arXiv 1909.05858): `l / θ` if `l > 0`, else `l · θ`, for tokens seen lately. top-p (arXiv
//! 1904.09751): the smallest set of most likely tokens with `Σ p >= top_p`. min-p (arXiv 2407.01082):
//! `p >= min_p · max p`. Draw: `p_i ∝ exp(l_i / T)` by inversion of the cumulative sum in f64.
//!
//! Shapes: `logits` is `[vocab]`, the index is the token id.
//!
//! Invariants: ties go to the lower id; each drawn token takes exactly one number from a generator that belongs to
//! the sampler alone, so that the same seed and logits give the same tokens whatever else runs.

use std::cmp::Ordering;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How tokens are chosen. The default is greedy with every filter off.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits before the draw, at least 0; 0 takes the most likely token without drawing.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; `None` or 0 keeps all.
    pub top_k: Option<usize>,
    /// Keeps the smallest set of most likely tokens that together have this probability, in `0..=1`; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one, in `0..=1`; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens seen lately less likely if above 1, more likely if below, above 0; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalty looks back on, each once; 0 switches it off.
    pub repeat_last_n: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`SamplerError::InvalidParameter`] for the first value that is out of range or not finite.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let at_least_zero = |value: f32| value.is_finite() && value >= 0.0;
        let above_zero = |value: f32| value.is_finite() && value > 0.0;
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let (temperature, penalty) = (self.temperature, self.repeat_penalty);
        for (name, got, valid, expected) in [
            ("temperature", temperature, at_least_zero(temperature), "a finite number of at least 0"),
            ("top_p", self.top_p, share(self.top_p), "a number from 0 to 1"),
            ("min_p", self.min_p, share(self.min_p), "a number from 0 to 1"),
            ("repeat_penalty", penalty, above_zero(penalty), "a finite number above 0"),
        ] {
            if !valid {
                return Err(SamplerError::InvalidParameter { name, expected, got });
            }
        }
        Ok(())
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A parameter is out of its range.
    #[error("invalid `{name}`: expected {expected}, got {got}")]
    InvalidParameter {
        /// The field of [`SamplingParams`].
        name: &'static str,
        /// Its range in words.
        expected: &'static str,
        /// Its value.
        got: f32,
    },
    /// A logit is NaN or positive infinity; the lowest such token is named.
    #[error("expected finite logits, got NaN or infinity for token `{token}`")]
    NotFinite {
        /// The token whose logit it is.
        token: u32,
    },
    /// There is no token to choose: no logits at all, or each of them negative infinity.
    #[error("expected the logits to leave at least one token, got {vocab} of {vocab} masked")]
    NothingToChoose {
        /// The number of logits.
        vocab: usize,
    },
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
    recent: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler at the start of its sequence of draws.
    ///
    /// # Errors
    /// [`SamplerError::InvalidParameter`] as [`SamplingParams::validate`].
    pub(crate) fn new(params: SamplingParams) -> Result<Sampler, SamplerError> {
        params.validate()?;
        let rng = ChaCha8Rng::seed_from_u64(params.seed);
        Ok(Sampler { params, rng, candidates: Vec::new(), weights: Vec::new(), recent: Vec::new() })
    }

    /// Chooses the token that follows `history`, which is the prompt and what was generated so far.
    ///
    /// A logit of negative infinity masks its token. Ids in `history` beyond the logits have nothing to penalise.
    ///
    /// # Errors
    /// [`SamplerError::NotFinite`] or [`SamplerError::NothingToChoose`]; the generator has not advanced then.
    pub(crate) fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplerError> {
        let likeliest = argmax(logits)?;
        let penalised = self.params.repeat_penalty != 1.0 && self.params.repeat_last_n > 0;
        let greedy = self.params.temperature == 0.0;
        if greedy && !penalised {
            return Ok(likeliest);
        }
        self.collect_candidates(logits);
        if penalised {
            self.penalise(history);
        }
        if greedy {
            return Ok(self.likeliest().token);
        }
        self.filter();
        Ok(self.draw())
    }

    /// Every token at the index of its id. Masked ones stay: they rank last and weigh nothing.
    fn collect_candidates(&mut self, logits: &[f32]) {
        self.candidates.clear();
        self.candidates.extend((0u32..).zip(logits).map(|(token, &logit)| Candidate { token, logit }));
    }

    /// Needs the candidates at the index of their id. A penalty changes a logit and never masks its token.
    fn penalise(&mut self, history: &[u32]) {
        let start = history.len().saturating_sub(self.params.repeat_last_n);
        self.recent.clear();
        self.recent.extend_from_slice(&history[start..]);
        self.recent.sort_unstable();
        self.recent.dedup();
        let penalty = self.params.repeat_penalty;
        for &token in &self.recent {
            // The ids ascend: after the first that lies beyond the logits all do.
            let Some(candidate) = self.candidates.get_mut(token as usize) else { break };
            let logit = candidate.logit;
            if logit > f32::NEG_INFINITY {
                let changed = if logit > 0.0 { logit / penalty } else { logit * penalty };
                candidate.logit = changed.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// Leaves the kept candidates in an order that the logits alone determine: by id if no filter had to rank
    /// them, else from the likeliest down. Neither order depends on how a partial sort goes about its work.
    fn filter(&mut self) {
        if let Some(top_k) = self.params.top_k.filter(|&top_k| top_k > 0 && top_k < self.candidates.len()) {
            rank_first(&mut self.candidates, top_k);
            self.candidates.truncate(top_k);
        }
        if self.params.top_p < 1.0 {
            self.keep_top_p(f64::from(self.params.top_p));
        }
        if self.params.min_p > 0.0 {
            let threshold = f64::from(self.likeliest().logit) + f64::from(self.params.min_p).ln();
            self.candidates.retain(|candidate| f64::from(candidate.logit) >= threshold);
        }
    }

    /// Ranks only as many candidates as it takes to reach the probability, which is mostly a small part.
    fn keep_top_p(&mut self, top_p: f64) {
        const FIRST_RANKED: usize = 128;
        let highest = self.likeliest().logit;
        let weight = |candidate: &Candidate| weight(candidate.logit, highest, 1.0);
        let enough = top_p * self.candidates.iter().map(weight).sum::<f64>();
        let mut cumulative = 0.0;
        let mut kept = 0;
        let mut ranked = 0;
        while kept < self.candidates.len() {
            if kept == ranked {
                let more = FIRST_RANKED.max(3 * ranked).min(self.candidates.len() - ranked);
                rank_first(&mut self.candidates[ranked..], more);
                ranked += more;
            }
            cumulative += weight(&self.candidates[kept]);
            kept += 1;
            if cumulative >= enough {
                break;
            }
        }
        self.candidates.truncate(kept);
    }

    fn draw(&mut self) -> u32 {
        let highest = self.likeliest().logit;
        let temperature = f64::from(self.params.temperature);
        self.weights.clear();
        self.weights
            .extend(self.candidates.iter().map(|candidate| weight(candidate.logit, highest, temperature)));
        let point = unit_interval(&mut self.rng) * self.weights.iter().sum::<f64>();
        let mut cumulative = 0.0;
        let drawn = self.weights.iter().position(|weight| {
            cumulative += weight;
            point < cumulative
        });
        // A factor of at most 1 - 2^-53 takes at least half a unit in the last place off the sum, so the point is
        // strictly below it; and the cumulative sum passes the point only where a weight is above zero.
        self.candidates[drawn.expect("the point lies below the sum")].token
    }

    fn likeliest(&self) -> Candidate {
        *self.candidates.iter().min_by(|a, b| by_rank(a, b)).expect("a token that is not masked is left")
    }
}

/// Logits that [`argmax`] compares before it asks what they were: a loop without exits runs on vectors.
const ARGMAX_BLOCK: usize = 256;

/// The most likely token; ties go to the lower id.
///
/// # Errors
/// [`SamplerError::NotFinite`] if a logit is NaN or positive infinity, [`SamplerError::NothingToChoose`] if there
/// is none or each is negative infinity.
pub(crate) fn argmax(logits: &[f32]) -> Result<u32, SamplerError> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (index, block) in logits.chunks(ARGMAX_BLOCK).enumerate() {
        let first = index * ARGMAX_BLOCK;
        let mut largest = f32::NEG_INFINITY;
        let mut all_below_infinity = true;
        for &logit in block {
            all_below_infinity &= logit < f32::INFINITY;
            largest = if logit > largest { logit } else { largest };
        }
        if !all_below_infinity {
            let bad = block.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY);
            return Err(SamplerError::NotFinite { token: (first + bad.unwrap_or(0)) as u32 });
        }
        if largest > highest {
            highest = largest;
            best = Some(first);
        }
    }
    let first = best.ok_or(SamplerError::NothingToChoose { vocab: logits.len() })?;
    let place = logits[first..].iter().position(|&logit| logit == highest);
    Ok((first + place.expect("the block has its largest value")) as u32)
}

/// The log-probability of a token: `l_t - log Σ exp(l_i)`, computed in f64 around the largest logit.
///
/// A token beyond the logits cannot occur, so its log-probability is negative infinity. Logits that are not a
/// distribution (one is NaN or positive infinity, or none is above negative infinity) give NaN.
pub(crate) fn log_softmax_at(logits: &[f32], token: u32) -> f32 {
    let Some(&logit) = logits.get(token as usize) else {
        return f32::NEG_INFINITY;
    };
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&other| weight(other, highest, 1.0)).sum();
    (f64::from(logit) - f64::from(highest) - sum.ln()) as f32
}

/// The probability of a logit up to a factor that makes it 1 for `highest`.
fn weight(logit: f32, highest: f32, temperature: f64) -> f64 {
    ((f64::from(logit) - f64::from(highest)) / temperature).exp()
}

/// Puts the `count` most likely candidates first, the likeliest of them first of all.
fn rank_first(candidates: &mut [Candidate], count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_rank);
    }
    candidates[..count].sort_unstable_by(by_rank);
}

/// The likelier candidate first, then the lower id. Logits are not NaN here; 0 and -0 are equally likely.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// A number in `[0, 1)` from the upper 53 bits of one word, spelled out because draws must stay the same with any
/// version of the distributions that random number crates offer.
fn unit_interval(rng: &mut ChaCha8Rng) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (rng.next_u64() >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}

#[cfg(test)]
mod tests;
