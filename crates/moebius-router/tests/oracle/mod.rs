//! The routing formulas once more, naively: f64, full sorts, one row at a time, nothing shared with the crate.
//!
//! An f32 router may decide otherwise where two ranks are closer than rounding. The oracle says so
//! (`ambiguous`), except where the two ranks come from the same numbers: those are ties and must go to the lower id.

use moebius_router::{GroupRank, Renormalize, RouterConfig, Score, Selection};

/// The oracle's answer for one row.
pub(crate) struct Answer {
    pub(crate) experts: Vec<u32>,
    pub(crate) weights: Vec<f64>,
    pub(crate) ambiguous: bool,
}

/// A number that things are ranked by, and the inputs it was made of.
#[derive(Clone)]
struct Rank {
    id: usize,
    value: f64,
    made_of: Vec<(u32, u32)>,
}

pub(crate) fn route(config: &RouterConfig, row: &[f32]) -> Answer {
    let logits: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
    if let Score::SparseMixer { jitter_eps } = config.score {
        return sparse_mixer(config, row, 2.0 * f64::from(jitter_eps));
    }
    let scores = match config.score {
        Score::Softmax => softmax(&logits),
        Score::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Score::SoftmaxOverTopK | Score::SparseMixer { .. } => logits.clone(),
    };
    let bias = |id: usize| config.selection_bias.as_ref().map_or(0.0, |bias| bias[id]);
    let ranks: Vec<Rank> = (0..row.len())
        .map(|id| Rank {
            id,
            value: scores[id] + f64::from(bias(id)),
            made_of: vec![(row[id].to_bits(), bias(id).to_bits())],
        })
        .collect();
    let (experts, ambiguous) = select(config, &ranks);
    let chosen: Vec<f64> = experts.iter().map(|&id| scores[id]).collect();
    let weights = if config.score == Score::SoftmaxOverTopK { softmax(&chosen) } else { chosen };
    finish(config, experts, weights, ambiguous)
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| (logit - max).exp() / sum).collect()
}

fn select(config: &RouterConfig, ranks: &[Rank]) -> (Vec<usize>, bool) {
    match config.selection {
        Selection::TopK => best(ranks, config.top_k),
        Selection::OnePerGroup => {
            let groups = ranks.chunks(config.n_experts / config.top_k).map(|group| best(group, 1));
            groups.fold((vec![], false), |(ids, any), (id, ambiguous)| ([ids, id].concat(), any || ambiguous))
        }
        Selection::GroupLimited { n_groups, keep, rank } => {
            let groups: Vec<&[Rank]> = ranks.chunks(config.n_experts / n_groups).collect();
            let group_ranks: Vec<Rank> =
                groups.iter().enumerate().map(|(id, group)| rank_of_group(id, group, rank)).collect();
            let (kept, ambiguous_groups) = best(&group_ranks, keep);
            let inside: Vec<Rank> = kept.iter().flat_map(|&group| groups[group].to_vec()).collect();
            let (ids, ambiguous) = best(&inside, config.top_k);
            (ids, ambiguous || ambiguous_groups)
        }
    }
}

fn rank_of_group(id: usize, group: &[Rank], rank: GroupRank) -> Rank {
    let mut sorted = group.to_vec();
    sorted.sort_by(|a, b| b.value.total_cmp(&a.value));
    sorted.truncate(match rank {
        GroupRank::Max => 1,
        GroupRank::TopTwoSum => 2,
    });
    let value = sorted.iter().map(|member| member.value).sum();
    Rank { id, value, made_of: sorted.into_iter().flat_map(|member| member.made_of).collect() }
}

/// The ids of the `k` largest, ascending, and whether rounding might change them.
fn best(ranks: &[Rank], k: usize) -> (Vec<usize>, bool) {
    let mut sorted = ranks.to_vec();
    sorted.sort_by(|a, b| b.value.partial_cmp(&a.value).unwrap().then(a.id.cmp(&b.id)));
    let (chosen, rest) = sorted.split_at(k);
    let close = |a: &Rank, b: &Rank| {
        let unbiased = a.made_of.iter().chain(&b.made_of).all(|&(_, bias)| bias == 0);
        let magnitude = a.value.abs().max(b.value.abs());
        let tolerance = if unbiased { 1e-5 * magnitude } else { 2e-6 };
        (a.value - b.value).abs() < tolerance && a.made_of != b.made_of
    };
    let ambiguous = chosen.iter().any(|a| rest.iter().any(|b| close(a, b)));
    let mut ids: Vec<usize> = chosen.iter().map(|rank| rank.id).collect();
    ids.sort_unstable();
    (ids, ambiguous)
}

fn sparse_mixer(config: &RouterConfig, row: &[f32], limit: f64) -> Answer {
    let mut ambiguous = false;
    let mut excluded: Vec<usize> = vec![];
    let mut weights = vec![0.0; row.len()];
    for _ in 0..2 {
        let candidates: Vec<usize> = (0..row.len()).filter(|id| !excluded.contains(id)).collect();
        let max = candidates.iter().map(|&id| row[id]).fold(f32::NEG_INFINITY, f32::max);
        let winner = *candidates.iter().find(|&&id| row[id] == max).unwrap();
        excluded.push(winner);
        if max == f32::NEG_INFINITY {
            continue;
        }
        let max = f64::from(max);
        let mut sum = 0.0;
        for logit in candidates.iter().map(|&id| f64::from(row[id])).filter(|logit| logit.is_finite()) {
            let distance = if logit == max { 0.0 } else { (max - logit) / logit.abs().max(max) };
            ambiguous |= (distance - limit).abs() < 1e-5;
            sum += if distance <= limit { (logit - max).exp() } else { 0.0 };
        }
        weights[winner] = 1.0 / sum;
    }
    excluded.sort_unstable();
    let weights = excluded.iter().map(|&id| weights[id]).collect();
    finish(config, excluded, weights, ambiguous)
}

fn finish(config: &RouterConfig, experts: Vec<usize>, weights: Vec<f64>, ambiguous: bool) -> Answer {
    let sum: f64 = weights.iter().sum();
    let divisor = match config.renormalize {
        Renormalize::No => 1.0,
        Renormalize::Sum { eps } => sum + f64::from(eps),
        Renormalize::SumAtLeast { min } => sum.max(f64::from(min)),
    };
    let divisor = if sum == 0.0 { 1.0 } else { divisor };
    let factor = |id: usize| config.expert_scale.as_ref().map_or(1.0, |scale| f64::from(scale[id]));
    let scaled = weights.iter().zip(&experts);
    let weights = scaled.map(|(w, &id)| w / divisor * f64::from(config.scale) * factor(id)).collect();
    Answer { experts: experts.into_iter().map(|id| id as u32).collect(), weights, ambiguous }
}
