//! The families that can be run, for people.

use moebius_model::FAMILIES;

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyInfo {
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// What sets it apart, in a phrase.
    pub about: &'static str,
}

/// All families that are built in, by name.
pub fn families() -> Vec<FamilyInfo> {
    FAMILIES.iter().map(|f| FamilyInfo { model_type: f.model_type, about: about(f.model_type) }).collect()
}

fn about(model_type: &str) -> &'static str {
    match model_type {
        "granitemoe" => "IBM Granite MoE: softmax over the chosen experts, scaled residuals and logits",
        "mixtral" => "Mistral's Mixtral: a few wide experts, softmax over the chosen ones",
        "olmoe" => "Ai2's OLMoE: many narrow experts, normalised queries and keys",
        "qwen2_moe" => "Qwen1.5-MoE and Qwen2-MoE: routed experts beside a gated shared one",
        "qwen3_moe" => "Qwen3-MoE: many narrow experts, renormalised weights, no shared expert",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_phrase() {
        for family in families() {
            assert!(!family.about.is_empty(), "`{}` has none", family.model_type);
        }
    }
}
