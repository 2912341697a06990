//! What configurations of a family may say: defaults of its own, both spellings, and refusals that name the key.

mod support;

use moebius::{ModelInfo, OpenOptions, inspect};
use serde_json::{Value, json};
use support::{Scratch, assert_says, explained};

/// The sizes of a small model of a family, and its own keys.
fn small(model_type: &str, own: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 64, "intermediate_size": 24, "moe_intermediate_size": 8,
        "num_experts_per_tok": 2,
    });
    config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    config
}

fn deepseek(model_type: &str, own: Value) -> Value {
    let latent = json!({"n_routed_experts": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
        "v_head_dim": 8, "q_lora_rank": null});
    let mut config = small(model_type, latent);
    config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    config
}

fn look(config: &Value) -> Result<ModelInfo, String> {
    let scratch = Scratch::config_only(config);
    inspect(scratch.path(), &OpenOptions::default()).map(|(info, _)| info).map_err(explained)
}

/// Checks what is said of attention and router.
#[track_caller]
fn described(config: &Value, attention: &[&str], router: &[&str]) {
    let info = look(config).unwrap();
    assert_says(&info.attention, attention);
    assert_says(&info.moe.expect("it has experts").formula, router);
    assert!(info.unknown_keys.is_empty(), "{:?}", info.unknown_keys);
}

#[track_caller]
fn refused(config: &Value, parts: &[&str]) {
    assert_says(&look(config).expect_err("the configuration is wrong"), parts);
}

#[test]
fn gpt_oss_has_windows_in_even_layers_unless_it_says_which() {
    let gpt_oss = |own: Value| {
        let mut config = small("gpt_oss", json!({"num_local_experts": 4, "num_key_value_heads": 2}));
        let config_keys = config.as_object_mut().unwrap();
        config_keys.remove("moe_intermediate_size");
        config_keys.extend(own.as_object().unwrap().clone());
        config
    };
    let types = ["full_attention", "full_attention", "full_attention", "sliding_attention"];
    described(&gpt_oss(json!({})), &["4 heads of 64", "window of 128 in 2 of 4 layers"], &["of 4 logits"]);
    described(&gpt_oss(json!({"layer_types": types, "sliding_window": 7})), &["window of 7 in 1 of 4"], &[]);
    refused(&gpt_oss(json!({"swiglu_alpha": 1.5})), &["`swiglu_alpha`", "expected 1.702", "got 1.5"]);
    refused(&gpt_oss(json!({"experts_per_token": 3})), &["`experts_per_token`", "expected 2", "got 3"]);
    refused(&gpt_oss(json!({"sliding_window": null})), &["`sliding_window`", "sliding layers", "got null"]);
    let other = json!({"quantization_config": {"quant_method": "awq"}});
    refused(&gpt_oss(other), &["`quantization_config`", "`fp8` or `mxfp4`", "got `awq`"]);
}

