//! Requests at their limits, and that one leaves nothing behind for the next.

mod support;

use moebius::{
    Error, ErrorKind, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams, Score, ScoreOptions,
    Summary,
};
use support::{Scratch, assert_says, explained, golden, open};

const VOCAB: u32 = 128;

fn model(name: &str) -> Model {
    open(&golden(name), &OpenOptions::default()).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        sampling: Some(SamplingParams::default()),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn generate(model: &mut Model, ids: &[u32], options: &GenerateOptions) -> Result<Summary, Error> {
    let mut generation = model.generate(Prompt::Ids(ids), options)?;
    for piece in generation.by_ref() {
        piece?;
    }
    Ok(generation.finish())
}

fn score(model: &mut Model, ids: &[u32]) -> Result<Score, Error> {
    Ok(model.score(&[ids.to_vec()], &ScoreOptions::default())?.0.remove(0))
}

#[track_caller]
fn usage<T>(result: Result<T, Error>, parts: &[&str]) {
    let error = result.err().expect("the request is wrong");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_says(&explained(error), parts);
}

#[test]
fn an_empty_prompt_is_refused() {
    let mut model = model("mixtral");
    usage(generate(&mut model, &[], &greedy(1)), &["prompt is empty"]);
    usage(score(&mut model, &[]), &["prompt is empty"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let mut model = model("mixtral");
    let long = vec![5; model.context() + 1];
    let parts = ["expected at most 256 tokens, got 257"];
    usage(generate(&mut model, &long, &greedy(1)), &parts);
    usage(score(&mut model, &long), &parts);
    score(&mut model, &long[1..]).unwrap();
    assert_eq!(model.cache_bytes(), 0);
}

#[test]
fn an_id_outside_the_vocabulary_is_refused_and_leaves_nothing_behind() {
    let mut model = model("olmoe");
    let vocab = model.info().vocab_size as u32;
    let expected = generate(&mut model, &[5, 6], &greedy(4)).unwrap().tokens;
    for id in [vocab, u32::MAX] {
        let parts = [format!("token id {id}"), format!("less than {vocab}")];
        let parts = parts.each_ref().map(String::as_str);
        usage(generate(&mut model, &[5, id], &greedy(4)), &parts);
        usage(score(&mut model, &[5, id]), &parts);
        assert_eq!(model.cache_bytes(), 0);
        assert_eq!(generate(&mut model, &[5, 6], &greedy(4)).unwrap().tokens, expected);
    }
}

#[test]
fn no_tokens_may_be_asked_for() {
    let summary = generate(&mut model("mixtral"), &[5, 6], &greedy(0)).unwrap();
    assert_eq!((summary.tokens.len(), summary.finish), (0, "length"));
}

#[test]
fn generation_fills_the_context_and_stops() {
    let options = OpenOptions { context: Some(12), ..OpenOptions::default() };
    let mut model = open(&golden("mixtral"), &options).unwrap();
    for prompt in [1, 5, 11, 12] {
        let summary = generate(&mut model, &vec![5; prompt], &greedy(usize::MAX)).unwrap();
        // The last token takes no position: nothing follows it.
        assert_eq!((prompt + summary.tokens.len() - 1, summary.finish), (12, "context"));
    }
}

#[test]
fn a_context_of_nothing_is_refused() {
    let options = OpenOptions { context: Some(0), ..OpenOptions::default() };
    usage(open(&golden("mixtral"), &options), &["context", "at least 1", "got 0"]);
}

#[test]
fn no_threads_and_an_unknown_backend_are_refused() {
    let mut options = OpenOptions::default();
    options.backend.threads = Some(0);
    usage(Model::open(golden("mixtral"), &options), &["threads"]);
    options.backend.name = Some("abacus".into());
    usage(Model::open(golden("mixtral"), &options), &["unknown backend `abacus`", "cpu"]);
}

#[test]
fn experts_per_token_can_be_changed_within_their_number() {
    let with =
        |experts| open(&golden("olmoe"), &OpenOptions { experts: Some(experts), ..OpenOptions::default() });
    let count = model("olmoe").info().moe.as_ref().unwrap().n_experts;
    for experts in [0, count + 1, usize::MAX] {
        usage(with(experts), &[&format!("expected 1 to {count}, got {experts}")]);
    }
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for experts in 1..=count {
        let logprobs = score(&mut with(experts).unwrap(), &[5, 6, 7, 8]).unwrap().logprobs;
        assert!(!seen.contains(&logprobs), "{experts} experts change nothing");
        seen.push(logprobs);
    }
}

#[test]
fn a_generation_leaves_no_state_for_the_next() {
    let alone = |ids: &[u32]| generate(&mut model("qwen2_moe"), ids, &greedy(12)).unwrap().tokens;
    let (first, second) = (alone(&[3, 4, 5]), alone(&[90, 7]));
    let mut model = model("qwen2_moe");
    for _ in 0..2 {
        assert_eq!(generate(&mut model, &[3, 4, 5], &greedy(12)).unwrap().tokens, first);
        assert_eq!(generate(&mut model, &[90, 7], &greedy(12)).unwrap().tokens, second);
    }
}

#[test]
fn a_dropped_generation_frees_its_cache() {
    let mut model = model("mixtral");
    let mut generation = model.generate(Prompt::Ids(&[5, 6, 7]), &greedy(50)).unwrap();
    generation.next().unwrap().unwrap();
    drop(generation);
    assert_eq!(model.cache_bytes(), 0);
    let mut generation = model.generate(Prompt::Ids(&[5, 6, 7]), &greedy(50)).unwrap();
    generation.next().unwrap().unwrap();
    assert_eq!(generation.finish().finish, "cancelled");
    assert_eq!(model.cache_bytes(), 0);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let mut model = model("mixtral");
    let mut sample = |seed| {
        let params = SamplingParams { temperature: 1.5, seed, ..SamplingParams::default() };
        let options = GenerateOptions { sampling: Some(params), ..greedy(24) };
        generate(&mut model, &[5, 6, 7], &options).unwrap().tokens
    };
    let first = sample(1);
    assert_eq!(sample(1), first);
    assert!((2..6).all(|seed| sample(seed) != first));
}

#[test]
fn without_temperature_the_likeliest_token_is_taken() {
    let mut model = model("granitemoe");
    let mut ids = vec![5, 6, 7];
    let tokens = generate(&mut model, &ids, &greedy(8)).unwrap().tokens;
    for token in tokens {
        assert_eq!(score(&mut model, &ids).unwrap().predicted, token);
        ids.push(token);
    }
}

#[test]
fn sampling_out_of_range_is_refused() {
    for params in [
        SamplingParams { temperature: -1.0, ..SamplingParams::default() },
        SamplingParams { temperature: f32::NAN, ..SamplingParams::default() },
        SamplingParams { top_p: 1.5, ..SamplingParams::default() },
        SamplingParams { repeat_penalty: 0.0, ..SamplingParams::default() },
    ] {
        let options = GenerateOptions { sampling: Some(params), ..greedy(0) };
        usage(generate(&mut model("mixtral"), &[5], &options), &["invalid", "expected", "got"]);
    }
}

#[test]
fn text_without_a_tokenizer_and_empty_stops_are_refused() {
    let mut model = model("mixtral");
    usage(model.generate(Prompt::Text("hello"), &greedy(1)).map(drop), &["no tokenizer"]);
    let options = GenerateOptions { stop: vec![String::new()], ..greedy(1) };
    usage(model.generate(Prompt::Ids(&[5]), &options).map(drop), &["stop string 0 is empty"]);
    usage(model.windows("hello"), &["no tokenizer"]);
}

#[test]
fn broken_files_beside_the_weights_are_named() {
    for (file, text, part) in [
        ("tokenizer.json", "{", "EOF"),
        ("tokenizer.json", "[]", "invalid"),
        ("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": 3, "merges": []}}"#, "tokenizer.json"),
        ("generation_config.json", "{", "EOF"),
        ("generation_config.json", "[]", "expected a JSON object"),
        ("generation_config.json", r#"{"eos_token_id": "x"}"#, "`eos_token_id`: expected a token id"),
        ("generation_config.json", r#"{"eos_token_id": [1, -2]}"#, "got -2"),
        ("generation_config.json", r#"{"temperature": "hot"}"#, "`temperature`: expected a number"),
        ("generation_config.json", r#"{"do_sample": 1}"#, "`do_sample`: expected true or false, got 1"),
        ("generation_config.json", r#"{"temperature": 1, "top_p": 7}"#, "`top_p`"),
        ("generation_config.json", "{\"a\": \"\u{0}\"}", "control character"),
    ] {
        let scratch = Scratch::of("mixtral");
        scratch.write(file, text);
        let error = scratch.open().err().unwrap_or_else(|| panic!("{file}: {text} was accepted"));
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{text}");
        assert_says(&explained(error), &[file, part]);
    }
}

#[test]
fn stop_tokens_come_from_generation_config_alone_if_it_is_there() {
    let stops = |text: Option<&str>| {
        let scratch = Scratch::of("mixtral");
        text.inspect(|text| scratch.write("generation_config.json", text));
        scratch.open().unwrap().stop_tokens()
    };
    assert_eq!(stops(None), [1]);
    assert_eq!(stops(Some("{}")), [0; 0]);
    assert_eq!(stops(Some(r#"{"eos_token_id": 9}"#)), [9]);
    assert_eq!(stops(Some(r#"{"eos_token_id": [2, 3]}"#)), [2, 3]);
}

#[test]
fn a_stop_token_ends_the_generation() {
    let mut reference = model("mixtral");
    let tokens = generate(&mut reference, &[5, 6, 7], &greedy(8)).unwrap().tokens;
    let scratch = Scratch::of("mixtral");
    scratch.write("generation_config.json", format!(r#"{{"eos_token_id": [{}, {VOCAB}]}}"#, tokens[4]));
    let options = GenerateOptions { ignore_eos: false, ..greedy(8) };
    let summary = generate(&mut scratch.open().unwrap(), &[5, 6, 7], &options).unwrap();
    let end = tokens.iter().position(|token| *token == tokens[4]).unwrap();
    assert_eq!((summary.finish, &summary.tokens[..]), ("stop", &tokens[..=end]));
}

#[test]
fn what_is_no_model_directory_is_said_so() {
    let scratch = Scratch::of("mixtral");
    for path in [scratch.file("gone"), scratch.file("model.safetensors"), "".into()] {
        let error = open(&path, &OpenOptions::default()).err().expect("no directory");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_says(&explained(error), &["no model directory"]);
    }
    std::fs::remove_file(scratch.file("model.safetensors")).unwrap();
    assert_says(&scratch.refusal(), &["no weights beside"]);
    std::fs::remove_file(scratch.file("config.json")).unwrap();
    assert_says(&scratch.refusal(), &["no config.json at"]);
}

#[test]
fn a_dump_that_cannot_be_written_is_an_error() {
    let path = golden("mixtral").join("gone/dump.safetensors");
    let error = model("mixtral")
        .score(&[vec![5, 6]], &ScoreOptions { dump: Some(&path), routing: false })
        .unwrap_err();
    assert_says(&explained(error), &["cannot write"]);
}

#[test]
fn rows_without_text_are_never_chosen_while_a_text_goes_on() {
    let scratch = Scratch::of("mixtral");
    let vocab: Vec<String> = ('a'..='j').enumerate().map(|(id, c)| format!("\"{c}\": {id}")).collect();
    let model = format!(r#"{{"type": "WordLevel", "unk_token": "a", "vocab": {{{}}}}}"#, vocab.join(", "));
    let tokenizer = format!(r#"{{"version": "1.0", "added_tokens": [], "decoder": null, "model": {model}}}"#);
    scratch.write("tokenizer.json", tokenizer);
    let mut model = open(scratch.path(), &OpenOptions::default()).unwrap();
    let ids = [2, 3];
    let mut most = |prompt| {
        let mut generation = model.generate(prompt, &greedy(20)).unwrap();
        generation.by_ref().for_each(|piece| drop(piece.unwrap()));
        generation.finish().tokens.into_iter().max().unwrap()
    };
    assert!(most(Prompt::Encoded(&ids)) < 10);
    assert!(most(Prompt::Ids(&ids)) >= 10, "bare ids see every row");
}
