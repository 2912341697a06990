//! From logits to scores and weights, one token at a time.
//!
//! softmax: `exp(l - max) / sum`; sigmoid: `1 / (1 + exp(-l))`; SparseMixer (arXiv 2310.00811, 2409.12136):
//! `e1 = argmax l`, `w1 = softmax(l[j] : (l[e1] - l[j]) / max(|l[j]|, l[e1]) <= 2 eps)[e1]`; `e2`, `w2`
//! likewise among the experts without `e1`.
//!
//! Shapes: a row of logits is `[n_experts]`; chosen ids and weights are `[top_k]`.
//! Invariants: logits hold no NaN and no +inf; at least one is finite. Every operation is one that IEEE 754 rounds in one
//! way, and sums run in a fixed order, so that whoever computes the same formula has the same bits: other machines, and
//! the kernel for GPUs in `moebius-backend-cuda`.

use crate::config::{Renormalize, RouterConfig, Score};

/// The softmax of a row into `probabilities`.
pub(crate) fn softmax(logits: &[f32], probabilities: &mut [f32]) {
    probabilities.copy_from_slice(logits);
    softmax_in_place(probabilities);
}

/// Turns logits, of which at least one is finite, into probabilities.
pub(crate) fn softmax_in_place(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|value| *value = exp(*value - max));
    let sum = sum(values);
    values.iter_mut().for_each(|value| *value /= sum);
}

/// Chains of a sum: what a warp of a GPU adds side by side.
const CHAINS: usize = 32;

/// The sum in f64, or many small terms would vanish beside the first large one: chain `i` takes every element whose index
/// leaves `i` in its turn, and halves of the chains are joined until one is left.
fn sum(values: &[f32]) -> f32 {
    let mut chains = [0.0_f64; CHAINS];
    for values in values.chunks(CHAINS) {
        chains.iter_mut().zip(values).for_each(|(chain, &value)| *chain += f64::from(value));
    }
    let mut left = CHAINS;
    while left > 1 {
        left /= 2;
        let (lower, upper) = chains[..2 * left].split_at_mut(left);
        lower.iter_mut().zip(upper).for_each(|(lower, upper)| *lower += *upper);
    }
    chains[0] as f32
}

/// `e^x` within 0.501 units of the last place, in products and sums of f64 alone: `2^n e^r` with `n` the whole number
/// nearest to `x / ln 2`, and a Taylor series for `r`, which is at most 0.35. Infinities have the limits; there is no NaN.
fn exp(x: f32) -> f32 {
    /// From 1 / 9! to 1 / 0!.
    const SERIES: [f64; 10] = [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    /// Adding it leaves a number's nearest whole one in the low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // Beyond these an f32 is 0 or infinite.
    let x = f64::from(x).clamp(-150.0, 150.0);
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let r = x - (shifted - ROUNDER) * std::f64::consts::LN_2;
    let series = SERIES.iter().fold(0.0, |sum, coefficient| sum * r + coefficient);
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (series * power) as f32
}

/// The logistic function; 0 at minus infinity.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + exp(-logit))
}

/// The two experts of SparseMixer with their weights, in ascending id; those that are `masked` have a logit of minus
/// infinity and are not chosen even where all others have that too.
pub(crate) fn sparse_mixer(logits: &[f32], masked: &[u32], jitter_eps: f32) -> [(u32, f32); 2] {
    let first = argmax_without(logits, masked, None);
    let second = argmax_without(logits, masked, Some(first));
    let mut pairs = [
        (first as u32, sparse_mixer_weight(logits, first, None, jitter_eps)),
        (second as u32, sparse_mixer_weight(logits, second, Some(first), jitter_eps)),
    ];
    pairs.sort_unstable_by_key(|&(id, _)| id);
    pairs
}

/// The lowest id of the largest logit; a row has at least two experts that are not masked.
fn argmax_without(logits: &[f32], masked: &[u32], excluded: Option<usize>) -> usize {
    let allowed = |&idx: &usize| Some(idx) != excluded && masked.binary_search(&(idx as u32)).is_err();
    let mut candidates = (0..logits.len()).filter(allowed);
    let first = candidates.next().expect("a checked configuration leaves two experts");
    candidates.fold(first, |best, idx| if logits[idx] > logits[best] { idx } else { best })
}

