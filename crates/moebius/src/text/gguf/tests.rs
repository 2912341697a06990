//! Vocabularies of GGUF files, against what llama.cpp makes of the same ones (models/goldens-gguf/vocabulary.json).

use std::collections::HashSet;
use std::path::Path;

use moebius_model::{GgufMetadata, GgufValue};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pre::Pre;
use super::{files, pairs, stop_tokens};
use crate::text::{ChatTemplate, TextError, Tokenizer};

/// A GGUF file without tensors.
#[derive(Default)]
struct File {
    pairs: Vec<u8>,
    count: u64,
}

impl File {
    /// A file with the tokens of a vocabulary of the goldens.
    fn of(model: &str, vocabulary: &Value) -> Self {
        let list = |key: &str| vocabulary[key].clone();
        File::default()
            .with("tokenizer.ggml.model", &model.into())
            .with("tokenizer.ggml.tokens", &list("tokens"))
            .with("tokenizer.ggml.token_type", &list("types"))
    }

    /// As byte-level BPE, cut in a way with a name.
    fn named(vocabulary: &Value, pre: &str) -> Self {
        File::of("gpt2", vocabulary).with("tokenizer.ggml.pre", &pre.into()).merged(vocabulary)
    }

    fn merged(self, vocabulary: &Value) -> Self {
        let pair = |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        let merges: Vec<String> = vocabulary["merges"].as_array().unwrap().iter().map(pair).collect();
        self.with("tokenizer.ggml.merges", &merges.into())
    }

    fn with(mut self, key: &str, value: &Value) -> Self {
        self.pairs.extend(text(key));
        let (kind, bytes) = match value.as_array() {
            None => plain(value),
            Some(items) => {
                let kind = items.first().map_or(8, |item| plain(item).0);
                let items = items.iter().flat_map(|item| plain(item).1);
                let start = [
                    kind.to_le_bytes().to_vec(),
                    (value.as_array().unwrap().len() as u64).to_le_bytes().to_vec(),
                ];
                (9, start.concat().into_iter().chain(items).collect())
            }
        };
        self.pairs.extend(u32::to_le_bytes(kind));
        self.pairs.extend(bytes);
        self.count += 1;
        self
    }

    /// All of these, with what a tokenizer is told by them.
    fn with_all(self, keys: &Value) -> Self {
        let keys = keys.as_object().unwrap().iter();
        keys.fold(self, |file, (key, value)| file.with(&format!("tokenizer.ggml.{key}"), value))
    }

