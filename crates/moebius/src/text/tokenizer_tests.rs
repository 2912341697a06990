//! Tests of reading a tokenizer and of what it says about its tokens.

use serde_json::{Value, json};

use super::super::samples::*;
use super::*;

fn directory(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, json) in files {
        std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    }
    dir
}

fn open(files: &[(&str, Value)]) -> Result<Tokenizer> {
    Tokenizer::from_dir(directory(files).path())
}

#[test]
fn special_tokens_are_added_only_where_asked_for() {
    let tokenizer = open(&[("tokenizer.json", fallback_json())]).unwrap();
    let word = tokenizer.token_id("▁a").unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [1, word]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [word]);
    assert_eq!(tokenizer.encode("", false).unwrap(), [0; 0]);
    assert_eq!(tokenizer.encode("</s>", false).unwrap(), [2]);
}

#[test]
fn the_post_processor_alone_decides_about_the_first_token() {
    // transformers 5.23.0 ignores these flags, too, once there is a `tokenizer.json`.
    let config =
        json!({"add_bos_token": true, "add_eos_token": true, "bos_token": "<|end|>", "eos_token": "<|end|>"});
    let tokenizer =
        open(&[("tokenizer.json", byte_level_json()), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!(tokenizer.encode("he", true).unwrap(), tokenizer.encode("he", false).unwrap());
    let config = json!({"add_bos_token": false, "bos_token": "<s>"});
    let tokenizer = open(&[("tokenizer.json", fallback_json()), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
}

#[test]
fn named_tokens_become_special_and_missing_ones_are_added() {
    let config = json!({
        "bos_token": {"content": "<tool>"}, "eos_token": "<new>", "pad_token": null,
        "extra_special_tokens": ["<more>"],
        "added_tokens_decoder": {"266": {"content": "<plain>", "special": false}},
    });
    let map = json!({"eos_token": "<old>", "pad_token": "<pad>"});
    let files = [
        ("tokenizer.json", byte_level_json()),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", map),
    ];
    let tokenizer = open(&files).unwrap();
    assert_eq!(tokenizer.bos_id(), Some(264));
    assert_eq!(tokenizer.eos_id(), tokenizer.token_id("<new>"));
    assert_eq!(tokenizer.token_id("<plain>"), Some(266));
    assert_eq!(tokenizer.token_id("<pad>"), None);
    let special: Vec<String> = tokenizer.special_tokens().into_iter().map(|(_, text)| text).collect();
    assert_eq!(special, ["<|end|>", "<tool>", "<new>", "<more>"]);
    assert_eq!(tokenizer.decode(&[263, 264, 266, 265], true), "<plain>日");
    assert_eq!(tokenizer.vocab_size(), 263 + 6);
    assert!(tokenizer.is_special(264) && !tokenizer.is_special(265) && !tokenizer.is_special(65));
}

#[test]
fn tokens_are_shown_in_print() {
    let tokenizer = build(&byte_level_json());
    let shown = |piece: &str| tokenizer.token(tokenizer.token_id(piece).unwrap()).unwrap();
    assert_eq!(shown("Ġthe"), " the");
    assert_eq!(shown("Ċ"), "\\n");
    assert_eq!(shown("ãģ"), "<0xE3><0x81>");
    assert_eq!(shown("ãģĤ"), "あ");
    assert_eq!(shown("<|end|>"), "<|end|>");
    assert_eq!(tokenizer.token(999), None);

    let tokenizer = build(&fallback_json());
    let shown = |piece: &str| tokenizer.token(tokenizer.token_id(piece).unwrap()).unwrap();
    assert_eq!(shown("▁a"), " a");
    assert_eq!(shown("<0x0A>"), "\\n");
    assert_eq!(shown("<0xE3>"), "<0xE3>");
}

#[test]
fn padding_and_truncation_do_not_touch_a_prompt() {
    let mut json = byte_level_json();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
    });
    assert_eq!(build(&json).encode("xyz", true).unwrap().len(), 3);
}

#[test]
fn what_is_not_there_is_said_with_a_hint() {
    let error = open(&[]).unwrap_err();
    assert!(matches!(error, TextError::NoTokenizer { .. }) && error.hint().is_some());
    let error = open(&[("config.json", json!({})), ("tekken.json", json!({}))]).unwrap_err();
    assert!(matches!(&error, TextError::ForeignTokenizer { kind: "Tekken", .. }), "{error}");
    assert!(error.to_string().contains("tekken.json") && error.hint().unwrap().contains("save_pretrained"));
}

#[test]
fn decoders_that_need_the_whole_text_are_refused_at_once() {
    for (decoder, expected) in [
        (json!({"type": "BPEDecoder", "suffix": "</w>"}), "`BPEDecoder`"),
        (
            json!({"type": "Sequence", "decoders": [
                {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
            ]}),
            "`Replace` after the pieces are joined",
        ),
        (
            json!({"type": "Sequence", "decoders": [
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1},
            ]}),
            "`Strip` after the pieces are joined",
        ),
    ] {
        let mut json = fallback_json();
        json["decoder"] = decoder;
        let error = open(&[("tokenizer.json", json)]).unwrap_err();
        assert!(
            matches!(&error, TextError::UnsupportedDecoder { decoder, .. } if decoder == expected),
            "{error}"
        );
    }
}

/// Reads a broken file: an error that names it, or a tokenizer that still works.
fn survives(bytes: &[u8]) {
    match Tokenizer::from_parts(bytes, TextConfig::default(), Path::new("tokenizer.json")) {
        Ok(tokenizer) => {
            if let Ok(ids) = tokenizer.encode("the a é", true) {
                tokenizer.decode(&ids, false);
                ids.iter().for_each(|&id| drop(tokenizer.token(id)));
            }
        }
        Err(error) => assert!(error.to_string().contains("tokenizer.json"), "{error}"),
    }
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    let text = fallback_json().to_string();
    for end in (0..text.len()).step_by(7) {
        let cut = text.as_bytes().get(..end).unwrap();
        let read = Tokenizer::from_parts(cut, TextConfig::default(), Path::new("tokenizer.json"));
        assert!(matches!(read, Err(TextError::BrokenFile { .. })), "cut at byte {end}");
    }
}

#[test]
fn parts_that_do_not_fit_together_are_an_error() {
    let mut prefix = byte_level_json();
    prefix["model"]["continuing_subword_prefix"] = json!("a longer prefix than any piece");
    let mut undefined = fallback_json();
    undefined["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([]);
    let mut unnamed = fallback_json();
    unnamed["post_processor"]["special_tokens"] = json!({});
    for json in [prefix, unnamed] {
        let error = open(&[("tokenizer.json", json)]).unwrap_err();
        assert!(matches!(error, TextError::BrokenFile { .. }), "{error}");
    }
    survives(undefined.to_string().as_bytes());
}

#[test]
fn a_file_with_any_byte_changed_does_not_panic() {
    for json in [byte_level_json(), fallback_json(), metaspace_json(), word_piece_json()] {
        let bytes = json.to_string().into_bytes();
        // A small linear congruential generator: the same places and bytes in each run.
        let mut state = 1_u64;
        for _ in 0..150 {
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize
            };
            let mut changed = bytes.clone();
            for _ in 0..=random() % 3 {
                let place = random() % changed.len();
                changed[place] = b"\"{}[],:0919nul \xff\\"[random() % 17];
            }
            survives(&changed);
        }
    }
}
