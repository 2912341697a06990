//! Converted models: the same bits as the source, nothing but whole directories, and damage that is refused.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use moebius::{
    ConvertOptions, Converted, Error, ErrorKind, HeldFormats, Model, OpenOptions, ScoreOptions, convert,
    inspect,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::{Scratch, assert_says, explained, golden, goldens};

const FILE: &str = "model.safetensors";

/// What a test writes: the target, which does not exist yet, in a directory of its own.
struct Target {
    dir: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        Target { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("packed")
    }

    /// The names beside the target, itself included.
    fn neighbours(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn convert(&self, source: &Path, format: HeldFormats) -> Result<Converted, Error> {
        let mut options = ConvertOptions { format, ..ConvertOptions::default() };
        options.backend.threads = Some(1);
        let done = convert(source, self.path(), &options, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(done.expect("nobody said to stop"))
    }
}

fn formats() -> impl Iterator<Item = HeldFormats> {
    let named = HeldFormats::names().into_iter().map(|name| name.parse().unwrap());
    named.chain([HeldFormats::AsStored])
}

/// The bits of every log-probability of some ids.
fn bits(dir: &Path, format: HeldFormats) -> Vec<u32> {
    let mut model = support::open(dir, &OpenOptions { format, ..OpenOptions::default() }).unwrap();
    let ids: Vec<u32> = (5..29).collect();
    let scores = model.score(&[ids], &ScoreOptions::default()).unwrap().0;
    scores[0].logprobs.iter().map(|logprob| logprob.to_bits()).collect()
}

/// Checks that a converted model is, says and computes what its source does in each format.
#[track_caller]
fn check(source: &Path, formats: impl Iterator<Item = HeldFormats>) {
    for format in formats {
        let target = Target::new();
        let converted = target.convert(source, format).unwrap();
        let case = format!("{} {format}", source.display());
        assert_eq!(bits(&target.path(), HeldFormats::AsStored), bits(source, format), "{case}");
        assert_eq!(bits(&target.path(), format), bits(source, format), "{case}");
        let options = OpenOptions { format, ..OpenOptions::default() };
        let (was, is) = (inspect(source, &options).unwrap().0, inspect(target.path(), &options).unwrap().0);
        assert_eq!((&was.tally, was.packed, is.packed), (&is.tally, None, Some(format)), "{case}");
        assert!(is.unknown_tensors.is_empty() && is.ignored_tensors.is_empty(), "{case}");
        let size = std::fs::metadata(target.path().join(FILE)).unwrap().len();
        assert_eq!((converted.bytes, converted.parameters), (size, was.total_parameters()), "{case}");
        assert_eq!(target.neighbours(), ["packed"], "{case}");
    }
}

#[test]
fn the_bundled_model_gives_the_same_bits_in_every_format() {
    check(&golden("../moebius-tiny"), formats());
}

#[test]
fn every_family_and_layout_gives_the_same_bits() {
    for dir in goldens() {
        let chosen = ["q8_0", "q4_0", "q4_k_m"].map(|name| name.parse().unwrap());
        check(&dir, chosen.into_iter().chain([HeldFormats::AsStored]));
    }
}

/// A made-up checkpoint: its config.json, and tensors with the type that its name calls for.
fn made(config: Value, tensors: &[(String, Vec<usize>)]) -> Scratch {
    let (scratch, mut numbers) = (Scratch::config_only(&config), support::Numbers(7));
    let mut contents = Vec::new();
    for (name, shape) in tensors {
        let elements: usize = shape.iter().product();
        let mut float = || (numbers.below(2001) as f32 / 1000.0 - 1.0) / 4.0;
        let is_scaled = tensors.iter().any(|(other, _)| *other == format!("{name}_scale_inv"));
        let (dtype, bytes) = match name.rsplit('_').next().unwrap() {
            "blocks" => (Dtype::U8, (0..elements).map(|_| numbers.below(256) as u8).collect()),
            "scales" => (Dtype::U8, (0..elements).map(|_| 122 + numbers.below(3) as u8).collect()),
            // Up to one in size, without the codes that are no numbers.
            _ if is_scaled => (Dtype::F8_E4M3, (0..elements).map(|_| numbers.below(0x39) as u8).collect()),
            _ => (Dtype::F32, (0..elements).flat_map(|_| float().to_le_bytes()).collect::<Vec<u8>>()),
        };
        contents.push((name, dtype, shape.clone(), bytes));
    }
    let views = contents
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    scratch.write(FILE, safetensors::serialize(views, None).unwrap());
    scratch
}

/// Tensors of a layer, and those outside the layers, of a model that is 64 wide.
fn with_ends(layer: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let ends: [(&str, &[usize]); 3] = [
        ("model.embed_tokens.weight", &[40, 64]),
        ("model.norm.weight", &[64]),
        ("lm_head.weight", &[40, 64]),
    ];
    let norms: [(&str, &[usize]); 2] =
        [("input_layernorm.weight", &[64]), ("post_attention_layernorm.weight", &[64])];
    let layer =
        layer.iter().chain(&norms).map(|(name, shape)| (format!("model.layers.0.{name}"), shape.to_vec()));
    layer.chain(ends.map(|(name, shape)| (name.to_owned(), shape.to_vec()))).collect()
}

#[test]
fn keys_and_values_that_are_parts_of_one_tensor_give_the_same_bits() {
    let config = json!({
        "model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 40,
        "num_attention_heads": 2, "kv_lora_rank": 64, "q_lora_rank": null, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 8, "v_head_dim": 96, "intermediate_size": 32, "moe_intermediate_size": 32,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [100, 48]},
    });
    let tensors = with_ends(&[
        ("self_attn.q_proj.weight", &[80, 64]),
        ("self_attn.kv_a_proj_with_mqa.weight", &[72, 64]),
        ("self_attn.kv_a_layernorm.weight", &[64]),
        ("self_attn.kv_b_proj.weight", &[256, 64]),
        ("self_attn.kv_b_proj.weight_scale_inv", &[3, 2]),
        ("self_attn.o_proj.weight", &[64, 192]),
        ("mlp.gate_proj.weight", &[32, 64]),
        ("mlp.up_proj.weight", &[32, 64]),
        ("mlp.down_proj.weight", &[64, 32]),
        ("mlp.down_proj.weight_scale_inv", &[1, 1]),
    ]);
    check(made(config, &tensors).path(), formats());
}

#[test]
fn interleaved_experts_give_the_same_bits_out_of_rows_and_out_of_columns() {
    let config = json!({
        "model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 40, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "num_local_experts": 3,
        "num_experts_per_tok": 2, "attention_bias": false,
    });
    let common: [(&str, &[usize]); 9] = [
        ("self_attn.q_proj.weight", &[64, 64]),
        ("self_attn.k_proj.weight", &[32, 64]),
        ("self_attn.v_proj.weight", &[32, 64]),
        ("self_attn.o_proj.weight", &[64, 64]),
        ("self_attn.sinks", &[2]),
        ("mlp.router.weight", &[3, 64]),
        ("mlp.router.bias", &[3]),
        ("mlp.experts.gate_up_proj_bias", &[3, 64]),
        ("mlp.experts.down_proj_bias", &[3, 64]),
    ];
    let floats: [(&str, &[usize]); 2] =
        [("mlp.experts.gate_up_proj", &[3, 64, 64]), ("mlp.experts.down_proj", &[3, 32, 64])];
    check(made(config.clone(), &with_ends(&[common.as_slice(), &floats].concat())).path(), formats());
    let blocks: [(&str, &[usize]); 4] = [
        ("mlp.experts.gate_up_proj_blocks", &[3, 64, 2, 16]),
        ("mlp.experts.gate_up_proj_scales", &[3, 64, 2]),
        ("mlp.experts.down_proj_blocks", &[3, 64, 1, 16]),
        ("mlp.experts.down_proj_scales", &[3, 64, 1]),
    ];
    let mut config = config;
    config["quantization_config"] = json!({"quant_method": "mxfp4"});
    check(made(config, &with_ends(&[common.as_slice(), &blocks].concat())).path(), formats());
}

#[test]
fn what_lies_beside_the_weights_comes_along() {
    let (source, target) = (golden("../moebius-tiny"), Target::new());
    target.convert(&source, "q4_0".parse().unwrap()).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(read(&source), read(&target.path()), "{name}");
    }
    let model = Model::open(target.path(), &OpenOptions::default()).unwrap();
    assert!(model.tokenizer().is_ok());
}

