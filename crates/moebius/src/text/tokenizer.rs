//! The tokenizer of a model directory: its `tokenizer.json`, or what a vocabulary of another format is converted to.
//!
//! Everything that turns text into ids is written in `tokenizer.json` and carried out by the `tokenizers`
//! crate, tokens at the start and the end included (its post-processor). Text is put together here, so
//! that [`Tokenizer::decode`] and [`StreamDecoder`] cannot differ.
//!
//! Shapes: text -> ids `[tokens]`; ids -> text.
//! Invariants: special tokens are those marked so in `tokenizer.json` and those that
//! `tokenizer_config.json` or `special_tokens_map.json` name.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use moebius_model::GgufMetadata;
use serde::Deserialize;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use super::config::TextConfig;
use super::detokenize::Detokenizer;
use super::tokenizer_file::TokenizerFile;
use super::{Result, StreamDecoder, TextError, foreign, gguf};

/// Text to ids and back. A clone shares the vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    hf: HfTokenizer,
    detokenizer: Detokenizer,
    /// Texts of `bos_token`, `eos_token`, ... by their names.
    named: BTreeMap<String, String>,
    vocab_size: usize,
}

/// The parts of a `tokenizer.json` that the `tokenizers` crate reads in two steps, where it panics on
/// JSON that breaks off. Reading them as plain JSON first finds that out without a panic.
#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether the fields can be read matters")]
struct Skeleton {
    added_tokens: Option<serde_json::Value>,
    normalizer: Option<serde_json::Value>,
    pre_tokenizer: Option<serde_json::Value>,
    post_processor: Option<serde_json::Value>,
    decoder: Option<serde_json::Value>,
    model: serde::de::IgnoredAny,
}

