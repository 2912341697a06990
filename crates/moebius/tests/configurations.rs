//! Every value of config.json is used, defaulted as the family says, reported, or refused with a reason.

mod support;

use std::time::{Duration, Instant};

use moebius::{ErrorKind, ModelInfo, OpenOptions, inspect};
use serde_json::{Value, json};
use support::{Scratch, assert_says, config, explained, golden};

const GOLDENS: [&str; 13] = [
    "mixtral",
    "olmoe",
    "qwen2_moe_window_dense",
    "qwen3_moe_yarn_odd",
    "granitemoe",
    "hunyuan_v1_moe",
    "flex_olmo",
    "afmoe",
    "phimoe",
    "gemma4",
    "llama4",
    "dbrx",
    "pangu_pro_moe",
];

/// Keys that any family reads besides those that its golden spells out.
const MORE_KEYS: [&str; 16] = [
    "attention_bias",
    "clip_qkv",
    "head_dim",
    "layer_types",
    "mlp_only_layers",
    "decoder_sparse_step",
    "norm_topk_prob",
    "num_experts",
    "num_local_experts",
    "original_max_position_embeddings",
    "qkv_bias",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "use_sliding_window",
];

/// Keys of the goldens that say nothing about inference.
const IRRELEVANT_KEYS: [&str; 11] = [
    "architectures",
    "attention_dropout",
    "initializer_range",
    "output_router_logits",
    "pad_token_id",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
];

/// What the directory says, or the message of the error with its hint.
fn look(scratch: &Scratch) -> Result<ModelInfo, String> {
    inspect(scratch.path(), &OpenOptions::default()).map(|(info, _)| info).map_err(explained)
}

#[track_caller]
fn refused(config: &Value, parts: &[&str]) {
    let text = look(&Scratch::config_only(config)).expect_err("the configuration is wrong");
    assert_says(&text, parts);
}

fn with(name: &str, changes: Value) -> Value {
    let mut config = config(&golden(name));
    config.extend(changes.as_object().unwrap().clone());
    Value::Object(config)
}

/// Each of the keys absent and with each of the values: a refusal with a hint, or a model that can score.
fn sweep(name: &str) {
    let values = [
        json!(null),
        json!("x"),
        json!([]),
        json!([-1, "x"]),
        json!({}),
        json!({"factor": 0}),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1e18),
        json!(u64::MAX),
        json!(1),
        json!(2.5),
        json!(1e-300),
        json!(3),
    ];
    let scratch = Scratch::of(name);
    let original = config(&golden(name));
    let golden_keys = original.keys().map(String::as_str).filter(|key| !IRRELEVANT_KEYS.contains(key));
    for key in golden_keys.chain(MORE_KEYS) {
        let mut changed = original.clone();
        changed.remove(key);
        for value in std::iter::once(None).chain(values.iter().map(Some)) {
            if let Some(value) = value {
                changed.insert(key.into(), value.clone());
            }
            scratch.write("config.json", Value::Object(changed.clone()).to_string());
            let Ok(mut model) = scratch.open().map_err(explained) else { continue };
            let ids = vec![5; model.context().min(3)];
            let (scores, _) = model.score(&[ids], &Default::default()).unwrap_or_else(|error| {
                panic!("{name}: `{key}` = {value:?} loads and then fails: {}", explained(error))
            });
            assert!(scores[0].total_logprob().is_finite(), "{name}: `{key}` = {value:?}");
        }
    }
}

#[test]
fn any_value_under_any_key_of_mixtral_is_refused_or_gives_a_sound_model() {
    sweep("mixtral");
}

#[test]
fn any_value_under_any_key_of_olmoe_is_refused_or_gives_a_sound_model() {
    sweep("olmoe");
}

#[test]
fn any_value_under_any_key_of_qwen2_moe_is_refused_or_gives_a_sound_model() {
    sweep("qwen2_moe_window_dense");
}

#[test]
fn any_value_under_any_key_of_qwen3_moe_is_refused_or_gives_a_sound_model() {
    sweep("qwen3_moe_yarn_odd");
}

#[test]
fn any_value_under_any_key_of_granitemoe_is_refused_or_gives_a_sound_model() {
    sweep("granitemoe");
}

