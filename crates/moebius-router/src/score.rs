//! From logits to scores and weights, one token at a time.
//!
//! softmax: `exp(l - max) / sum`; sigmoid: `1 / (1 + exp(-l))`; SparseMixer (arXiv 2310.00811, 2409.12136):
//! `e1 = argmax l`, `w1 = softmax(l[j] : (l[e1] - l[j]) / max(|l[j]|, l[e1]) <= 2 eps)[e1]`; `e2`, `w2`
//! likewise among the experts without `e1`.
//!
//! Shapes: a row of logits is `[n_experts]`; chosen ids and weights are `[top_k]`.
//! Invariants: logits hold no NaN and no +inf; at least one is finite; sums run in ascending id.

use crate::config::{Renormalize, RouterConfig, Score};

/// The softmax of a row into `probabilities`.
pub(crate) fn softmax(logits: &[f32], probabilities: &mut [f32]) {
    probabilities.copy_from_slice(logits);
    softmax_in_place(probabilities);
}

/// Turns logits, of which at least one is finite, into probabilities.
pub(crate) fn softmax_in_place(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The terms are f32; only their sum is wider, or the many small ones would vanish beside the first large
    // one.
    let mut sum = 0.0_f64;
    for value in values.iter_mut() {
        *value = (*value - max).exp();
        sum += f64::from(*value);
    }
    let sum = sum as f32;
    values.iter_mut().for_each(|value| *value /= sum);
}

/// The logistic function; 0 at minus infinity.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
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
            sum += (logit - max).exp();
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
