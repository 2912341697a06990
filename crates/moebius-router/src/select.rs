//! The `k` best of a row without sorting it.
//!
//! A candidate is one integer, `descending(rank) << 32 | id`: the smallest is the best, ties go to the lower
//! id, and partial selection needs no comparison function. O(n_experts) for any `top_k`.
//!
//! Shapes: `ranks` is `[n_experts]`; the ids come out as `[top_k]`.
//! Invariants: ranks hold no NaN; the ids come out ascending; masked experts are no candidates.

use crate::config::{GroupRank, RouterConfig, Selection};

/// Working memory of a selection, reused from token to token.
pub(crate) struct Selector {
    selection: Selection,
    top_k: usize,
    /// `[n_experts]`, or empty where none is masked.
    masked: Vec<bool>,
    candidates: Vec<u64>,
    groups: Vec<u64>,
}

impl Selector {
    pub(crate) fn new(config: &RouterConfig) -> Self {
        let mut masked = vec![false; if config.masked.is_empty() { 0 } else { config.n_experts }];
        config.masked.iter().for_each(|&id| masked[id as usize] = true);
        let (candidates, groups) = (Vec::new(), Vec::new());
        Self { selection: config.selection, top_k: config.top_k, masked, candidates, groups }
    }

    /// Appends the ids of the chosen experts to `chosen`, ascending.
    pub(crate) fn select(&mut self, ranks: &[f32], chosen: &mut Vec<u32>) {
        match self.selection {
            Selection::TopK => {
                self.candidates.clear();
                self.candidates.extend(candidates(ranks, 0, &self.masked));
            }
            Selection::OnePerGroup => {
                let group_size = ranks.len() / self.top_k;
                for (group_idx, group) in ranks.chunks_exact(group_size).enumerate() {
                    let best = candidates(group, group_idx * group_size, &self.masked).min();
                    chosen.push(id(best.expect("a checked configuration leaves an expert in every group")));
                }
                return;
            }
            Selection::GroupLimited { n_groups, keep, rank } => {
                let group_size = ranks.len() / n_groups;
                let masked = &self.masked;
                let groups = ranks.chunks_exact(group_size).enumerate().map(|(group_idx, group)| {
                    let first = group_idx * group_size;
                    let allowed =
                        group.iter().enumerate().filter(|&(idx, _)| !is_masked(masked, first + idx));
                    candidate(group_rank(allowed.map(|(_, &value)| value), rank), group_idx as u32)
                });
                self.groups.clear();
                self.groups.extend(groups);
                self.groups.select_nth_unstable(keep - 1);
                self.candidates.clear();
                for &group in &self.groups[..keep] {
                    let first = id(group) as usize * group_size;
                    let group = candidates(&ranks[first..first + group_size], first, &self.masked);
                    self.candidates.extend(group);
                }
            }
        }
        let chosen_from = chosen.len();
        self.candidates.select_nth_unstable(self.top_k - 1);
        chosen.extend(self.candidates[..self.top_k].iter().map(|&candidate| id(candidate)));
        chosen[chosen_from..].sort_unstable();
    }
}

/// What a group is compared by; a single expert stands for itself, and a group without any comes last.
fn group_rank(group: impl Iterator<Item = f32>, rank: GroupRank) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for value in group {
        second = second.max(value.min(best));
        best = best.max(value);
    }
    match rank {
        GroupRank::TopTwoSum if second > f32::NEG_INFINITY => best + second,
        _ => best,
    }
}

/// The candidates of a run of experts whose first id is `first`.
fn candidates(ranks: &[f32], first: usize, masked: &[bool]) -> impl Iterator<Item = u64> {
    let allowed = ranks.iter().enumerate().filter(move |&(idx, _)| !is_masked(masked, first + idx));
    allowed.map(move |(idx, &rank)| candidate(rank, (first + idx) as u32))
}

fn is_masked(masked: &[bool], expert: usize) -> bool {
    !masked.is_empty() && masked[expert]
}

fn candidate(rank: f32, id: u32) -> u64 {
    // Adding +0 turns -0 into +0: the two are equal as numbers and must tie.
    let bits = (rank + 0.0).to_bits();
    let negative = (bits as i32 >> 31) as u32;
    // Bits of a positive float grow with it and of a negative one against it: flip the positive ones but for
    // the sign, and the unsigned order is descending.
    let descending = bits ^ (!negative & 0x7fff_ffff);
    u64::from(descending) << 32 | u64::from(id)
}

fn id(candidate: u64) -> u32 {
    candidate as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_order_by_descending_rank_then_ascending_id() {
        let ordered = [
            (f32::MAX, 0),
            (1.5, 7),
            (1.0, 2),
            (1.0, 3),
            (f32::MIN_POSITIVE, 0),
            (0.0, 1),
            (-0.0, 2),
            (0.0, 3),
            (-f32::MIN_POSITIVE, 0),
            (-1.0, 0),
            (-1.5, 0),
            (f32::MIN, 0),
            (f32::NEG_INFINITY, 0),
            (f32::NEG_INFINITY, u32::MAX),
        ];
        let codes = ordered.map(|(rank, id)| candidate(rank, id));
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:x?}");
        assert_eq!(codes.map(id), ordered.map(|(_, id)| id));
    }

    #[test]
    fn the_sum_of_two_counts_each_expert_once() {
        let rank = |group: &[f32], rank| group_rank(group.iter().copied(), rank);
        assert_eq!(rank(&[1.0, 4.0, 3.0, 4.0], GroupRank::TopTwoSum), 8.0);
        assert_eq!(rank(&[4.0, 1.0, 2.0], GroupRank::TopTwoSum), 6.0);
        assert_eq!(rank(&[-3.0, -1.0, -2.0], GroupRank::TopTwoSum), -3.0);
        assert_eq!(rank(&[-3.0, -1.0, -2.0], GroupRank::Max), -1.0);
    }
}
