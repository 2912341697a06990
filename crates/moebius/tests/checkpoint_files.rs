//! Damaged safetensors files and indices are refused with a reason; damage that leaves a legal file loads.

mod support;

use std::fs::OpenOptions as FileOptions;

use moebius::ErrorKind;
use serde_json::{Value, json};
use support::{Numbers, Scratch, assert_says, explained};

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn header_len(file: &[u8]) -> usize {
    u64::from_le_bytes(*file.first_chunk().unwrap()) as usize
}

/// A file with this header and `data_bytes` zeros.
fn with_header(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let scratch = Scratch::of("mixtral");
    let whole = scratch.read(FILE);
    let data_start = 8 + header_len(&whole);
    let in_data = (data_start..whole.len()).step_by(1009).chain([whole.len() - 1]);
    let lengths: Vec<usize> = (0..data_start).chain(in_data).collect();
    let file = FileOptions::new().write(true).open(scratch.file(FILE)).unwrap();
    for &length in lengths.iter().rev() {
        file.set_len(length as u64).unwrap();
        let error = scratch.open().err().unwrap_or_else(|| panic!("{length} bytes were accepted"));
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert_says(&explained(error), &[FILE]);
    }
}

#[test]
fn bytes_after_the_last_tensor_are_refused() {
    let scratch = Scratch::of("mixtral");
    let mut file = scratch.read(FILE);
    file.push(0);
    scratch.write(FILE, file);
    assert_says(&scratch.refusal(), &["belong to no tensor", "expected", "got"]);
}

#[test]
fn a_flipped_bit_of_the_header_is_refused_or_harmless() {
    let scratch = Scratch::of("granitemoe");
    let whole = scratch.read(FILE);
    let mut refused = 0;
    let end = 8 + header_len(&whole);
    for (nth, at) in (0..16).chain((16..end).step_by(5)).enumerate() {
        let mut file = whole.clone();
        file[at] ^= 1 << (nth % 8);
        scratch.write(FILE, file);
        refused += scratch.open().map_err(explained).is_err() as usize;
    }
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn random_damage_is_refused_or_harmless() {
    let mut numbers = Numbers(1);
    for name in ["qwen2_moe", "mixtral_bf16_shards"] {
        let scratch = Scratch::of(name);
        let file = if name == "qwen2_moe" { FILE } else { "model-00002-of-00003.safetensors" };
        let whole = scratch.read(file);
        let header_end = 8 + header_len(&whole);
        for round in 0..150 {
            let mut damaged = whole.clone();
            let reach = if round % 2 == 0 { header_end } else { whole.len() };
            for _ in 0..1 + numbers.below(4) {
                damaged[numbers.below(reach)] = numbers.below(256) as u8;
            }
            scratch.write(file, damaged);
            let _ = scratch.open().map_err(explained);
        }
    }
}

#[test]
fn an_impossible_header_is_refused_with_the_tensor_and_the_sizes() {
    let tensor = |dtype: &str, shape: Value, offsets: Value| {
        json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).to_string()
    };
    let half = u64::MAX / 2;
    for (header, data_bytes, parts) in [
        (String::new(), 0, vec!["header cannot be read"]),
        ("[1, 2]".into(), 0, vec!["header cannot be read"]),
        ("{\"a\"".into(), 0, vec!["header cannot be read"]),
        ("\u{0}\u{1}".into(), 0, vec!["header cannot be read"]),
        (format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)), 0, vec!["header cannot be read"]),
        (tensor("F99", json!([1]), json!([0, 4])), 4, vec!["F99"]),
        (tensor("F32", json!([-1]), json!([0, 4])), 4, vec!["-1"]),
        (tensor("F32", json!([1]), json!([-4, 0])), 4, vec!["-4"]),
        (tensor("F32", json!([1.5]), json!([0, 4])), 4, vec!["1.5"]),
        (tensor("F32", json!("x"), json!([0, 4])), 4, vec!["header cannot be read"]),
        (tensor("F32", json!([2]), json!([0, 4])), 4, vec!["`a`", "expected 8 bytes", "got bytes 0 to 4"]),
        (tensor("F32", json!([1]), json!([4, 0])), 4, vec!["`a`", "start at byte 0, got 4"]),
        (tensor("F32", json!([1]), json!([4, 8])), 8, vec!["`a`", "start at byte 0, got 4"]),
        (tensor("F32", json!([1]), json!([0, 4])), 0, vec!["cut short", "expected 4", "got 0"]),
        (tensor("F32", json!([half, half]), json!([0, 4])), 4, vec!["`a`", "fit into memory"]),
        (tensor("F32", json!([half]), json!([0, u64::MAX])), 4, vec!["`a`", "fit into memory"]),
        (tensor("U8", json!([half / 8]), json!([0, half / 8])), 4, vec!["cut short"]),
    ] {
        let scratch = Scratch::of("mixtral");
        scratch.write(FILE, with_header(&header, data_bytes));
        assert_says(&scratch.refusal(), &parts);
    }
}

