//! A router as data: which score, which selection, which weights.
//!
//! With `l` the logits of a token without the `masked` experts, `s = score(l)` and `c = s + selection_bias`:
//! chosen = selection of `top_k` experts by `c`, less those below `drop_below`; `w = s[chosen]`, then renormalised,
//! times `scale`, times `expert_scale[chosen]`. The bias selects and never weighs (arXiv 2408.15664).
//!
//! Shapes: `selection_bias` and `expert_scale` are `[n_experts]`.
//! Invariants: none until [`Router::new`](crate::Router::new) has checked the fields against each other.

/// Everything that tells one routing formula from another.
///
/// The named constructors are the published formulas; the `with_*` methods fill in what a checkpoint adds.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// Number of routed experts, the width of a row of logits.
    pub n_experts: usize,
    /// Experts per token; with `drop_below` at most that many.
    pub top_k: usize,
    /// From logits to scores.
    pub score: Score,
    /// From scores to the chosen experts.
    pub selection: Selection,
    /// `[n_experts]`, added to the scores for selection only ("correction bias").
    pub selection_bias: Option<Vec<f32>>,
    /// Whether the chosen scores are divided by their sum.
    pub renormalize: Renormalize,
    /// Factor on every weight (`routed_scaling_factor`).
    pub scale: f32,
    /// `[n_experts]`, learned factor on the weight of each expert, after renormalisation.
    pub expert_scale: Option<Vec<f32>>,
    /// What the weight multiplies.
    pub applies_to: WeightTarget,
    /// Ids of experts that are never chosen, ascending. The others are routed as if these were not there: a softmax
    /// runs over the others alone.
    pub masked: Vec<u32>,
    /// From 0, which drops nothing, to 1: a chosen expert whose weight is below this share of the token's largest
    /// weight is dropped, and the others are weighted as if they alone had been chosen. See
    /// [`with_drop_below`](Self::with_drop_below).
    pub drop_below: f32,
}

/// From the logits of a token to its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// `exp(l - max) / sum` over all experts; experts are ranked by this probability.
    Softmax,
    /// Experts are ranked by logit; the weights are the softmax over the chosen logits alone.
    SoftmaxOverTopK,
    /// `1 / (1 + exp(-l))`, each expert on its own.
    ///
    /// Sigmoid is monotone but saturates in f32, so without bias and groups experts are ranked by logit.
    Sigmoid,
    /// Two experts by argmax, each weighted by a softmax of its own over the logits within
    /// `2 * jitter_eps` of it (relative distance). The two weights do not sum to 1.
    SparseMixer {
        /// `router_jitter_noise` of the checkpoint; it acts at inference too.
        jitter_eps: f32,
    },
}

/// From scores to the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The `top_k` best of all experts.
    TopK,
    /// The experts form `n_groups` equal runs of ids; the best `keep` groups stay, then top-k inside them.
    ///
    /// An expert of a dropped group is never chosen. Families that overwrite dropped scores with 0 instead of
    /// minus infinity agree: their scores are probabilities, so a dropped expert could only ever take the
    /// place of a kept one whose probability, hence weight, is 0.
    GroupLimited {
        /// Number of groups.
        n_groups: usize,
        /// Groups that stay.
        keep: usize,
        /// How groups are compared.
        rank: GroupRank,
    },
    /// The experts form `top_k` equal runs of ids; the best of each run is chosen (MoGE, arXiv 2505.21411).
    OnePerGroup,
}

impl Selection {
    /// Group-limited selection, or plain top-k where one group is all there is (`n_group = topk_group = 1`,
    /// as many checkpoints write for "no groups").
    pub fn group_limited(n_groups: usize, keep: usize, rank: GroupRank) -> Self {
        if n_groups == 1 && keep == 1 { Self::TopK } else { Self::GroupLimited { n_groups, keep, rank } }
    }
}

/// How groups of experts are compared; biased scores count where there is a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRank {
    /// By the best score of the group (arXiv 2405.04434).
    Max,
    /// By the sum of the two best scores of the group (arXiv 2412.19437).
    TopTwoSum,
}