impl Tokenizer {
    /// Reads the tokenizer of the model in the directory or GGUF file `dir`.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] if there is none, [`TextError::ForeignTokenizer`] or
    /// [`TextError::UnsupportedTokenizer`] if there is one that cannot be converted, and otherwise which file is wrong
    /// and how.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let metadata = GgufMetadata::read(dir)
            .map_err(|error| TextError::BrokenFile { path: dir.to_owned(), reason: error.to_string() })?;
        if let Some(metadata) = metadata {
            return Self::from_gguf(&metadata);
        }
        let path = dir.join("tokenizer.json");
        let mut config = TextConfig::read(dir)?;
        match std::fs::read(&path) {
            Ok(bytes) => Self::from_parts(&bytes, config, &path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (file, path) = foreign::convert(dir, &mut config)?;
                Self::from_file(file, config, &path)
            }
            Err(source) => Err(TextError::Io { path, source }),
        }
    }

    /// Reads the tokenizer that a GGUF file has in its metadata.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] if there is none, [`TextError::UnsupportedTokenizer`] for one that cannot be converted,
    /// [`TextError::BrokenFile`].
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self> {
        let mut config = gguf::config(metadata)?;
        let file = gguf::convert(metadata, &mut config)?;
        Self::from_file(file, config, metadata.path())
    }

    /// How many tokens the vocabulary of a GGUF file has, without putting it together: what merges and templates say is not
    /// looked at.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_gguf`].
    pub fn size_in_gguf(metadata: &GgufMetadata) -> Result<usize> {
        gguf::size(metadata)
    }

    /// Builds a tokenizer from the bytes of a `tokenizer.json`; `path` is what errors call it.
    pub(super) fn from_parts(bytes: &[u8], config: TextConfig, path: &Path) -> Result<Self> {
        Self::complete(parse(bytes), config, path)
    }

    /// As [`Tokenizer::from_parts`], of what would be in the file.
    pub(super) fn from_file(file: TokenizerFile, config: TextConfig, path: &Path) -> Result<Self> {
        Self::complete(ready(|| file.build()), config, path)
    }

    /// Adds what the configuration files know.
    fn complete(
        hf: std::result::Result<HfTokenizer, String>,
        config: TextConfig,
        path: &Path,
    ) -> Result<Self> {
        let broken = |reason: String| TextError::BrokenFile { path: path.to_owned(), reason };
        let mut hf = hf.map_err(broken)?;
        let named = config.named.iter().map(|(name, token)| (name.clone(), token.content.clone())).collect();
        add_tokens(&mut hf, config).map_err(broken)?;
        let detokenizer = Detokenizer::new(&hf)
            .map_err(|decoder| TextError::UnsupportedDecoder { path: path.to_owned(), decoder })?;
        let vocab_size = hf.get_vocab_size(true);
        Ok(Self { shared: Arc::new(Shared { hf, detokenizer, named, vocab_size }) })
    }

    /// The ids of `text`. With `add_special` the tokens that the model expects around a text are added,
    /// as `tokenizer.json` says; without, special tokens come only from the text itself.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the text holds what the vocabulary has no way to spell.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.shared.hf.encode_fast(text, add_special);
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TextError::Encode(error.to_string()))
    }

    /// The text of `ids`, without special tokens if `skip_special`.
    ///
    /// Ids outside the vocabulary have no text. Bytes that are no UTF-8 read as U+FFFD; in vocabularies
    /// with `<0xNN>` pieces whole characters around such bytes are kept.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special);
        let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A decoder for ids that come one at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special)
    }

    /// A printable form of one token, for displays: its text in the middle of a line, with control
    /// characters escaped (`\n`) and bytes that are no whole character as `<0xNN>`.
    /// `None` for an id outside the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        if let Some(added) = self.shared.hf.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            return Some(printable(added.content.as_bytes()));
        }
        let mut bytes = Vec::new();
        self.shared.detokenizer.append(self.shared.hf.id_to_token(id)?, false, &mut bytes);
        Some(printable(&bytes))
    }

    /// The id of a token spelt exactly as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.shared.hf.token_to_id(token)
    }

    /// Every id with its token, spelt as in the vocabulary, in no order.
    pub(super) fn vocabulary(&self) -> impl Iterator<Item = (u32, String)> {
        self.shared.hf.get_vocab(true).into_iter().map(|(token, id)| (id, token))
    }

    /// Whether a token was added to the vocabulary, special or not.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.shared.hf.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// The whole as a `tokenizer.json`.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.shared.hf).unwrap_or_default()
    }

    /// How many tokens there are, added ones included. The model's own output may be wider.
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// One more than the highest id: more than [`Tokenizer::vocab_size`] where ids are left out. Walks over all tokens.
    pub fn id_limit(&self) -> usize {
        self.vocabulary().map(|(id, _)| id as usize + 1).max().unwrap_or(0)
    }

    /// The id that begins a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.named_id("bos_token")
    }

    /// The id that ends a text, if the model has one.
    pub fn eos_id(&self) -> Option<u32> {
        self.named_id("eos_token")
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.shared.hf.get_added_vocabulary();
        let token = added.get_added_tokens_decoder().get(&id);
        token.is_some_and(|token| added.is_special_token(&token.content))
    }

    /// All special tokens with their ids, in ascending order of the ids.
    pub fn special_tokens(&self) -> Vec<(u32, String)> {
        let added = self.shared.hf.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(id, _)| self.is_special(**id));
        let mut tokens: Vec<_> = special.map(|(&id, token)| (id, token.content.clone())).collect();
        tokens.sort_unstable();
        tokens
    }

    /// The raw piece of `id`, or `None` if it has no text.
    pub(super) fn piece(&self, id: u32, skip_special: bool) -> Option<String> {
        let piece = self.shared.hf.id_to_token(id)?;
        let skipped = skip_special && self.shared.hf.get_added_vocabulary().is_special_token(&piece);
        if skipped { None } else { Some(piece) }
    }

    pub(super) fn detokenizer(&self) -> &Detokenizer {
        &self.shared.detokenizer
    }

    /// The id of the token that goes by a name such as `bos_token`.
    pub(super) fn named_id(&self, name: &str) -> Option<u32> {
        self.token_id(self.shared.named.get(name)?)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Parses a `tokenizer.json`, whatever its bytes are.
fn parse(bytes: &[u8]) -> std::result::Result<HfTokenizer, String> {
    serde_json::from_slice::<Skeleton>(bytes).map_err(|error| error.to_string())?;
    ready(|| HfTokenizer::from_bytes(bytes))
}

/// A tokenizer that reads prompts, or what is wrong with what it is made of.
fn ready(make: impl FnOnce() -> tokenizers::Result<HfTokenizer>) -> std::result::Result<HfTokenizer, String> {
    // The library has invariants of its own files that it checks by panicking, so no check made here can
    // be known to cover them. Nothing of a half-built tokenizer survives the unwinding.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut hf = make()?;
        // Both are meant for batches in training and would pad or cut a prompt.
        hf.with_padding(None);
        hf.with_truncation(None)?;
        // A post-processor that names tokens it does not define would panic at the first prompt.
        hf.encode_fast("", true)?;
        Ok(hf)
    }));
    match attempt {
        Ok(parsed) => parsed.map_err(|error: tokenizers::Error| error.to_string()),
        Err(_) => Err("its parts do not fit together".to_owned()),
    }
}

/// Adds the tokens that only the configuration files know, and marks the named ones as special.
fn add_tokens(hf: &mut HfTokenizer, config: TextConfig) -> std::result::Result<(), String> {
    let known = hf.get_added_vocabulary().get_vocab();
    let added: Vec<AddedToken> =
        config.added.values().filter(|token| !known.contains_key(&token.content)).cloned().collect();
    let mut special: Vec<AddedToken> = config.named.into_values().chain(config.unnamed).collect();
    for token in &mut special {
        // The flags in `tokenizer.json` are the exact ones; a name only makes the token special.
        let decoder = hf.get_added_vocabulary().get_added_tokens_decoder();
        let exact = hf.get_added_vocabulary().get_vocab().get(&token.content).and_then(|id| decoder.get(id));
        let exact = exact.or_else(|| config.added.values().find(|other| other.content == token.content));
        if let Some(exact) = exact {
            *token = exact.clone().special(true);
        }
    }
    hf.add_tokens(added).map_err(|error| error.to_string())?;
    hf.add_special_tokens(special).map_err(|error| error.to_string())?;
    Ok(())
}

fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() { text.extend(letter.escape_default()) } else { text.push(letter) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("<0x{byte:02X}>")));
    }
    text
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