#[test]
fn tensors_whose_sizes_add_up_past_the_address_space_are_refused() {
    let size = (u64::MAX / 16) & !1;
    let entries: serde_json::Map<String, Value> = (0..16)
        .map(|i| {
            let offsets = [i * size, (i + 1) * size];
            (format!("t{i}"), json!({"dtype": "U8", "shape": [size], "data_offsets": offsets}))
        })
        .collect();
    let scratch = Scratch::of("mixtral");
    scratch.write(FILE, with_header(&Value::Object(entries).to_string(), 64));
    assert_says(&scratch.refusal(), &["cut short"]);
}

#[test]
fn tensors_that_overlap_or_leave_a_hole_are_refused() {
    for (second, got) in [([2, 6], "got 2"), ([6, 10], "got 6")] {
        let header = json!({
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": second},
        });
        let scratch = Scratch::of("mixtral");
        scratch.write(FILE, with_header(&header.to_string(), second[1]));
        assert_says(&scratch.refusal(), &["`b`", "start at byte 4", got]);
    }
}

#[test]
fn an_absurd_header_length_is_refused_before_anything_is_allocated() {
    for length in [u64::MAX, u64::MAX - 8, 1 << 40, 100_000_001, 99_999_999] {
        let scratch = Scratch::of("mixtral");
        let mut file = scratch.read(FILE);
        file[..8].copy_from_slice(&length.to_le_bytes());
        scratch.write(FILE, file);
        assert_says(&scratch.refusal(), &["expected a header", &length.min(100_000_000).to_string()]);
    }
}

