//! Copies of the goldens, to be broken.
#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod gguf;
pub(crate) mod golden;

use std::error::Error as _;
use std::path::{Path, PathBuf};

use moebius::{BackendOptions, Error, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// A set that comes with the project.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/goldens").join(name)
}

/// The sets that come with the project, or the set or the directory of sets that `MOEBIUS_GOLDENS` names.
pub(crate) fn goldens() -> Vec<PathBuf> {
    let named = std::env::var_os("MOEBIUS_GOLDENS").map(PathBuf::from);
    if let Some(set) = named.iter().find(|path| path.join("golden.json").is_file()) {
        return vec![set.clone()];
    }
    let root = named.unwrap_or(golden(""));
    let entries = std::fs::read_dir(&root).expect("the project has goldens");
    let mut dirs: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    dirs.retain(|dir| dir.join("golden.json").is_file());
    dirs.sort();
    assert!(dirs.len() >= 5, "expected a set for each family in {}", root.display());
    dirs
}

/// The bundled model.
pub(crate) fn tiny() -> PathBuf {
    moebius::bundled_model().expect("it comes with the project")
}

/// What the prompts of a golden are followed by.
pub(crate) fn golden_prompts(name: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(golden(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let ids = |prompt: &Value, what: &str| -> Vec<u32> {
        prompt[what].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts = golden["prompts"].as_array().unwrap();
    prompts.iter().map(|prompt| (ids(prompt, "input_ids"), ids(prompt, "continuation"))).collect()
}

/// Fails unless the model continues the prompts of a golden set as the reference does.
pub(crate) fn check_greedy_text(model: &mut Model, name: &str) {
    for (prompt, expected) in golden_prompts(name) {
        assert_eq!(greedy_text(model, &prompt, expected.len()), expected, "{name}");
    }
}

/// The `count` likeliest tokens after a prompt, one after another.
pub(crate) fn greedy_text(model: &mut Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let options = GenerateOptions {
        max_tokens: Some(count),
        sampling: Some(SamplingParams::default()),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generation = model.generate(Prompt::Ids(prompt), &options).unwrap();
    generation.by_ref().for_each(|piece| drop(piece.unwrap()));
    generation.finish().tokens
}

/// A directory of its own with the files of a golden model.
pub(crate) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Copies config.json and the weights of `name`.
    pub(crate) fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden(name)).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            if file == "config.json" || file.starts_with("model") {
                std::fs::write(dir.path().join(file), std::fs::read(&path).unwrap()).unwrap();
            }
        }
        Scratch { dir }
    }

    /// A directory with nothing in it.
    pub(crate) fn empty() -> Self {
        Scratch { dir: tempfile::tempdir().unwrap() }
    }

    /// A directory with this config.json and nothing else.
    pub(crate) fn config_only(config: &Value) -> Self {
        let scratch = Scratch::empty();
        scratch.write("config.json", config.to_string());
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// Changes config.json.
    pub(crate) fn edit_config(&self, edit: impl FnOnce(&mut Map<String, Value>)) {
        let mut config = config(self.path());
        edit(&mut config);
        self.write("config.json", Value::Object(config).to_string());
    }

    /// Changes the tensors of a file.
    pub(crate) fn edit_tensors(&self, file: &str, edit: impl FnOnce(&mut Vec<Stored>)) {
        let mut tensors = Stored::all(&self.read(file));
        edit(&mut tensors);
        let views =
            tensors.iter().map(|t| (&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        let bytes = safetensors::serialize(views, None).unwrap();
        self.write(file, bytes);
    }

    pub(crate) fn open(&self) -> Result<Model, Error> {
        open(self.path(), &OpenOptions::default())
    }

    /// The error of opening it: see [`explained`].
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        explained(self.open().err().expect("the model is broken"))
    }
}

/// config.json of a directory.
pub(crate) fn config(dir: &Path) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

/// Opens on one thread.
pub(crate) fn open(dir: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let backend = BackendOptions { threads: Some(1), ..BackendOptions::default() };
    Model::open(dir, &OpenOptions { backend, ..options.clone() })
}

/// The message of an error with its causes. It must come with a hint, and be short enough to be read.
#[track_caller]
pub(crate) fn explained(error: Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    assert!(error.hint().is_some(), "no hint: {text}");
    assert!(text.len() < 8000, "{} bytes: {:.200}", text.len(), text);
    text
}

/// Fails unless `text` holds each of `parts`.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in: {text}");
    }
}

/// A tensor of a file.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    fn all(file: &[u8]) -> Vec<Self> {
        let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
        let stored = |(name, view): (String, TensorView<'_>)| Stored {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        tensors.tensors().into_iter().map(stored).collect()
    }
}

/// The tensor called `name`.
#[track_caller]
pub(crate) fn find<'t>(tensors: &'t mut [Stored], name: &str) -> &'t mut Stored {
    tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no tensor `{name}`"))
}

/// A small generator of numbers that look random.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
