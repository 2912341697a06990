//! Which tokens end a reply.

use moebius_model::GgufMetadata;

use super::{CONTROL, read, token_id};
use crate::text::Result;

/// Texts of tokens that end a turn, whatever a file says about them.
const END_OF_TURN: [&str; 18] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "[EOS]",
    "[EOT]",
    "<end_of_utterance>",
];
/// The same for texts that may be anything: those of control tokens.
const END_OF_TURN_AS_CONTROL: [&str; 4] = ["</s>", "<eos>", "<EOT>", "_<EOT>"];
/// What ends a part of a turn where one of a pair of others ends the turn.
const END_OF_PART: &str = "<|end|>";
const ENDS_WITH_PARTS: [[&str; 2]; 2] = [["<|return|>", "<|call|>"], ["<|flush|>", "<|calls|>"]];

/// Ids that end a reply: what the file names, and tokens that are known to end a turn.
pub(crate) fn stop_tokens(metadata: &GgufMetadata) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(token_id(metadata, name)?);
    }
    let tokens = read(metadata, metadata.texts("tokenizer.ggml.tokens"))?.unwrap_or_default();
    let kinds = read(metadata, metadata.numbers("tokenizer.ggml.token_type"))?.unwrap_or_default();
    let has_parts = ENDS_WITH_PARTS.iter().any(|pair| pair.iter().all(|end| tokens.contains(end)));
    let is_control = |id: usize| kinds.get(id) == Some(&CONTROL);
    let ends = |(id, token): &(usize, &&str)| {
        let known = END_OF_TURN.contains(*token) && !(has_parts && **token == END_OF_PART);
        known || (END_OF_TURN_AS_CONTROL.contains(*token) && is_control(*id))
    };
    ids.extend(tokens.iter().enumerate().filter(ends).map(|(id, _)| id as u32));
    if has_parts {
        ids.retain(|&id| tokens.get(id as usize) != Some(&END_OF_PART));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