#[test]
fn an_index_may_name_plain_files_only() {
    let sharded = Scratch::of("mixtral_bf16_shards");
    let index: Value = serde_json::from_slice(&sharded.read(INDEX)).unwrap();
    let outside = sharded.file("outside");
    std::fs::create_dir(&outside).unwrap();
    let inner = outside.join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(sharded.file("model-00001-of-00003.safetensors"), outside.join("x.safetensors")).unwrap();
    for name in ["config.json", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"] {
        std::fs::copy(sharded.file(name), inner.join(name)).unwrap();
    }
    let absolute = outside.join("x.safetensors");
    for escape in
        ["../x.safetensors", absolute.to_str().unwrap(), "..\\x.safetensors", "", ".", "..", "inner"]
    {
        let mut index = index.clone();
        for shard in index["weight_map"].as_object_mut().unwrap().values_mut() {
            if shard == "model-00001-of-00003.safetensors" {
                *shard = escape.into();
            }
        }
        std::fs::write(inner.join(INDEX), index.to_string()).unwrap();
        let error = support::open(&inner, &Default::default()).err().expect("it escapes");
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{escape:?}");
        assert_says(&explained(error), &["plain .safetensors file name", "index.json"]);
    }
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let first = "model-00001-of-00003.safetensors";
    let second = "model-00002-of-00003.safetensors";
    let edited = |edit: &dyn Fn(&mut Value)| {
        let scratch = Scratch::of("mixtral_bf16_shards");
        let mut index: Value = serde_json::from_slice(&scratch.read(INDEX)).unwrap();
        edit(&mut index);
        scratch.write(INDEX, index.to_string());
        scratch
    };
    let ghost = edited(&|index| index["weight_map"]["ghost"] = first.into());
    assert_says(&ghost.refusal(), &["`ghost`", first]);
    let moved = edited(&|index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        *map.values_mut().find(|shard| **shard == first).unwrap() = second.into();
    });
    assert_says(&moved.refusal(), &["the shards lack 1 of the index", second]);
    for wrong in [json!(5), json!([first]), Value::Null] {
        let scratch = edited(&|index| index["weight_map"]["model.norm.weight"] = wrong.clone());
        assert_says(&scratch.refusal(), &["model.norm.weight", "expected a file name"]);
    }
    for wrong in [json!([]), json!("x"), Value::Null] {
        assert_says(&edited(&|i| i["weight_map"] = wrong.clone()).refusal(), &["expected an object"]);
    }
    assert_says(&edited(&|i| i["weight_map"] = json!({})).refusal(), &["names no tensor"]);
    for text in ["", "{", "[]", "\u{0}"] {
        let scratch = Scratch::of("mixtral_bf16_shards");
        scratch.write(INDEX, text);
        assert_says(&scratch.refusal(), &[INDEX]);
    }
}

#[test]
fn a_shard_that_is_missing_or_no_file_is_named() {
    let shard = "model-00002-of-00003.safetensors";
    let scratch = Scratch::of("mixtral_bf16_shards");
    std::fs::remove_file(scratch.file(shard)).unwrap();
    let error = scratch.open().err().expect("a shard is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&explained(error), &["no checkpoint shard", shard]);
    std::fs::create_dir(scratch.file(shard)).unwrap();
    assert_says(&scratch.refusal(), &["expected a regular file", shard]);
    std::fs::remove_dir(scratch.file(shard)).unwrap();
    scratch.write(shard, "");
    assert_says(&scratch.refusal(), &["empty", shard]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let scratch = Scratch::of("mixtral_bf16_shards");
    let mut extra = None;
    scratch.edit_tensors("model-00001-of-00003.safetensors", |tensors| extra = tensors.first().cloned());
    let extra = extra.unwrap();
    let name = extra.name.clone();
    scratch.edit_tensors("model-00003-of-00003.safetensors", |tensors| tensors.push(extra));
    assert_says(&scratch.refusal(), &[&name, "two files"]);
}

#[cfg(unix)]
#[test]
fn shards_may_be_links_as_in_a_hub_cache() {
    let blobs = Scratch::of("mixtral_bf16_shards");
    let snapshot = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(blobs.path()).unwrap() {
        let path = entry.unwrap().path();
        let link = snapshot.path().join(path.file_name().unwrap());
        std::os::unix::fs::symlink(&path, link).unwrap();
    }
    support::open(snapshot.path(), &Default::default()).unwrap();
    std::fs::remove_file(blobs.file("model-00001-of-00003.safetensors")).unwrap();
    let error = support::open(snapshot.path(), &Default::default()).err().expect("a link leads nowhere");
    assert_says(&explained(error), &["model-00001-of-00003.safetensors"]);
}

#[test]
fn a_whole_file_is_preferred_to_an_index_beside_it() {
    let scratch = Scratch::of("mixtral");
    scratch.write(INDEX, r#"{"weight_map": {"x": "gone.safetensors"}}"#);
    scratch.open().unwrap();
}

#[test]
fn a_directory_in_place_of_a_file_is_refused() {
    for file in ["config.json", FILE] {
        let scratch = Scratch::of("mixtral");
        std::fs::remove_file(scratch.file(file)).unwrap();
        std::fs::create_dir(scratch.file(file)).unwrap();
        assert_says(&scratch.refusal(), &[file, "expected a regular file"]);
    }
}
