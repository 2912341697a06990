//! The tokenizer and the chat templates that a GGUF file has in its metadata.
//!
//! `tokenizer.ggml.model` says how text is cut up: `gpt2` is byte-level BPE, whose pattern `tokenizer.ggml.pre` names;
//! `llama` is a SentencePiece model with scores. Either becomes a `tokenizer.json`, as other vocabularies do.
//!
//! Shapes: metadata -> [`TokenizerFile`] and [`TextConfig`].
//! Invariants: an id is the position of its token; control tokens are special, user-defined ones are not.

mod pairs;

use std::collections::HashSet;

use moebius_model::GgufMetadata;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::text::config::{DEFAULT_TEMPLATE, TextConfig};
use crate::text::sentencepiece::{self, Kind, Piece};
use crate::text::tokenizer_file::{Problem, TokenizerFile, Vocabulary, added_token, around};
use crate::text::{Result, TextError};

pub(crate) use pairs::{copied, pairs};

/// How words are cut where no pattern is given.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How contractions begin words in patterns.
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/// Types of tokens, as numbered in a file.
const KINDS: [Kind; 7] =
    [Kind::Normal, Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
/// Texts of tokens that end a turn, where a file does not name one.
const END_OF_TURN: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|return|>",
    "<|call|>",
];

/// What a file says about text beside its vocabulary: named tokens, flags and templates.
pub(super) fn config(metadata: &GgufMetadata) -> Result<TextConfig> {
    let mut config = TextConfig::default();
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.unwrap_or_default();
    for (key, name) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        let id = read(metadata, metadata.count(&format!("tokenizer.ggml.{key}_token_id")))?;
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
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

/// Ids that end a reply: what the file names, and tokens that are known to end a turn.
pub(crate) fn stop_tokens(metadata: &GgufMetadata) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in ["eos", "eot", "eom"] {
        let id = read(metadata, metadata.count(&format!("tokenizer.ggml.{key}_token_id")))?;
        ids.extend(id.and_then(|id| u32::try_from(id).ok()));
    }
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.unwrap_or_default();
    let kinds = read(metadata, metadata.numbers("tokenizer.ggml.token_type"))?.unwrap_or_default();
    let special = |id: usize| kinds.get(id).is_some_and(|&kind| kind == 3.0);
    let known = (0..).zip(&tokens).filter(|(id, token)| special(*id) && END_OF_TURN.contains(token));
    ids.extend(known.map(|(id, _)| id as u32));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
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
        other => Err(Problem::Unsupported(format!(
            "`tokenizer.ggml.model`: expected gpt2 or llama, got `{other}`"
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
    let listed = metadata.texts("tokenizer.ggml.merges").map_err(wrong)?.unwrap_or_default();
    let mut merges = Vec::with_capacity(listed.len());
    for pair in listed {
        // The first half may begin with a space, but is not empty.
        let at = pair.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(at, _)| at);
        let at = at.ok_or_else(|| format!("`tokenizer.ggml.merges`: expected two tokens, got `{pair}`"))?;
        merges.push((pair[..at].to_owned(), pair[at + 1..].to_owned()));
    }
    let special = |kind| matches!(kind, Kind::Control | Kind::Unknown);
    let added =
        (0..).zip(&pieces).filter(|(_, piece)| special(piece.kind) || piece.kind == Kind::UserDefined);
    let added_tokens = added
        .map(|(id, piece)| {
            let token = AddedToken::from(piece.text.clone(), special(piece.kind)).normalized(false);
            added_token(id, &token)
        })
        .collect();
    let id_of = |content: &str| {
        (0..).zip(&pieces).filter(|(_, piece)| piece.text == content).last().map(|(id, _)| id)
    };
    let post_processor = around(config, bos, id_of);
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

/// How text is cut before pairs are merged.
struct Pre {
    /// One after another.
    patterns: Vec<String>,
    /// Whether the first token stands in front unless the file says otherwise.
    bos: bool,
    /// Whether a word that is a token is taken whole.
    ignore_merges: bool,
    /// Whether text is composed (Unicode NFC), as the models' own tokenizers do.
    nfc: bool,
}

impl Pre {
    /// The one with this name.
    fn named(name: &str) -> Option<Self> {
        let words = |digits: &str| {
            format!(
                r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let cased = || {
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            let before = r"[^\r\n\p{L}\p{N}]?";
            format!(
                r"{before}{upper}*{lower}+{CONTRACTIONS}?|{before}{upper}+{lower}*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let plain = |patterns: Vec<String>| Pre { patterns, bos: false, ignore_merges: false, nfc: false };
        Some(match name {
            "gpt-2" | "olmo" | "mpt" | "phi-2" | "gigachat" | "trillion" | "exaone4" => {
                plain(vec![GPT2.into()])
            }
            "refact" | "starcoder" | "command-r" | "smollm" | "codeshell" | "exaone" | "mellum2" => {
                plain(vec![r"\p{N}".into(), GPT2.into()])
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "lfm2" | "pixtral" => Pre {
                bos: true,
                ignore_merges: true,
                ..plain(vec![words(r"\p{N}{1,3}")])
            },
            "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" | "glm5" => plain(vec![words(r"\p{N}{1,3}")]),
            "qwen2" | "deepseek-r1-qwen" | "megrez" => Pre { nfc: true, ..plain(vec![words(r"\p{N}")]) },
            "stablelm2" | "hunyuan" | "solar-open" | "grok-2" => plain(vec![words(r"\p{N}")]),
            "qwen35" => {
                let pattern = format!(
                    r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                );
                Pre { nfc: true, ..plain(vec![pattern]) }
            }
            "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(vec![format!(
                r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            )]),
            "gpt-4o" | "llama4" | "minimax-m2" => plain(vec![cased()]),
            "deepseek-v3" | "hunyuan-dense" => plain(vec![
                r"\p{N}{1,3}".into(),
                "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+".into(),
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##
                    .into(),
            ]),
            _ => return None,
        })
    }
}

/// What metadata says, or that the file is broken.
fn read<T>(metadata: &GgufMetadata, value: moebius_model::Result<T>) -> Result<T> {
    let path = || metadata.path().to_owned();
    value.map_err(|error| TextError::BrokenFile { path: path(), reason: error.to_string() })
}
