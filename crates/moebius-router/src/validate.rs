//! The checks that make a [`RouterConfig`] a router: ranges, lengths, finite numbers, known combinations.

use crate::config::{GroupRank, Renormalize, RouterConfig, Score, Selection};
use crate::error::RouterError;

impl RouterConfig {
    /// Checks every field; `layer` only names the router in the error.
    pub(crate) fn validate(&self, layer: usize) -> Result<(), RouterError> {
        let Self { n_experts, top_k, .. } = *self;
        let check = Check { layer };
        check.that("n_experts", (1..=u32::MAX as usize).contains(&n_experts), "1 to 2^32 - 1", n_experts)?;
        check.that("top_k", (1..=n_experts).contains(&top_k), format_args!("1 to {n_experts}"), top_k)?;
        self.validate_selection(check)?;
        self.validate_masked(check)?;
        self.validate_score(check)?;
        self.validate_numbers(check)
    }

    fn validate_selection(&self, check: Check) -> Result<(), RouterError> {
        let Self { n_experts, top_k, .. } = *self;
        match self.selection {
            Selection::TopK => Ok(()),
            Selection::OnePerGroup => {
                let expected = format_args!("a divisor of {n_experts} experts, one per group");
                check.that("top_k", n_experts.is_multiple_of(top_k), expected, top_k)
            }
            Selection::GroupLimited { n_groups, keep, rank } => {
                let divides = n_groups > 0 && n_experts.is_multiple_of(n_groups);
                check.that(
                    "n_groups",
                    divides,
                    format_args!("a divisor of {n_experts} experts"),
                    n_groups,
                )?;
                let group_size = n_experts / n_groups;
                check.that("keep", (1..=n_groups).contains(&keep), format_args!("1 to {n_groups}"), keep)?;
                let in_kept = keep * group_size;
                let expected = format_args!("at most the {in_kept} experts of {keep} kept groups");
                check.that("top_k", top_k <= in_kept, expected, top_k)?;
                let comparable = rank == GroupRank::Max || group_size >= 2;
                check.that("n_groups", comparable, "groups of at least 2 experts for their sum", n_groups)
            }
        }
    }

    /// Every selection must find `top_k` experts that are not masked.
    fn validate_masked(&self, check: Check) -> Result<(), RouterError> {
        let Self { n_experts, top_k, ref masked, .. } = *self;
        let in_range = masked.last().is_none_or(|&id| (id as usize) < n_experts);
        let expected = format_args!("ascending ids below {n_experts}");
        let valid = in_range && masked.is_sorted_by(|a, b| a < b);
        check.that("masked", valid, expected, format_args!("{masked:?}"))?;
        let left_in = |group_size: usize| {
            let mut left = vec![group_size; n_experts / group_size];
            masked.iter().for_each(|&id| left[id as usize / group_size] -= 1);
            left
        };
        match self.selection {
            Selection::TopK => {
                let left = n_experts - masked.len();
                let expected = format_args!("at most the {left} experts that are not masked");
                check.that("top_k", top_k <= left, expected, top_k)
            }
            Selection::OnePerGroup => {
                let empty = left_in(n_experts / top_k).iter().position(|&left| left == 0);
                let expected = format_args!("an expert left in each of {top_k} groups");
                check.that(
                    "masked",
                    empty.is_none(),
                    expected,
                    format_args!("none in group {}", empty.unwrap_or(0)),
                )
            }
            Selection::GroupLimited { n_groups, keep, .. } => {
                let mut left = left_in(n_experts / n_groups);
                left.sort_unstable();
                let fewest: usize = left[..keep].iter().sum();
                let expected = format_args!("at most the {fewest} experts that {keep} groups may have left");
                check.that("top_k", top_k <= fewest, expected, top_k)
            }
        }
    }

    fn validate_score(&self, check: Check) -> Result<(), RouterError> {
        if matches!(self.score, Score::SoftmaxOverTopK | Score::SparseMixer { .. }) {
            let (selection, bias) = (&self.selection, &self.selection_bias);
            let expected = "`TopK` with a score that ranks raw logits";
            check.that(
                "selection",
                *selection == Selection::TopK,
                expected,
                format_args!("{selection:?}"),
            )?;
            check.that(
                "selection_bias",
                bias.is_none(),
                "none with a score that ranks raw logits",
                "some",
            )?;
        }
        if let Score::SparseMixer { jitter_eps } = self.score {
            check.that("top_k", self.top_k == 2, "2 for SparseMixer", self.top_k)?;
            let valid = jitter_eps.is_finite() && jitter_eps >= 0.0;
            check.that("jitter_eps", valid, "a finite number of at least 0", jitter_eps)?;
        }
        Ok(())
    }

    fn validate_numbers(&self, check: Check) -> Result<(), RouterError> {
        check.that("scale", self.scale.is_finite(), "a finite number", self.scale)?;
        let drop_below = self.drop_below;
        check.that("drop_below", (0.0..=1.0).contains(&drop_below), "a number from 0 to 1", drop_below)?;
        if let Renormalize::Sum { eps: floor } | Renormalize::SumAtLeast { min: floor } = self.renormalize {
            let valid = floor.is_finite() && floor >= 0.0;
            check.that("renormalize", valid, "a finite number of at least 0", floor)?;
        }
        for (field, values) in
            [("selection_bias", &self.selection_bias), ("expert_scale", &self.expert_scale)]
        {
            let Some(values) = values else { continue };
            let expected = format_args!("{} values", self.n_experts);
            check.that(field, values.len() == self.n_experts, expected, values.len())?;
            if let Some((expert, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                let got = format_args!("{value} for expert {expert}");
                check.that(field, false, "finite numbers", got)?;
            }
        }
        // A score is at most 1, so this bounds every weight: finite factors whose product overflows are
        // refused.
        let factors = self.expert_scale.as_deref().unwrap_or(&[1.0]);
        let overflow = factors.iter().map(|factor| factor * self.scale).find(|product| !product.is_finite());
        check.that("expert_scale", overflow.is_none(), "finite products with `scale`", "an overflow")
    }
}

/// Builds the error of a failed check.
#[derive(Clone, Copy)]
struct Check {
    layer: usize,
}

impl Check {
    fn that(
        self,
        field: &'static str,
        holds: bool,
        expected: impl ToString,
        got: impl ToString,
    ) -> Result<(), RouterError> {
        if holds {
            return Ok(());
        }
        let (expected, got) = (expected.to_string(), got.to_string());
        Err(RouterError::Config { layer: self.layer, field, expected, got })
    }
}
