//! A chat template, parsed and run over a short conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moebius::text::{ChatInput, ChatTemplate, Message};

fuzz_target!(|input: &[u8]| {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let Ok(template) = ChatTemplate::new(source) else { return };
    let messages = [Message::new("system", "Be brief."), Message::new("user", "What is <|x|> in K\u{f6}ln?")];
    let input = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
    drop(template.with_special_token("eos_token", "</s>").render(&input));
});
