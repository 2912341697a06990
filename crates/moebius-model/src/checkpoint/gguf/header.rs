//! The header of a GGUF file: pairs of keys and values, and where tensors lie.
//!
//! Layout: `GGUF`, version, number of tensors, number of pairs, pairs, tensors, padding, data. All numbers are little
//! endian; texts and arrays begin with their length in 64 bits.
//!
//! Invariants: no length is believed before that many bytes are known to be there; nothing is allocated by a count;
//! tensors lie inside the file, on multiples of the alignment, and share no byte.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::metadata::{Entry, GgufMetadata, Kind};
use super::types::TensorType;

/// What a file begins with.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// What tensors are aligned to unless the file says otherwise.
pub(super) const ALIGNMENT: u64 = 32;
/// The key that says otherwise.
const ALIGNMENT_KEY: &str = "general.alignment";
/// More than any file has: so that entries cannot take many times the bytes that ask for them.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
const MAX_NAME_BYTES: u64 = 256;
const MAX_DIMS: u32 = 4;

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Sizes, outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: TensorType,
    /// Where in the file it lies.
    pub(super) range: Range<usize>,
}

/// What a header says.
pub(super) struct Header {
    pub(super) metadata: GgufMetadata,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// Reads the header of the file `bytes`; or what is wrong, with expected and got.
pub(super) fn read(
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    path: &Path,
) -> std::result::Result<Header, String> {
    let file = (*bytes).as_ref();
    let mut cursor = Cursor { file, at: 0 };
    let (n_tensors, n_pairs) = cursor.start()?;
    let entries = cursor.pairs(n_pairs)?;
    let metadata = GgufMetadata { path: path.into(), bytes: bytes.clone(), entries };
    let alignment = alignment(&metadata)?;
    let tensors = cursor.tensors(n_tensors, alignment)?;
    Ok(Header { metadata, tensors })
}

fn alignment(metadata: &GgufMetadata) -> Result<u64, String> {
    let got = metadata.count(ALIGNMENT_KEY).map_err(|error| error.to_string())?.unwrap_or(ALIGNMENT);
    if got.is_power_of_two() && got <= MAX_ALIGNMENT {
        return Ok(got);
    }
    Err(format!("`{ALIGNMENT_KEY}`: expected a power of two of at most {MAX_ALIGNMENT}, got {got}"))
}

/// Reads from the front to the back.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next bytes.
    fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8], String> {
        let left = self.file.len() - self.at;
        if length > left as u64 {
            return Err(format!("the file is cut short: expected {length} bytes of {what}, got {left}"));
        }
        let bytes = &self.file[self.at..self.at + length as usize];
        self.at += length as usize;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take(4, what)?.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8, what)?.try_into().expect("eight bytes were taken")))
    }

    /// A text of 1 to `limit` bytes.
    fn name(&mut self, limit: u64, what: &str) -> Result<&'a str, String> {
        let length = self.u64(what)?;
        if !(1..=limit).contains(&length) {
            return Err(format!("{what}: expected 1 to {limit} bytes, got {length}"));
        }
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what}: expected UTF-8, got other bytes"))
    }

    /// Magic, version and the numbers of tensors and pairs.
    fn start(&mut self) -> Result<(u64, u64), String> {
        if self.take(4, "the mark `GGUF`")? != MAGIC {
            return Err("expected a file that begins with `GGUF`, got something else".into());
        }
        match self.u32("the version")? {
            2 | 3 => {}
            other if matches!(other.swap_bytes(), 1..=3) => {
                return Err("expected a little-endian file, got a big-endian one".into());
            }
            other => return Err(format!("expected version 2 or 3, got {other}")),
        }
        let counts = (self.u64("the number of tensors")?, self.u64("the number of pairs")?);
        for (count, what) in [(counts.0, "tensors"), (counts.1, "pairs")] {
            if count > MAX_ENTRIES {
                return Err(format!("expected at most {MAX_ENTRIES} {what}, got {count}"));
            }
        }
        Ok(counts)
    }

    fn pairs(&mut self, count: u64) -> Result<BTreeMap<String, Entry>, String> {
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = self.name(MAX_KEY_BYTES, "a key")?;
            let entry = self.value(key)?;
            if entries.insert(key.to_owned(), entry).is_some() {
                return Err(format!("the key `{key}` is there twice"));
            }
        }
        Ok(entries)
    }

    /// Walks over a value.
    fn value(&mut self, key: &str) -> Result<Entry, String> {
        let kind = self.kind(key)?;
        if kind != Kind::Array {
            let start = self.at;
            self.skip(kind, 1, key)?;
            return Ok(Entry { kind, count: None, range: start..self.at });
        }
        let kind = self.kind(key)?;
        if kind == Kind::Array {
            return Err(format!("metadata `{key}`: expected a list of values, got a list of lists"));
        }
        let count = self.u64(key)?;
        let start = self.at;
        self.skip(kind, count, key)?;
        let count = usize::try_from(count).map_err(|_| format!("metadata `{key}`: too long"))?;
        Ok(Entry { kind, count: Some(count), range: start..self.at })
    }

    fn kind(&mut self, key: &str) -> Result<Kind, String> {
        let id = self.u32(key)?;
        Kind::of(id).ok_or_else(|| format!("metadata `{key}`: expected a type from 0 to 12, got {id}"))
    }

    fn skip(&mut self, kind: Kind, count: u64, key: &str) -> Result<(), String> {
        let Some(size) = kind.size() else {
            // Each text takes at least the eight bytes of its length, so a count alone cannot keep this going.
            for _ in 0..count {
                let length = self.u64(key)?;
                self.take(length, key)?;
            }
            return Ok(());
        };
        let bytes = count.checked_mul(size as u64);
        self.take(bytes.ok_or_else(|| format!("metadata `{key}`: {count} values are too many"))?, key)?;
        Ok(())
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<BTreeMap<String, Tensor>, String> {
        let mut infos = Vec::new();
        for _ in 0..count {
            infos.push(self.info()?);
        }
        let start = (self.at as u64).next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for Info { name, shape, kind, offset, bytes } in infos {
            if !offset.is_multiple_of(alignment) {
                return Err(format!(
                    "tensor `{name}`: expected an offset that is a multiple of {alignment}, got {offset}"
                ));
            }
            let first = start.checked_add(offset);
            let range = first.and_then(|first| Some((first, first.checked_add(bytes)?)));
            let inside = range.filter(|&(_, end)| end <= self.file.len() as u64);
            let Some((first, end)) = inside else {
                let got = self.file.len();
                return Err(format!(
                    "tensor `{name}`: the file is cut short: expected {bytes} bytes at offset {offset}, got {got} in all"
                ));
            };
            let tensor = Tensor { shape, kind, range: first as usize..end as usize };
            if tensors.insert(name.to_owned(), tensor).is_some() {
                return Err(format!("tensor `{name}` is there twice"));
            }
        }
        apart(&tensors)?;
        Ok(tensors)
    }

    fn info(&mut self) -> Result<Info<'a>, String> {
        let name = self.name(MAX_NAME_BYTES, "a tensor's name")?;
        let n_dims = self.u32(name)?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(format!("tensor `{name}`: expected 1 to {MAX_DIMS} dimensions, got {n_dims}"));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        let mut elements = Some(1u64);
        for _ in 0..n_dims {
            let size = self.u64(name)?;
            elements = elements.and_then(|product| product.checked_mul(size)).filter(|&n| n > 0);
            // Innermost first in the file.
            shape.insert(0, usize::try_from(size).map_err(|_| format!("tensor `{name}`: too large"))?);
        }
        let id = self.u32(name)?;
        let offset = self.u64(name)?;
        let kind = TensorType::of(id)
            .ok_or_else(|| format!("tensor `{name}`: expected a known element type, got number {id}"))?;
        let cols = *shape.last().expect("it has a dimension") as u64;
        let bytes = elements.and_then(|elements| kind.bytes_for(elements, cols)).ok_or_else(|| {
            format!("tensor `{name}`: expected rows of whole blocks of {}, got shape {shape:?}", kind.name())
        })?;
        Ok(Info { name, shape, kind, offset, bytes })
    }
}

/// What a header says about a tensor.
struct Info<'a> {
    name: &'a str,
    shape: Vec<usize>,
    kind: TensorType,
    offset: u64,
    bytes: u64,
}

/// Fails when two tensors share bytes.
fn apart(tensors: &BTreeMap<String, Tensor>) -> Result<(), String> {
    let mut ranges: Vec<_> = tensors.iter().map(|(name, tensor)| (tensor.range.clone(), name)).collect();
    ranges.sort_unstable_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        None => Ok(()),
        Some(pair) => Err(format!("tensors `{}` and `{}` share bytes", pair[0].1, pair[1].1)),
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
