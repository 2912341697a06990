//! Panels of several matrices shared out to threads, so that none waits for long and each reads long streams.
//!
//! Invariants: every panel is in exactly one task, and a task's panels follow one another.

use std::ops::Range;

use crate::Pool;

/// The part of what is left of a thread's panels that is its next task. A thread that is half as fast as the others is done
/// with its first task when they are done with theirs and with the rest.
const AT_ONCE: (usize, usize) = (2, 3);

/// Panels in a row that are multiplied before their sums are used, so that the sums stay in the nearest cache.
const MAX_PANELS: usize = 64;

/// Some panels, as many in each of several groups, that cost the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) panels: usize,
    /// What a panel costs, compared with those of other groups; at least one.
    pub(crate) cost: usize,
}

/// The panels of all groups, group by group: for each thread a run of them that costs as much as those of the others, cut
/// into tasks that become shorter and shorter. A thread that is done with its own reads on from task to task, and what
/// others then take over is short enough that all end together.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The first panel of each group, and the end.
    firsts: Vec<usize>,
    /// The first panel of each task, and the end; equally many tasks for each thread, of which the last may be empty.
    bounds: Vec<usize>,
}

/// A place between two panels.
struct Cursor<'a> {
    /// The groups that are not passed.
    groups: &'a [Group],
    /// Panels of the first of them that are passed, and of all groups.
    in_group: usize,
    panel: usize,
    /// What the panels cost that are passed.
    cost: usize,
}

impl Cursor<'_> {
    /// Moves on to where the panels that are passed cost at least so much, or to the end.
    fn move_to(&mut self, cost: usize) {
        while let Some((group, others)) = self.groups.split_first()
            && self.cost < cost
        {
            let taken = (cost - self.cost).div_ceil(group.cost).min(group.panels - self.in_group);
            self.in_group += taken;
            self.panel += taken;
            self.cost += taken * group.cost;
            if self.in_group == group.panels {
                (self.groups, self.in_group) = (others, 0);
            }
        }
    }
}

impl Shares {
    pub(crate) fn new(pool: &Pool, groups: impl IntoIterator<Item = Group>) -> Self {
        let groups: Vec<Group> = groups.into_iter().collect();
        let mut firsts = vec![0];
        firsts.extend(groups.iter().scan(0, |panel, group| {
            *panel += group.panels;
            Some(*panel)
        }));
        let all: usize = groups.iter().map(|group| group.panels * group.cost).sum();
        let mut at = Cursor { groups: &groups, in_group: 0, panel: 0, cost: 0 };
        let mut ends_of = |thread: usize| {
            let (end, mut ends) = (all * (thread + 1) / pool.threads(), Vec::new());
            while at.cost < end {
                at.move_to(at.cost + ((end - at.cost) * AT_ONCE.0).div_ceil(AT_ONCE.1));
                ends.push(at.panel);
            }
            ends
        };
        let lists: Vec<Vec<usize>> = (0..pool.threads()).map(&mut ends_of).collect();
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let mut bounds = vec![0];
        for ends in &lists {
            for task in 0..longest {
                bounds.push(ends.get(task).copied().unwrap_or(bounds[bounds.len() - 1]));
            }
        }
        Self { firsts, bounds }
    }

    /// How many tasks there are: those of one thread after those of the other.
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
    fn the_tasks_of_a_thread_begin_long_and_end_with_one_panel() {
        let shares = Shares::new(&Pool::new(2).unwrap(), [Group { panels: 64, cost: 3 }; 8]);
        let lens: Vec<usize> = shares.bounds.windows(2).map(|task| task[1] - task[0]).collect();
        let (first, second) = lens.split_at(lens.len() / 2);
        assert_eq!(first, second);
        assert_eq!((first[0], first[first.len() - 1]), (171, 1));
        assert!(first.is_sorted_by(|a, b| a >= b), "{lens:?}");
    }

    #[test]
    fn a_costly_group_is_shared_by_more_threads() {
        let groups = [Group { panels: 64, cost: 1 }, Group { panels: 64, cost: 100 }];
        let shares = Shares::new(&Pool::new(2).unwrap(), groups);
        let second = shares.bounds[shares.tasks() / 2];
        assert!((64 + 31..=64 + 32).contains(&second), "{:?}", shares.bounds);
    }

    #[test]
    fn threads_without_a_panel_have_empty_tasks() {
        let shares = Shares::new(&Pool::new(4).unwrap(), [Group { panels: 2, cost: 5 }]);
        let all: Vec<_> = (0..shares.tasks()).flat_map(|task| shares.panels(task)).collect();
        assert_eq!((shares.tasks(), all), (4, vec![(0, 0..1), (0, 1..2)]));
        assert_eq!(Shares::new(&Pool::new(2).unwrap(), []).tasks(), 0);
    }
}
