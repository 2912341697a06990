//! A SentencePiece `tokenizer.model`: the fields of its protocol buffer that matter for encoding and decoding.
//!
//! The wire format is a run of fields, each a key (number and kind, as a varint) and a value. Fields that are not
//! listed here are skipped, and absent ones have the defaults of `sentencepiece_model.proto`.
//!
//! Shapes: bytes -> pieces `[vocabulary]` and settings.
//! Invariants: no length from the file is believed before it has been compared with what is left.

use std::collections::HashSet;

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One entry of the vocabulary; its id is its position.
#[derive(Debug)]
pub(in super::super) struct Piece {
    pub(in super::super) text: String,
    pub(in super::super) score: f32,
    pub(in super::super) kind: Kind,
}

/// How text was cut up in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    Word,
    Character,
}

/// A whole model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    /// Characters outside the vocabulary are spelt in `<0xNN>` pieces.
    pub(super) byte_fallback: bool,
    /// Spaces end words instead of beginning them.
    pub(super) space_as_suffix: bool,
    pub(super) bos_id: i32,
    pub(super) eos_id: i32,
    pub(super) normalizer: Normalizer,
    /// Rewrites of decoded text; empty if there are none.
    pub(super) denormalizer_map: Vec<u8>,
}

/// What happens to a text before it is cut up.
#[derive(Debug)]
pub(super) struct Normalizer {
    /// Rewrites of characters, as a compiled table; empty if there are none.
    pub(super) map: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_spaces: bool,
    pub(super) escape_spaces: bool,
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let normalizer = Normalizer {
            map: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_spaces: true,
            escape_spaces: true,
        };
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            space_as_suffix: false,
            bos_id: 1,
            eos_id: 2,
            normalizer,
            denormalizer_map: Vec::new(),
        };
        each_field(bytes, |number, value| {
            match number {
                1 => model.pieces.push(piece(value.bytes()?)?),
                2 => each_field(value.bytes()?, |number, value| model.trainer_field(number, value))?,
                3 => each_field(value.bytes()?, |number, value| model.normalizer.field(number, value))?,
                5 => each_field(value.bytes()?, |number, value| {
                    if number == 2 {
                        model.denormalizer_map = value.bytes()?.to_vec();
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        model.check()?;
        Ok(model)
    }

    fn trainer_field(&mut self, number: u64, value: Value<'_>) -> Result<(), String> {
        match number {
            3 => {
                self.algorithm = match value.varint()? {
                    1 => Algorithm::Unigram,
                    2 => Algorithm::Bpe,
                    3 => Algorithm::Word,
                    4 => Algorithm::Character,
                    other => return Err(format!("expected a model type of 1 to 4, got {other}")),
                }
            }
            24 => self.space_as_suffix = value.varint()? != 0,
            35 => self.byte_fallback = value.varint()? != 0,
            // Negative numbers, which mean that there is none, come sign-extended to 64 bits.
            41 => self.bos_id = value.varint()? as i32,
            42 => self.eos_id = value.varint()? as i32,
            _ => {}
        }
        Ok(())
    }

    /// The rules that SentencePiece checks when it loads a model.
    fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.text.is_empty() {
                return Err(format!("piece {id} is empty"));
            }
            if !piece.score.is_finite() {
                return Err(format!("piece {id}: expected a finite score, got {}", piece.score));
            }
            if !seen.insert(piece.text.as_str()) {
                return Err(format!("piece `{}` comes twice", piece.text));
            }
        }
        match self.pieces.iter().filter(|piece| piece.kind == Kind::Unknown).count() {
            1 => Ok(()),
            count => Err(format!("expected one piece for unknown characters, got {count}")),
        }
    }
}

impl Normalizer {
    fn field(&mut self, number: u64, value: Value<'_>) -> Result<(), String> {
        match number {
            2 => self.map = value.bytes()?.to_vec(),
            3 => self.add_dummy_prefix = value.varint()? != 0,
            4 => self.remove_extra_spaces = value.varint()? != 0,
            5 => self.escape_spaces = value.varint()? != 0,
            _ => {}
        }
        Ok(())
    }
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    each_field(bytes, |number, value| {
        match number {
            1 => {
                let text = std::str::from_utf8(value.bytes()?);
                piece.text = text.map_err(|error| format!("a piece is not UTF-8: {error}"))?.to_owned();
            }
            2 => piece.score = value.float()?,
            3 => {
                piece.kind = match value.varint()? {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("expected a piece type of 1 to 6, got {other}")),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

/// The value of a field.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn varint(self) -> Result<u64, String> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(self.unexpected("an integer")) }
    }

    fn float(self) -> Result<f32, String> {
        let Self::Fixed32(bytes) = self else { return Err(self.unexpected("a 32-bit float")) };
        Ok(f32::from_le_bytes(bytes))
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(self.unexpected("a run of bytes")) }
    }

    fn unexpected(self, expected: &str) -> String {
        let got = match self {
            Self::Varint(_) => "an integer",
            Self::Fixed32(_) => "32 bits",
            Self::Fixed64 => "64 bits",
            Self::Bytes(_) => "a run of bytes",
        };
        format!("expected {expected} in a field, got {got}")
    }
}

/// Calls `visit` with the number and the value of each field.
fn each_field<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u64, Value<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Value::Fixed64)?,
            2 => {
                let len = varint(&mut bytes)?;
                let len = usize::try_from(len).map_err(|_| cut_off())?;
                Value::Bytes(take(&mut bytes, len)?)
            }
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().expect("4 bytes were taken")),
            kind => return Err(format!("not a SentencePiece model: expected a known wire type, got {kind}")),
        };
        visit(key >> 3, value)?;
    }
    Ok(())
}

/// Takes an integer off the front: seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(cut_off)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("not a SentencePiece model: an integer of more than ten bytes".to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(taken)
}

fn cut_off() -> String {
    "it ends in the middle of a field".to_owned()
}
