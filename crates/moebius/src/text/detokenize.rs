//! How one vocabulary piece becomes bytes of text: the decoder of `tokenizer.json`, taken apart so that
//! each token can be decoded alone.
//!
//! A decoder is a list of stages. Those before everything is joined see one piece at a time; of those
//! after, only cutting characters off the very start of the text can be streamed. Byte-level pieces and
//! `<0xNN>` pieces give raw bytes, which need not end on a character's border.
//!
//! Shapes: piece string -> bytes, at least 0 of them.
//! Invariants: the bytes of a text are the concatenation of the bytes of its pieces, apart from
//! `leading`, which applies once to the whole.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder, Tokenizer as HfTokenizer};

/// One step that sees a single piece.
enum Stage {
    /// Maps each piece alone.
    Each(DecoderWrapper),
    /// Treats the first piece of a text unlike the others.
    Positional(DecoderWrapper),
    /// Cuts characters off both ends of the piece.
    Strip(Strip),
    /// Turns a piece `<0xNN>` into one byte.
    ByteFallback,
}

/// Up to `count` copies of `content`, to be cut from the start of a text.
#[derive(Debug, Clone)]
pub(super) struct LeadingCut {
    pub(super) content: char,
    pub(super) count: usize,
}

/// A tokenizer's decoder, ready to decode single pieces.
pub(super) struct Detokenizer {
    stages: Vec<Stage>,
    leading: Vec<LeadingCut>,
    /// Pieces are spelt in the byte-level alphabet.
    byte_level: bool,
    /// There is no decoder at all: pieces are words, set apart by a space.
    words: bool,
}

impl Detokenizer {
    /// Takes the decoder of `tokenizer` apart.
    ///
    /// # Errors
    /// The name of the decoder that cannot work on single pieces.
    pub(super) fn new(tokenizer: &HfTokenizer) -> Result<Self, String> {
        let mut plan = Self { stages: Vec::new(), leading: Vec::new(), byte_level: false, words: false };
        match tokenizer.get_decoder() {
            None => plan.words = true,
            Some(decoder) => {
                let mut joined = false;
                plan.add(decoder, &mut joined)?;
            }
        }
        Ok(plan)
    }

