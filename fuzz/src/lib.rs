//! What the targets share: a model's directory in which one file is the input.
//!
//! Readers take paths, as they do in the program, so that what is tried is what runs.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use moebius::text::Tokenizer;
use moebius::{OpenOptions, inspect};
use tempfile::TempDir;

/// The configuration of a small model of every target that needs one.
pub const CONFIG: &str = include_str!("../seeds/config/qwen3_moe.json");

/// A directory of its own with one file that changes.
pub struct Stand {
    dir: TempDir,
    file: PathBuf,
}

impl Stand {
    /// A directory with `others`, in which `file` will be the input. Use it as a [`LazyLock`].
    ///
    /// # Panics
    /// If the disk refuses.
    #[must_use]
    pub fn new(file: &str, others: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for (name, content) in others {
            fs::write(dir.path().join(name), content).expect("a small file can be written");
        }
        Stand { file: dir.path().join(file), dir }
    }

    /// The directory with the input as its file.
    ///
    /// # Panics
    /// If the disk refuses.
    pub fn with(&self, input: &[u8]) -> &Path {
        fs::write(&self.file, input).expect("a small file can be written");
        self.dir.path()
    }
}

/// A [`Stand`] that is made when it is first used.
pub type Shared = LazyLock<Stand>;

/// Opens a model whose file is the input; a refusal is as good as success.
pub fn open(stand: &Stand, input: &[u8]) {
    drop(inspect(stand.with(input), &OpenOptions::default()));
}

/// As [`open`], of a model that is one file with a vocabulary in it.
pub fn open_file(stand: &Stand, input: &[u8]) {
    stand.with(input);
    if inspect(&stand.file, &OpenOptions::default()).is_ok() {
        drop(Tokenizer::from_dir(&stand.file));
    }
}

/// Reads a tokenizer and takes a text there and back.
pub fn tokenize(stand: &Stand, input: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_dir(stand.with(input)) else { return };
    if let Ok(ids) = tokenizer.encode("Zwölf \u{1f980}s  said 3.14\n", true) {
        let _ = tokenizer.decode(&ids, false);
    }
    let _ = (tokenizer.decode(&[0, 7, u32::MAX], true), tokenizer.special_tokens());
}