#[test]
fn any_value_under_any_key_of_hunyuan_v1_moe_is_refused_or_gives_a_sound_model() {
    sweep("hunyuan_v1_moe");
}

#[test]
fn any_value_under_any_key_of_afmoe_is_refused_or_gives_a_sound_model() {
    sweep("afmoe");
}

#[test]
fn any_value_under_any_key_of_phimoe_is_refused_or_gives_a_sound_model() {
    sweep("phimoe");
}

#[test]
fn any_value_under_any_key_of_gemma4_is_refused_or_gives_a_sound_model() {
    sweep("gemma4");
}

#[test]
fn any_value_under_any_key_of_llama4_is_refused_or_gives_a_sound_model() {
    sweep("llama4");
}

#[test]
fn any_value_under_any_key_of_dbrx_is_refused_or_gives_a_sound_model() {
    sweep("dbrx");
}

#[test]
fn a_wrong_value_is_shown_with_its_key_and_what_was_expected() {
    for (changes, parts) in [
        (json!({"hidden_size": "32"}), ["`hidden_size`", "expected a whole number", "got \"32\""]),
        (json!({"hidden_size": null}), ["`hidden_size`", "missing", ""]),
        (json!({"hidden_size": 33}), ["`hidden_size`", "expected a multiple of 4", "got 33"]),
        (json!({"num_attention_heads": 0}), ["`num_attention_heads`", "from 1", "got 0"]),
        (json!({"num_key_value_heads": 3}), ["`num_key_value_heads`", "divisor of 4", "got 3"]),
        (json!({"num_key_value_heads": 8}), ["`num_key_value_heads`", "from 1 to 4", "got 8"]),
        (json!({"num_experts_per_tok": 9}), ["`num_experts_per_tok`", "from 1 to 8", "got 9"]),
        (json!({"num_local_experts": 1e18}), ["`num_local_experts`", "from 1 to 1024", "got 1e+18"]),
        (json!({"num_experts": 4}), ["`num_experts`", "expected 8 as in `num_local_experts`", "got 4"]),
        (json!({"num_hidden_layers": 513}), ["`num_hidden_layers`", "from 1 to 512", "got 513"]),
        (json!({"head_dim": 7}), ["`head_dim`", "expected an even number", "got 7"]),
        (json!({"head_dim": 1 << 20}), ["`head_dim`", "expected at most 1048576 over 4", "got 1048576"]),
        (json!({"hidden_act": "tanh"}), ["`hidden_act`", "expected `silu`", "got `tanh`"]),
        (json!({"rms_norm_eps": -1e-5}), ["`rms_norm_eps`", "expected a number from", "got -0.00001"]),
        (json!({"tie_word_embeddings": 1}), ["`tie_word_embeddings`", "expected true or false", "got 1"]),
        (json!({"sliding_window": -4}), ["`sliding_window`", "from 1", "got -4"]),
        (json!({"eos_token_id": [1, "x"]}), ["`eos_token_id`", "a list of token ids", "got \"x\""]),
        (json!({"rope_theta": 1.0}), ["`rope_theta`", "above 1", "got 1"]),
        (json!({"rope_scaling": 3}), ["`rope_scaling`", "expected an object", "got 3"]),
        (json!({"vocab_size": [vec![0; 100_000]]}), ["`vocab_size`", "whole number", "got a list"]),
    ] {
        refused(&with("mixtral", changes), &parts);
    }
}

#[test]
fn layer_types_must_name_every_layer() {
    let name = "qwen2_moe_window_dense";
    for (types, parts) in [
        (json!(["full_attention"]), ["`layer_types`", "expected 4 entries, got 1"]),
        (json!(["x", "x", "x", "x"]), ["`layer_types`", "expected a list of `full_attention`"]),
        (json!("full_attention"), ["`layer_types`", "expected a list"]),
    ] {
        let n_layers = config(&golden(name))["num_hidden_layers"].as_u64().unwrap();
        let parts = parts.map(|part| part.replace("expected 4", &format!("expected {n_layers}")));
        refused(&with(name, json!({"layer_types": types})), &parts.each_ref().map(String::as_str));
    }
    let sliding =
        json!({"use_sliding_window": false, "layer_types": ["sliding_attention", "full_attention"]});
    refused(&with("qwen2_moe", sliding), &["`layer_types`", "use_sliding_window"]);
}

