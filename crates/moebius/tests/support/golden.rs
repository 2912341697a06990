//! The goldens: small checkpoints with reference outputs of Hugging Face transformers, and how a model compares.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::{Path, PathBuf};

use moebius::{Model, ScoreOptions};
use safetensors::SafeTensors;
use serde_json::Value;

/// A checkpoint with what the reference implementation makes of it.
pub(crate) struct Golden {
    dir: PathBuf,
    meta: Value,
    tensors: Vec<u8>,
}

impl Golden {
    pub(crate) fn open(dir: &Path) -> Self {
        let meta = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        Golden {
            dir: dir.into(),
            meta: serde_json::from_str(&meta).unwrap(),
            tensors: std::fs::read(dir.join("golden.safetensors")).unwrap(),
        }
    }

    pub(crate) fn ids(&self, prompt: usize, what: &str) -> Vec<u32> {
        let ids = self.meta["prompts"][prompt][what].as_array().unwrap();
        ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    pub(crate) fn prompts(&self) -> Vec<Vec<u32>> {
        let count = self.meta["prompts"].as_array().unwrap().len();
        (0..count).map(|i| self.ids(i, "input_ids")).collect()
    }

    fn tolerance(&self, what: &str) -> f32 {
        self.meta["suggested_tolerance"][what].as_f64().unwrap() as f32
    }
}

/// Scores `sequences` and returns the dump.
pub(crate) fn dump(model: &mut Model, sequences: &[Vec<u32>]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump.safetensors");
    model.score(sequences, &ScoreOptions { dump: Some(&path), routing: false }).unwrap();
    std::fs::read(path).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn distance(a: &[u8], b: &[u8]) -> f32 {
    let (a, b) = (floats(a), floats(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// How far the logits of a dump are from the reference's, as a share of the largest of these, and over how many tokens:
/// those of each prompt before the first that chooses other experts, from which on it is another model.
pub(crate) fn logits_apart(golden: &Golden, dump: &[u8]) -> (f32, usize) {
    let expected = SafeTensors::deserialize(&golden.tensors).unwrap();
    let got = SafeTensors::deserialize(dump).unwrap();
    let rows = |name: &str, row: usize| {
        let [expected, got] = [&expected, &got].map(|from| from.tensor(name).unwrap());
        let bytes = expected.data().len() / expected.shape()[0];
        [expected, got].map(|tensor| tensor.data()[row * bytes..][..bytes].to_vec())
    };
    let experts: Vec<&str> = expected.names().into_iter().filter(|name| name.ends_with(".experts")).collect();
    let (mut apart, mut largest, mut tokens) = (0.0f32, 0.0f32, 0);
    for (prompt, ids) in golden.prompts().iter().enumerate() {
        let of_prompt = format!("p{prompt}.");
        let choices = experts.iter().filter(|name| name.starts_with(&of_prompt));
        let same = |token: &usize| {
            choices.clone().all(|name| {
                let [expected, got] = rows(name, *token);
                expected == got
            })
        };
        for token in (0..ids.len()).take_while(same) {
            let [expected, got] = rows(&format!("{of_prompt}logits"), token);
            apart = apart.max(distance(&got, &expected));
            largest = floats(&expected).into_iter().map(f32::abs).fold(largest, f32::max);
            tokens += 1;
        }
    }
    (apart / largest, tokens)
}

/// Compares every tensor of the golden that a dump also has; the golden has three more kinds.
pub(crate) fn compare(golden: &Golden, dump: &[u8]) {
    let expected = SafeTensors::deserialize(&golden.tensors).unwrap();
    let got = SafeTensors::deserialize(dump).unwrap();
    let mut compared = 0;
    for (name, expected) in expected.tensors() {
        if name.contains("gen_logits") || (name.contains("router") && name.ends_with("logits")) {
            continue;
        }
        let at = || format!("{} {name}", golden.dir.display());
        let got = got.tensor(&name).unwrap_or_else(|error| panic!("{}: {error}", at()));
        assert_eq!(got.shape(), expected.shape(), "{}", at());
        compared += 1;
        let tolerance = match name.rsplit('.').next().unwrap() {
            "experts" => {
                assert_eq!(got.data(), expected.data(), "{}", at());
                continue;
            }
            "weights" => golden.tolerance("router_weights_abs"),
            "logits" => golden.tolerance("logits_abs"),
            _ => golden.tolerance("hidden_abs"),
        };
        let distance = distance(got.data(), expected.data());
        assert!(distance <= tolerance, "{}: off by {distance}, tolerance {tolerance}", at());
    }
    let layers = golden.meta["layers"].as_array().unwrap();
    let routed = layers.iter().filter(|layer| layer["moe"] == true).count();
    assert_eq!(compared, golden.prompts().len() * (2 + layers.len() + 2 * routed));
}
