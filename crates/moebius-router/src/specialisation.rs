//! How far the experts of a layer divide the kinds of text among themselves.
//!
//! With `p(e|g)` the share of group `g`'s (token, expert) pairs that went to expert `e`, and `p(e)` its mean over
//! the `G` groups, so that each group counts the same however long it is: mutual information of expert and group
//! `I = 1/G * sum_g sum_e p(e|g) ln(p(e|g) / p(e))` (Shannon 1948), from 0 (every group uses the experts alike) to
//! `ln G` (no two groups share one); lift `p(e|g) / p(e)`, from 0 to `G`.
//!
//! Shapes: one load of `[n_experts]` for each group.
//! Invariants: what cannot be known, because a single group is like nothing else, is `None`.

use crate::error::RouterError;
use crate::load::ExpertLoad;

/// What the loads of several groups (domains, files) say about the experts of one layer.
///
/// ```
/// use moebius_router::{ExpertLoad, Routing, Specialisation, WeightTarget};
///
/// let load = |experts: &[u32]| {
///     let weights = vec![1.0; experts.len()];
///     let mut load = ExpertLoad::new(2);
///     load.add(&Routing::from_parts(2, 1, experts.to_vec(), weights, WeightTarget::Output)?)?;
///     Ok::<_, moebius_router::RouterError>(load)
/// };
/// // p(e|0) = 3/4, 1/4 and p(e|1) = 1/4, 3/4, so p(e) = 1/2 and every lift is 3/2 or 1/2.
/// let split = Specialisation::of(&[load(&[0, 0, 0, 1])?, load(&[0, 1, 1, 1])?])?;
/// let by_hand = 0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln();
/// assert!((split.mutual_information_nats.unwrap() - by_hand).abs() < 1e-12);
/// assert!((split.share_of_maximum.unwrap() - by_hand / 2.0_f64.ln()).abs() < 1e-12);
/// assert_eq!((split.lift(1, 1), split.lift(1, 0)), (Some(1.5), Some(0.5)));
/// assert_eq!(split.favourite(1).unwrap().group, 1);
/// # Ok::<(), moebius_router::RouterError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Specialisation {
    /// `[groups][n_experts]`: share of the group's (token, expert) pairs; each group's sum to 1.
    pub shares: Vec<Vec<f64>>,
    /// `[n_experts]`: mean of the groups' shares.
    pub mean_shares: Vec<f64>,
    /// Mutual information of expert and group in nats, 0 to the logarithm of the number of groups, and at most
    /// that of the number of experts; `None` for a single group.
    pub mutual_information_nats: Option<f64>,
    /// Mutual information over the logarithm of the number of groups, 0 to 1; `None` for a single group.
    pub share_of_maximum: Option<f64>,
}

/// The group that an expert serves more than any other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Favourite {
    /// Index of the group; the lower one where two are equal.
    pub group: usize,
    /// Share of the expert in the group over its mean share: 1 is no preference.
    pub lift: f64,
}

impl Specialisation {
    /// Compares the `loads` of one layer, one for each group.
    ///
    /// # Errors
    /// [`RouterError::NoGroups`] without a load; [`RouterError::EmptyGroup`] for a load without tokens, whose
    /// shares are unknown; [`RouterError::LoadMismatch`] for loads over different numbers of experts.
    pub fn of(loads: &[ExpertLoad]) -> Result<Self, RouterError> {
        let expected = loads.first().ok_or(RouterError::NoGroups)?.counts().len();
        let mut shares = Vec::with_capacity(loads.len());
        for (group, load) in loads.iter().enumerate() {
            let got = load.counts().len();
            if expected != got {
                return Err(RouterError::LoadMismatch { expected, got });
            }
            shares.push(load.stats().shares.ok_or(RouterError::EmptyGroup { group })?);
        }
        let n_groups = shares.len() as f64;
        let mean = |expert: usize| shares.iter().map(|group| group[expert]).sum::<f64>() / n_groups;
        let mean_shares: Vec<f64> = (0..expected).map(mean).collect();
        let pairs = shares.iter().flat_map(|group| group.iter().zip(&mean_shares));
        let sum: f64 = pairs.map(|(&share, &mean)| contribution(share, mean)).sum();
        // Rounding may leave a hair less than nothing where all groups are alike.
        let information = Some((sum / n_groups).max(0.0)).filter(|_| shares.len() > 1);
        Ok(Self {
            mutual_information_nats: information,
            share_of_maximum: information.map(|nats| nats / n_groups.ln()),
            mean_shares,
            shares,
        })
    }

    /// Share of `expert` in `group` over its mean share; `None` for an expert without tokens and for a single
    /// group.
    ///
    /// # Panics
    /// If there is no such group or expert.
    pub fn lift(&self, group: usize, expert: usize) -> Option<f64> {
        let (share, mean) = (self.shares[group][expert], self.mean_shares[expert]);
        (self.shares.len() > 1 && mean > 0.0).then(|| share / mean)
    }

    /// The group in which `expert` has its largest share; `None` for an expert without tokens and for a single
    /// group.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn favourite(&self, expert: usize) -> Option<Favourite> {
        let lifts =
            (0..self.shares.len()).map(|group| Some(Favourite { group, lift: self.lift(group, expert)? }));
        lifts.flatten().reduce(|best, next| if next.lift > best.lift { next } else { best })
    }

    /// The experts that `group` uses more than the mean of all groups, by what each adds to the mutual
    /// information, the largest first (a rare expert that only this group visits says less than a busy one that
    /// prefers it); none for a single group.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn preferred(&self, group: usize) -> Vec<usize> {
        let mut experts: Vec<usize> = (0..self.mean_shares.len())
            .filter(|&expert| self.lift(group, expert).is_some_and(|lift| lift > 1.0))
            .collect();
        let added = |&expert: &usize| contribution(self.shares[group][expert], self.mean_shares[expert]);
        experts.sort_by(|a, b| added(b).total_cmp(&added(a)));
        experts
    }
}

/// What an expert adds to its group's divergence from the mean: much for one that is busy here and rare
/// elsewhere, less than 0 for one that avoids the group.
fn contribution(share: f64, mean: f64) -> f64 {
    if share > 0.0 { share * (share / mean).ln() } else { 0.0 }
}
