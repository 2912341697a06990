//! Tests of converted vocabularies against what their own libraries make of the same texts.

use std::path::PathBuf;

use serde_json::json;

use super::super::Tokenizer;
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

/// A directory with a copy of `file` of the fixture `name`, as `as_name`, and a configuration.
fn directory(name: &str, (file, as_name): (&str, &str), config: &serde_json::Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join(file), dir.path().join(as_name)).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

fn sentencepiece_with(config: &serde_json::Value) -> Result<Tokenizer> {
    Tokenizer::from_dir(directory("bpe_bytes", ("tokenizer.model", "tokenizer.model"), config).path())
}

#[track_caller]
fn check(name: &str, texts: usize) {
    let tokenizer = Tokenizer::from_dir(&fixture(name)).unwrap();
    let cases = std::fs::read(fixture(name).join("cases.json")).unwrap();
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() >= texts);
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
        // Bytes for what is not in the vocabulary let every text come back; only a literal `▁` is a space from then on.
        match name {
            "tiktoken_kimi" => assert_eq!(tokenizer.decode(&ids, false), text),
            "bpe_bytes" | "unigram_bytes" => {
                assert_eq!(tokenizer.decode(&ids, false), text.replace('▁', " "))
            }
            _ => {}
        }
    }
}

#[test]
fn sentencepiece_merges_give_the_ids_of_sentencepiece() {
    check("bpe_bytes", 18);
    check("bpe_table", 18);
}

#[test]
fn sentencepiece_paths_give_the_ids_of_sentencepiece() {
    check("unigram_bytes", 18);
    check("unigram_table", 18);
}

#[test]
fn ranks_give_the_ids_of_tiktoken() {
    check("tiktoken_kimi", 23);
    check("tiktoken_hunyuan", 23);
}

#[test]
fn control_symbols_are_special_and_user_defined_ones_are_not() {
    let tokenizer = Tokenizer::from_dir(&fixture("bpe_bytes")).unwrap();
    let special: Vec<(u32, String)> = tokenizer.special_tokens();
    assert_eq!(special, [(0, "<unk>".to_owned()), (1, "<s>".to_owned()), (2, "</s>".to_owned())]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    let tool = tokenizer.token_id("<tool>").unwrap();
    assert_eq!(tokenizer.encode("<tool><s>", true).unwrap(), [tool, 1]);
    assert_eq!(tokenizer.decode(&[1, tool, 2], true), "<tool>");
}

#[test]
fn the_first_token_is_added_where_the_configuration_or_the_class_says_so() {
    let first = |config| sentencepiece_with(&config).unwrap().encode("a", true).unwrap()[0];
    let named = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let with = |key: &str, value: serde_json::Value| {
        let mut config = named.clone();
        config[key] = value;
        config
    };
    assert_ne!(first(named.clone()), 1);
    assert_eq!(first(with("add_bos_token", json!(true))), 1);
    assert_eq!(first(with("tokenizer_class", json!("LlamaTokenizerFast"))), 1);
    let mut off = with("tokenizer_class", json!("LlamaTokenizer"));
    off["add_bos_token"] = json!(false);
    assert_ne!(first(off), 1);
    let both = sentencepiece_with(&with("add_eos_token", json!(true))).unwrap().encode("a", true).unwrap();
    assert_eq!(both.last(), Some(&2));
}

#[test]
fn a_space_goes_in_front_of_every_part_or_of_the_first_only() {
    let pieces = |config| {
        let tokenizer = sentencepiece_with(&config).unwrap();
        let ids = tokenizer.encode("a<s>a", false).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect::<String>()
    };
    assert_eq!(pieces(json!({})), " a<s> a");
    assert_eq!(pieces(json!({"legacy": false})), " a<s>a");
    assert_eq!(pieces(json!({"add_prefix_space": false})), "a<s>a");
}

#[test]
fn added_tokens_have_the_ids_that_the_configuration_gives_them() {
    let size = Tokenizer::from_dir(&fixture("bpe_bytes")).unwrap().id_limit() as u32;
    let at = |id: u32, content: &str| json!({"added_tokens_decoder": {id.to_string(): {"content": content, "special": true}}});
    let tokenizer = sentencepiece_with(&at(1, "<begin>")).unwrap();
    assert_eq!(tokenizer.encode("<begin>", false).unwrap(), [1]);
    let tokenizer = sentencepiece_with(&at(size, "<new>")).unwrap();
    assert_eq!(tokenizer.encode("<new>", false).unwrap(), [size]);
    for (config, expected) in
        [(at(size + 1, "<far>"), "expected"), (at(300, "<taken>"), "which is that of the piece")]
    {
        let error = sentencepiece_with(&config).unwrap_err();
        assert!(
            matches!(&error, TextError::BrokenFile { reason, .. } if reason.contains(expected)),
            "{error}"
        );
    }
}

#[test]
fn ranks_are_known_by_their_text_and_their_family_by_class_or_file_name() {
    let open = |as_name: &str, config| {
        Tokenizer::from_dir(directory("tiktoken_hunyuan", ("hy.tiktoken", as_name), &config).path())
    };
    let hunyuan = json!({"tokenizer_class": "HYTokenizer"});
    for (name, config) in
        [("hy.tiktoken", json!({})), ("tokenizer.model", hunyuan), ("qwen.tiktoken", json!({}))]
    {
        assert_eq!(open(name, config).unwrap().token_id("<|endoftext|>"), Some(450), "{name}");
    }
    let error = open("other.tiktoken", json!({"tokenizer_class": "OtherTokenizer"})).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TextError::UnsupportedTokenizer { .. }), "{message}");
    assert!(message.contains("other.tiktoken") && message.contains("`OtherTokenizer`"), "{message}");
    assert!(error.hint().unwrap().contains("save_pretrained"));
    let taken = json!({"added_tokens_decoder": {"7": {"content": "<x>"}}});
    let error = open("hy.tiktoken", taken).unwrap_err().to_string();
    assert!(error.contains("`<x>` the id 7"), "{error}");
}