    fn add(&mut self, decoder: &DecoderWrapper, joined: &mut bool) -> Result<(), String> {
        match decoder {
            DecoderWrapper::Sequence(sequence) => {
                return sequence.get_decoders().iter().try_for_each(|inner| self.add(inner, joined));
            }
            DecoderWrapper::Fuse(_) => *joined = true,
            DecoderWrapper::Strip(strip) if *joined && strip.stop == 0 => {
                self.leading.push(LeadingCut { content: strip.content, count: strip.start });
            }
            _ if *joined => return Err(format!("`{}` after the pieces are joined", name(decoder))),
            DecoderWrapper::ByteLevel(_) => {
                self.byte_level = true;
                *joined = true;
            }
            DecoderWrapper::Strip(strip) => self.stages.push(Stage::Strip(strip.clone())),
            DecoderWrapper::ByteFallback(_) => self.stages.push(Stage::ByteFallback),
            DecoderWrapper::Replace(_) => self.stages.push(Stage::Each(decoder.clone())),
            DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_) => {
                self.stages.push(Stage::Positional(decoder.clone()));
            }
            DecoderWrapper::BPE(_) | DecoderWrapper::CTC(_) => return Err(format!("`{}`", name(decoder))),
        }
        Ok(())
    }

    /// What to cut off the start of a text.
    pub(super) fn leading(&self) -> &[LeadingCut] {
        &self.leading
    }

    /// Appends the bytes of `piece` to `out`; `first` says that no piece came before.
    pub(super) fn append(&self, piece: String, first: bool, out: &mut Vec<u8>) {
        let mut piece = piece;
        if self.words && !first {
            out.push(b' ');
        }
        for stage in &self.stages {
            match stage {
                Stage::ByteFallback => {
                    if let Some(byte) = fallback_byte(&piece) {
                        out.push(byte);
                        return;
                    }
                }
                Stage::Strip(strip) => piece = strip_piece(strip, &piece),
                Stage::Each(decoder) => piece = decode_one(decoder, vec![piece]),
                // A dummy in front makes the decoder treat the piece as one further on.
                Stage::Positional(decoder) if !first => {
                    piece = decode_one(decoder, vec![String::new(), piece]);
                }
                Stage::Positional(decoder) => piece = decode_one(decoder, vec![piece]),
            }
        }
        if !(self.byte_level && append_byte_level(&piece, out)) {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// The last of the decoded `pieces`.
///
/// These decoders fail on no input; should one ever do so, the piece reads as empty.
fn decode_one(decoder: &DecoderWrapper, pieces: Vec<String>) -> String {
    decoder.decode_chain(pieces).ok().and_then(|mut decoded| decoded.pop()).unwrap_or_default()
}

/// The byte that `<0xNN>` stands for.
fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Cuts one piece; written out because the library's own version underflows on a piece shorter than `stop`.
fn strip_piece(strip: &Strip, piece: &str) -> String {
    let mut rest = piece;
    for _ in 0..strip.start {
        let Some(cut) = rest.strip_prefix(strip.content) else { break };
        rest = cut;
    }
    for _ in 0..strip.stop {
        let Some(cut) = rest.strip_suffix(strip.content) else { break };
        rest = cut;
    }
    rest.to_owned()
}

/// Appends the bytes of a piece in the byte-level alphabet, or nothing if a character is outside it.
fn append_byte_level(piece: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for letter in piece.chars() {
        let Some(byte) = byte_of_letter(letter) else {
            out.truncate(start);
            return false;
        };
        out.push(byte);
    }
    true
}

/// The byte behind a letter of the byte-level alphabet of GPT-2.
///
/// Printable Latin-1 bytes stand for themselves; the other 68, in order, for U+0100 to U+0143.
fn byte_of_letter(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00 to 0x20
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(), // 0x7f to 0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The letter that stands for `byte`: the inverse of [`byte_of_letter`].
pub(super) fn letter_of_byte(byte: u8) -> char {
    let code = u32::from(byte);
    let letter = match code {
        0x00..=0x20 => code + 0x100,
        0x7f..=0xa0 => code - 0x7f + 0x121,
        0xad => 0x143,
        _ => code,
    };
    char::from_u32(letter).expect("all these codes are letters")
}

fn name(decoder: &DecoderWrapper) -> &'static str {
    match decoder {
        DecoderWrapper::BPE(_) => "BPEDecoder",
        DecoderWrapper::ByteLevel(_) => "ByteLevel",
        DecoderWrapper::WordPiece(_) => "WordPiece",
        DecoderWrapper::Metaspace(_) => "Metaspace",
        DecoderWrapper::CTC(_) => "CTC",
        DecoderWrapper::Sequence(_) => "Sequence",
        DecoderWrapper::Replace(_) => "Replace",
        DecoderWrapper::Fuse(_) => "Fuse",
        DecoderWrapper::Strip(_) => "Strip",
        DecoderWrapper::ByteFallback(_) => "ByteFallback",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_level_alphabet_covers_every_byte_once() {
        let mut seen = [0_u32; 256];
        for letter in tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet() {
            seen[usize::from(byte_of_letter(letter).expect("a letter of the alphabet"))] += 1;
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(byte_of_letter('Ġ'), Some(b' '));
        assert_eq!(byte_of_letter('▁'), None);
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of_letter(letter_of_byte(byte)), Some(byte));
        }
    }

    #[test]
    fn a_piece_shorter_than_the_cut_is_not_an_error() {
        assert_eq!(strip_piece(&Strip::new('x', 2, 2), "x"), "");
        assert_eq!(strip_piece(&Strip::new('x', 1, 1), "xxaxx"), "xax");
        assert_eq!(strip_piece(&Strip::new('é', 1, 0), "éa"), "a");
    }

    #[test]
    fn only_two_hex_digits_name_a_byte() {
        assert_eq!(fallback_byte("<0xE3>"), Some(0xe3));
        for piece in ["<0xE>", "<0xE33>", "<0xGG>", "0xE3", "<0x>", "<0xé>"] {
            assert_eq!(fallback_byte(piece), None, "{piece}");
        }
    }
}
