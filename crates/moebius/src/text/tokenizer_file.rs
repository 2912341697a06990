//! A `tokenizer.json` as it is written here, for vocabularies that come in another format.
//!
//! Reading a text of megabytes again takes several times as long as putting the tokenizer together, so it becomes text only
//! where a file is wanted.
//!
//! Shapes: vocabulary and rules -> a tokenizer, or bytes of JSON that are read as the same.
//! Invariants: pairs are merged in the order in which the vocabulary ranks what they make.

use std::collections::HashSet;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BpeBuilder, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as HfTokenizer,
};

use super::config::TextConfig;

/// Most characters of a piece that pairs are merged into: twice the longest that is known.
const MAX_MERGED: usize = 512;

/// Why a vocabulary cannot be converted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The file is not what its name promises.
    Broken(String),
    /// The file needs something that has no counterpart here.
    Unsupported(String),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// All parts of a `tokenizer.json`.
#[derive(Serialize)]
pub(super) struct TokenizerFile {
    pub(super) added_tokens: Vec<Value>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Vocabulary,
}

/// How text is cut up.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Vocabulary {
    #[serde(rename = "BPE")]
    Bpe {
        /// Of equal tokens the last counts.
        #[serde(serialize_with = "as_map")]
        vocab: Vec<(String, u32)>,
        merges: Vec<(String, String)>,
        unk_token: Option<String>,
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
    },
    Unigram {
        vocab: Vec<(String, f32)>,
        unk_id: usize,
        byte_fallback: bool,
    },
}

impl TokenizerFile {
    /// The text of the file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// The tokenizer that would be read from that text.
    ///
    /// # Errors
    /// Parts that do not fit together. The library panics where it trusts files of its own.
    pub(super) fn build(self) -> tokenizers::Result<HfTokenizer> {
        let added = self.added_tokens.into_iter().map(serde_json::from_value::<AddedToken>);
        let added = added.collect::<Result<Vec<_>, _>>()?;
        let mut hf = HfTokenizer::new(self.model.build()?);
        hf.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(self.normalizer)?)?;
        hf.with_pre_tokenizer(serde_json::from_value::<Option<PreTokenizerWrapper>>(self.pre_tokenizer)?);
        hf.with_post_processor(serde_json::from_value::<Option<PostProcessorWrapper>>(self.post_processor)?);
        hf.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(self.decoder)?));
        hf.add_tokens(added)?;
        Ok(hf)
    }
}

impl Vocabulary {
    fn build(self) -> tokenizers::Result<ModelWrapper> {
        match self {
            Vocabulary::Bpe { vocab, merges, unk_token, fuse_unk, byte_fallback, ignore_merges } => {
                let mut bpe = BpeBuilder::new()
                    .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
                    .fuse_unk(fuse_unk)
                    .byte_fallback(byte_fallback)
                    .ignore_merges(ignore_merges);
                if let Some(token) = unk_token {
                    bpe = bpe.unk_token(token);
                }
                Ok(bpe.build()?.into())
            }
            Vocabulary::Unigram { vocab, unk_id, byte_fallback } => {
                let vocab = vocab.into_iter().map(|(piece, score)| (piece, score.into())).collect();
                Ok(Unigram::from(vocab, Some(unk_id), byte_fallback)?.into())
            }
        }
    }
}

fn as_map<S: Serializer>(pairs: &[(String, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(token, id)| (token, id)))
}

/// The pairs that make up each of `pieces`, whose order is that of merging, out of what `known` holds.
///
/// # Errors
/// A piece that is longer than any vocabulary needs.
pub(super) fn merges<'a>(
    pieces: impl Iterator<Item = &'a str>,
    known: &HashSet<&str>,
) -> Result<Vec<(String, String)>, String> {
    let mut merges = Vec::new();
    for piece in pieces {
        if piece.chars().nth(MAX_MERGED).is_some() {
            return Err(format!("expected pieces of at most {MAX_MERGED} characters, got a longer one"));
        }
        // Runs of one letter are merged from the left, so what is left over stands at the right: longest left first.
        let splits = piece.char_indices().rev().map(|(index, _)| piece.split_at(index));
        let splits = splits.filter(|(left, right)| known.contains(left) && known.contains(right));
        merges.extend(splits.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
    Ok(merges)
}

/// The entry of a special or user-defined token.
pub(super) fn added_token(id: u32, token: &AddedToken) -> Value {
    json!({
        "id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
        "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special,
    })
}

/// A post-processor for the tokens around a text, as `add_bos_token` and `add_eos_token` ask for them.
pub(super) fn around(
    config: &TextConfig,
    bos_by_default: bool,
    id_of: impl Fn(&str) -> Option<u32>,
) -> Value {
    let token = |wanted: bool, name: &str| {
        let content = &config.named.get(name).filter(|_| wanted)?.content;
        Some((content.clone(), id_of(content)?))
    };
    let bos = token(config.flags.add_bos.unwrap_or(bos_by_default), "bos_token");
    let eos = token(config.flags.add_eos.unwrap_or(false), "eos_token");
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let item = |(content, _): &(String, u32)| json!({"SpecialToken": {"id": content, "type_id": 0}});
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let wrapped = |name: &str| {
        let (before, after) = (bos.iter().map(item), eos.iter().map(item));
        before.chain([sequence(name)]).chain(after).collect::<Vec<Value>>()
    };
    let tokens: serde_json::Map<String, Value> = bos
        .iter()
        .chain(&eos)
        .map(|(content, id)| (content.clone(), json!({"id": content, "ids": [id], "tokens": [content]})))
        .collect();
    let pair = [wrapped("A"), wrapped("B")].concat();
    json!({"type": "TemplateProcessing", "single": wrapped("A"), "pair": pair, "special_tokens": tokens})
}
