//! The tokenizer and the chat templates that a GGUF file has in its metadata.
//!
//! `tokenizer.ggml.model` says how text is cut up: `gpt2` is byte-level BPE, whose pattern `tokenizer.ggml.pre` names;
//! `llama` is a SentencePiece model with scores, and `gemma4` has its pieces but merges. Each becomes a `tokenizer.json`, as
//! other vocabularies do.
//!
//! Shapes: metadata -> [`TokenizerFile`] and [`TextConfig`].
//! Invariants: an id is the position of its token; control tokens are special, user-defined ones are not.

mod pairs;
mod pre;
mod stops;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use moebius_model::GgufMetadata;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::text::config::{DEFAULT_TEMPLATE, TextConfig};
use crate::text::sentencepiece::{self, Kind, Piece};
use crate::text::tokenizer_file::{Problem, TokenizerFile, Vocabulary, added_token, around};
use crate::text::{Result, TextError};

pub(crate) use pairs::{copied, pairs};
use pre::Pre;
pub(crate) use stops::stop_tokens;

/// Types of tokens, as numbered in a file.
const KINDS: [Kind; 7] =
    [Kind::Normal, Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
/// The number of control tokens among them.
const CONTROL: f64 = 3.0;
/// The vocabulary that is merged as bytes are, but of pieces.
const GEMMA: &str = "gemma4";

/// What a file says about text beside its vocabulary: named tokens, flags and templates.
pub(super) fn config(metadata: &GgufMetadata) -> Result<TextConfig> {
    let mut config = TextConfig::default();
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.unwrap_or_default();
    for (key, name) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        if let Some(token) = token_id(metadata, key)?.and_then(|id| tokens.get(id as usize)) {
            config.named.insert(name.into(), AddedToken::from(*token, true));
        }
    }
    config.flags.add_bos = read(metadata, metadata.flag("tokenizer.ggml.add_bos_token"))?;
    config.flags.add_eos = read(metadata, metadata.flag("tokenizer.ggml.add_eos_token"))?;
    config.flags.add_prefix_space = read(metadata, metadata.flag("tokenizer.ggml.add_space_prefix"))?;
    const TEMPLATE: &str = "tokenizer.chat_template";
    for key in metadata.keys().filter(|key| key.starts_with(TEMPLATE)) {
        let name = match key[TEMPLATE.len()..].strip_prefix('.') {
            Some(name) => name,
            None if key == TEMPLATE => DEFAULT_TEMPLATE,
            None => continue,
        };
        if let Some(text) = read(metadata, metadata.text(key))? {
            config.templates.insert(name.into(), text.into());
        }
    }
    Ok(config)
}

/// The id of a named token: the one that the file says, or else where SentencePiece puts it. An id beyond the vocabulary
/// counts as none.
fn token_id(metadata: &GgufMetadata, name: &str) -> Result<Option<u32>> {
    const BY_DEFAULT: [(&str, u32); 3] = [("unknown", 0), ("bos", 1), ("eos", 2)];
    let said = read(metadata, metadata.count(&format!("tokenizer.ggml.{name}_token_id")))?;
    let count = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.map(|tokens| tokens.len());
    let inside = |id: &u32| count.is_none_or(|count| (*id as usize) < count);
    let said = said.and_then(|id| u32::try_from(id).ok()).filter(inside);
    let pieces = read(metadata, metadata.text("tokenizer.ggml.model"))? == Some("llama");
    let usual = || BY_DEFAULT.iter().find(|(known, _)| pieces && *known == name).map(|&(_, id)| id);
    Ok(said.or_else(|| usual().filter(inside)))
}

/// How many tokens there are in the vocabulary that a file names.
///
/// # Errors
/// Those of [`convert`] that its kind, its pattern and its tokens have.
pub(super) fn size(metadata: &GgufMetadata) -> Result<usize> {
    let missing = || TextError::NoTokenizer { dir: metadata.path().to_owned() };
    let (kind, pre) = (
        read(metadata, metadata.text("tokenizer.ggml.model"))?.ok_or_else(missing)?,
        read(metadata, metadata.text("tokenizer.ggml.pre"))?.unwrap_or("default"),
    );
    match kind {
        "none" | "no_vocab" => return Err(missing()),
        "gpt2" if Pre::named(pre).is_some() => {}
        "llama" => {}
        // What is refused is refused with its reason.
        _ => drop(convert(metadata, &mut TextConfig::default())?),
    }
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.ok_or_else(missing)?;
    Ok(tokens.into_iter().collect::<HashSet<_>>().len())
}