#[test]
fn deepseek_v2_never_renormalises_and_needs_its_groups() {
    let grouped = json!({"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2});
    let router = ["keep 2 of 4 groups by their best", "not renormalised"];
    described(&deepseek("deepseek_v2", grouped), &["over a latent of 8"], &router);
    let greedy = deepseek("deepseek_v2", json!({"norm_topk_prob": true, "routed_scaling_factor": 16.0}));
    described(&greedy, &[], &["softmax over 16", "not renormalised, times 16"]);
    let missing = json!({"topk_method": "group_limited_greedy"});
    refused(&deepseek("deepseek_v2", missing), &["`topk_method`", "`n_group` and `topk_group`"]);
    refused(&deepseek("deepseek_v2", json!({"topk_method": "noaux_tc"})), &["`topk_method`", "`greedy`"]);
}

#[test]
fn queries_that_are_not_squeezed_say_so_with_null() {
    for model_type in ["deepseek_v2", "deepseek_v3", "glm4_moe_lite"] {
        let mut config = deepseek(model_type, json!({}));
        let plain = look(&config).unwrap().total_parameters();
        config.as_object_mut().unwrap().remove("q_lora_rank");
        assert!(look(&config).unwrap().total_parameters() > plain + 4 * 768 * 32, "{model_type}");
    }
}

#[test]
fn deepseek_v3_has_eight_groups_unless_it_says_otherwise() {
    let groups = ["keep 4 of 8 groups by the sum", "renormalised to sum 1, times 2.5"];
    described(&deepseek("deepseek_v3", json!({})), &[], &groups);
    described(&deepseek("kimi_k2", json!({"n_group": 1, "topk_group": 1})), &[], &["keep the 2 largest"]);
    refused(&deepseek("deepseek_v3", json!({"scoring_func": "softmax"})), &["`scoring_func`", "`sigmoid`"]);
    refused(&deepseek("deepseek_v3", json!({"n_group": 5})), &["16 experts", "5"]);
}

#[test]
fn extra_layers_for_further_tokens_are_named() {
    for (key, config) in [
        ("num_nextn_predict_layers", deepseek("deepseek_v3", json!({}))),
        ("num_mtp_layers", deepseek("glm4_moe_lite", json!({}))),
    ] {
        let mut config = config;
        config[key] = 2.into();
        assert_eq!(look(&config).unwrap().mtp_layers, 2, "{key}");
    }
}

#[test]
fn a_wrapped_language_model_is_said_to_be_one() {
    let wrapper = json!({"model_type": "kimi_k25", "text_config": deepseek("kimi_k2", json!({}))});
    let info = look(&wrapper).unwrap();
    assert_eq!((info.family, info.text_part_of.as_deref()), ("deepseek_v3", Some("kimi_k25")));
    let vision = json!({"model_type": "ernie4_5_moe_vl", "hidden_size": 32});
    refused(&vision, &["unknown model family", "`ernie4_5_moe_vl`"]);
}

#[test]
fn glm_rotates_half_of_a_head_or_all_of_a_latent_one() {
    let glm = small("glm4_moe", json!({"n_routed_experts": 8, "head_dim": 16}));
    described(&glm, &["4 heads of 16, 8 elements rotated"], &["sigmoid over 8"]);
    let lite = deepseek("glm4_moe_lite", json!({"partial_rotary_factor": 0.5}));
    refused(&lite, &["`partial_rotary_factor`", "expected 1"]);
}

#[test]
fn dots_has_windows_in_its_last_layers_alone() {
    let dots = |own: Value| {
        let mut config = small("dots1", json!({"n_routed_experts": 8, "scoring_func": "noaux_tc"}));
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        config
    };
    described(&dots(json!({"max_window_layers": 3})), &["window of 4096 in 1 of 4"], &["not renormalised"]);
    for none in [json!({"max_window_layers": 3, "sliding_window": null}), json!({})] {
        assert!(!look(&dots(none)).unwrap().attention.contains("window"));
    }
}

#[test]
fn both_generations_of_ling_are_told_apart() {
    let ling = |own: Value| {
        let mut config =
            small("bailing_moe", json!({"num_experts": 16, "num_key_value_heads": 2, "head_dim": 8}));
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        config
    };
    described(&ling(json!({})), &["4 heads of 8"], &["softmax over 16", "renormalised to sum 1"]);
    let second = json!({"architectures": ["BailingMoeV2ForCausalLM"], "rotary_dim": 4});
    described(&ling(second), &["q/k norm per head", "4 elements rotated"], &["sigmoid", "4 of 8 groups"]);
    refused(&ling(json!({"norm_head": true})), &["`norm_head`", "expected false, got true"]);
    refused(&ling(json!({"score_function": "softmax"})), &["`score_function`", "`sigmoid`"]);
    let apart = json!({"score_function": "sigmoid", "rotary_dim": 4, "partial_rotary_factor": 0.25});
    refused(&ling(apart), &["`rotary_dim`", "expected 0.25 of 8", "got 0.5"]);
}

#[test]
fn minimax_refuses_what_no_release_has() {
    let minimax = |own: Value| {
        let mut config =
            small("minimax_m2", json!({"num_local_experts": 8, "head_dim": 16, "rotary_dim": 8}));
        let keys = config.as_object_mut().unwrap();
        keys.remove("moe_intermediate_size");
        keys.extend(own.as_object().unwrap().clone());
        config
    };
    described(
        &minimax(json!({"attn_type_list": [1, 1, 1, 1]})),
        &["q/k norm over all heads", "8 elements"],
        &[],
    );
    refused(&minimax(json!({"attn_type_list": [1, 0, 1, 1]})), &["`attn_type_list`", "full attention"]);
    refused(&minimax(json!({"use_routing_bias": false})), &["`use_routing_bias`", "expected true"]);
    refused(
        &minimax(json!({"shared_intermediate_size": 8})),
        &["`shared_intermediate_size`", "expected 0, got 8"],
    );
    refused(&minimax(json!({"rotary_dim": 17})), &["`rotary_dim`", "from 1 to 16"]);
}

#[test]
fn ernie_has_experts_from_a_layer_to_another() {
    let ernie = |own: Value| {
        let mut config = small("ernie4_5_moe", json!({"moe_num_experts": 8, "moe_k": 3}));
        let keys = config.as_object_mut().unwrap();
        keys.remove("num_experts_per_tok");
        keys.extend(own.as_object().unwrap().clone());
        config
    };
    for (own, layers) in [
        (json!({}), 3),
        (json!({"moe_layer_end_index": -1, "moe_layer_interval": 2}), 2),
        (json!({"moe_layer_start_index": 0, "moe_layer_end_index": 2}), 3),
    ] {
        assert_eq!(look(&ernie(own)).unwrap().moe.unwrap().layers, layers);
    }
    refused(&ernie(json!({"moe_layer_end_index": -2})), &["`moe_layer_end_index`", "or -1, got -2"]);
    refused(&ernie(json!({"moe_num_experts": [8, 8]})), &["`moe_num_experts`", "whole number", "got [8,8]"]);
    refused(&ernie(json!({"moe_use_aux_free": false})), &["`moe_use_aux_free`", "expected true"]);
}
