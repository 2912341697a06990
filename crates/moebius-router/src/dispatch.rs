//! A routing turned around: for each expert, the tokens that visit it.
//!
//! Counting sort of the pairs by expert: count, prefix sum, place. O(pairs + experts), stable.
//!
//! Shapes: `offsets` is `[n_experts + 1]`; `rows` and `weights` are `[pairs]`, expert-major.
//! Invariants: tokens ascend within an expert; so walking the pairs in order visits the experts of every token
//! in ascending id.

use crate::routing::Routing;

/// The (token, expert) pairs of a [`Routing`], grouped by expert.
///
/// ```
/// use moebius_router::{Routing, WeightTarget};
///
/// // Token 0 visits experts 0 and 2, token 1 visits 1 and 2.
/// let weights = vec![0.75, 0.25, 0.5, 0.5];
/// let routing = Routing::from_parts(4, 2, vec![0, 2, 1, 2], weights, WeightTarget::Output)?;
/// let dispatch = routing.dispatch();
/// assert_eq!(dispatch.offsets(), [0, 1, 2, 4, 4]);
/// assert_eq!(dispatch.rows(), [0, 1, 0, 1]);
/// assert_eq!(dispatch.expert(2), (&[0, 1][..], &[0.25, 0.5][..]));
/// assert_eq!(dispatch.n_active(), 3);
/// # Ok::<(), moebius_router::RouterError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    offsets: Vec<usize>,
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Dispatch {
    pub(crate) fn new(routing: &Routing) -> Self {
        let ids = routing.all_experts();
        let mut offsets = vec![0; routing.n_experts() + 1];
        for &id in ids {
            offsets[id as usize + 1] += 1;
        }
        for expert in 0..routing.n_experts() {
            offsets[expert + 1] += offsets[expert];
        }

        let mut next = offsets.clone();
        let mut rows = vec![0; ids.len()];
        let mut weights = vec![0.0; ids.len()];
        for (token, (ids, pair_weights)) in routing.iter().enumerate() {
            for (&id, &weight) in ids.iter().zip(pair_weights) {
                let place = next[id as usize];
                next[id as usize] += 1;
                rows[place] = token as u32;
                weights[place] = weight;
            }
        }
        Self { offsets, rows, weights }
    }

    /// Number of experts, with and without rows.
    pub fn n_experts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// `[n_experts + 1]`: expert `e` owns the pairs `offsets[e]..offsets[e + 1]`.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The token of each pair, expert-major, ascending within an expert.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The weight of each pair, in the order of [`rows`](Self::rows).
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The tokens of an expert and their weights.
    ///
    /// # Panics
    /// If `expert` is not below [`n_experts`](Self::n_experts).
    pub fn expert(&self, expert: usize) -> (&[u32], &[f32]) {
        let pairs = self.offsets[expert]..self.offsets[expert + 1];
        (&self.rows[pairs.clone()], &self.weights[pairs])
    }

    /// The ids of the experts that have rows, ascending.
    pub fn active(&self) -> impl Iterator<Item = usize> {
        (0..self.n_experts()).filter(|&expert| self.offsets[expert] < self.offsets[expert + 1])
    }

    /// Number of experts that have rows.
    pub fn n_active(&self) -> usize {
        self.active().count()
    }
}