/// The `tokenizer.json` that a file stands for.
///
/// # Errors
/// [`TextError::NoTokenizer`], [`TextError::UnsupportedTokenizer`] or [`TextError::BrokenFile`].
pub(super) fn convert(metadata: &GgufMetadata, config: &mut TextConfig) -> Result<TokenizerFile> {
    let path = || metadata.path().to_owned();
    let missing = || TextError::NoTokenizer { dir: path() };
    let kind = read(metadata, metadata.text("tokenizer.ggml.model"))?.ok_or_else(missing)?;
    if matches!(kind, "none" | "no_vocab") {
        return Err(missing());
    }
    let pieces = pieces(metadata)?;
    let file = match kind {
        "gpt2" => byte_level(metadata, pieces, config),
        "llama" => sentencepiece::of_pieces(pieces, config),
        GEMMA => merged_pieces(metadata, pieces, config),
        other => Err(Problem::Unsupported(format!(
            "`tokenizer.ggml.model`: expected gpt2, llama or {GEMMA}, got `{other}`"
        ))),
    };
    match file {
        Ok(file) => Ok(file),
        Err(Problem::Broken(reason)) => Err(TextError::BrokenFile { path: path(), reason }),
        Err(Problem::Unsupported(reason)) => Err(TextError::UnsupportedTokenizer { path: path(), reason }),
    }
}