#[test]
fn a_configuration_of_another_name_gets_the_usual_one() {
    let (source, target) = (Scratch::of("mixtral"), Target::new());
    std::fs::rename(source.file("config.json"), source.file("other.json")).unwrap();
    target.convert(&source.file("other.json"), HeldFormats::AsStored).unwrap();
    Model::open(target.path(), &OpenOptions::default()).unwrap();
}

#[test]
fn another_format_than_the_packed_one_is_refused() {
    let target = Target::new();
    target.convert(&golden("mixtral"), "q8_0".parse().unwrap()).unwrap();
    let options = OpenOptions { format: "q4_0".parse().unwrap(), ..OpenOptions::default() };
    for error in [support::open(&target.path(), &options).err(), inspect(target.path(), &options).err()] {
        let error = error.expect("it is packed in q8_0");
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_says(&explained(error), &["packed as `q8_0`", "got `q4_0`"]);
    }
    let again = Target::new();
    let error = again.convert(&target.path(), HeldFormats::AsStored).unwrap_err();
    assert_says(&explained(error), &["packed already, as `q8_0`"]);
    assert!(again.neighbours().is_empty());
}

#[test]
fn what_exists_is_not_touched() {
    let target = Target::new();
    let refused = || {
        let error = target.convert(&golden("mixtral"), HeldFormats::AsStored).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_says(&explained(error), &["exists already"]);
    };
    std::fs::write(target.path(), "mine").unwrap();
    refused();
    assert_eq!(std::fs::read(target.path()).unwrap(), b"mine");
    std::fs::remove_file(target.path()).unwrap();
    std::fs::create_dir(target.path()).unwrap();
    refused();
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    assert_eq!(target.neighbours(), ["packed"]);
}

