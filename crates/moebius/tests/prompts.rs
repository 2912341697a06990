//! Text on its way to ids and back: one BOS before a rendered template, and no padding among what is chosen.

mod support;

use moebius::text::{ChatInput, Message};
use moebius::{GenerateOptions, Model, Prompt, SamplingParams};
use serde_json::{Value, json};
use support::{Scratch, find};

/// How many tokens have text; the output projection has more rows.
const TEXT_IDS: u32 = 100;
const BOS: u32 = 0;

/// A tokenizer of words that begins every text with BOS.
fn tokenizer() -> Value {
    let word = |id: u32| match id {
        0 => "<s>".to_owned(),
        1 => "</s>".to_owned(),
        id => format!("w{id}"),
    };
    let vocab: serde_json::Map<String, Value> = (0..TEXT_IDS).map(|id| (word(id), json!(id))).collect();
    let special = |id: u32| {
        json!({"id": id, "content": word(id), "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0), special(1)],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w2"},
    })
}

/// A golden with that tokenizer, a template that prints BOS, and rows of padding `scale` times as large.
fn model(scale: f32) -> Model {
    let scratch = Scratch::of("olmoe");
    scratch.write("tokenizer.json", tokenizer().to_string());
    let template = "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    scratch.write("tokenizer_config.json", config.to_string());
    scratch.edit_tensors("model.safetensors", |tensors| {
        let head = find(tensors, "lm_head.weight");
        let row_bytes = head.bytes.len() / head.shape[0];
        for value in head.bytes[TEXT_IDS as usize * row_bytes..].chunks_exact_mut(4) {
            let number = f32::from_le_bytes(value.try_into().unwrap());
            value.copy_from_slice(&(number * scale).to_le_bytes());
        }
    });
    scratch.open().unwrap()
}

/// The ids of the prompt, and what was chosen with its log-probability.
fn generate(model: &mut Model, prompt: Prompt<'_>, sampling: SamplingParams) -> (Vec<u32>, Vec<(u32, f32)>) {
    let options = GenerateOptions {
        max_tokens: Some(24),
        sampling: Some(sampling),
        ignore_eos: true,
        logprobs: true,
        ..GenerateOptions::default()
    };
    let mut generation = model.generate(prompt, &options).unwrap();
    let ids = generation.prompt().to_vec();
    let chosen = generation.by_ref().map(|piece| piece.map(|piece| (piece.token, piece.logprob.unwrap())));
    let chosen = chosen.collect::<Result<_, _>>().unwrap();
    (ids, chosen)
}

#[test]
fn a_rendered_prompt_begins_with_exactly_one_bos() {
    let mut model = model(1.0);
    let messages = [Message::new("user", "w5 w6 w7")];
    let input = ChatInput { messages: &messages, ..ChatInput::default() };
    let text = model.chat_template().expect("the directory has one").render(&input).unwrap();
    assert_eq!(text, "<s> w5 w6 w7");
    let (rendered, _) = generate(&mut model, Prompt::Rendered(&text), SamplingParams::default());
    assert_eq!(rendered, [BOS, 5, 6, 7]);
    // The tokenizer adds one itself where the text does not spell it.
    let (plain, _) = generate(&mut model, Prompt::Text("w5 w6 w7"), SamplingParams::default());
    assert_eq!(plain, rendered);
    let (twice, _) = generate(&mut model, Prompt::Text(&text), SamplingParams::default());
    assert_eq!(twice, [BOS, BOS, 5, 6, 7]);
}

#[test]
fn rows_of_padding_are_never_chosen_and_weigh_nothing() {
    let (mut heavy, mut light) = (model(1000.0), model(0.0));
    let sampled = SamplingParams { temperature: 2.0, seed: 7, ..SamplingParams::default() };
    for sampling in [SamplingParams::default(), sampled] {
        for prompt in [Prompt::Rendered("<s> w5 w6"), Prompt::Text("w5 w6"), Prompt::Encoded(&[BOS, 5, 6])] {
            let (_, chosen) = generate(&mut heavy, prompt, sampling.clone());
            assert_eq!(chosen.len(), 24);
            assert!(chosen.iter().all(|(token, _)| *token < TEXT_IDS), "{chosen:?}");
            // Log-probabilities are those of tokens with text alone.
            let (_, same) = generate(&mut light, prompt, sampling.clone());
            assert_eq!(chosen, same);
        }
        // Bare ids see every row, and there padding wins.
        let (_, chosen) = generate(&mut heavy, Prompt::Ids(&[BOS, 5, 6]), sampling);
        assert!(chosen.iter().any(|(token, _)| *token >= TEXT_IDS), "{chosen:?}");
    }
}
