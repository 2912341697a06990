//! Published models: what their configurations say agrees with what their authors publish.

use moebius::published_models;

/// Parameters in billions, in all and for a token with embeddings, as published or as counted by the reference
/// implementation.
const PUBLISHED: &[(&str, f64, f64)] = &[
    ("dbrx", 131.6, 36.5),
    ("deepseek-v2", 235.7, 21.4),
    ("deepseek-v2-lite", 15.7, 2.7),
    ("deepseek-v3", 671.0, 37.6),
    ("dots.llm1", 142.8, 14.0),
    ("ernie-4.5-21b-a3b", 21.8, 3.4),
    ("ernie-4.5-300b-a47b", 299.5, 47.9),
    ("flexolmo-7x7b", 33.3, 24.6),
    ("gemma-4-26b-a4b", 25.2, 3.8),
    ("glm-4.5", 352.8, 33.6),
    ("glm-4.5-air", 106.9, 13.4),
    ("glm-4.7-flash", 29.9, 3.9),
    ("gpt-oss-120b", 116.8, 5.7),
    ("gpt-oss-20b", 20.9, 4.2),
    ("granite-1b-a400m", 1.33, 0.43),
    ("granite-3b-a800m", 3.30, 0.88),
    ("granite-4.0-h-small", 32.2, 8.8),
    ("granite-4.0-h-tiny", 6.9, 1.5),
    ("hunyuan-a13b", 80.4, 12.8),
    ("jamba-1.5-large", 398.6, 94.1),
    ("jamba-v0.1", 51.6, 12.1),
    ("kimi-k2", 1026.0, 32.9),
    ("lfm2-8b-a1b", 8.34, 1.56),
    ("ling-flash-2.0", 102.9, 6.1),
    ("ling-mini-2.0", 16.3, 1.4),
    ("llama-4-maverick", 400.7, 17.2),
    ("llama-4-scout", 107.8, 17.2),
    ("minimax-m2", 228.7, 11.0),
    ("mixtral-8x22b", 140.6, 39.1),
    ("mixtral-8x7b", 46.7, 12.9),
    ("moonlight-16b-a3b", 16.0, 2.9),
    ("nemotron-3-nano-30b-a3b", 31.6, 3.6),
    ("olmoe-1b-7b", 6.9, 1.3),
    ("pangu-pro-moe", 72.0, 16.5),
    ("phi-3.5-moe", 41.9, 6.6),
    ("phi-mini-moe", 7.65, 2.4),
    ("qwen1.5-moe-a2.7b", 14.3, 2.7),
    ("qwen2-57b-a14b", 57.4, 14.2),
    ("qwen3-235b-a22b", 235.1, 22.2),
    ("qwen3-30b-a3b", 30.5, 3.3),
    ("qwen3-coder-480b-a35b", 480.2, 35.5),
    ("qwen3-next-80b-a3b", 79.7, 3.9),
    ("qwen3.5-35b-a3b", 34.7, 3.5),
    ("trinity-mini", 26.1, 3.5),
    ("trinity-nano", 6.1, 1.0),
];

#[test]
fn parameters_of_every_shape_are_those_that_are_published() {
    let models = published_models().unwrap();
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, PUBLISHED.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (model, &(name, total, active)) in models.iter().zip(PUBLISHED) {
        let billions = |count: u64| count as f64 / 1e9;
        let got = (billions(model.info.total_parameters()), billions(model.info.active_parameters()));
        let near = |got: f64, expected: f64| (got - expected).abs() <= 0.005 * expected + 0.05;
        if !near(got.0, total) || !near(got.1, active) || !model.info.unknown_keys.is_empty() {
            wrong.push(format!(
                "{name}: expected {total} / {active}, got {got:?}, {:?}",
                model.info.unknown_keys
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_table_of_tokens_is_left_out_where_authors_leave_it_out() {
    let models = published_models().unwrap();
    let of =
        |name: &str| models.iter().find(|model| model.name == name).unwrap().info.active_without_embedding();
    let billions = |name: &str| (of(name) as f64 / 1e8).round() / 10.0;
    assert_eq!([billions("gpt-oss-20b"), billions("gpt-oss-120b")], [3.6, 5.1]);
    // Tied: the table is the output projection, which every token uses whole.
    assert_eq!(billions("ernie-4.5-21b-a3b"), 3.4);
}

#[test]
fn layers_that_predict_further_tokens_are_left_out_and_named() {
    let models = published_models().unwrap();
    let of = |name: &str| models.iter().find(|model| model.name == name).unwrap().info.mtp_layers;
    assert_eq!((of("deepseek-v3"), of("glm-4.5"), of("olmoe-1b-7b")), (1, 1, 0));
}