#[test]
fn what_is_stopped_or_fails_leaves_nothing_behind() {
    let target = Target::new();
    let mut calls = 0;
    let stopped = convert(golden("mixtral"), target.path(), &ConvertOptions::default(), &mut |_, _| {
        calls += 1;
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((stopped.unwrap(), calls), (None, 3));
    assert!(target.neighbours().is_empty());

    let broken = Scratch::of("mixtral");
    broken.edit_tensors(FILE, |tensors| {
        let last = support::find(tensors, "model.layers.1.self_attn.q_proj.weight");
        last.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let error = target.convert(broken.path(), HeldFormats::AsStored).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert_says(&explained(error), &["q_proj", "not finite"]);
    assert!(target.neighbours().is_empty());
}

#[test]
fn what_a_killed_program_left_is_in_nobodys_way() {
    let target = Target::new();
    let left = target.path().with_file_name(format!(".packed.partial-{}-0", std::process::id()));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join(FILE), "half").unwrap();
    target.convert(&golden("mixtral"), HeldFormats::AsStored).unwrap();
    assert_eq!(std::fs::read(left.join(FILE)).unwrap(), b"half");
    assert_eq!(target.neighbours().len(), 2);
}

#[test]
fn what_a_killed_conversion_left_is_removed_by_the_next_one_to_the_same_place() {
    let target = Target::new();
    let leave = |name: &str| {
        let left = target.path().with_file_name(format!(".{name}.partial-1-0"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(FILE), "half").unwrap();
        let mark =
            "moebius writes the directory of the same name; it may go when no program holds this file\n";
        std::fs::write(left.with_file_name(format!(".{name}.partial-1-0.lock")), mark).unwrap();
    };
    leave("packed");
    leave("another");
    target.convert(&golden("mixtral"), HeldFormats::AsStored).unwrap();
    let mut neighbours = target.neighbours();
    neighbours.sort();
    assert_eq!(neighbours, [".another.partial-1-0", ".another.partial-1-0.lock", "packed"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let target = Target::new();
    let out = target.path().join("below");
    let options = ConvertOptions::default();
    let error =
        convert(golden("mixtral"), &out, &options, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert_says(&explained(error), &["cannot write", "below"]);
}

#[test]
fn progress_ends_with_all_bytes() {
    let (target, mut last) = (Target::new(), (0, 1));
    convert(golden("granitemoe"), target.path(), &ConvertOptions::default(), &mut |bytes, total| {
        assert!(bytes > last.0 && bytes <= total);
        last = (bytes, total);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(last.0, last.1);
}

/// A converted golden, to be broken.
fn packed(name: &str) -> Target {
    let target = Target::new();
    target.convert(&golden(name), "q8_0".parse().unwrap()).unwrap();
    target
}

/// The header of a file and the bytes behind it.
fn parts(file: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), &file[8 + length..])
}

/// Changes what a packed file says of itself, keeping its tensors where they are unless `shift` moves them.
fn with_packing(target: &Target, shift: usize, edit: impl FnOnce(&mut Value)) {
    let path = target.path().join(FILE);
    let file = std::fs::read(&path).unwrap();
    let (mut header, data) = parts(&file);
    let mut packing = serde_json::from_str(header["__metadata__"]["moebius"].as_str().unwrap()).unwrap();
    edit(&mut packing);
    header["__metadata__"]["moebius"] = packing.to_string().into();
    let mut header = header.to_string().into_bytes();
    header.resize((header.len() + 8).next_multiple_of(64) - 8 + shift, b' ');
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat()).unwrap();
}

const EXPERTS: &str = "model.layers.0.block_sparse_moe.input_linear.weight";

#[track_caller]
fn refused(target: &Target, says: &[&str]) {
    let error = support::open(&target.path(), &OpenOptions::default()).err().expect("it is damaged");
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert_says(&explained(error), says);
}

#[test]
fn a_packing_that_cannot_be_is_refused_with_a_reason() {
    let half = u64::MAX / 2;
    let entry = |key: &'static str, value: Value| {
        move |packing: &mut Value| packing["tensors"][EXPERTS][key] = value.clone()
    };
    type Edit = Box<dyn Fn(&mut Value)>;
    let cases: [(Edit, &[&str]); 15] = [
        (Box::new(|_| {}), &[]),
        (Box::new(|p| p["version"] = 2.into()), &["expected version 1, got 2"]),
        (Box::new(|p| p["version"] = "x".into()), &["packing cannot be read"]),
        (Box::new(|p| *p = json!([])), &["packing cannot be read"]),
        (Box::new(|p| p["layout"] = "panels8".into()), &["expected layout `panels16`, got `panels8`"]),
        (Box::new(|p| p["held"] = "q9_k".into()), &["unknown weight format `q9_k`"]),
        (Box::new(|p| p["tensors"]["ghost"] = p["tensors"][EXPERTS].clone()), &["`ghost`", "in the file"]),
        (Box::new(entry("format", "q9_k".into())), &[EXPERTS, "unknown weight format `q9_k`"]),
        (Box::new(entry("format", "q4_0".into())), &[EXPERTS, "bytes of U8"]),
        (Box::new(entry("shape", json!([half, half, 32]))), &[EXPERTS, "matrices in q8_0"]),
        (Box::new(entry("shape", json!([half / 32, 1, 32]))), &[EXPERTS, "q8_0"]),
        (Box::new(entry("shape", json!([]))), &[EXPERTS, "matrices in q8_0"]),
        (Box::new(entry("shape", json!([0, 40, 32]))), &[EXPERTS, "matrices in q8_0"]),
        (Box::new(entry("matrices", 0.into())), &[EXPERTS, "expected 0 matrices"]),
        (Box::new(entry("matrices", 7.into())), &[EXPERTS, "expected 7 matrices"]),
    ];
    for (edit, says) in cases {
        let target = packed("granitemoe");
        with_packing(&target, 0, edit);
        match says {
            [] => drop(support::open(&target.path(), &OpenOptions::default()).unwrap()),
            says => refused(&target, says),
        }
    }
}

#[test]
fn a_tensor_that_starts_between_cache_lines_is_refused() {
    let target = packed("granitemoe");
    with_packing(&target, 8, |_| {});
    refused(&target, &["start at a multiple of 64"]);
}

#[test]
fn matrices_of_another_shape_than_the_configuration_asks_for_are_refused() {
    // 128 rows take as many bytes as two matrices of 64.
    let target = packed("granitemoe");
    with_packing(&target, 0, |packing| {
        let tensor = &mut packing["tensors"]["model.embed_tokens.weight"];
        assert_eq!((&tensor["shape"][0], &tensor["matrices"]), (&json!(128), &json!(1)));
        tensor["matrices"] = 2.into();
    });
    refused(&target, &["embed_tokens", "expected matrices [128, 32], got matrices [64, 32]"]);
}

#[test]
fn numbers_that_are_packed_where_plain_ones_are_needed_are_refused() {
    // A norm that is packed: one row of 32 in q8_0 takes 544 bytes, and 32 up to the next start.
    const NORM: &str = "model.norm.weight";
    let target = packed("granitemoe");
    let path = target.path().join(FILE);
    let file = std::fs::read(&path).unwrap();
    let (mut header, data) = parts(&file);
    let tensors = header.as_object_mut().unwrap();
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        for offset in tensor["data_offsets"].as_array_mut().unwrap() {
            *offset = (offset.as_u64().unwrap() + 576).into();
        }
    }
    let norm = json!({"dtype": "U8", "shape": [576], "data_offsets": [0, 576]});
    let plain = tensors.insert(NORM.into(), norm).unwrap();
    tensors.insert("another".into(), plain);
    let data = [&[0; 576], data].concat();
    let header = header.to_string();
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    with_packing(&target, 0, |packing| {
        packing["tensors"][NORM] = json!({"format": "q8_0", "shape": [32], "matrices": 1});
    });
    refused(&target, &[NORM, "expected F32, F16 or BF16, got q8_0 in panels"]);
}

#[test]
fn a_packed_file_cut_anywhere_is_refused() {
    let target = packed("granitemoe");
    let path = target.path().join(FILE);
    let whole = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for length in (0..whole).rev().step_by(997) {
        file.set_len(length).unwrap();
        refused(&target, &[FILE]);
    }
}

#[test]
fn random_damage_is_refused_or_harmless() {
    let mut numbers = support::Numbers(3);
    let target = packed("mixtral");
    let path = target.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let header_end = whole.len() - parts(&whole).1.len();
    for round in 0..150 {
        let mut damaged = whole.clone();
        let reach = if round % 2 == 0 { header_end } else { whole.len() };
        for _ in 0..1 + numbers.below(4) {
            damaged[numbers.below(reach)] = numbers.below(256) as u8;
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, damaged).unwrap();
        let _ = support::open(&target.path(), &OpenOptions::default()).map_err(explained).map(|mut model| {
            model.score(&[vec![5, 6, 7]], &ScoreOptions::default()).map(drop).map_err(explained)
        });
    }
}
