//! Ranks in tiktoken's format as a `tokenizer.json`.
//!
//! Each line is a token in base64 and its rank, which is its id; text is cut by a pattern and the bytes of each cut are
//! merged, lowest rank first (arXiv 1508.07909). The file has neither pattern nor special tokens: they are code in
//! the model's repository, so only those of known families are carried over.
//!
//! Shapes: text of the file -> [`TokenizerFile`].
//! Invariants: a cut that is a token is that token, whatever its merges would give.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::base64;
use super::config::TextConfig;
use super::detokenize::letter_of_byte;
use super::tokenizer_file::{Problem, TokenizerFile, Vocabulary, added_token, around, merges};

/// What a family adds to its ranks.
struct Rules {
    pattern: &'static str,
    /// Text is composed (NFC) first.
    compose: bool,
    /// Special tokens from the first id after the ranks on.
    special: fn(u32) -> Vec<String>,
}

/// Qwen and Hunyuan: digits stand alone.
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// cl100k: digits in groups of three.
const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// o200k: words end where capitals begin.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Kimi: as o200k, with runs of Han characters on their own.
pub(super) const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules of a family, known by the class of its tokenizer or else by the name of the file.
fn rules(file_name: &str, class: Option<&str>) -> Option<Rules> {
    let none = |_| Vec::new();
    let kimi = Rules { pattern: KIMI, compose: false, special: kimi_special };
    let hunyuan = Rules { pattern: QWEN, compose: true, special: hunyuan_special };
    let qwen = Rules { pattern: QWEN, compose: true, special: qwen_special };
    match (class, file_name) {
        (Some("TikTokenTokenizer"), _) => Some(kimi),
        (Some("HYTokenizer" | "HunYuanTokenizer"), _) => Some(hunyuan),
        (Some("QWenTokenizer"), _) => Some(qwen),
        (_, "hy.tiktoken") => Some(hunyuan),
        (_, "qwen.tiktoken") => Some(qwen),
        (_, "cl100k_base.tiktoken") => Some(Rules { pattern: CL100K, compose: false, special: none }),
        (_, "o200k_base.tiktoken") => Some(Rules { pattern: O200K, compose: false, special: none }),
        _ => None,
    }
}

fn kimi_special(first: u32) -> Vec<String> {
    (first..first.saturating_add(258)).map(|id| format!("<|reserved_token_{id}|>")).collect()
}

fn hunyuan_special(_: u32) -> Vec<String> {
    let named = ["endoftext", "startoftext", "bos", "eos", "pad"].map(|name| format!("<|{name}|>"));
    named.into_iter().chain(extra()).collect()
}

fn qwen_special(_: u32) -> Vec<String> {
    let named = ["endoftext", "im_start", "im_end"].map(|name| format!("<|{name}|>"));
    named.into_iter().chain(extra()).collect()
}

fn extra() -> impl Iterator<Item = String> {
    (0..205).map(|index| format!("<|extra_{index}|>"))
}

/// Whether `bytes` begin as ranks do: base64, a space, a number.
pub(super) fn recognizes(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').next().is_some_and(|line| entry(line).is_some())
}

/// Converts ranks; `config` gives special tokens their ids.
///
/// # Errors
/// What is wrong with the ranks, or that nothing says how text is cut.
pub(super) fn convert(bytes: &[u8], file_name: &str, config: &TextConfig) -> Result<TokenizerFile, Problem> {
    let ranks = ranks(bytes)?;
    let class = config.flags.class.as_deref();
    let rules = rules(file_name, class).ok_or_else(|| {
        let class = class.map_or("none".to_owned(), |class| format!("`{class}`"));
        Problem::Unsupported(format!(
            "it holds tiktoken ranks without the pattern that cuts text, expected a `tokenizer_class` of a known \
             family (`TikTokenTokenizer`, `HYTokenizer`, `QWenTokenizer`) in `tokenizer_config.json`, got {class}"
        ))
    })?;
    let mut vocab: Vec<(String, u32)> = ranks.iter().map(|(&rank, piece)| (piece.clone(), rank)).collect();
    let special = special(&ranks, &rules, config)?;
    let known: HashSet<&str> = ranks.values().map(String::as_str).collect();
    let merges = merges(ranks.values().map(String::as_str), &known)?;
    vocab.extend(special.iter().map(|(&id, token)| (token.content.clone(), id)));
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let split = json!({
        "type": "Split", "pattern": {"Regex": rules.pattern}, "behavior": "Isolated", "invert": false,
    });
    let ids: HashMap<&str, u32> = special.iter().map(|(&id, token)| (token.content.as_str(), id)).collect();
    Ok(TokenizerFile {
        added_tokens: special.iter().map(|(&id, token)| added_token(id, token)).collect(),
        normalizer: if rules.compose { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [split, byte_level]}),
        post_processor: around(config, false, |content| ids.get(content).copied()),
        decoder: byte_level,
        model: Vocabulary::Bpe {
            vocab,
            merges,
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: true,
        },
    })
}

/// The special tokens: those of the configuration, and those of the family at ids that these leave free.
fn special(
    ranks: &BTreeMap<u32, String>,
    rules: &Rules,
    config: &TextConfig,
) -> Result<BTreeMap<u32, AddedToken>, Problem> {
    let first = ranks.last_key_value().map_or(0, |(rank, _)| rank.saturating_add(1));
    let family = (first..).zip((rules.special)(first));
    let mut tokens: BTreeMap<u32, AddedToken> =
        family.map(|(id, content)| (id, AddedToken::from(content, true))).collect();
    for (&id, token) in &config.added {
        if ranks.contains_key(&id) {
            let content = &token.content;
            return Err(Problem::Broken(format!(
                "`added_tokens_decoder` gives `{content}` the id {id}, which is that of a rank"
            )));
        }
        tokens.retain(|_, other| other.content != token.content);
        tokens.insert(id, token.clone());
    }
    Ok(tokens)
}

/// Tokens, spelt in the byte-level alphabet, by their ranks.
fn ranks(bytes: &[u8]) -> Result<BTreeMap<u32, String>, String> {
    let mut ranks = BTreeMap::new();
    let mut seen = HashSet::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = index + 1;
        let (token, rank) =
            entry(line).ok_or(format!("line {number}: expected base64, a space and a rank"))?;
        let piece: String = token.iter().map(|&byte| letter_of_byte(byte)).collect();
        if !seen.insert(piece.clone()) {
            return Err(format!("line {number}: the token comes twice"));
        }
        if ranks.insert(rank, piece).is_some() {
            return Err(format!("line {number}: the rank {rank} comes twice"));
        }
    }
    match (0..=u8::MAX).find(|&byte| !seen.contains(letter_of_byte(byte).encode_utf8(&mut [0; 4]) as &str)) {
        Some(byte) => Err(format!("expected a token for each byte, got none for 0x{byte:02X}")),
        None => Ok(ranks),
    }
}

fn entry(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let line = line.trim_ascii();
    let space = line.iter().position(|&byte| byte == b' ')?;
    let token = base64::decode(&line[..space]).filter(|token| !token.is_empty())?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    // The last number is kept free for one more than the highest.
    Some((token, rank)).filter(|(_, rank)| *rank < u32::MAX)
}
