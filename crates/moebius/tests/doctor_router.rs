//! What `doctor_router` says about checkpoints that are whole, and about those that contradict themselves.

mod support;

use moebius::{Error, ErrorKind, RouterReport, SettingSource, doctor_router};
use moebius_model::{Error as ModelError, TensorProblem};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use support::{Scratch, Stored, config, find, golden};

/// A small LFM2: two dense layers, then two with a sigmoid router and a selection bias that can be switched off.
fn lfm2() -> Value {
    json!({
        "model_type": "lfm2_moe", "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 12,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "num_dense_layers": 2,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"], "vocab_size": 128,
        "num_experts": 8, "num_experts_per_tok": 3, "use_expert_bias": true, "norm_topk_prob": true,
        "routed_scaling_factor": 1.0, "eos_token_id": 1,
    })
}

/// A small DeepSeek-V3: one dense layer, then one with four groups of four experts.
fn deepseek_v3() -> Value {
    json!({
        "model_type": "deepseek_v3", "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "first_k_dense_replace": 1,
        "kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "vocab_size": 128, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
        "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "eos_token_id": 1,
    })
}

fn write(scratch: &Scratch, tensors: &[(String, Vec<usize>)]) {
    let bytes = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 / 8.0 - 0.25);
        values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
    };
    let data: Vec<_> = tensors.iter().map(|(name, shape)| (name, shape, bytes(shape))).collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    scratch.write("model.safetensors", safetensors::serialize(views, None).unwrap());
}

/// A checkpoint with every tensor that `config` asks for.
fn checkpoint(config: &Value) -> Scratch {
    let scratch = Scratch::config_only(config);
    write(&scratch, &[("left_over".into(), vec![1])]);
    let Some(Error::Model(ModelError::Tensors(problems))) = scratch.open().err() else {
        panic!("an empty checkpoint lacks tensors");
    };
    let missing = |problem: TensorProblem| match problem {
        TensorProblem::Missing { name, shape } => (name, shape),
        other => panic!("{other:?}"),
    };
    write(&scratch, &problems.into_iter().map(missing).collect::<Vec<_>>());
    scratch
}

fn diagnose(scratch: &Scratch) -> RouterReport {
    doctor_router(scratch.path()).unwrap()
}

/// Fails unless there is one finding, with these words in it or in its hint.
#[track_caller]
fn finds(scratch: &Scratch, parts: &[&str]) {
    let report = diagnose(scratch);
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    let finding = &report.findings[0];
    assert!(!finding.hint.is_empty());
    let text = format!("{}; {}", finding.what, finding.hint);
    support::assert_says(&text, parts);
}

fn golden_without(name: &str, key: &str) -> Scratch {
    let scratch = Scratch::of(name);
    scratch.edit_config(|config| assert!(config.remove(key).is_some()));
    scratch
}

fn with(mut config: Value, edit: impl FnOnce(&mut Map<String, Value>)) -> Value {
    edit(config.as_object_mut().unwrap());
    config
}

const LFM2_BIAS: &str = "model.layers.2.feed_forward.expert_bias";

#[test]
fn whole_checkpoints_have_a_formula_and_no_findings() {
    for (name, id) in [
        ("mixtral", "R1"),
        ("mixtral_bf16_shards", "R1"),
        ("qwen3_moe", "R1"),
        ("qwen3_moe_v5_window", "R1"),
        ("olmoe", "R2"),
        ("qwen2_moe", "R2"),
        ("granitemoe", "R3"),
    ] {
        let report = doctor_router(golden(name)).unwrap();
        assert_eq!((report.routers[0].published.id, report.has_weights), (id, true), "{name}");
        assert!(report.findings.is_empty(), "{name}: {:?}", report.findings);
        let said =
            |key: &str| report.settings.iter().any(|s| s.key == key && s.source == SettingSource::Config);
        assert!(said("num_experts_per_tok"), "{name}");
        assert!(report.routers[0].layers.len() <= report.n_layers.unwrap(), "{name}");
        assert!(!report.routers[0].weight.dtypes.is_empty(), "{name}");
    }
}

#[test]
fn a_selection_bias_and_groups_are_described() {
    let report = diagnose(&checkpoint(&deepseek_v3()));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let router = &report.routers[0];
    assert_eq!((router.published.id, &router.layers[..]), ("R4", &[1][..]));
    let formula = router.config.formula();
    support::assert_says(&formula, &["selection bias", "keep 2 of 4 groups", "times 2.5"]);
    let bias = router.selection_bias.as_ref().unwrap();
    assert_eq!(bias.name, "model.layers.N.mlp.gate.e_score_correction_bias");
    assert_eq!((bias.range, &bias.dtypes[..]), (Some((-0.25, 0.5)), &["F32".to_owned()][..]));
}

#[test]
fn a_family_without_groups_has_the_formula_without_groups() {
    assert_eq!(diagnose(&checkpoint(&lfm2())).routers[0].published.id, "R5");
    let one_group = with(deepseek_v3(), |config| {
        config.insert("n_group".into(), 1.into());
        config.insert("topk_group".into(), 1.into());
        config.insert("norm_topk_prob".into(), false.into());
    });
    assert_eq!(diagnose(&Scratch::config_only(&one_group)).routers[0].published.id, "R4");
}

