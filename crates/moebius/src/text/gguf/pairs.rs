//! The metadata of a GGUF file that says how text becomes tokens: the other direction of [`super::convert`].
//!
//! Whatever a vocabulary came in, it is a `tokenizer.json` by now, and what is in that is written: byte-level BPE with the
//! name of its pattern, or pieces with scores. A copy of a GGUF file keeps what that says.
//!
//! Invariants: an id is the position of its token; there is a token for every row of the model's table.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use moebius_model::{GgufMetadata, GgufValue};
use serde_json::Value;

use super::GEMMA;
use super::pre::{GPT2, Pre};
use crate::text::config::{DEFAULT_TEMPLATE, TextConfig};
use crate::text::{Result, TextError, Tokenizer};

/// Pairs of metadata.
type Pairs = Vec<(String, GgufValue)>;

/// Types of tokens, as numbered in a file.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Names of patterns that files may say, more common ones first.
pub(super) const NAMES: [&str; 16] = [
    "gpt-2",
    "qwen2",
    "llama-bpe",
    "deepseek-v3",
    "deepseek-llm",
    "gpt-4o",
    "qwen35",
    "dbrx",
    "glm4",
    "bailingmoe",
    "starcoder",
    "stablelm2",
    "tekken",
    "kimi-k2",
    "deepseek-coder",
    "afmoe",
];

/// What another file says about its model and its text.
pub(crate) fn copied(metadata: &GgufMetadata) -> Pairs {
    let wanted = |key: &&str| {
        let about = key.strip_prefix("general.").is_some_and(|rest| rest != "alignment");
        about || key.starts_with("tokenizer.")
    };
    let copied = |key: &str| Some((key.to_owned(), metadata.copied(key)?));
    metadata.keys().filter(wanted).filter_map(copied).collect()
}

/// What a file says about the text of the model in `dir`, whose table has `rows` rows and which stops at `eos`.
///
/// # Errors
/// A vocabulary that GGUF has no words for, or that is larger than the table.
pub(crate) fn pairs(dir: &Path, rows: usize, eos: &[u32]) -> Result<Pairs> {
    let mut pairs = match Tokenizer::from_dir(dir) {
        Ok(tokenizer) => vocabulary(&tokenizer, rows).map_err(|reason| TextError::UnsupportedTokenizer {
            path: dir.to_owned(),
            reason: format!("as part of a GGUF file: {reason}"),
        })?,
        Err(TextError::NoTokenizer { .. }) => vec![say("model", GgufValue::Text("none".into()))],
        Err(error) => return Err(error),
    };
    let told =
        |pairs: &Pairs, name: &str| pairs.iter().any(|(key, _)| *key == say(name, GgufValue::Flag(true)).0);
    let named = pairs.iter().find_map(|(key, value)| match value {
        GgufValue::Count(id) if key.ends_with(".eos_token_id") => Some(*id),
        _ => None,
    });
    let first = named.or(eos.first().copied());
    if let (Some(id), false) = (first, told(&pairs, "eos_token_id")) {
        pairs.push(say("eos_token_id", GgufValue::Count(id)));
    }
    // A chat may end at another one than a text.
    let others: Vec<u32> = eos.iter().copied().filter(|id| Some(*id) != first).collect();
    for (name, id) in ["eot_token_id", "eom_token_id"].into_iter().zip(others) {
        pairs.push(say(name, GgufValue::Count(id)));
    }
    pairs.extend(templates(&TextConfig::read(dir)?));
    Ok(pairs)
}

fn say(name: &str, value: GgufValue) -> (String, GgufValue) {
    (format!("tokenizer.ggml.{name}"), value)
}

fn templates(config: &TextConfig) -> Pairs {
    const KEY: &str = "tokenizer.chat_template";
    let mut pairs: Pairs = Vec::new();
    let mut names = Vec::new();
    for (name, text) in &config.templates {
        let text = GgufValue::Text(text.clone());
        if name == DEFAULT_TEMPLATE {
            pairs.push((KEY.into(), text));
        } else {
            names.push(name.clone());
            pairs.push((format!("{KEY}.{name}"), text));
        }
    }
    if !names.is_empty() {
        pairs.push(("tokenizer.chat_templates".into(), GgufValue::Texts(names)));
    }
    pairs
}