    fn read(&self) -> GgufMetadata {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a.gguf");
        let counts = [0u64.to_le_bytes(), self.count.to_le_bytes()].concat();
        std::fs::write(&path, [b"GGUF".as_slice(), &3u32.to_le_bytes(), &counts, &self.pairs].concat())
            .unwrap();
        GgufMetadata::read(&path).unwrap().unwrap()
    }

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_gguf(&self.read()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error of its tokenizer.
    fn refusal(&self) -> TextError {
        Tokenizer::from_gguf(&self.read()).expect_err("it is broken")
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The number of a type, and a value of it.
fn plain(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::String(string) => (8, text(string)),
        Value::Bool(flag) => (7, vec![u8::from(*flag)]),
        Value::Number(number) if number.is_i64() => {
            (5, (number.as_i64().unwrap() as i32).to_le_bytes().to_vec())
        }
        number => (6, (number.as_f64().unwrap() as f32).to_le_bytes().to_vec()),
    }
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/goldens-gguf/vocabulary.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Fails unless texts become the tokens that llama.cpp makes of them.
fn check_texts(tokenizer: &Tokenizer, golden: &Value, expected: &Value, name: &str) {
    for (text, expected) in strings(&golden["texts"]).into_iter().zip(expected.as_array().unwrap()) {
        if !approximated(name, text) {
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(expected), "{name}: {text:?}");
        }
    }
}

/// Whether llama.cpp cuts a text by a pattern that stands in for the model's own, and does not cut it so.
fn approximated(name: &str, text: &str) -> bool {
    let digits_together = text.as_bytes().windows(2).any(|pair| pair.iter().all(u8::is_ascii_digit));
    match name {
        // The model's own cuts between digits, of which its vocabulary has no two together.
        "deepseek-llm" => digits_together || text.contains('١'),
        // The model's own takes marks to be letters, or composes them with those first.
        "tekken" | "gpt-4o" | "llama4" | "minimax-m2" | "qwen2" | "qwen35" => text.contains('\u{301}'),
        // The same, and words that are tokens are taken whole.
        "kimi-k2" => {
            text.contains('\u{301}')
                || ["world", "naïve", "Straße", "привет"].iter().any(|word| text.contains(word))
        }
        _ => false,
    }
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them_under_every_name() {
    let golden = golden();
    let vocabulary = &golden["byte_level"];
    for way in vocabulary["ways"].as_array().unwrap() {
        let mut tried = HashSet::new();
        for name in strings(&way["names"]) {
            let Pre { patterns, bos, ignore_merges, nfc } = Pre::named(name).unwrap();
            if !tried.insert((patterns, bos, ignore_merges, nfc)) {
                continue;
            }
            let file = File::named(vocabulary, name)
                .with("tokenizer.ggml.bos_token_id", &vocabulary["bos"])
                .with("tokenizer.ggml.eos_token_id", &vocabulary["eos"]);
            check_texts(&file.tokenizer(), &golden, &way["ids"], name);
        }
    }
}

#[test]
fn pieces_with_scores_are_merged_as_llama_cpp_merges_them() {
    let golden = golden();
    let vocabulary = &golden["pieces"];
    for (name, case) in vocabulary["by_score"].as_object().unwrap() {
        let file = File::of("llama", vocabulary)
            .with("tokenizer.ggml.scores", &vocabulary["scores"])
            .with_all(&case["keys"]);
        check_texts(&file.tokenizer(), &golden, &case["ids"], name);
        assert_eq!(stop_tokens(&file.read()).unwrap(), ids(&case["stops"]), "{name}");
    }
}

#[test]
fn gemmas_pieces_are_merged_as_llama_cpp_merges_them() {
    let golden = golden();
    let (vocabulary, case) = (&golden["pieces"], &golden["pieces"]["gemma4"]);
    let file = File::of("gemma4", vocabulary).merged(vocabulary);
    let told = |flag: bool| {
        let mut keys = case["keys"].clone();
        keys["add_bos_token"] = flag.into();
        keys
    };
    assert_eq!(
        stop_tokens(&file.read()).unwrap(),
        [2, case["keys"]["eos_token_id"].as_u64().unwrap() as u32]
    );
    let file = file.with_all(&told(false));
    let tokenizer = file.tokenizer();
    check_texts(&tokenizer, &golden, &case["ids"], "gemma4");
    for text in strings(&golden["texts"]) {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

#[test]
fn bytes_come_back_as_the_text_that_they_were() {
    let golden = golden();
    let tokenizer = File::named(&golden["byte_level"], "gpt-2").tokenizer();
    for text in strings(&golden["texts"]) {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_kept() {
    let golden = golden();
    let tokenizer = File::named(&golden["byte_level"], "gpt-2").tokenizer();
    let ids = tokenizer.encode("<|turn|>a<user>b", false).unwrap();
    assert_eq!(ids.len(), 4);
    assert_eq!(tokenizer.decode(&ids, true), "a<user>b");
}

#[test]
fn the_first_token_stands_in_front_as_the_name_or_the_file_says() {
    let golden = golden();
    let vocabulary = &golden["byte_level"];
    let (bos, eos) = (vocabulary["bos"].as_u64().unwrap() as u32, vocabulary["eos"].as_u64().unwrap() as u32);
    let file = |pre: &str| {
        File::named(vocabulary, pre)
            .with("tokenizer.ggml.bos_token_id", &bos.into())
            .with("tokenizer.ggml.eos_token_id", &eos.into())
    };
    let around = |file: File| file.tokenizer().encode("", true).unwrap();
    assert_eq!(around(file("llama-bpe")), [bos]);
    assert_eq!(around(file("qwen2")), [] as [u32; 0]);
    assert_eq!(around(file("llama-bpe").with("tokenizer.ggml.add_bos_token", &false.into())), [] as [u32; 0]);
    assert_eq!(around(file("qwen2").with("tokenizer.ggml.add_bos_token", &true.into())), [bos]);
    assert_eq!(around(file("llama-bpe").with("tokenizer.ggml.add_eos_token", &true.into())), [bos, eos]);
}

#[test]
fn named_tokens_beyond_the_vocabulary_count_as_not_named() {
    let golden = golden();
    let bytes =
        File::named(&golden["byte_level"], "llama-bpe").with("tokenizer.ggml.eos_token_id", &9999.into());
    assert_eq!((bytes.tokenizer().eos_id(), stop_tokens(&bytes.read()).unwrap()), (None, vec![]));
    let pieces =
        File::of("llama", &golden["pieces"]).with("tokenizer.ggml.scores", &golden["pieces"]["scores"]);
    let pieces = pieces.with("tokenizer.ggml.bos_token_id", &9999.into());
    assert_eq!((pieces.tokenizer().bos_id(), pieces.tokenizer().eos_id()), (Some(1), Some(2)));
}

/// Ids that stop, of a vocabulary of these texts and types.
fn stops(tokens: &[(&str, i32)], keys: Value) -> Vec<u32> {
    let (texts, kinds): (Vec<&str>, Vec<i32>) = tokens.iter().copied().unzip();
    let vocabulary = json!({"tokens": texts, "types": kinds});
    stop_tokens(&File::of("gpt2", &vocabulary).with_all(&keys).read()).unwrap()
}

#[test]
fn named_ends_and_known_ends_of_turns_stop_a_reply() {
    let tokens = [("a", 1), ("<end>", 3), ("<|im_end|>", 3), ("</s>", 1), ("<eom>", 3), ("<|eot_id|>", 1)];
    assert_eq!(stops(&tokens, json!({})), [2, 5]);
    let named = json!({"eos_token_id": 1, "eot_token_id": 2, "eom_token_id": 4});
    assert_eq!(stops(&tokens, named), [1, 2, 4, 5]);
    assert_eq!(stops(&[("a", 1), ("</s>", 3), ("<eos>", 4)], json!({})), [1]);
}

#[test]
fn the_end_of_a_part_does_not_stop_a_reply_of_several() {
    let tokens = [("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)];
    assert_eq!(stops(&tokens, json!({})), [1, 2]);
    assert_eq!(stops(&tokens, json!({"eot_token_id": 0})), [1, 2]);
    assert_eq!(stops(&tokens[..2], json!({})), [0, 1]);
    assert_eq!(stops(&[("<|end|>", 3), ("<|flush|>", 3), ("<|calls|>", 3)], json!({})), [1, 2]);
}

#[test]
fn templates_are_found_by_their_names() {
    let golden = golden();
    let file = File::named(&golden["byte_level"], "qwen2")
        .with("tokenizer.chat_template", &"plain".into())
        .with("tokenizer.chat_template.tool_use", &"with tools".into())
        .with("tokenizer.chat_templates", &json!(["tool_use"]));
    let metadata = file.read();
    assert!(ChatTemplate::from_gguf(&metadata).unwrap().is_some());
    let files = files(&metadata).unwrap();
    let (_, bytes) = files.iter().find(|(name, _)| *name == "tokenizer_config.json").unwrap();
    let config: Value = serde_json::from_slice(bytes).unwrap();
    let templates = json!([
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "with tools"},
    ]);
    assert_eq!(config["chat_template"], templates);
    let without = File::named(&golden["byte_level"], "qwen2").read();
    assert!(ChatTemplate::from_gguf(&without).unwrap().is_none());
}

#[test]
fn vocabularies_that_are_not_known_or_broken_are_refused() {
    let golden = golden();
    let (bytes, pieces) = (&golden["byte_level"], &golden["pieces"]);
    let unknown = |model: &str| File::of(model, bytes).merged(bytes);
    let mut types = bytes["types"].clone();
    types.as_array_mut().unwrap().pop();
    for (file, expected) in [
        (File::named(bytes, "klingon"), "`klingon` is not known here"),
        (unknown("bert"), "expected gpt2, llama or gemma4, got `bert`"),
        (unknown("gpt2").with("tokenizer.ggml.pre", &3.into()), "a string"),
        (
            File::of("gpt2", bytes).with("tokenizer.ggml.merges", &json!(["ab"])),
            "expected two tokens, got `ab`",
        ),
        (
            File::of("llama", &json!({"tokens": bytes["tokens"], "types": types})),
            "`tokenizer.ggml.token_type`: expected",
        ),
        (
            File::of("llama", pieces).with("tokenizer.ggml.scores", &json!([0.5, 1.5])),
            "`tokenizer.ggml.scores`: expected",
        ),
    ] {
        let error = file.refusal().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let none = File::default().with("tokenizer.ggml.model", &"none".into()).refusal();
    assert!(matches!(none, TextError::NoTokenizer { .. }));
}

#[test]
fn files_without_a_name_are_cut_as_by_default() {
    let golden = golden();
    let vocabulary = &golden["byte_level"];
    let way = &vocabulary["ways"][0];
    assert_eq!(strings(&way["names"]), ["default"]);
    let file = File::of("gpt2", vocabulary).merged(vocabulary);
    check_texts(&file.tokenizer(), &golden, &way["ids"], "no name");
}

#[test]
fn every_way_of_cutting_is_written_under_a_name_that_cuts_so() {
    let golden = golden();
    for name in pairs::NAMES {
        let vocabulary = &golden["byte_level"];
        let tokenizer = File::named(vocabulary, name).tokenizer();
        let rows = vocabulary["tokens"].as_array().unwrap().len();
        let written = pairs::vocabulary(&tokenizer, rows).unwrap();
        let said = written.iter().find(|(key, _)| key == "tokenizer.ggml.pre").unwrap();
        let GgufValue::Text(written) = &said.1 else { panic!("{:?}", said.1) };
        let (ours, theirs) = (Pre::named(name).unwrap(), Pre::named(written).unwrap());
        assert_eq!((ours.patterns, ours.ignore_merges), (theirs.patterns, theirs.ignore_merges), "{name}");
    }
}

#[test]
fn gemmas_pieces_are_written_with_their_merges() {
    let golden = golden();
    let (vocabulary, case) = (&golden["pieces"], &golden["pieces"]["gemma4"]);
    let tokenizer = File::of("gemma4", vocabulary).merged(vocabulary).with_all(&case["keys"]).tokenizer();
    let rows = vocabulary["tokens"].as_array().unwrap().len();
    let written = pairs::vocabulary(&tokenizer, rows).unwrap();
    let said = |name: &str| {
        written.iter().find(|(key, _)| *key == format!("tokenizer.ggml.{name}")).map(|(_, value)| value)
    };
    assert!(matches!(said("model"), Some(GgufValue::Text(model)) if model == "gemma4"));
    let Some(GgufValue::Texts(merges)) = said("merges") else { panic!("no merges") };
    assert_eq!(merges.len(), vocabulary["merges"].as_array().unwrap().len());
    let Some(GgufValue::Integers(kinds)) = said("token_type") else { panic!("no types") };
    let expected: Vec<i32> = ids(&vocabulary["types"]).into_iter().map(|kind| kind as i32).collect();
    assert_eq!(*kinds, expected);
}