#[test]
fn a_missing_norm_topk_prob_names_the_default_and_what_releases_say() {
    let scratch = golden_without("qwen3_moe", "norm_topk_prob");
    finds(
        &scratch,
        &["`norm_topk_prob` is missing", "`false`", "not renormalised", "qwen3-30b-a3b says `true`"],
    );
    assert_eq!(diagnose(&scratch).routers[0].published.id, "R2");
    let setting = diagnose(&scratch).settings.into_iter().find(|s| s.key == "norm_topk_prob").unwrap();
    assert_eq!((setting.source, setting.taken.as_deref()), (SettingSource::Default, Some("false")));
    finds(
        &golden_without("olmoe", "norm_topk_prob"),
        &["is missing", "olmoe-1b-7b says `false`, as is taken"],
    );
}

#[test]
fn a_flipped_norm_topk_prob_is_held_against_releases() {
    let scratch = Scratch::of("qwen3_moe");
    scratch.edit_config(|config| config["norm_topk_prob"] = false.into());
    finds(&scratch, &["unlike every published qwen3_moe", "qwen3-235b-a22b says `true`"]);
}

#[test]
fn a_key_that_the_family_never_reads_is_named_when_it_says_otherwise() {
    let scratch = Scratch::of("mixtral");
    scratch.edit_config(|config| _ = config.insert("norm_topk_prob".into(), false.into()));
    finds(&scratch, &["`norm_topk_prob` is `false`", "mixtral never reads it", "weights are renormalised"]);
    scratch.edit_config(|config| config["norm_topk_prob"] = true.into());
    assert!(diagnose(&scratch).findings.is_empty());
    scratch.edit_config(|config| _ = config.insert("scoring_func".into(), "sigmoid".into()));
    finds(&scratch, &["`scoring_func` is `\"sigmoid\"`", "never reads it"]);
    scratch.edit_config(|config| config["scoring_func"] = "softmax".into());
    scratch.edit_config(|config| _ = config.insert("routed_scaling_factor".into(), 2.5.into()));
    finds(&scratch, &["`routed_scaling_factor` is `2.5`"]);
}

#[test]
fn a_missing_scale_or_group_is_held_against_releases() {
    let without = |key: &str| with(deepseek_v3(), |config| assert!(config.remove(key).is_some()));
    finds(&Scratch::config_only(&without("routed_scaling_factor")), &["`2.5`", "kimi-k2 says `2.827`"]);
    finds(&Scratch::config_only(&without("topk_group")), &["`topk_group` is missing", "kimi-k2 says `1`"]);
}

