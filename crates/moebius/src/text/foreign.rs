//! Vocabularies without a `tokenizer.json`: which there are, and what becomes of them.
//!
//! Invariants: what is in a file decides what it is, since `tokenizer.model` is the name of two formats.

use std::path::{Path, PathBuf};

use super::config::TextConfig;
use super::tokenizer_file::{Problem, TokenizerFile};
use super::{Result, TextError, sentencepiece, tiktoken};

/// More bytes than any vocabulary has.
const MAX_BYTES: u64 = 256 << 20;

/// A `tokenizer.json` for the vocabulary in `dir`, and the file that it comes from.
///
/// # Errors
/// [`TextError::NoTokenizer`] if there is none, [`TextError::ForeignTokenizer`] and
/// [`TextError::UnsupportedTokenizer`] if it cannot be converted, [`TextError::BrokenFile`] if it is broken.
pub(super) fn convert(dir: &Path, config: &mut TextConfig) -> Result<(TokenizerFile, PathBuf)> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let tiktoken = names.iter().find(|name| name.ends_with(".tiktoken"));
    let convertible = ["tokenizer.model", "tiktoken.model", "spiece.model"].into_iter();
    let convertible = convertible.filter(|name| names.iter().any(|known| known == name));
    if let Some(name) = convertible.chain(tiktoken.map(String::as_str)).next() {
        let path = dir.join(name);
        let file = converted(&path, name, config)?;
        return Ok((file, path));
    }
    let foreign = |name: &String| match name.as_str() {
        "sentencepiece.bpe.model" => Some("SentencePiece"),
        "tekken.json" => Some("Tekken"),
        "vocab.json" | "merges.txt" => Some("BPE vocabulary"),
        _ => None,
    };
    match names.iter().find_map(|name| Some((name, foreign(name)?))) {
        Some((name, kind)) => Err(TextError::ForeignTokenizer { path: dir.join(name), kind }),
        None => Err(TextError::NoTokenizer { dir: dir.to_owned() }),
    }
}

fn converted(path: &Path, name: &str, config: &mut TextConfig) -> Result<TokenizerFile> {
    let io = |source| TextError::Io { path: path.to_owned(), source };
    let broken = |reason| TextError::BrokenFile { path: path.to_owned(), reason };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > MAX_BYTES {
        return Err(broken(format!("expected at most {MAX_BYTES} bytes, got {len}")));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let file = if tiktoken::recognizes(&bytes) || name.ends_with(".tiktoken") {
        tiktoken::convert(&bytes, name, config)
    } else {
        sentencepiece::convert(&bytes, config)
    };
    match file {
        Ok(file) => Ok(file),
        Err(Problem::Broken(reason)) => Err(broken(reason)),
        Err(Problem::Unsupported(reason)) => {
            Err(TextError::UnsupportedTokenizer { path: path.to_owned(), reason })
        }
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
