//! Ids to text, one at a time, as a model gives them.
//!
//! The text of the pieces put together is the text of all ids at once, and no piece ends inside a
//! character: bytes that may still become one wait for the next id. Bytes that cannot become one read as
//! U+FFFD, once per longest run that starts like a character (the Unicode standard, section 3.9).
//!
//! Shapes: id -> 0 or more characters.
//! Invariants: at most three bytes wait; the work per id depends on its piece only.

use super::detokenize::LeadingCut;
use super::tokenizer::Tokenizer;

/// Turns the ids of one sequence into pieces of text.
///
/// ```no_run
/// # use moebius::text::Tokenizer;
/// # fn main() -> Result<(), moebius::text::TextError> {
/// let tokenizer = Tokenizer::from_dir("model".as_ref())?;
/// let prompt = tokenizer.encode("Once upon", true)?;
/// let mut decoder = tokenizer.stream(true);
/// decoder.skip(&prompt); // the answer goes on where the prompt ended
/// for id in [262, 640] {
///     if let Some(piece) = decoder.push(id) {
///         print!("{piece}");
///     }
/// }
/// println!("{}", decoder.finish());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// No piece has been seen yet.
    first: bool,
    /// Bytes that may still become a character, at most three between two calls.
    waiting: Vec<u8>,
    leading: Vec<LeadingCut>,
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let leading = tokenizer.detokenizer().leading().to_vec();
        Self { tokenizer, skip_special, first: true, waiting: Vec::new(), leading }
    }

    /// Reads the ids that came before, without giving their text.
    ///
    /// What follows is then decoded as a continuation: a space in front of its first word stays.
    pub fn skip(&mut self, ids: &[u32]) {
        for &id in ids {
            self.push(id);
        }
    }

    /// The text that `id` completes, or `None` if there is none yet.
    ///
    /// An id outside the vocabulary has no text, and special tokens have none if they are to be skipped.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let piece = self.tokenizer.piece(id, self.skip_special)?;
        self.tokenizer.detokenizer().append(piece, self.first, &mut self.waiting);
        self.first = false;
        let text = take_characters(&mut self.waiting);
        let text = self.cut_leading(text);
        if text.is_empty() { None } else { Some(text) }
    }

    /// What was still waiting: nothing, or one U+FFFD for a character that never became whole.
    pub fn finish(self) -> String {
        if self.waiting.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }

    fn cut_leading(&mut self, text: String) -> String {
        if self.leading.is_empty() || text.is_empty() {
            return text;
        }
        let mut rest = text.as_str();
        while let Some(cut) = self.leading.first_mut() {
            while cut.count > 0 {
                match rest.strip_prefix(cut.content) {
                    Some(shorter) => {
                        rest = shorter;
                        cut.count -= 1;
                    }
                    // The next text may begin with the character to cut.
                    None if rest.is_empty() => return String::new(),
                    None => cut.count = 0,
                }
            }
            self.leading.remove(0);
        }
        rest.to_owned()
    }
}

/// Takes everything from `bytes` but the start of a character that is not whole yet.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).expect("checked up to here"));
                let Some(bad) = error.error_len() else {
                    rest = after;
                    break;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &after[bad..];
            }
        }
    }
    let kept = rest.len();
    bytes.drain(..bytes.len() - kept);
    text
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
