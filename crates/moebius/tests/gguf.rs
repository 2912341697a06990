//! GGUF files against the checkpoints that they were made from: the files in models/goldens-gguf were written by the
//! Python package `gguf`, in f32, from the goldens of the same names.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use moebius::{BackendOptions, HeldFormats, Model, OpenOptions, ScoreOptions};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;
use support::gguf::{self, Files, sayable};
use support::{golden, goldens};

/// Files with numbers that were computed from those of the checkpoint, and rounded: rates of recurrences, weights of norms
/// with one added, factors on rotations, a base that holds its scaling.
const ROUNDED: [&str; 7] =
    ["granitemoehybrid", "hunyuan_v1_moe", "jamba", "llama4", "nemotron_h", "qwen3_5_moe", "qwen3_next"];
/// By how much logits may differ for that.
const ROUNDING: f32 = 1e-4;

fn open(path: &Path) -> Model {
    open_in(path, "f32")
}

fn open_in(path: &Path, format: &str) -> Model {
    let backend = BackendOptions { threads: Some(2), ..BackendOptions::default() };
    let format = if format.is_empty() { HeldFormats::AsStored } else { format.parse().unwrap() };
    let options = OpenOptions { backend, format, ..OpenOptions::default() };
    Model::open(path, &options).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

/// What a model computes for sequences, in safetensors.
fn dump(model: &mut Model, ids: &[Vec<u32>]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.safetensors");
    model.score(ids, &ScoreOptions { dump: Some(&dump), routing: false }).unwrap();
    std::fs::read(dump).unwrap()
}

/// What the package wrote of a golden, which may be the golden as it is although moebius would not write it.
fn reference(name: &str) -> (support::Scratch, bool) {
    if name == "hunyuan_v1_moe" { (support::Scratch::of(name), true) } else { sayable(name) }
}

#[test]
fn there_is_a_file_of_every_family_that_gguf_has() {
    let kind = |dir: &Path| support::config(dir)["model_type"].as_str().unwrap().to_owned();
    let files = Files::all();
    let read: BTreeSet<_> = files.list.iter().map(|(_, name)| kind(&golden(name))).collect();
    let all: BTreeSet<_> = goldens().iter().map(|dir| kind(dir)).collect();
    assert_eq!(all.difference(&read).collect::<Vec<_>>(), gguf::WITHOUT_ARCHITECTURE.each_ref());
}

#[test]
fn greedy_text_is_that_of_the_checkpoint() {
    for (path, name) in Files::all().list {
        let (original, as_golden) = reference(&name);
        if as_golden {
            support::check_greedy_text(&mut open(&path), &name);
        } else {
            let [ours, theirs] =
                [path.as_path(), original.path()].map(|path| gguf::texts(&mut open(path), &name));
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

#[test]
fn every_tensor_that_a_file_holds_is_used_and_logits_have_the_same_bits() {
    for (path, name) in Files::all().list {
        let mut model = open(&path);
        assert_eq!(model.info().unknown_tensors, [] as [&str; 0], "{name}");
        assert_eq!(model.info().unknown_keys, [] as [&str; 0], "{name}");
        let ids: Vec<_> = support::golden_prompts(&name).into_iter().map(|(prompt, _)| prompt).collect();
        let (ours, theirs) = (dump(&mut model, &ids), dump(&mut open(reference(&name).0.path()), &ids));
        if ROUNDED.contains(&name.as_str()) {
            check_close(&ours, &theirs, &name);
        } else {
            assert!(ours == theirs, "{name}");
        }
    }
}

#[test]
fn matrices_of_every_type_that_llama_cpp_wrote_have_its_values() {
    /// As f32 they are the same; held as they are, activations are rounded to eight bits.
    const BY_FORMAT: [(&str, f32); 2] = [("f32", 1e-5), ("", 0.03)];
    let record: Value =
        serde_json::from_slice(&std::fs::read(gguf::file("all_types.json")).unwrap()).unwrap();
    let numbers =
        |list: &Value| list.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let ids: Vec<u32> = numbers(&record["ids"]).into_iter().map(|id| id as u32).collect();
    let expected: Vec<f32> =
        record["logits"].as_array().unwrap().iter().flat_map(numbers).map(|logit| logit as f32).collect();
    let largest = expected.iter().fold(0f32, |most, logit| most.max(logit.abs()));
    for (format, tolerance) in BY_FORMAT {
        let mut model = open_in(&gguf::file("all_types.gguf"), format);
        assert_eq!(model.info().unknown_tensors, [] as [&str; 0]);
        let dump = dump(&mut model, std::slice::from_ref(&ids));
        let logits = SafeTensors::deserialize(&dump).unwrap();
        let logits = gguf::floats(logits.tensor("p0.logits").unwrap().data(), Dtype::F32);
        let far = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest;
        assert!(logits.len() == expected.len() && far < tolerance, "{format}: {far}");
    }
}

/// Fails unless the tensors of two dumps are nearly the same.
fn check_close(ours: &[u8], theirs: &[u8], name: &str) {
    let [ours, theirs] = [ours, theirs].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (tensor, view) in ours.tensors() {
        let other = theirs.tensor(&tensor).unwrap();
        assert_eq!((view.dtype(), view.shape()), (other.dtype(), other.shape()), "{name} {tensor}");
        if view.dtype() != Dtype::F32 {
            assert_eq!(view.data(), other.data(), "{name} {tensor}");
            continue;
        }
        let [a, b] = [view.data(), other.data()].map(|bytes| gguf::floats(bytes, view.dtype()));
        let size = b.iter().fold(1f32, |most, x| most.max(x.abs()));
        let far = a.iter().zip(&b).find(|(a, b)| (*a - *b).abs() > ROUNDING * size);
        assert!(far.is_none(), "{name} {tensor}: {far:?}");
    }
}
