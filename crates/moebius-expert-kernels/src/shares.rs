//! Panels of several matrices shared out to threads, so that none waits for long and each reads long streams.
//!
//! Invariants: every panel is in exactly one task, and a task's panels follow one another.

use std::ops::Range;

use crate::Pool;

/// The part of what is left that goes to the threads as one task each. A thread that is half as fast as the others is done
/// with its task when they are done with the rest.
const SHARED_AT_ONCE: (usize, usize) = (2, 3);

/// Panels in a row that are multiplied before their sums are used, so that the sums stay in the nearest cache.
const MAX_PANELS: usize = 64;

/// Some panels, as many in each of several groups, that cost the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) panels: usize,
    /// What a panel costs, compared with those of other groups; at least one.
    pub(crate) cost: usize,
}

/// The panels of all groups, group by group, cut into tasks that become shorter and shorter: threads that begin with
/// one of the first read as long as they can, and the last ones are short enough that all end together.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The first panel of each group, and the end.
    firsts: Vec<usize>,
    /// The first panel of each task, and the end.
    bounds: Vec<usize>,
}

impl Shares {
    pub(crate) fn new(pool: &Pool, groups: impl IntoIterator<Item = Group>) -> Self {
        let groups: Vec<Group> = groups.into_iter().collect();
        let mut left: usize = groups.iter().map(|group| group.panels * group.cost).sum();
        let (mut firsts, mut bounds) = (vec![0], vec![0]);
        let (mut panel, mut task, mut equal) = (0, 0, 0);
        let mut wanted = 0;
        for Group { panels, cost } in groups {
            let end = panel + panels;
            while panel < end {
                if task == 0 {
                    if equal == 0 {
                        equal = pool.threads();
                        wanted = (left * SHARED_AT_ONCE.0).div_ceil(equal * SHARED_AT_ONCE.1);
                    }
                    (equal, task) = (equal - 1, wanted);
                }
                let taken = task.div_ceil(cost).clamp(1, end - panel);
                panel += taken;
                left -= taken * cost;
                task = task.saturating_sub(taken * cost);
                if task == 0 {
                    bounds.push(panel);
                }
            }
            firsts.push(end);
        }
        if bounds.last() != Some(&panel) {
            bounds.push(panel);
        }
        Self { firsts, bounds }
    }

    /// How many tasks there are; those that come first take longest.
    pub(crate) fn tasks(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The panels of a task: group and place in it, not more than [`MAX_PANELS`] at a time.
    pub(crate) fn panels(&self, task: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let Range { start, end } = self.bounds[task]..self.bounds[task + 1];
        let group = self.firsts.partition_point(|first| *first <= start) - 1;
        let groups = self.firsts[group..].windows(2).zip(group..);
        groups.take_while(move |(of, _)| of[0] < end).flat_map(move |(of, group)| {
            let (first, panels) = (of[0], of[0].max(start)..of[1].min(end));
            let end = panels.end;
            panels
                .step_by(MAX_PANELS)
                .map(move |panel| (group, panel - first..end.min(panel + MAX_PANELS) - first))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_panel_is_in_one_task(
            threads in 1..5usize,
            groups in prop::collection::vec((0..200usize, 1..600usize), 0..20),
        ) {
            let pool = Pool::new(threads).unwrap();
            let groups = groups.into_iter().map(|(panels, cost)| Group { panels, cost });
            let shares = Shares::new(&pool, groups.clone());
            let got = (0..shares.tasks()).flat_map(|task| shares.panels(task));
            let got: Vec<_> = got.flat_map(|(group, panels)| panels.map(move |panel| (group, panel))).collect();
            let all = groups.enumerate().flat_map(|(group, of)| (0..of.panels).map(move |panel| (group, panel)));
            prop_assert_eq!(got, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn tasks_begin_long_and_end_with_one_panel() {
        let shares = Shares::new(&Pool::new(2).unwrap(), [Group { panels: 64, cost: 3 }; 8]);
        let lens: Vec<usize> = shares.bounds.windows(2).map(|task| task[1] - task[0]).collect();
        assert_eq!(lens[..2], [171, 171]);
        assert!(lens.is_sorted_by(|a, b| a >= b), "{lens:?}");
        assert_eq!(lens.last(), Some(&1));
    }

    #[test]
    fn a_costly_group_is_cut_finer() {
        let groups = [Group { panels: 64, cost: 1 }, Group { panels: 64, cost: 100 }];
        let shares = Shares::new(&Pool::new(2).unwrap(), groups);
        assert!(shares.bounds[1] > 64 && shares.bounds[1] < 64 + 32, "{:?}", shares.bounds);
    }
}