#[test]
fn a_score_of_another_family_is_a_finding_and_another_broken_key_an_error() {
    let other = with(deepseek_v3(), |config| config["scoring_func"] = "softmax".into());
    let scratch = Scratch::config_only(&other);
    finds(&scratch, &["`scoring_func`", "expected `sigmoid`, got `softmax`"]);
    assert!(diagnose(&scratch).routers.is_empty());
    let broken = with(deepseek_v3(), |config| config["hidden_size"] = 0.into());
    let error = doctor_router(Scratch::config_only(&broken).path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    let missing = doctor_router("no/such/model").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn numbers_that_make_no_router_are_a_finding() {
    let set = |key: &str, value: u64| with(deepseek_v3(), |config| config[key] = value.into());
    for config in [set("n_group", 3), set("num_experts_per_tok", 9)] {
        let scratch = Scratch::config_only(&config);
        let report = diagnose(&scratch);
        assert!(report.findings[0].what.contains("the settings make no router"), "{:?}", report.findings);
        assert_eq!(report.family, Some("deepseek_v3"));
    }
    let kept = diagnose(&Scratch::config_only(&set("num_experts_per_tok", 9)));
    support::assert_says(&kept.findings[0].what, &["at most the 8 experts of 2 kept groups", "got 9"]);
}

#[test]
fn a_selection_bias_that_is_switched_off_but_stored_is_found() {
    let scratch = checkpoint(&lfm2());
    scratch.edit_config(|config| config["use_expert_bias"] = false.into());
    finds(
        &scratch,
        &["`use_expert_bias` is `false`", "model.layers.N.feed_forward.expert_bias", "layers 2, 3"],
    );
}

#[test]
fn a_selection_bias_that_is_asked_for_but_lost_is_found() {
    let scratch = checkpoint(&lfm2());
    scratch.edit_tensors("model.safetensors", |tensors| tensors.retain(|t| t.name != LFM2_BIAS));
    finds(&scratch, &["`use_expert_bias` is `true`", "no selection bias", "in layer 2"]);
    assert!(diagnose(&scratch).routers[0].config.selection_bias.is_some());
    scratch.edit_config(|config| assert!(config.remove("use_expert_bias").is_some()));
    let what = &diagnose(&scratch).findings[0].what;
    support::assert_says(what, &["missing, which stands for `true`"]);
}

#[test]
fn a_selection_bias_of_zeros_or_in_16_bits_is_found() {
    let scratch = checkpoint(&lfm2());
    scratch.edit_tensors("model.safetensors", |tensors| find(tensors, LFM2_BIAS).bytes.fill(0));
    finds(&scratch, &["all zeros", "in layer 2"]);
    scratch.edit_tensors("model.safetensors", |tensors| {
        let bias = find(tensors, LFM2_BIAS);
        (bias.dtype, bias.bytes) = (Dtype::BF16, [0x80, 0x3e].repeat(8));
    });
    finds(&scratch, &["stored in 16 bits", "in layer 2"]);
}

#[test]
fn a_router_bias_and_other_tensors_of_routers_that_nothing_uses_are_named() {
    let scratch = Scratch::of("qwen3_moe");
    let add = |name: &str| {
        let (name, dtype, shape, bytes) = (name.to_owned(), Dtype::F32, vec![8], vec![0; 32]);
        let tensor = Stored { name, dtype, shape, bytes };
        scratch.edit_tensors("model.safetensors", |tensors| tensors.push(tensor));
    };
    add("model.layers.1.mlp.gate.bias");
    finds(&scratch, &["a router bias that is not used", "`model.layers.N.mlp.gate.bias` in layer 1"]);
    add("model.layers.0.mlp.gate.tid2eid");
    let report = diagnose(&scratch);
    assert_eq!(report.findings.len(), 2, "{:?}", report.findings);
    support::assert_says(&report.findings[1].what, &["look like a router's", "tid2eid` in layer 0"]);
    add("model.layers.0.mlp.gate.e_score_correction_bias");
    support::assert_says(&diagnose(&scratch).findings[0].what, &["qwen3_moe has no selection bias"]);
}

#[test]
fn fewer_or_more_experts_on_disk_are_counted() {
    let scratch = Scratch::of("qwen3_moe");
    scratch.edit_tensors("model.safetensors", |tensors| {
        tensors.retain(|t| !t.name.contains(".0.mlp.experts.7.") && !t.name.contains(".0.mlp.experts.6."));
        let gate = find(tensors, "model.layers.0.mlp.gate.weight");
        gate.bytes.truncate(gate.bytes.len() / 8 * 6);
        gate.shape[0] = 6;
    });
    let report = diagnose(&scratch);
    let what = &report.findings[0].what;
    support::assert_says(what, &["says 8 experts, the weights have 6", "6 rows in layer 0"]);
    let whole = Scratch::of("qwen3_moe");
    whole.edit_config(|config| config["num_experts"] = 4.into());
    let what = &diagnose(&whole).findings[0].what;
    support::assert_says(what, &["says 4 experts, the weights have 8", "8 rows in layers 0, 1"]);
    let fused = Scratch::of("granitemoe");
    let n_experts = config(fused.path())["num_local_experts"].as_u64().unwrap();
    fused.edit_config(|config| config["num_local_experts"] = (n_experts - 1).into());
    let what = &diagnose(&fused).findings[0].what;
    support::assert_says(what, &[&format!("the weights have {n_experts}")]);
}

#[test]
fn a_router_weight_that_is_rounded_in_some_layers_is_found() {
    let scratch = Scratch::of("qwen3_moe");
    scratch.edit_tensors("model.safetensors", |tensors| {
        let gate = find(tensors, "model.layers.1.mlp.gate.weight");
        gate.dtype = Dtype::BF16;
        gate.bytes = gate.bytes.chunks(4).flat_map(|value| [value[2], value[3]]).collect();
    });
    finds(&scratch, &["several types: BF16 in layer 1, F32 in layer 0"]);
    assert_eq!(diagnose(&scratch).routers[0].weight.dtypes, ["BF16", "F32"]);
}

#[test]
fn tensors_beside_the_router_are_counted_and_do_not_hide_the_formula() {
    let scratch = Scratch::of("qwen3_moe");
    scratch.edit_tensors("model.safetensors", |tensors| tensors.retain(|t| t.name != "model.norm.weight"));
    finds(&scratch, &["beside the router do not fit: 1", "model.norm.weight", "moebius show"]);
    assert_eq!(diagnose(&scratch).routers[0].published.id, "R1");
}

#[test]
fn published_configurations_need_their_formula_and_contradict_nothing() {
    let shapes = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shapes");
    for (name, id) in [
        ("mixtral-8x7b", "R1"),
        ("qwen3-30b-a3b", "R1"),
        ("olmoe-1b-7b", "R2"),
        ("gpt-oss-20b", "R3"),
        ("deepseek-v3", "R4"),
        ("kimi-k2", "R4"),
        ("lfm2-8b-a1b", "R5"),
        ("trinity-mini", "R5"),
        ("ernie-4.5-21b-a3b", "R6"),
        ("deepseek-v2", "R7"),
        ("llama-4-scout", "R10"),
        ("gemma-4-26b-a4b", "R11"),
        ("pangu-pro-moe", "R12"),
    ] {
        let report = doctor_router(shapes.join(format!("{name}.json"))).unwrap();
        assert_eq!(report.routers[0].published.id, id, "{name}");
        assert!(report.findings.is_empty(), "{name}: {:?}", report.findings);
    }
}