#[test]
fn a_window_of_qwen3_that_is_switched_on_has_a_default_size_and_null_is_none() {
    for (changes, window) in [
        (json!({"use_sliding_window": true}), Some("window of 4096")),
        (json!({"use_sliding_window": true, "sliding_window": 7}), Some("window of 7")),
        (json!({"use_sliding_window": true, "sliding_window": null}), None),
        (json!({"use_sliding_window": false, "sliding_window": 7}), None),
    ] {
        let mut config = config(&golden("qwen3_moe"));
        config.remove("sliding_window");
        config.extend(changes.as_object().unwrap().clone());
        let attention = look(&Scratch::config_only(&Value::Object(config))).unwrap().attention;
        match window {
            Some(window) => assert_says(&attention, &[window]),
            None => assert!(!attention.contains("window"), "{changes}: {attention}"),
        }
    }
}

#[test]
fn rope_scaling_with_missing_or_absurd_parameters_is_refused() {
    let llama = |changes: Value| {
        let mut scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        scaling.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        scaling
    };
    for (scaling, part) in [
        (json!({"rope_type": "linear"}), "`linear` scaling needs `factor`"),
        (json!({"type": "linear", "factor": 0}), "`factor`"),
        (json!({"type": "linear", "factor": -2}), "`factor`"),
        (json!({"type": "linear", "factor": "2"}), "`factor`"),
        (json!({"type": "linear", "factor": 1e-9}), "expected frequencies"),
        (json!({"type": "linear", "factor": 1e300}), "`factor`"),
        (json!({"type": "linear", "factor": [2]}), "`factor`"),
        (json!({"rope_type": "mrope"}), "got `mrope`"),
        (json!({"rope_type": 3}), "`rope_type`"),
        (json!({"rope_type": "linear", "factor": 2.0, "odd": 1}), "`odd` is not known"),
        (json!({"rope_type": "default", "rope_theta": 0.5}), "`rope_theta`"),
        (json!({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1.0}), "`beta_fast`"),
        (json!({"rope_type": "yarn", "factor": 2.0, "attention_factor": 1e9}), "attention factor"),
        (
            json!({"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": -1e9}),
            "attention factor",
        ),
        (json!({"rope_type": "yarn", "factor": 2.0, "truncate": "no"}), "`truncate`"),
        (json!({"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (llama(json!({"low_freq_factor": null})), "needs `low_freq_factor`"),
        (llama(json!({"high_freq_factor": 0})), "`high_freq_factor`"),
        (llama(json!({"original_max_position_embeddings": -64})), "`original_max_position_embeddings`"),
    ] {
        refused(&with("mixtral", json!({"rope_scaling": scaling})), &[part]);
        refused(&with("mixtral", json!({"rope_theta": null, "rope_parameters": scaling})), &[part]);
    }
}

#[test]
fn an_empty_rope_scaling_is_none() {
    look(&Scratch::config_only(&with("mixtral", json!({"rope_scaling": {}})))).unwrap();
}

#[test]
fn a_config_that_is_no_json_object_is_refused_quickly() {
    let start = Instant::now();
    let nested = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let big = format!(r#"{{"a": "{}"}}"#, "x".repeat(20 << 20));
    for (text, part) in [
        (&b""[..], "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "expected a JSON object, got a list"),
        (b"{\"rms_norm_eps\": NaN}", "not valid JSON"),
        (b"{\"rms_norm_eps\": 1e999}", "not valid JSON"),
        (b"\xff\xfe{}", "expected UTF-8"),
        (nested.as_bytes(), "not valid JSON"),
        (big.as_bytes(), "expected at most"),
    ] {
        let scratch = Scratch::of("mixtral");
        scratch.write("config.json", text);
        let error = scratch.open().err().expect("the configuration is wrong");
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert_says(&explained(error), &["config.json", part]);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn of_a_key_that_is_there_twice_the_last_one_counts() {
    let scratch = Scratch::of("mixtral");
    let text = String::from_utf8(scratch.read("config.json")).unwrap();
    scratch.write("config.json", text.replacen('{', r#"{"hidden_size": 7,"#, 1));
    scratch.open().unwrap();
}

#[test]
fn an_unknown_family_is_refused_with_those_that_are_known() {
    refused(&with("mixtral", json!({"model_type": "gpt2"})), &["`gpt2`", "`mixtral`", "`qwen3_moe`"]);
    refused(&with("mixtral", json!({"model_type": null})), &["`model_type`", "missing"]);
    refused(&with("mixtral", json!({"model_type": 3})), &["`model_type`", "expected a string, got 3"]);
    refused(&with("mixtral", json!({"model_type": "x".repeat(1 << 20)})), &["unknown model family"]);
}

#[test]
fn keys_that_nothing_reads_are_reported() {
    let config = with("mixtral", json!({"new_trick": 3, "old_trick": null, "use_cache": false}));
    assert_eq!(look(&Scratch::config_only(&config)).unwrap().unknown_keys, ["new_trick"]);
    for name in GOLDENS {
        assert_eq!(inspect(golden(name), &OpenOptions::default()).unwrap().0.unknown_keys, [""; 0], "{name}");
    }
}

#[test]
fn what_another_key_overrides_is_reported_or_has_to_agree() {
    let unknown =
        |name: &str, changes: Value| look(&Scratch::config_only(&with(name, changes))).unwrap().unknown_keys;
    assert_eq!(unknown("mixtral", json!({"text_config": 3})), ["text_config"]);
    let newer = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}});
    assert_eq!(
        unknown("qwen3_moe_yarn_odd", newer),
        ["rope_parameters.rope_theta", "rope_parameters.rope_type"]
    );
    let same = config(&golden("qwen3_moe_yarn_odd"))["rope_scaling"].clone();
    assert_eq!(unknown("qwen3_moe_yarn_odd", json!({"rope_parameters": same})), [""; 0]);
    let apart = json!({"original_max_position_embeddings": 12});
    let parts = ["`original_max_position_embeddings`", "expected 12", "got 128"];
    refused(&with("phimoe", apart), &parts);
}

#[test]
fn qwen3_refuses_what_its_releases_say_otherwise() {
    let released = json!({"use_qk_norm": true, "qkv_bias": false, "shared_expert_intermediate_size": 0});
    let config = Scratch::config_only(&with("qwen3_moe", released));
    assert_eq!(look(&config).unwrap().unknown_keys, [""; 0]);
    for (changes, part) in [
        (json!({"use_qk_norm": false}), "`use_qk_norm`"),
        (json!({"qkv_bias": true}), "`qkv_bias`"),
        (json!({"shared_expert_intermediate_size": 8}), "`shared_expert_intermediate_size`"),
    ] {
        refused(&with("qwen3_moe", changes), &[part, "expected"]);
    }
}

#[test]
fn the_largest_legal_model_is_described_at_once() {
    let start = Instant::now();
    let config = with(
        "mixtral",
        json!({"num_hidden_layers": 512, "num_local_experts": 1024, "num_experts_per_tok": 1024,
            "hidden_size": 1 << 20, "intermediate_size": 1 << 20, "vocab_size": 1 << 24,
            "num_attention_heads": 1 << 10, "num_key_value_heads": 1 << 10, "head_dim": 1 << 10,
            "max_position_embeddings": 1 << 28}),
    );
    let info = look(&Scratch::config_only(&config)).unwrap();
    assert_eq!(info.tally[&moebius::Place::Experts].total, 512 * 1024 * 3 * (1 << 40));
    assert_eq!(info.total_parameters(), info.active_parameters());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_config_far_larger_than_its_weights_is_refused_quickly() {
    let start = Instant::now();
    let scratch = Scratch::of("mixtral");
    scratch.edit_config(|config| {
        config.insert("num_hidden_layers".into(), 512.into());
        config.insert("num_local_experts".into(), 1024.into());
    });
    assert_says(&scratch.refusal(), &["tensors do not fit", "and ", " more"]);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