/// Whether and how the chosen scores are divided by their sum. Scores that are all 0 stay 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Renormalize {
    /// The scores are the weights.
    No,
    /// `w / (sum + eps)`.
    Sum {
        /// Added to the sum; 0 where the family adds nothing.
        eps: f32,
    },
    /// `w / max(sum, min)`.
    SumAtLeast {
        /// Lower bound of the divisor.
        min: f32,
    },
}

/// What a routing weight multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightTarget {
    /// The output of the expert: `sum of w * expert(x)`.
    Output,
    /// The input of the expert: `sum of expert(w * x)`.
    Input,
}

impl RouterConfig {
    /// The same router with a correction bias `[n_experts]` for selection.
    #[must_use]
    pub fn with_selection_bias(mut self, bias: Vec<f32>) -> Self {
        self.selection_bias = Some(bias);
        self
    }

    /// The same router with another rule of renormalisation (`norm_topk_prob`).
    #[must_use]
    pub fn with_renormalize(mut self, renormalize: Renormalize) -> Self {
        self.renormalize = renormalize;
        self
    }

    /// The same router with a factor on every weight.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The same router with a learned factor per expert, `[n_experts]`.
    #[must_use]
    pub fn with_expert_scale(mut self, expert_scale: Vec<f32>) -> Self {
        self.expert_scale = Some(expert_scale);
        self
    }

    /// The same router in which the experts `masked`, ascending, cannot be chosen.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// // The odds 4 : 2 : 1 : 1 without the first are 2 : 1 : 1.
    /// let config = RouterConfig::softmax_probabilities(4, 2).with_masked(vec![0]);
    /// let routing = Router::new(0, config)?.route(&[4.0_f32, 2.0, 1.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [1, 2]);
    /// assert!((routing.weights(0)[0] - 2.0 / 4.0).abs() < 1e-6);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    #[must_use]
    pub fn with_masked(mut self, masked: Vec<u32>) -> Self {
        self.masked = masked;
        self
    }

    /// The same router with a number of experts that depends on the token: of the `top_k` that were chosen, those whose
    /// weight is below `share` of the token's largest weight are dropped.
    ///
    /// Weights are compared as they multiply the experts, learned scales included, by magnitude. Then the family's own
    /// rule of renormalisation runs over what is left: where weights sum to 1 they do so again, and where they are
    /// plain probabilities they stay as they are. Without a bias and scales the result is that of the same router with
    /// as many `top_k` as are left, to the bit. At least one expert is left.
    ///
    /// ```
    /// # use moebius_router::{Router, RouterConfig};
    /// let config = RouterConfig::softmax_top_k(4, 3).with_drop_below(0.5);
    /// let router = Router::new(0, config)?;
    /// // Odds 5 : 3 : 1 : 1. The third is below half of 5 and dropped; 5 and 3 share 8.
    /// let routing = router.route(&[5.0_f32, 3.0, 1.0, 1.0].map(f32::ln))?;
    /// assert_eq!(routing.experts(0), [0, 1]);
    /// assert!((routing.weights(0)[0] - 5.0 / 8.0).abs() < 1e-6);
    /// // Even odds drop nothing.
    /// assert_eq!(router.route(&[0.0; 4])?.experts(0), [0, 1, 2]);
    /// # Ok::<(), moebius_router::RouterError>(())
    /// ```
    #[must_use]
    pub fn with_drop_below(mut self, share: f32) -> Self {
        self.drop_below = share;
        self
    }

    /// Whether experts are ranked by their raw logit instead of their score.
    pub fn ranks_logits(&self) -> bool {
        match self.score {
            Score::SoftmaxOverTopK | Score::SparseMixer { .. } => true,
            Score::Sigmoid => {
                self.selection_bias.is_none() && !matches!(self.selection, Selection::GroupLimited { .. })
            }
            Score::Softmax => false,
        }
    }
}
