//! The router conformance kit as values: shared by the tests of whatever routes.

use std::path::Path;

use moebius_router::{GroupRank, Renormalize, RouterConfig, Score, Selection, WeightTarget};
use serde_json::Value;

/// The keys of a configuration, all of which are always there.
const KEYS: [&str; 15] = [
    "e_score_correction_bias",
    "group_score",
    "n_group",
    "norm_eps",
    "norm_min",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "per_expert_scale",
    "routed_scaling_factor",
    "router_jitter_noise",
    "scoring_func",
    "topk_group",
    "topk_method",
    "weight_target",
];

/// The files of the kit, by name.
pub(crate) fn files() -> Vec<(String, Value)> {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/router-kit");
    let paths = std::fs::read_dir(kit).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        })
        .collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

/// The cases of a file.
pub(crate) fn cases(file: &Value) -> &[Value] {
    file["cases"].as_array().unwrap()
}

/// The cases of all files.
pub(crate) fn all_cases() -> Vec<Value> {
    files().iter().flat_map(|(_, file)| cases(file).to_vec()).collect()
}

/// A number as a size.
pub(crate) fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// Numbers as f32.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The configuration that an object of the kit describes.
pub(crate) fn config_of(config: &Value) -> RouterConfig {
    let keys: Vec<_> = config.as_object().unwrap().keys().collect();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(sorted, KEYS, "a configuration has exactly the documented keys");
    let text = |key: &str| config[key].as_str().unwrap();
    let number = |key: &str| config[key].as_f64().map(|v| v as f32);
    let renormalize = match (config["norm_topk_prob"].as_bool().unwrap(), number("norm_min")) {
        (false, _) => Renormalize::No,
        (true, Some(min)) => Renormalize::SumAtLeast { min },
        (true, None) => Renormalize::Sum { eps: number("norm_eps").unwrap() },
    };
    RouterConfig {
        n_experts: size(&config["num_experts"]),
        top_k: size(&config["num_experts_per_tok"]),
        score: match text("scoring_func") {
            "softmax" => Score::Softmax,
            "softmax_over_top_k" => Score::SoftmaxOverTopK,
            "sigmoid" => Score::Sigmoid,
            "sparse_mixer" => Score::SparseMixer { jitter_eps: number("router_jitter_noise").unwrap() },
            other => panic!("unknown score `{other}`"),
        },
        selection: match text("topk_method") {
            "greedy" => Selection::TopK,
            "one_per_group" => Selection::OnePerGroup,
            "group_limited" => Selection::GroupLimited {
                n_groups: size(&config["n_group"]),
                keep: size(&config["topk_group"]),
                rank: if text("group_score") == "max" { GroupRank::Max } else { GroupRank::TopTwoSum },
            },
            other => panic!("unknown selection `{other}`"),
        },
        selection_bias: config["e_score_correction_bias"]
            .is_array()
            .then(|| floats(&config["e_score_correction_bias"])),
        renormalize,
        scale: number("routed_scaling_factor").unwrap(),
        expert_scale: config["per_expert_scale"].is_array().then(|| floats(&config["per_expert_scale"])),
        applies_to: if text("weight_target") == "input" { WeightTarget::Input } else { WeightTarget::Output },
        masked: Vec::new(),
        drop_below: 0.0,
    }
}
