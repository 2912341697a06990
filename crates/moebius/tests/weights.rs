//! Weights that do not fit the configuration, or are no numbers, are named before the model runs.

mod support;

use moebius::ErrorKind;
use safetensors::Dtype;
use support::{Scratch, Stored, assert_says, explained, find};

const FILE: &str = "model.safetensors";

#[test]
fn missing_tensors_are_all_listed() {
    let gone = [
        "model.layers.0.block_sparse_moe.experts.3.w2.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.block_sparse_moe.gate.weight",
    ];
    let scratch = Scratch::of("mixtral");
    scratch.edit_tensors(FILE, |tensors| tensors.retain(|t| !gone.contains(&t.name.as_str())));
    let error = scratch.open().err().expect("tensors are missing");
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    let text = explained(error);
    assert_says(&text, &["3 tensors do not fit"]);
    assert_says(&text, &gone);
    assert_eq!(text.matches("is missing").count(), 3, "{text}");
}

#[test]
fn wrong_shapes_and_types_are_listed_with_what_is_missing() {
    let scratch = Scratch::of("qwen2_moe");
    let (query, bias, norm) = (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.0.input_layernorm.weight",
    );
    scratch.edit_tensors(FILE, |tensors| {
        let tensor = find(tensors, query);
        tensor.shape = vec![tensor.shape[0] * 2, tensor.shape[1] / 2];
        find(tensors, bias).shape.insert(0, 1);
        let tensor = find(tensors, norm);
        tensor.dtype = Dtype::F64;
        tensor.bytes = vec![0; tensor.bytes.len() * 2];
        tensors.retain(|t| t.name != "lm_head.weight");
        // A NaN is not looked for before everything fits.
        find(tensors, "model.norm.weight").bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let text = scratch.refusal();
    assert_says(&text, &["4 tensors do not fit", query, "expected shape [32, 32], got [64, 16]"]);
    assert_says(
        &text,
        &[bias, "expected shape [16], got [1, 16]", norm, "expected F32, F16 or BF16, got F64"],
    );
    assert_says(&text, &["`lm_head.weight` [128, 32] is missing"]);
}

#[test]
fn every_type_that_is_no_float_of_a_known_kind_is_named() {
    for (dtype, bytes) in
        [(Dtype::I64, 8), (Dtype::F64, 8), (Dtype::F8_E4M3, 1), (Dtype::U8, 1), (Dtype::I32, 4)]
    {
        for name in ["model.embed_tokens.weight", "model.layers.0.block_sparse_moe.experts.0.w1.weight"] {
            let scratch = Scratch::of("mixtral");
            scratch.edit_tensors(FILE, |tensors| {
                let tensor = find(tensors, name);
                tensor.dtype = dtype;
                tensor.bytes = vec![0; tensor.bytes.len() / 4 * bytes];
            });
            assert_says(&scratch.refusal(), &[name, "expected F32, F16 or BF16", &format!("{dtype:?}")]);
        }
    }
}

/// Puts `value` at element `at` of a tensor.
fn poison(tensor: &mut Stored, at: usize, value: f32) {
    let elements = tensor.shape.iter().product::<usize>();
    let at = at.min(elements - 1);
    match tensor.dtype {
        Dtype::F32 => tensor.bytes[at * 4..][..4].copy_from_slice(&value.to_le_bytes()),
        Dtype::BF16 => {
            let bits = (value.to_bits() >> 16) as u16 | u16::from(value.is_nan());
            tensor.bytes[at * 2..][..2].copy_from_slice(&bits.to_le_bytes());
        }
        other => panic!("no test for {other:?}"),
    }
}

fn check_poison(golden: &str, file: &str, name: &str) {
    for (at, value) in [(0, f32::NAN), (usize::MAX, f32::INFINITY), (7, f32::NEG_INFINITY)] {
        let scratch = Scratch::of(golden);
        scratch.edit_tensors(file, |tensors| poison(find(tensors, name), at, value));
        let error = scratch.open().err().unwrap_or_else(|| panic!("{value} in `{name}` was accepted"));
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert_says(&explained(error), &[name]);
    }
}

#[test]
fn a_weight_that_is_no_number_is_named_in_every_kind_of_tensor() {
    for name in [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.v_proj.bias",
        "model.layers.0.mlp.gate.weight",
        "model.layers.0.mlp.experts.0.gate_proj.weight",
        "model.layers.1.mlp.experts.7.up_proj.weight",
        "model.layers.1.mlp.experts.2.down_proj.weight",
        "model.layers.0.mlp.shared_expert.down_proj.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
    ] {
        check_poison("qwen2_moe", FILE, name);
    }
    check_poison("granitemoe", FILE, "model.layers.1.block_sparse_moe.output_linear.weight");
}

#[test]
fn a_half_precision_weight_that_is_no_number_is_named() {
    let golden = "mixtral_bf16_shards";
    let scratch = Scratch::of(golden);
    for shard in 1..=3 {
        let file = format!("model-0000{shard}-of-00003.safetensors");
        let mut names = Vec::new();
        scratch.edit_tensors(&file, |tensors| names.extend(tensors.iter().map(|t| t.name.clone())));
        names.sort();
        for name in names.iter().step_by(7) {
            check_poison(golden, &file, name);
        }
    }
}

#[test]
fn tensors_that_nothing_asks_for_are_reported_and_not_read() {
    let scratch = Scratch::of("mixtral");
    scratch.edit_tensors(FILE, |tensors| {
        let mut extra = find(tensors, "model.norm.weight").clone();
        extra.name = "model.layers.0.self_attn.rotary_emb.inv_freq".into();
        poison(&mut extra, 0, f32::NAN);
        tensors.push(extra.clone());
        extra.name = "surprise".into();
        tensors.push(extra);
    });
    let model = scratch.open().unwrap();
    assert_eq!(model.info().ignored_tensors, ["model.layers.0.self_attn.rotary_emb.inv_freq"]);
    assert_eq!(model.info().unknown_tensors, ["surprise"]);
}

#[test]
fn layers_beyond_the_configured_number_are_reported() {
    let scratch = Scratch::of("mixtral");
    scratch.edit_config(|config| _ = config.insert("num_hidden_layers".into(), 1.into()));
    let model = scratch.open().unwrap();
    assert!(model.info().unknown_tensors.iter().all(|name| name.starts_with("model.layers.1.")));
    assert!(model.info().unknown_tensors.len() > 8);
}

#[test]
fn a_tied_model_uses_whichever_table_is_there() {
    let ids = [5, 6, 7, 8];
    let run = |scratch: &Scratch| {
        let mut model = scratch.open().unwrap();
        model.score(&[ids.to_vec()], &Default::default()).unwrap().0
    };
    let tied = Scratch::of("granitemoe");
    let expected = run(&tied);
    tied.edit_tensors(FILE, |tensors| {
        find(tensors, "model.embed_tokens.weight").name = "lm_head.weight".into();
    });
    assert_eq!(run(&tied), expected);
    tied.edit_tensors(FILE, |tensors| {
        let mut copy = find(tensors, "lm_head.weight").clone();
        copy.name = "model.embed_tokens.weight".into();
        tensors.push(copy);
    });
    assert_eq!(run(&tied), expected);
    tied.edit_tensors(FILE, |tensors| poison(find(tensors, "lm_head.weight"), 70, 3.0));
    assert_ne!(run(&tied), expected, "a table of its own is used");
}

/// Log-probabilities of a few tokens.
fn scored(scratch: &Scratch) -> Vec<moebius::Score> {
    scratch.open().unwrap().score(&[vec![5, 6, 7, 8]], &Default::default()).unwrap().0
}

/// Joins the experts of each layer as the reference implementation holds them: gate and up rows of every
/// expert, `[experts, 2 * intermediate, hidden]`, then `down`, `[experts, hidden, intermediate]`.
fn fuse_experts(tensors: &mut Vec<Stored>, block: &str, n_experts: usize, [gate, up, down]: [&str; 3]) {
    for layer in 0..2 {
        let prefix = format!("model.layers.{layer}.{block}.experts");
        let joined = |projections: &[&str]| {
            let experts =
                (0..n_experts).flat_map(|expert| projections.iter().map(move |name| (expert, name)));
            let parts = experts.map(|(expert, name)| format!("{prefix}.{expert}.{name}.weight"));
            let parts: Vec<&Stored> =
                parts.map(|name| tensors.iter().find(|t| t.name == name).unwrap()).collect();
            Stored {
                name: String::new(),
                dtype: parts[0].dtype,
                shape: vec![n_experts, projections.len() * parts[0].shape[0], parts[0].shape[1]],
                bytes: parts.iter().flat_map(|part| part.bytes.clone()).collect(),
            }
        };
        let gate_up = Stored { name: format!("{prefix}.gate_up_proj"), ..joined(&[gate, up]) };
        let down = Stored { name: format!("{prefix}.down_proj"), ..joined(&[down]) };
        tensors.retain(|t| !t.name.starts_with(&prefix));
        tensors.extend([gate_up, down]);
    }
}

#[test]
fn experts_may_be_joined_as_the_reference_implementation_holds_them() {
    for (golden, block, n_experts, names) in [
        ("mixtral", "block_sparse_moe", 8, ["w1", "w3", "w2"]),
        ("olmoe", "mlp", 16, ["gate_proj", "up_proj", "down_proj"]),
        ("qwen2_moe", "mlp", 8, ["gate_proj", "up_proj", "down_proj"]),
        ("qwen3_moe", "mlp", 8, ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let scratch = Scratch::of(golden);
        let expected = scored(&scratch);
        scratch.edit_tensors(FILE, |tensors| fuse_experts(tensors, block, n_experts, names));
        assert_eq!(scored(&scratch), expected, "{golden}");
    }
}

#[test]
fn blocks_may_have_the_names_of_the_reference_implementation() {
    for (golden, names) in [
        ("mixtral", [("block_sparse_moe.", "mlp.")].as_slice()),
        (
            "granitemoe",
            &[
                ("router.layer.weight", "router.weight"),
                ("input_linear.weight", "experts.gate_up_proj"),
                ("output_linear.weight", "experts.down_proj"),
            ],
        ),
    ] {
        let scratch = Scratch::of(golden);
        let expected = scored(&scratch);
        scratch.edit_tensors(FILE, |tensors| {
            for tensor in tensors {
                for (published, own) in names {
                    tensor.name = tensor.name.replace(published, own);
                }
            }
        });
        assert_eq!(scored(&scratch), expected, "{golden}");
        let model = scratch.open().unwrap();
        assert!(model.info().unknown_tensors.is_empty(), "{:?}", model.info().unknown_tensors);
    }
}