/// The files that a directory of Hugging Face's would have for text, by name.
///
/// # Errors
/// Metadata that is broken. A vocabulary that cannot be converted is left out.
pub(crate) fn files(metadata: &GgufMetadata) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut config = config(metadata)?;
    let mut files = Vec::new();
    match convert(metadata, &mut config) {
        Ok(file) => files.push(("tokenizer.json", file.to_json())),
        Err(TextError::NoTokenizer { .. } | TextError::UnsupportedTokenizer { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut object: Map<String, Value> =
        config.named.into_iter().map(|(name, token)| (name, token.content.into())).collect();
    let template = |(name, text): (String, String)| json!({"name": name, "template": text});
    if !config.templates.is_empty() {
        object.insert("chat_template".into(), config.templates.into_iter().map(template).collect());
    }
    files.push(("tokenizer_config.json", pretty(&Value::Object(object))));
    files.push(("generation_config.json", pretty(&json!({"eos_token_id": stop_tokens(metadata)?}))));
    Ok(files)
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data can be written")
}

/// The vocabulary, by id.
fn pieces(metadata: &GgufMetadata) -> Result<Vec<Piece>> {
    let missing = || TextError::NoTokenizer { dir: metadata.path().to_owned() };
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.ok_or_else(missing)?;
    let list = |name: &str| -> Result<Vec<f64>> {
        let key = format!("tokenizer.ggml.{name}");
        let numbers = read(metadata, metadata.numbers(&key))?.unwrap_or_default();
        match numbers.len() {
            0 => Ok(vec![0.0; tokens.len()]),
            len if len == tokens.len() => Ok(numbers),
            len => {
                let reason = format!("`{key}`: expected {} numbers, got {len}", tokens.len());
                Err(TextError::BrokenFile { path: metadata.path().to_owned(), reason })
            }
        }
    };
    let (kinds, scores) = (list("token_type")?, list("scores")?);
    let numbers = kinds.into_iter().zip(scores);
    let piece = |(text, (kind, score)): (&&str, (f64, f64))| Piece {
        text: (**text).to_owned(),
        score: score as f32,
        kind: KINDS.get(kind as usize).copied().unwrap_or(Kind::Normal),
    };
    Ok(tokens.iter().zip(numbers).map(piece).collect())
}

/// Byte-level BPE.
fn byte_level(
    metadata: &GgufMetadata,
    pieces: Vec<Piece>,
    config: &TextConfig,
) -> std::result::Result<TokenizerFile, Problem> {
    let wrong = |error: moebius_model::Error| Problem::Broken(error.to_string());
    let name = metadata.text("tokenizer.ggml.pre").map_err(wrong)?.unwrap_or("default");
    let unknown = || Problem::Unsupported(format!("`tokenizer.ggml.pre`: `{name}` is not known here"));
    let Pre { patterns, bos, ignore_merges, nfc } = Pre::named(name).ok_or_else(unknown)?;
    let (merges, added_tokens) = (merges(metadata)?, added_tokens(&pieces));
    let post_processor = around(config, bos, |content| id_of(&pieces, content));
    let vocab = (0..).zip(pieces).map(|(id, piece)| (piece.text, id)).collect();
    let split = |pattern: &String| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = patterns.iter().map(split).chain([bytes.clone()]).collect();
    Ok(TokenizerFile {
        added_tokens,
        normalizer: if nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        post_processor,
        decoder: bytes,
        model: Vocabulary::Bpe {
            vocab,
            merges,
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges,
        },
    })
}

/// Byte-level BPE without letters for bytes: of pieces, and of bytes where there is none. Texts begin with the first token
/// even where the file says otherwise, as the first ones did by mistake.
fn merged_pieces(
    metadata: &GgufMetadata,
    pieces: Vec<Piece>,
    config: &mut TextConfig,
) -> std::result::Result<TokenizerFile, Problem> {
    const SPACE: &str = "▁";
    let (merges, added_tokens) = (merges(metadata)?, added_tokens(&pieces));
    let unknown = pieces.iter().find(|piece| piece.kind == Kind::Unknown).map(|piece| piece.text.clone());
    let byte_fallback = pieces.iter().any(|piece| piece.kind == Kind::Byte);
    config.flags.add_bos = Some(true);
    let post_processor = around(config, true, |content| id_of(&pieces, content));
    let vocab = (0..).zip(pieces).map(|(id, piece)| (piece.text, id)).collect();
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let decoders = json!([replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]);
    Ok(TokenizerFile {
        added_tokens,
        normalizer: replace(" ", SPACE),
        pre_tokenizer: Value::Null,
        post_processor,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Vocabulary::Bpe {
            vocab,
            merges,
            fuse_unk: unknown.is_some(),
            unk_token: unknown,
            byte_fallback,
            ignore_merges: false,
        },
    })
}

/// The id of a token; of those with one text the last counts.
fn id_of(pieces: &[Piece], content: &str) -> Option<u32> {
    (0..).zip(pieces).filter(|(_, piece)| piece.text == content).last().map(|(id, _)| id)
}

/// Pairs, in the order in which they are merged.
fn merges(metadata: &GgufMetadata) -> std::result::Result<Vec<(String, String)>, Problem> {
    const KEY: &str = "tokenizer.ggml.merges";
    let listed = metadata.texts(KEY).map_err(|error| Problem::Broken(error.to_string()))?;
    let halves = |pair: &str| {
        // The first half may begin with a space, but is not empty.
        let at = pair.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(at, _)| at);
        let at = at.ok_or_else(|| format!("`{KEY}`: expected two tokens, got `{pair}`"))?;
        Ok((pair[..at].to_owned(), pair[at + 1..].to_owned()))
    };
    listed.unwrap_or_default().into_iter().map(halves).collect()
}

/// Tokens that are found in a text before anything else happens to it.
fn added_tokens(pieces: &[Piece]) -> Vec<Value> {
    let special = |kind| matches!(kind, Kind::Control | Kind::Unknown);
    let added = |piece: &Piece| special(piece.kind) || piece.kind == Kind::UserDefined;
    let token = |(id, piece): (u32, &Piece)| {
        let token = AddedToken::from(piece.text.clone(), special(piece.kind)).normalized(false);
        added_token(id, &token)
    };
    (0..).zip(pieces).filter(|(_, piece)| added(piece)).map(token).collect()
}

/// What metadata says, or that the file is broken.
fn read<T>(metadata: &GgufMetadata, value: moebius_model::Result<T>) -> Result<T> {
    let path = || metadata.path().to_owned();
    value.map_err(|error| TextError::BrokenFile { path: path(), reason: error.to_string() })
}
