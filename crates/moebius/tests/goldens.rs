//! Every family against reference outputs of Hugging Face transformers: hidden states after each layer,
//! routing, logits and greedy continuations, within the tolerances that come with each set.

mod support;

use std::path::{Path, PathBuf};

use moebius::{BackendOptions, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams, ScoreOptions};
use safetensors::SafeTensors;
use serde_json::Value;
use support::goldens;

struct Golden {
    dir: PathBuf,
    meta: Value,
    tensors: Vec<u8>,
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let meta = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        Golden {
            dir: dir.into(),
            meta: serde_json::from_str(&meta).unwrap(),
            tensors: std::fs::read(dir.join("golden.safetensors")).unwrap(),
        }
    }

    fn ids(&self, prompt: usize, what: &str) -> Vec<u32> {
        let ids = self.meta["prompts"][prompt][what].as_array().unwrap();
        ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    fn prompts(&self) -> Vec<Vec<u32>> {
        let count = self.meta["prompts"].as_array().unwrap().len();
        (0..count).map(|i| self.ids(i, "input_ids")).collect()
    }

    fn tolerance(&self, what: &str) -> f32 {
        self.meta["suggested_tolerance"][what].as_f64().unwrap() as f32
    }
}

fn open(dir: &Path, threads: usize, chunk: usize) -> Model {
    let backend = BackendOptions { threads: Some(threads), ..BackendOptions::default() };
    let options = OpenOptions { backend, chunk: Some(chunk), ..OpenOptions::default() };
    Model::open(dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// Scores `sequences` and returns the dump.
fn dump(model: &mut Model, sequences: &[Vec<u32>]) -> Vec<u8> {
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

/// Compares every tensor of the golden that a dump also has; the golden has three more kinds.
fn compare(golden: &Golden, dump: &[u8]) {
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

#[test]
fn every_layer_agrees_with_the_reference() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model = open(&dir, 2, 512);
        compare(&golden, &dump(&mut model, &golden.prompts()));
    }
}

#[test]
fn greedy_continuations_equal_the_reference() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model = open(&dir, 1, 512);
        for (i, prompt) in golden.prompts().iter().enumerate() {
            let expected = golden.ids(i, "continuation");
            let options = GenerateOptions {
                max_tokens: Some(expected.len()),
                sampling: Some(SamplingParams::default()),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            let mut generation = model.generate(Prompt::Ids(prompt), &options).unwrap();
            generation.by_ref().for_each(|piece| drop(piece.unwrap()));
            assert_eq!(generation.finish().tokens, expected, "{} prompt {i}", dir.display());
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_chunks_or_neighbours() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let prompts = golden.prompts();
        let whole = dump(&mut open(&dir, 1, 512), &prompts);
        for (threads, chunk) in [(2, 512), (3, 512), (1, 1), (2, 5), (1, 16)] {
            let other = dump(&mut open(&dir, threads, chunk), &prompts);
            assert!(whole == other, "{}: {threads} threads, chunks of {chunk}", dir.display());
        }
        let longest = prompts.last().unwrap().clone();
        let alone = dump(&mut open(&dir, 1, 512), &[longest]);
        let last = prompts.len() - 1;
        let (alone, whole) =
            (SafeTensors::deserialize(&alone).unwrap(), SafeTensors::deserialize(&whole).unwrap());
        for (name, tensor) in alone.tensors() {
            let in_batch = whole.tensor(&name.replacen("p0.", &format!("p{last}."), 1)).unwrap();
            assert!(tensor.data() == in_batch.data(), "{} {name} alone and in a batch", dir.display());
        }
    }
}
