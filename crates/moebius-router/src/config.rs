//! A router as data: which score, which selection, which weights.
//!
//! With `l` the logits of a token, `s = score(l)` and `c = s + selection_bias`:
//! chosen = selection of `top_k` experts by `c`; `w = s[chosen]`, then renormalised, times `scale`, times
//! `expert_scale[chosen]`. The bias selects and never weighs (arXiv 2408.15664).
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
    /// Experts per token.
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

    /// Whether experts are ranked by their raw logit instead of their score.
    pub(crate) fn ranks_logits(&self) -> bool {
        match self.score {
            Score::SoftmaxOverTopK | Score::SparseMixer { .. } => true,
            Score::Sigmoid => {
                self.selection_bias.is_none() && !matches!(self.selection, Selection::GroupLimited { .. })
            }
            Score::Softmax => false,
        }
    }
}
