//! The key-value pairs of a GGUF file.
//!
//! Invariants: a pair was walked from end to end before it is kept, so that reading it again cannot leave the file;
//! arrays stay where they are and are decoded when they are asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::super::mmap::MappedFile;
use super::value::{self, GgufValue};
use super::{header, split};
use crate::{Error, Result};

/// The type of a value, as numbered in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    pub(super) fn of(id: u32) -> Option<Self> {
        use Kind::{Array, Bool, F32, F64, I8, I16, I32, I64, String, U8, U16, U32, U64};
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value; `None` where they differ.
    pub(super) fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }
}

/// Where a value lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its type, or that of its elements.
    pub(super) kind: Kind,
    /// Elements, if it is an array.
    pub(super) count: Option<usize>,
    /// Its bytes, without type and count.
    pub(super) range: Range<usize>,
}

/// What a GGUF file says about its model, by key.
pub struct GgufMetadata {
    pub(super) path: PathBuf,
    pub(super) bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    pub(super) entries: BTreeMap<String, Entry>,
}

/// A number as it stands in a file.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl GgufMetadata {
    /// What the GGUF file at `path` says, of a split file its first part; `None` for any other file or directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a part that is missing, [`Error::InvalidFile`] for a header that is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        if !super::is_gguf(path) {
            return Ok(None);
        }
        let path = &split::parts(path)?.paths[0];
        let invalid = |reason| Error::InvalidFile { path: path.clone(), reason };
        let header = header::read(Arc::new(MappedFile::open(path)?), path).map_err(invalid)?;
        Ok(Some(header.metadata))
    }

    /// The file, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(entry @ Entry { kind: Kind::String, count: None, .. }) => {
                let bytes = &self.slice(entry)[8..];
                std::str::from_utf8(bytes).map(Some).map_err(|_| self.unexpected(key, "UTF-8 text"))
            }
            Some(_) => Err(self.unexpected(key, "a string")),
        }
    }

    /// A whole number of at least 0.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type or a negative one.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(number) = self.number_of(key)? else { return Ok(None) };
        match number {
            Number::Whole(n) if u64::try_from(n).is_ok() => Ok(Some(n as u64)),
            _ => Err(self.unexpected(key, "a whole number")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.number_of(key)?.map(|number| match number {
            Number::Whole(n) => n as f64,
            Number::Real(x) => x,
        }))
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(entry @ Entry { kind: Kind::Bool, count: None, .. }) => Ok(Some(self.slice(entry)[0] != 0)),
            Some(_) => Err(self.unexpected(key, "true or false")),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let (Kind::String, Some(count)) = (entry.kind, entry.count) else {
            return Err(self.unexpected(key, "a list of strings"));
        };
        let (mut rest, mut texts) = (self.slice(entry), Vec::with_capacity(count));
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let (text, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
            texts.push(std::str::from_utf8(text).map_err(|_| self.unexpected(key, "UTF-8 texts"))?);
            rest = tail;
        }
        Ok(Some(texts))
    }

    /// A list of numbers; truth values are 0 and 1.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let (Some(size), Some(_)) = (entry.kind.size(), entry.count) else {
            return Err(self.unexpected(key, "a list of numbers"));
        };
        let number = |bytes| match number(entry.kind, bytes) {
            Number::Whole(n) => n as f64,
            Number::Real(x) => x,
        };
        Ok(Some(self.slice(entry).chunks_exact(size).map(number).collect()))
    }

    /// A value as JSON; of a list of numbers its first one where all are the same, or else the list.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a list of texts.
    pub(super) fn json(&self, key: &str) -> Result<Option<Value>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let json = |number: f64| match number {
            n if n.fract() == 0.0 && n.abs() < 9e15 => Value::from(n as i64),
            x => Value::from(x),
        };
        match (entry.kind, entry.count) {
            (Kind::String, None) => Ok(self.text(key)?.map(Value::from)),
            (Kind::Bool, None) => Ok(self.flag(key)?.map(Value::from)),
            (Kind::F32 | Kind::F64, None) => Ok(self.number(key)?.map(Value::from)),
            (_, None) => Ok(self.number(key)?.map(json)),
            (_, Some(_)) => {
                let numbers = self.numbers(key)?.unwrap_or_default();
                match numbers.first() {
                    Some(&first) if numbers.iter().all(|&n| n == first) => Ok(Some(json(first))),
                    _ => Ok(Some(numbers.into_iter().map(json).collect())),
                }
            }
        }
    }

    /// A value as it stands in the file, for another file.
    pub fn copied(&self, key: &str) -> Option<GgufValue> {
        let entry = self.entries.get(key)?;
        let mut bytes = Vec::new();
        match entry.count {
            Some(count) => value::begin_list(&mut bytes, entry.kind, count),
            None => value::kind(&mut bytes, entry.kind),
        }
        bytes.extend_from_slice(self.slice(entry));
        Some(GgufValue::Copied(bytes))
    }

    /// Whether a value is a list.
    pub fn is_list(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.count.is_some())
    }

    fn number_of(&self, key: &str) -> Result<Option<Number>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match (entry.kind, entry.count) {
            (Kind::String | Kind::Array | Kind::Bool, _) | (_, Some(_)) => {
                Err(self.unexpected(key, "a number"))
            }
            (kind, None) => Ok(Some(number(kind, self.slice(entry)))),
        }
    }

    fn slice(&self, entry: &Entry) -> &[u8] {
        &(*self.bytes).as_ref()[entry.range.clone()]
    }

    /// An error about a value.
    pub(super) fn unexpected(&self, key: &str, expected: &str) -> Error {
        self.invalid(format!("metadata `{key}`: expected {expected}, got something else"))
    }

    /// An error about the file.
    pub(super) fn invalid(&self, reason: String) -> Error {
        Error::InvalidFile { path: self.path.clone(), reason }
    }
}

/// A number of `kind` in its bytes.
fn number(kind: Kind, bytes: &[u8]) -> Number {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("a value has the size of its type")
    }
    match kind {
        Kind::U8 | Kind::Bool => Number::Whole(bytes[0].into()),
        Kind::I8 => Number::Whole((bytes[0] as i8).into()),
        Kind::U16 => Number::Whole(u16::from_le_bytes(array(bytes)).into()),
        Kind::I16 => Number::Whole(i16::from_le_bytes(array(bytes)).into()),
        Kind::U32 => Number::Whole(u32::from_le_bytes(array(bytes)).into()),
        Kind::I32 => Number::Whole(i32::from_le_bytes(array(bytes)).into()),
        Kind::U64 => Number::Whole(u64::from_le_bytes(array(bytes)).into()),
        Kind::I64 => Number::Whole(i64::from_le_bytes(array(bytes)).into()),
        // By its decimals: what was written as 1e-5 is 1e-5 again.
        Kind::F32 => {
            let x = f32::from_le_bytes(array(bytes));
            Number::Real(x.to_string().parse().unwrap_or_else(|_| x.into()))
        }
        Kind::F64 => Number::Real(f64::from_le_bytes(array(bytes))),
        Kind::String | Kind::Array => unreachable!("such values have no fixed size"),
    }
}
