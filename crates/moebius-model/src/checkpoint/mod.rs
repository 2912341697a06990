//! Reads safetensors checkpoints, single or sharded, without copying them.
//!
//! The format: an 8-byte little-endian length, a JSON header of names, types, shapes and offsets, then the
//! data (github.com/huggingface/safetensors). A sharded checkpoint adds `model.safetensors.index.json`.
//!
//! Invariants: header sizes, offsets, shapes and their products are checked before anything is used; a
//! shard's name never leads out of the checkpoint's directory; opening reads headers only.

mod header;
mod index;
mod mmap;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use moebius_backend::{MappedPages, WeightFormat, WeightView};
use safetensors::Dtype;

use crate::{Error, Result};
use mmap::MappedFile;

/// An opened checkpoint directory.
pub(crate) struct Checkpoint {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// Where one tensor lies and what it is.
#[derive(Clone, Debug)]
pub(crate) struct TensorEntry {
    /// Sizes of its dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    /// The element type.
    pub(crate) dtype: Dtype,
    file: usize,
    range: Range<usize>,
}

impl TensorEntry {
    /// Bytes in the file.
    pub(crate) fn size_bytes(&self) -> usize {
        self.range.len()
    }

    /// The weight format of its elements, if they are plain floats of a known size.
    pub(crate) fn format(&self) -> Option<WeightFormat> {
        match self.dtype {
            Dtype::F32 => Some(WeightFormat::F32),
            Dtype::BF16 => Some(WeightFormat::Bf16),
            Dtype::F16 => Some(WeightFormat::F16),
            _ => None,
        }
    }
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and reads the headers of its files.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no checkpoint, [`Error::InvalidFile`] when a file is cut short,
    /// damaged, or inconsistent with its index.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let shards = index::shards(dir)?;
        let mut checkpoint = Checkpoint { files: Vec::new(), tensors: BTreeMap::new() };
        for path in &shards.files {
            checkpoint.add_file(path)?;
        }
        shards.check(|name| Some(&*shards.files[checkpoint.get(name)?.file]))?;
        Ok(checkpoint)
    }

    /// The tensor called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.size_bytes() as u64).sum()
    }

    /// The stored bytes of a tensor.
    pub(crate) fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.files[entry.file].bytes()[entry.range.clone()]
    }

    /// Whether two tensors have the same bytes. Leaves neither in memory.
    pub(crate) fn same_bytes(&self, a: &TensorEntry, b: &TensorEntry) -> bool {
        const PIECE_BYTES: usize = 16 << 20;
        if a.size_bytes() != b.size_bytes() {
            return false;
        }
        let mut pieces = self.bytes(a).chunks(PIECE_BYTES).zip(self.bytes(b).chunks(PIECE_BYTES));
        pieces.all(|(x, y)| {
            let same = x == y;
            self.files[a.file].release(x);
            self.files[b.file].release(y);
            same
        })
    }

    /// Matrix number `index` of a tensor that holds several of shape `(rows, cols)` one after another.
    /// `None` when it is not made of plain floats or does not reach that far.
    pub(crate) fn matrix(
        &self,
        name: &str,
        index: usize,
        (rows, cols): (usize, usize),
    ) -> Option<WeightView<'_>> {
        let entry = self.get(name)?;
        let format = entry.format()?;
        let size = format.bytes_for(rows, cols)?;
        let start = index.checked_mul(size)?;
        let bytes = self.bytes(entry).get(start..start.checked_add(size)?)?;
        let view = WeightView::new(name, format, (rows, cols), bytes);
        Some(view.backed_by(&self.files[entry.file]))
    }

    /// All elements of a tensor as f32; `None` when it is absent or not made of plain floats.
    pub(crate) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let entry = self.get(name)?;
        let bytes = self.bytes(entry);
        let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        match entry.dtype {
            Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::BF16 => Some(halves().map(|bits| bf16::from_bits(bits).to_f32()).collect()),
            Dtype::F16 => Some(halves().map(|bits| f16::from_bits(bits).to_f32()).collect()),
            _ => None,
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        let invalid = |reason: String| Error::InvalidFile { path: path.into(), reason };
        for header::Placed { name, shape, dtype, range } in header::read(file.bytes()).map_err(invalid)? {
            let entry = TensorEntry { shape, dtype, file: self.files.len(), range };
            if self.tensors.contains_key(&name) {
                return Err(invalid(format!("tensor `{name}` is in two files of the checkpoint")));
            }
            self.tensors.insert(name, entry);
        }
        self.files.push(file);
        Ok(())
    }
}

/// Reads a small text file whole.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Io`], or [`Error::InvalidFile`] above `limit` bytes.
pub(crate) fn read_small(path: &Path, what: &'static str, limit: u64) -> Result<String> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { what, path: path.into() },
        _ => Error::Io { path: path.into(), source },
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::InvalidFile { path: path.into(), reason: "expected a regular file".into() });
    }
    if metadata.len() > limit {
        let reason = format!("expected at most {limit} bytes, got {}", metadata.len());
        return Err(Error::InvalidFile { path: path.into(), reason });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|error| Error::InvalidFile {
        path: path.into(),
        reason: format!("expected UTF-8 text, got another byte at {}", error.utf8_error().valid_up_to()),
    })
}

/// Reads and parses a small JSON file.
pub(crate) fn read_json(path: &Path, what: &'static str, limit: u64) -> Result<serde_json::Value> {
    let text = read_small(path, what, limit)?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: PathBuf::from(path), source })
}