/// Tokens, their types and how they are merged; or why GGUF cannot say it.
pub(super) fn vocabulary(tokenizer: &Tokenizer, rows: usize) -> std::result::Result<Pairs, String> {
    let file = tokenizer.to_json();
    let limit = tokenizer.id_limit();
    if limit > rows {
        return Err(format!(
            "expected at most {rows} tokens, as many as the model's table has rows, got {limit}"
        ));
    }
    if file["model"]["type"] != "BPE" {
        return Err(format!("expected merges of pairs (`BPE`), got {}", file["model"]["type"]));
    }
    let is_bytes = steps(&file["pre_tokenizer"], "pretokenizers").any(|step| step["type"] == "ByteLevel");
    let (tokens, kinds) = tokens(tokenizer, &file, rows, is_bytes);
    let (mut bos, mut eos) = (false, false);
    if let Ok(around) = tokenizer.encode("", true) {
        bos = tokenizer.bos_id().is_some_and(|id| around.first() == Some(&id));
        eos = tokenizer
            .eos_id()
            .is_some_and(|id| around.len() > usize::from(bos) && around.last() == Some(&id));
    }
    let mut pairs = if is_bytes {
        byte_level(&file)?
    } else {
        // Readers put the first token in front of all texts of such a vocabulary.
        match merged_pieces(&file)?.filter(|_| bos) {
            Some(pairs) => pairs,
            None => pieces(&file, &tokens)?,
        }
    };
    pairs.push(say("tokens", GgufValue::Texts(tokens)));
    pairs.push(say("token_type", GgufValue::Integers(kinds)));
    pairs.push(say("add_bos_token", GgufValue::Flag(bos)));
    pairs.push(say("add_eos_token", GgufValue::Flag(eos)));
    let named =
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];
    for (name, ours) in named {
        if let Some(id) = tokenizer.named_id(ours) {
            pairs.push(say(&format!("{name}_token_id"), GgufValue::Count(id)));
        }
    }
    Ok(pairs)
}

/// The text and the type of every id. Ids without a token get one that no text has.
fn tokens(tokenizer: &Tokenizer, file: &Value, rows: usize, is_bytes: bool) -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; rows];
    let unknown = file["model"]["unk_token"].as_str();
    for (id, text) in tokenizer.vocabulary() {
        let is_byte = !is_bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        kinds[id as usize] = match () {
            () if unknown == Some(text.as_str()) => UNKNOWN,
            () if tokenizer.is_special(id) => CONTROL,
            () if tokenizer.is_added(id) => USER_DEFINED,
            () if is_byte => BYTE,
            () => NORMAL,
        };
        tokens[id as usize] = text;
    }
    (tokens, kinds)
}

/// Byte-level BPE: merges, and the name of the pattern that cuts words.
fn byte_level(file: &Value) -> std::result::Result<Pairs, String> {
    let merges = merges(file)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    let name = pattern_name(file)?;
    Ok(vec![
        say("model", GgufValue::Text("gpt2".into())),
        say("pre", GgufValue::Text(name.into())),
        say("merges", GgufValue::Texts(merges)),
    ])
}

/// Pieces that are merged as Gemma's are: in spaces written as `▁` and nothing in front.
fn merged_pieces(file: &Value) -> std::result::Result<Option<Pairs>, String> {
    let replaces = |step: &Value| step["type"] == "Replace" && step["content"] == "▁";
    let normalizes = steps(&file["normalizer"], "normalizers").all(replaces) && !file["normalizer"].is_null();
    let splits_spaces = |step: &Value| step["type"] == "Split" && step["pattern"]["String"] == " ";
    let splits = steps(&file["pre_tokenizer"], "pretokenizers").all(splits_spaces);
    if !normalizes || !splits {
        return Ok(None);
    }
    let merges = merges(file)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(Some(vec![say("model", GgufValue::Text(GEMMA.into())), say("merges", GgufValue::Texts(merges))]))
}

