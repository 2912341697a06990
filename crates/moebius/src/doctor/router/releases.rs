//! What published models of a family say about their routers: their config.json files, which come with the library.

use moebius_model::FAMILIES;
use serde_json::Value;

/// A published model.
struct Release {
    name: &'static str,
    config: &'static str,
}

macro_rules! releases {
    ($($name:literal),+ $(,)?) => {
        const RELEASES: &[Release] = &[$(Release {
            name: $name,
            config: include_str!(concat!("../../../shapes/", $name, ".json")),
        }),+];
    };
}

// Those whose configurations say something about the router that a copy of them may lack.
releases![
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "dots.llm1",
    "glm-4.5",
    "glm-4.5-air",
    "glm-4.7-flash",
    "kimi-k2",
    "lfm2-8b-a1b",
    "ling-mini-2.0",
    "moonlight-16b-a3b",
    "nemotron-3-nano-30b-a3b",
    "olmoe-1b-7b",
    "qwen1.5-moe-a2.7b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "qwen3-next-80b-a3b",
    "trinity-mini",
];

/// What the published models of `family` say under `key`: their names and the values as JSON.
pub(super) fn values(family: &str, key: &str) -> Vec<(&'static str, String)> {
    let said = |release: &Release| {
        let config: Value = serde_json::from_str(release.config).ok()?;
        let model_type = config.get("model_type")?.as_str()?;
        let named = |known: &&moebius_model::Family| {
            known.model_type == model_type || known.aliases.contains(&model_type)
        };
        let of_family = FAMILIES.iter().find(named).is_some_and(|known| known.model_type == family);
        let value = config.get(key).filter(|value| !value.is_null() && of_family)?;
        Some((release.name, value.to_string()))
    };
    RELEASES.iter().filter_map(said).collect()
}

/// The same in words: "qwen3-30b-a3b says `true`".
pub(super) fn in_words(values: &[(&str, String)]) -> String {
    let each: Vec<_> = values.iter().map(|(name, value)| format!("{name} says `{value}`")).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_is_a_configuration_that_says_something_about_its_router() {
        for release in RELEASES {
            let config: Value = serde_json::from_str(release.config).unwrap();
            assert!(config.get("model_type").is_some(), "{}", release.name);
            let keys = ["norm_topk_prob", "routed_scaling_factor", "route_scale"];
            assert!(keys.iter().any(|key| config.get(key).is_some()), "{}", release.name);
        }
    }

    #[test]
    fn a_release_counts_for_the_family_that_runs_it() {
        assert_eq!(
            values("deepseek_v3", "routed_scaling_factor").iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["deepseek-v3", "kimi-k2", "moonlight-16b-a3b"],
        );
        assert_eq!(values("mixtral", "norm_topk_prob"), []);
        assert_eq!(in_words(&values("olmoe", "norm_topk_prob")), "olmoe-1b-7b says `false`");
    }
}
