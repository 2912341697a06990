//! Which published formula a configuration is.
//!
//! Invariants: every configuration that the named constructors make is recognised as theirs. Where a checkpoint's
//! settings leave nothing of a difference, the plainer formula is named: grouped selection with one group is none.

use crate::config::{GroupRank, Renormalize, RouterConfig, Score, Selection, WeightTarget};
use crate::presets::DEEPSEEK_EPS;

/// A published formula, as the named constructors of [`RouterConfig`] and the files of the router kit number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedFormula {
    /// `R1` to `R12`.
    pub id: &'static str,
    /// The constructor of [`RouterConfig`].
    pub name: &'static str,
    /// The file of `models/router-kit` with its golden vectors.
    pub kit_file: &'static str,
}

macro_rules! formulas {
    ($($number:literal $file:literal $name:literal,)*) => {
        /// The published formulas by number.
        pub const FORMULAS: &[PublishedFormula] = &[$(PublishedFormula {
            id: concat!("R", $number),
            name: $name,
            kit_file: concat!("r", $file, "_", $name, ".json"),
        },)*];
    };
}

formulas! {
    "1" "01" "softmax_top_k",
    "2" "02" "softmax_probabilities",
    "3" "03" "top_k_softmax",
    "4" "04" "sigmoid_grouped",
    "5" "05" "sigmoid_top_k",
    "6" "06" "softmax_biased",
    "7" "07" "softmax_grouped_max",
    "8" "08" "softmax_grouped_sum",
    "9" "09" "sparse_mixer",
    "10" "10" "sigmoid_on_input",
    "11" "11" "softmax_expert_scaled",
    "12" "12" "one_per_group",
}

impl RouterConfig {
    /// The published formula that this is, whatever its numbers.
    ///
    /// ```
    /// # use moebius_router::{Renormalize, RouterConfig};
    /// assert_eq!(RouterConfig::sigmoid_grouped(256, 8, 8, 4).published().id, "R4");
    /// let unlike_mixtral = RouterConfig::softmax_top_k(8, 2).with_renormalize(Renormalize::No);
    /// assert_eq!(unlike_mixtral.published().name, "softmax_probabilities");
    /// ```
    pub fn published(&self) -> PublishedFormula {
        let number = match (self.score, self.selection) {
            (Score::SoftmaxOverTopK, _) => 3,
            (Score::SparseMixer { .. }, _) => 9,
            (_, Selection::OnePerGroup) => 12,
            (Score::Sigmoid, _) if self.applies_to == WeightTarget::Input => 10,
            (Score::Sigmoid, Selection::GroupLimited { .. }) => 4,
            (Score::Sigmoid, Selection::TopK) => {
                if self.renormalize == (Renormalize::Sum { eps: DEEPSEEK_EPS }) { 4 } else { 5 }
            }
            (Score::Softmax, Selection::GroupLimited { rank: GroupRank::Max, .. }) => 7,
            (Score::Softmax, Selection::GroupLimited { rank: GroupRank::TopTwoSum, .. }) => 8,
            (Score::Softmax, Selection::TopK) => self.softmax_number(),
        };
        FORMULAS[number - 1]
    }

    /// The number of a softmax over all experts without groups.
    fn softmax_number(&self) -> usize {
        let at_least = matches!(self.renormalize, Renormalize::SumAtLeast { .. });
        match self.renormalize {
            _ if self.expert_scale.is_some() => 11,
            _ if self.selection_bias.is_some() || at_least => 6,
            Renormalize::No => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constructor_makes_the_formula_of_its_name() {
        let made = [
            RouterConfig::softmax_top_k(8, 2),
            RouterConfig::softmax_probabilities(8, 2),
            RouterConfig::top_k_softmax(8, 2),
            RouterConfig::sigmoid_grouped(8, 2, 4, 2),
            RouterConfig::sigmoid_top_k(8, 2, 1e-6),
            RouterConfig::softmax_biased(8, 2),
            RouterConfig::softmax_grouped_max(8, 2, 4, 2),
            RouterConfig::softmax_grouped_sum(8, 2, 4, 2),
            RouterConfig::sparse_mixer(8, 0.01),
            RouterConfig::sigmoid_on_input(8, 2),
            RouterConfig::softmax_expert_scaled(8, 2, vec![2.0; 8]),
            RouterConfig::one_per_group(8, 2, vec![2.0; 8]),
        ];
        let names: Vec<_> = made.iter().map(|config| config.published()).collect();
        assert_eq!(names, FORMULAS);
        assert_eq!(RouterConfig::sigmoid_grouped(8, 2, 1, 1).published().id, "R4");
    }
}