/// Pieces with scores, by which they are merged: the earlier a pair is merged, the higher.
fn pieces(file: &Value, tokens: &[String]) -> std::result::Result<Pairs, String> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges(file)?.into_iter().enumerate() {
        ranks.entry(left + &right).or_insert(rank);
    }
    let score = |token: &String| ranks.get(token).map_or(0.0, |&rank| -(rank as f32) - 1.0);
    let prefix = steps(&file["normalizer"], "normalizers").any(|step| step["type"] == "Prepend")
        || steps(&file["pre_tokenizer"], "pretokenizers")
            .any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] != "never");
    let spaces = |step: &Value| step["content"] == "▁" || step["type"] == "Metaspace";
    let escapes = steps(&file["normalizer"], "normalizers").any(spaces)
        || steps(&file["pre_tokenizer"], "pretokenizers").any(spaces);
    if !escapes {
        return Err(
            "expected bytes (`ByteLevel`) or spaces written as `▁`, got another way of cutting words".into(),
        );
    }
    Ok(vec![
        say("model", GgufValue::Text("llama".into())),
        say("pre", GgufValue::Text("default".into())),
        say("scores", GgufValue::Numbers(tokens.iter().map(score).collect())),
        say("add_space_prefix", GgufValue::Flag(prefix)),
    ])
}

fn merges(file: &Value) -> std::result::Result<Vec<(String, String)>, String> {
    let wrong = || "its merges are no pairs".to_owned();
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        merge => Some((merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned())),
    };
    let merges = file["model"]["merges"].as_array().ok_or_else(wrong)?;
    merges.iter().map(pair).collect::<Option<_>>().ok_or_else(wrong)
}

/// The name of the pattern that cuts words.
fn pattern_name(file: &Value) -> std::result::Result<&'static str, String> {
    let mut patterns = Vec::new();
    for step in steps(&file["pre_tokenizer"], "pretokenizers") {
        match step["type"].as_str() {
            Some("Split") => patterns.extend(step["pattern"]["Regex"].as_str().map(str::to_owned)),
            Some("Digits") if step["individual_digits"] == true => patterns.push(r"\p{N}".into()),
            Some("ByteLevel") if step["use_regex"] == true => patterns.push(GPT2.into()),
            Some("ByteLevel") => {}
            other => return Err(format!("GGUF has no name for the step `{}`", other.unwrap_or("nothing"))),
        }
    }
    let whole = file["model"]["ignore_merges"] == true;
    let nfc = steps(&file["normalizer"], "normalizers").any(|step| step["type"] == "NFC");
    let known = |fits: &dyn Fn(&Pre) -> bool| {
        let cuts_so =
            |name: &&str| Pre::named(name).is_some_and(|pre| pre.patterns == patterns && fits(&pre));
        NAMES.iter().copied().find(cuts_so)
    };
    known(&|pre| pre.ignore_merges == whole && pre.nfc == nfc)
        .or_else(|| known(&|pre| pre.ignore_merges == whole))
        .or_else(|| known(&|_| true).filter(|_| all_are_merged(file)))
        .ok_or_else(|| "GGUF has no name for the pattern that cuts its words".into())
}

/// Whether every token is a letter or made by a merge, so that it does not matter whether words that are tokens are taken
/// whole.
fn all_are_merged(file: &Value) -> bool {
    let Ok(merges) = merges(file) else { return false };
    let made: HashSet<String> = merges.into_iter().map(|(left, right)| left + &right).collect();
    let added: HashSet<&str> = file["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token["content"].as_str())
        .collect();
    let tokens = file["model"]["vocab"].as_object().into_iter().flatten();
    tokens.into_iter().all(|(token, _)| {
        token.chars().nth(1).is_none() || made.contains(token) || added.contains(token.as_str())
    })
}

/// The steps of a part: those of a sequence, or the only one.
fn steps<'v>(part: &'v Value, list: &str) -> impl Iterator<Item = &'v Value> {
    let steps = part[list].as_array();
    let alone = steps.is_none().then_some(part).filter(|part| !part.is_null());
    steps.into_iter().flatten().chain(alone)
}
