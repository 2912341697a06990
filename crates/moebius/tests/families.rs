//! What only some families have: refusals by name, settings of single layers, sequences that outgrow a context.

mod support;

use moebius::{BackendOptions, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams, inspect};
use serde_json::{Value, json};
use support::{Scratch, assert_says, config, explained, golden};

/// The message for the configuration of `name` with `changes`; `null` removes a key.
#[track_caller]
fn refusal(name: &str, changes: &Value) -> String {
    let mut config = config(&golden(name));
    for (key, value) in changes.as_object().unwrap() {
        config.insert(key.clone(), value.clone());
        if value.is_null() {
            config.remove(key);
        }
    }
    let scratch = Scratch::config_only(&Value::Object(config));
    let outcome = inspect(scratch.path(), &OpenOptions::default());
    explained(outcome.map(drop).expect_err("the configuration asks for what is not there"))
}

#[test]
fn parts_of_a_line_of_models_that_are_not_there_are_refused_by_name() {
    for (name, changes, parts) in [
        ("gemma4", json!({"hidden_size_per_layer_input": 256}), ["`hidden_size_per_layer_input`", "got 256"]),
        (
            "gemma4",
            json!({"hidden_size_per_layer_input": null}),
            ["`hidden_size_per_layer_input`", "got 256"],
        ),
        ("gemma4", json!({"num_kv_shared_layers": 2}), ["`num_kv_shared_layers`", "got 2"]),
        ("gemma4", json!({"use_double_wide_mlp": true}), ["`use_double_wide_mlp`", "got true"]),
        (
            "gemma4",
            json!({"use_bidirectional_attention": "all"}),
            ["`use_bidirectional_attention`", "got `all`"],
        ),
        (
            "gemma4",
            json!({"per_layer_config": {"0": {"head_dim": 10}}}),
            ["`per_layer_config`", "got 2 of 10"],
        ),
        ("gemma4", json!({"per_layer_config": {"0": {"rank": 1}}}), ["`per_layer_config`", "got `rank`"]),
        ("gemma4", json!({"per_layer_config": {"7": {}}}), ["`per_layer_config`", "got `7`"]),
        ("hunyuan_v1_moe", json!({"use_cla": true}), ["`use_cla`", "got true"]),
        (
            "hunyuan_v1_moe",
            json!({"moe_topk": [1, 9, 1]}),
            ["`moe_topk`", "expected at most 8 experts in layer 1"],
        ),
        ("hunyuan_v1_moe", json!({"moe_topk": [1, 2]}), ["`moe_topk`", "expected 3 entries, got 2"]),
        ("afmoe", json!({"n_group": 2}), ["`n_group`", "expected 1, got 2"]),
        ("afmoe", json!({"score_func": "softmax"}), ["`score_func`", "got `softmax`"]),
        ("phimoe", json!({"num_experts_per_tok": 3}), ["`num_experts_per_tok`", "got 3 of 8"]),
        ("pangu_pro_moe", json!({"num_experts_per_tok": 3}), ["`num_experts_per_tok`", "a divisor of 8"]),
        ("llama4", json!({"no_rope_layers": [1]}), ["`no_rope_layers`", "at least 4 entries, got 1"]),
        ("dbrx", json!({"tie_word_embeddings": true}), ["`tie_word_embeddings`", "got true"]),
        (
            "dbrx",
            json!({"ffn_config": {"moe_normalize_expert_weights": 2.0}}),
            ["`moe_normalize_expert_weights`", "expected 1 or null, got 2"],
        ),
    ] {
        assert_says(&refusal(name, &changes), &parts);
    }
}

#[test]
fn a_key_of_an_object_below_that_nobody_knows_is_reported() {
    let mut config = config(&golden("dbrx"));
    config["ffn_config"]["moe_shape"] = json!("round");
    let scratch = Scratch::config_only(&Value::Object(config));
    let (info, _) = inspect(scratch.path(), &OpenOptions::default()).unwrap();
    assert!(info.unknown_keys.contains(&"ffn_config.moe_shape".into()), "{:?}", info.unknown_keys);
}

fn open(scratch: &Scratch, chunk: usize) -> Model {
    let backend = BackendOptions { threads: Some(1), ..BackendOptions::default() };
    let options = OpenOptions { backend, chunk: Some(chunk), ..OpenOptions::default() };
    Model::open(scratch.path(), &options).unwrap()
}

#[test]
fn a_sequence_that_outgrows_the_trained_context_goes_on_as_if_it_had_been_read_at_once() {
    const ORIGINAL: usize = 24;
    let scratch = Scratch::of("phimoe");
    scratch.edit_config(|config| {
        config["rope_scaling"]["original_max_position_embeddings"] = ORIGINAL.into();
        config["original_max_position_embeddings"] = ORIGINAL.into();
    });
    let prompt: Vec<u32> = (0..18).map(|i| 2 + i * 7 % 120).collect();
    for chunk in [512, 5] {
        let mut model = open(&scratch, chunk);
        let options = GenerateOptions {
            max_tokens: Some(14),
            sampling: Some(SamplingParams::default()),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut generation = model.generate(Prompt::Ids(&prompt), &options).unwrap();
        generation.by_ref().for_each(|piece| drop(piece.unwrap()));
        let mut sequence = prompt.clone();
        for token in generation.finish().tokens {
            let (scores, _) = model.score(&[sequence.clone()], &Default::default()).unwrap();
            assert_eq!(scores[0].predicted, token, "after {} tokens, chunks of {chunk}", sequence.len());
            sequence.push(token);
        }
        assert!(sequence.len() > ORIGINAL);
    }
}

#[test]
fn short_and_long_sequences_take_other_angles() {
    let logprobs = |original: usize| {
        let scratch = Scratch::of("phimoe");
        scratch.edit_config(|config| {
            config["rope_scaling"]["original_max_position_embeddings"] = original.into();
            config["original_max_position_embeddings"] = original.into();
        });
        let ids: Vec<u32> = (2..14).collect();
        open(&scratch, 512).score(&[ids], &Default::default()).unwrap().0[0].logprobs.clone()
    };
    // Twelve tokens: the trained context is just long enough, or one too short.
    assert_eq!(logprobs(12), logprobs(128));
    assert_ne!(logprobs(11), logprobs(12));
    assert_eq!(logprobs(11), logprobs(2));
}