/// Reads broken bytes: an error, or a tokenizer that still works.
fn survives(name: &str, bytes: &[u8]) -> bool {
    let mut config = TextConfig::default();
    let file = if name.ends_with(".tiktoken") {
        tiktoken::convert(bytes, name, &config)
    } else {
        sentencepiece::convert(bytes, &mut config)
    };
    let Ok(file) = file else { return false };
    match Tokenizer::from_file(file, config, Path::new(name)) {
        Ok(tokenizer) => {
            if let Ok(ids) = tokenizer.encode("the ﬁ é①  x 漢🎉\u{ff}", true) {
                tokenizer.decode(&ids, false);
            }
            true
        }
        Err(_) => false,
    }
}

#[test]
fn broken_vocabularies_are_errors_and_never_panics() {
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (name, file) in [
        ("bpe_bytes", "tokenizer.model"),
        ("unigram_table", "tokenizer.model"),
        ("tiktoken_hunyuan", "hy.tiktoken"),
    ] {
        let bytes = std::fs::read(fixture(name).join(file)).unwrap();
        assert!(survives(file, &bytes));
        let errors = (0..60).filter(|_| !survives(file, &bytes[..random(bytes.len())])).count();
        assert!(errors > 30, "{name}: {errors}");
        for _ in 0..120 {
            let mut broken = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(broken.len());
                broken[at] = random(256) as u8;
            }
            survives(file, &broken);
        }
    }
    for bytes in
        [&b""[..], b"\n", b"\x0a\xff\xff\xff\xff\x0f", b"YQ== 0\n", b"YQ== 0\nYQ== 1\n", b"YQ== 4294967296\n"]
    {
        assert!(!survives("tokenizer.model", bytes));
        assert!(!survives("hy.tiktoken", bytes));
    }
}
