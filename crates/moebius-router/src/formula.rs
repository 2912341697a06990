//! A routing formula in words, for people.

use crate::config::{GroupRank, Renormalize, RouterConfig, Score, Selection, WeightTarget};

impl RouterConfig {
    /// The formula in words, one line.
    ///
    /// ```
    /// use moebius_router::{Renormalize, RouterConfig};
    ///
    /// assert_eq!(
    ///     RouterConfig::softmax_probabilities(64, 8).formula(),
    ///     "softmax over 64 experts, keep the 8 largest, weights not renormalised",
    /// );
    /// assert_eq!(
    ///     RouterConfig::top_k_softmax(32, 4).formula(),
    ///     "keep the 4 largest of 32 logits, softmax over those",
    /// );
    /// let v3 = RouterConfig::sigmoid_grouped(256, 8, 8, 4).with_scale(2.5);
    /// assert_eq!(
    ///     v3.with_selection_bias(vec![0.0; 256]).formula(),
    ///     "sigmoid over 256 experts, selection bias added, keep 4 of 8 groups by the sum of \
    ///      their two best, keep the 8 largest, unbiased weights renormalised to sum 1, times 2.5",
    /// );
    /// ```
    pub fn formula(&self) -> String {
        let mut clauses = self.choice_clauses();
        if self.drop_below > 0.0 {
            clauses.push(format!("drop those below {} of the token's heaviest", self.drop_below));
        }
        clauses.extend(self.weight_clauses());
        if let masked @ 1.. = self.masked.len() {
            clauses.push(format!("{masked} of {} experts masked", self.n_experts));
        }
        clauses.join(", ")
    }

    fn choice_clauses(&self) -> Vec<String> {
        let Self { n_experts, top_k, .. } = *self;
        let largest = if top_k == 1 { "the largest".to_owned() } else { format!("the {top_k} largest") };
        let mut clauses = match self.score {
            Score::SoftmaxOverTopK => {
                let over = if top_k == 1 { "that" } else { "those" };
                return vec![format!("keep {largest} of {n_experts} logits"), format!("softmax over {over}")];
            }
            Score::SparseMixer { jitter_eps } => {
                return vec![
                    format!("SparseMixer over {n_experts} experts (jitter {jitter_eps})"),
                    "keep the 2 largest, each weighted by a softmax of its own".to_owned(),
                ];
            }
            Score::Softmax => vec![format!("softmax over {n_experts} experts")],
            Score::Sigmoid => vec![format!("sigmoid over {n_experts} experts")],
        };
        if self.selection_bias.is_some() {
            clauses.push("selection bias added".to_owned());
        }
        match self.selection {
            Selection::TopK => clauses.push(format!("keep {largest}")),
            Selection::GroupLimited { n_groups, keep, rank } => {
                let by = match rank {
                    GroupRank::Max => "their best",
                    GroupRank::TopTwoSum => "the sum of their two best",
                };
                clauses.push(format!("keep {keep} of {n_groups} groups by {by}"));
                clauses.push(format!("keep {largest}"));
            }
            Selection::OnePerGroup => clauses.push(format!("keep the largest of each of {top_k} groups")),
        }
        clauses
    }

    fn weight_clauses(&self) -> Vec<String> {
        let mut clauses = Vec::new();
        let weights = if self.selection_bias.is_some() { "unbiased weights" } else { "weights" };
        let weighs_by_itself = matches!(self.score, Score::SoftmaxOverTopK | Score::SparseMixer { .. });
        match self.renormalize {
            Renormalize::No if weighs_by_itself => {}
            Renormalize::No => clauses.push(format!("{weights} not renormalised")),
            Renormalize::Sum { .. } | Renormalize::SumAtLeast { .. } => {
                clauses.push(format!("{weights} renormalised to sum 1"));
            }
        }
        if self.scale != 1.0 {
            clauses.push(format!("times {}", self.scale));
        }
        if self.expert_scale.is_some() {
            clauses.push("times a learned scale per expert".to_owned());
        }
        if self.applies_to == WeightTarget::Input {
            clauses.push("applied to the expert's input".to_owned());
        }
        clauses
    }
}
