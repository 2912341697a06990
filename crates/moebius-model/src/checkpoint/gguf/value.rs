//! Values of metadata as they are written.
//!
//! Layout: the number of the type, and the value; of a list the number for lists, that of its elements, how many there
//! are, and these. A text is its length in 64 bits and its bytes.

use super::metadata::Kind;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A whole number.
    Count(u32),
    /// A number.
    Number(f32),
    /// A truth value.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of whole numbers.
    Counts(Vec<u32>),
    /// A list of whole numbers, some of which may be negative.
    Integers(Vec<i32>),
    /// A list of numbers.
    Numbers(Vec<f32>),
    /// A list of truth values.
    Flags(Vec<bool>),
    /// A list of texts.
    Texts(Vec<String>),
    /// What another file says, in its bytes.
    Copied(Vec<u8>),
}

impl GgufValue {
    /// Appends the value with its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            GgufValue::Count(n) => {
                kind(out, Kind::U32);
                out.extend(n.to_le_bytes());
            }
            GgufValue::Number(x) => {
                kind(out, Kind::F32);
                out.extend(x.to_le_bytes());
            }
            GgufValue::Flag(flag) => {
                kind(out, Kind::Bool);
                out.push(u8::from(*flag));
            }
            GgufValue::Text(words) => {
                kind(out, Kind::String);
                text(out, words);
            }
            GgufValue::Counts(list) => {
                begin_list(out, Kind::U32, list.len());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            GgufValue::Integers(list) => {
                begin_list(out, Kind::I32, list.len());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            GgufValue::Numbers(list) => {
                begin_list(out, Kind::F32, list.len());
                list.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            GgufValue::Flags(list) => {
                begin_list(out, Kind::Bool, list.len());
                out.extend(list.iter().map(|&flag| u8::from(flag)));
            }
            GgufValue::Texts(list) => {
                begin_list(out, Kind::String, list.len());
                list.iter().for_each(|words| text(out, words));
            }
            GgufValue::Copied(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// Appends the number of a type.
pub(super) fn kind(out: &mut Vec<u8>, kind: Kind) {
    out.extend((kind as u32).to_le_bytes());
}

/// Appends what a list begins with.
pub(super) fn begin_list(out: &mut Vec<u8>, elements: Kind, count: usize) {
    kind(out, Kind::Array);
    kind(out, elements);
    out.extend((count as u64).to_le_bytes());
}

/// Appends a text.
pub(super) fn text(out: &mut Vec<u8>, words: &str) {
    out.extend((words.len() as u64).to_le_bytes());
    out.extend_from_slice(words.as_bytes());
}
