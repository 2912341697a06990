//! GGUF files against the checkpoints that they were made from: the files in models/goldens-gguf were written by the
//! Python package `gguf`, in f32, from the goldens of the same names.

mod support;

use std::path::{Path, PathBuf};

use moebius::{BackendOptions, Model, OpenOptions, ScoreOptions};
use support::golden;

/// The GGUF files, with the names of their goldens.
fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/goldens-gguf");
    let paths = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .map(|path| (path.clone(), name(&path)))
        .collect();
    files.sort();
    assert!(files.len() >= 12, "expected a file for each architecture, got {}", files.len());
    files
}

fn open(path: &Path) -> Model {
    let backend = BackendOptions { threads: Some(2), ..BackendOptions::default() };
    let options = OpenOptions { backend, ..OpenOptions::default() };
    Model::open(path, &options).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

#[test]
fn greedy_text_is_that_of_the_checkpoint() {
    for (path, name) in files() {
        support::check_greedy_text(&mut open(&path), &name);
    }
}

#[test]
fn every_tensor_that_a_file_holds_is_used_and_logits_have_the_same_bits() {
    /// The file holds the angles' base with its scaling, rounded to f32.
    const ROUNDED: [&str; 1] = ["hunyuan_v1_moe"];
    for (path, name) in files() {
        let mut model = open(&path);
        assert_eq!(model.info().unknown_tensors, [] as [&str; 0], "{name}");
        assert_eq!(model.info().unknown_keys, [] as [&str; 0], "{name}");
        if ROUNDED.contains(&name.as_str()) {
            continue;
        }
        let ids: Vec<_> = support::golden_prompts(&name).into_iter().map(|(prompt, _)| prompt).collect();
        let logits = |model: &mut Model| {
            let dir = tempfile::tempdir().unwrap();
            let dump = dir.path().join("dump.safetensors");
            model.score(&ids, &ScoreOptions { dump: Some(&dump), routing: false }).unwrap();
            std::fs::read(dump).unwrap()
        };
        assert!(logits(&mut model) == logits(&mut open(&golden(&name))), "{name}");
    }
}