/// Probability of the best of the candidates among those close enough to it.
fn sparse_mixer_weight(logits: &[f32], best: usize, excluded: Option<usize>, jitter_eps: f32) -> f32 {
    let max = logits[best];
    if max == f32::NEG_INFINITY {
        return 0.0;
    }
    let mut sum = 0.0;
    for (idx, &logit) in logits.iter().enumerate() {
        // 0 / 0 (both logits 0) and inf / inf (a forbidden expert, which adds exp(-inf) = 0) are not "too
        // far".
        let too_far = (max - logit) / logit.abs().max(max) > 2.0 * jitter_eps;
        if Some(idx) != excluded && !too_far {
            sum += exp(logit - max);
        }
    }
    1.0 / sum
}

/// Drops the chosen experts of a token, from `first` on, that weigh too little beside its heaviest. `weights` are
/// scores that are neither renormalised nor scaled yet, of which only learned scales change the ratios.
pub(crate) fn drop_light(
    config: &RouterConfig,
    row: &[f32],
    first: usize,
    experts: &mut Vec<u32>,
    weights: &mut Vec<f32>,
) {
    let factor = |id: u32| config.expert_scale.as_ref().map_or(1.0, |scale| scale[id as usize]);
    let magnitude = |(&id, &weight): (&u32, &f32)| (weight * factor(id)).abs();
    let largest = experts[first..].iter().zip(&weights[first..]).map(magnitude).fold(0.0, f32::max);
    let least = config.drop_below * largest;
    let mut kept = first;
    for idx in first..experts.len() {
        if magnitude((&experts[idx], &weights[idx])) >= least {
            experts.swap(kept, idx);
            weights.swap(kept, idx);
            kept += 1;
        }
    }
    let dropped = kept < experts.len();
    experts.truncate(kept);
    weights.truncate(kept);
    if dropped && config.score == Score::SoftmaxOverTopK {
        for (weight, &id) in weights[first..].iter_mut().zip(&experts[first..]) {
            *weight = row[id as usize];
        }
        softmax_in_place(&mut weights[first..]);
    }
}

/// Renormalises and scales the weights of a token; `experts` are its ids in the same order.
pub(crate) fn finish_weights(config: &RouterConfig, experts: &[u32], weights: &mut [f32]) {
    let sum = || weights.iter().sum::<f32>();
    let divisor = match config.renormalize {
        Renormalize::No => 1.0,
        Renormalize::Sum { eps } => sum() + eps,
        Renormalize::SumAtLeast { min } => sum().max(min),
    };
    // A divisor of 0 means that every weight is 0, and so it stays.
    if divisor != 1.0 && divisor != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= divisor);
    }
    if config.scale != 1.0 {
        weights.iter_mut().for_each(|weight| *weight *= config.scale);
    }
    if let Some(factors) = &config.expert_scale {
        for (weight, &expert) in weights.iter_mut().zip(experts) {
            *weight *= factors[expert as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_off_by_no_more_than_rounding() {
        let mut x = -104.0_f32;
        while x < 89.0 {
            let (got, exact) = (exp(x), f64::from(x).exp());
            let below = f32::from_bits(got.to_bits().saturating_sub(1));
            let unit = f64::from(got) - f64::from(below);
            assert!(
                (f64::from(got) - exact).abs() <= 0.501 * unit.max(f64::from(f32::from_bits(1))),
                "{x}: {got}"
            );
            x += 0.0037;
        }
    }

    #[test]
    fn exp_has_its_limits_at_infinities_and_one_at_zero() {
        let ends = [f32::NEG_INFINITY, -200.0, 0.0, -0.0, 200.0, f32::INFINITY].map(exp);
        assert_eq!(ends, [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
    }

    #[test]
    fn a_sum_joins_its_chains_in_halves() {
        for len in [0, 1, 2, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..len).map(|value| value as f32).collect();
            assert_eq!(sum(&values), values.iter().sum(), "{len}");
        }
    }
}
