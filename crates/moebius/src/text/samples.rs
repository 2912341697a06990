//! Small tokenizers for tests, one for each way of spelling text in a vocabulary.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::config::TextConfig;
use super::tokenizer::Tokenizer;

/// The `tokenizer.json` of a byte-level BPE: ids 0 to 255 are bytes in the order of their letters, then come
/// merges, some of which end inside a character, and three added tokens.
pub(super) fn byte_level_json() -> Value {
    let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let mut pieces: Vec<String> = letters.into_iter().map(String::from).collect();
    // "Ġt" + "he"; the first two bytes of "あ" and "い"; all of "あ"; the first three of an emoji.
    let merges = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("ã", "ģ"), ("ãģ", "Ĥ"), ("ð", "Ł"), ("ðŁ", "ĺ")];
    pieces.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let mut json = bpe(&pieces, &merges);
    json["pre_tokenizer"] = byte_level.clone();
    json["decoder"] = byte_level;
    json["added_tokens"] =
        json!([added(263, "<|end|>", true), added(264, "<tool>", false), added(265, "日", false)]);
    json
}

/// The `tokenizer.json` of a SentencePiece BPE with bytes for what it cannot spell: `<s>` in front, `▁` for
/// spaces, bytes at ids 3 to 258.
pub(super) fn fallback_json() -> Value {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    pieces.extend(["▁", "a", "b", "é", "▁a", "ab"].map(String::from));
    let mut json = bpe(&pieces, &[("▁", "a"), ("a", "b")]);
    json["model"]["unk_token"] = json!("<unk>");
    json["model"]["byte_fallback"] = json!(true);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    json["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    });
    json["added_tokens"] = json!([added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)]);
    json
}

/// The same vocabulary with the `Metaspace` decoder instead of the four steps, and without bytes.
pub(super) fn metaspace_json() -> Value {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let mut json = fallback_json();
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = metaspace.clone();
    json["decoder"] = metaspace;
    json
}

/// A vocabulary of printable ASCII letters without any decoder: letters come out as words.
pub(super) fn ascii_json() -> Value {
    let pieces: Vec<String> = (b' '..=b'~').map(|byte| char::from(byte).to_string()).collect();
    bpe(&pieces, &[])
}

/// Whole words and `##` continuations.
pub(super) fn word_piece_json() -> Value {
    let pieces = ["[UNK]", "un", "##able", "do", "."].map(String::from);
    let mut json = bpe(&pieces, &[]);
    json["model"] = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": json["model"]["vocab"],
    });
    json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    json
}

/// The tokenizer that `json` describes.
pub(super) fn build(json: &Value) -> Tokenizer {
    Tokenizer::from_parts(json.to_string().as_bytes(), TextConfig::default(), Path::new("tokenizer.json"))
        .unwrap()
}

/// What the tokenizers crate itself makes of `ids`.
pub(super) fn reference(json: &Value, ids: &[u32], skip_special: bool) -> String {
    let tokenizer = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
    tokenizer.decode(ids, skip_special).unwrap()
}

fn bpe(pieces: &[String], merges: &[(&str, &str)]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}
