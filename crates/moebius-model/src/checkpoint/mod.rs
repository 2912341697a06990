//! Reads safetensors checkpoints, single or sharded, without copying them; or makes one up.
//!
//! The format: an 8-byte little-endian length, a JSON header of names, types, shapes and offsets, then the
//! data (github.com/huggingface/safetensors). A sharded checkpoint adds `model.safetensors.index.json`.
//!
//! Invariants: header sizes, offsets, shapes and their products are checked before anything is used; a
//! shard's name never leads out of the checkpoint's directory; opening reads headers only; a packed matrix keeps the
//! mapping of its file.

mod header;
mod index;
mod mmap;
mod packed;
mod random;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use moebius_backend::{MappedPages, PanelBytes, WeightFormat, WeightView};
use safetensors::Dtype;

use crate::formats::HeldFormats;
use crate::{Error, Result};
use mmap::MappedFile;
use random::RandomFile;

pub use packed::PACKING;
pub(crate) use packed::Packed;
pub(crate) use write::{Asked, PackedFile};

/// An opened checkpoint directory, or random tensors.
pub(crate) struct Checkpoint {
    files: Vec<Source>,
    paths: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorEntry>,
    /// The choice behind its packed weights, if it has any.
    packing: Option<HeldFormats>,
}

/// Where bytes come from.
enum Source {
    Mapped(Arc<MappedFile>),
    Random(RandomFile),
}

impl Source {
    fn read(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        match self {
            Source::Mapped(file) => Cow::Borrowed(&file.bytes()[range]),
            Source::Random(file) => Cow::Owned(file.read(range)),
        }
    }

    /// Says that `bytes`, as they were read, will not be read again soon.
    fn release(&self, bytes: &[u8]) {
        if let Source::Mapped(file) = self {
            file.release(bytes);
        }
    }
}

/// Where one tensor lies and what it is.
#[derive(Clone, Debug)]
pub(crate) struct TensorEntry {
    /// Sizes of its dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    /// The element type; bytes if it is packed.
    pub(crate) dtype: Dtype,
    /// Its matrices, if it is packed.
    pub(crate) packed: Option<Packed>,
    file: usize,
    range: Range<usize>,
}

impl TensorEntry {
    /// Bytes in the file.
    pub(crate) fn size_bytes(&self) -> usize {
        self.range.len()
    }

    /// The weight format of its elements, if they are packed or plain floats of a known size.
    pub(crate) fn format(&self) -> Option<WeightFormat> {
        if let Some(packed) = &self.packed {
            return Some(packed.format);
        }
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
        let mut checkpoint =
            Checkpoint { files: Vec::new(), paths: Vec::new(), tensors: BTreeMap::new(), packing: None };
        for path in &shards.files {
            checkpoint.add_file(path)?;
        }
        shards.check(|name| Some(&*shards.files[checkpoint.get(name)?.file]))?;
        checkpoint.paths = shards.files;
        Ok(checkpoint)
    }

    /// Random bf16 tensors of the given names and shapes.
    ///
    /// # Errors
    /// [`Error::Config`] when they exceed the address space.
    pub(crate) fn random(shapes: BTreeMap<String, Vec<usize>>, seed: u64) -> Result<Self> {
        let too_large = || Error::config("hidden_size", "the weights exceed the address space");
        let mut file = RandomFile::new(seed);
        let mut tensors = BTreeMap::new();
        let mut start = 0usize;
        for (name, shape) in shapes {
            let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
            let end = elements.and_then(|n| n.checked_mul(2)).and_then(|bytes| start.checked_add(bytes));
            let range = start..end.ok_or_else(too_large)?;
            file.place(&name, start);
            start = range.end;
            tensors.insert(name, TensorEntry { shape, dtype: Dtype::BF16, packed: None, file: 0, range });
        }
        Ok(Checkpoint { files: vec![Source::Random(file)], paths: Vec::new(), tensors, packing: None })
    }

    /// The tensor called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// Its files; none for random tensors.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The choice behind its packed weights, if it has any.
    pub(crate) fn packing(&self) -> Option<HeldFormats> {
        self.packing
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
    fn bytes(&self, entry: &TensorEntry) -> Cow<'_, [u8]> {
        self.files[entry.file].read(entry.range.clone())
    }

    /// Whether two tensors have the same bytes. Leaves neither in memory.
    pub(crate) fn same_bytes(&self, a: &TensorEntry, b: &TensorEntry) -> bool {
        const PIECE_BYTES: usize = 16 << 20;
        if a.size_bytes() != b.size_bytes() {
            return false;
        }
        let (all_a, all_b) = (self.bytes(a), self.bytes(b));
        let mut pieces = all_a.chunks(PIECE_BYTES).zip(all_b.chunks(PIECE_BYTES));
        pieces.all(|(x, y)| {
            let same = x == y;
            self.files[a.file].release(x);
            self.files[b.file].release(y);
            same
        })
    }

    /// Matrix number `index` of a tensor that holds several of shape `(rows, cols)` one after another.
    /// `None` when it is neither packed as such nor made of plain floats, or does not reach that far.
    pub(crate) fn matrix(
        &self,
        name: &str,
        index: usize,
        (rows, cols): (usize, usize),
    ) -> Option<WeightView<'_>> {
        let entry = self.get(name)?;
        if let Some(packed) = &entry.packed {
            let bytes = self.packed_matrix(entry, packed, index).filter(|_| packed.matrix == (rows, cols))?;
            return Some(WeightView::in_panels(name, packed.format, (rows, cols), bytes));
        }
        let format = entry.format()?;
        let size = format.bytes_for(rows, cols)?;
        let start = index.checked_mul(size)?;
        let end = start.checked_add(size).filter(|&end| end <= entry.size_bytes())?;
        let source = &self.files[entry.file];
        let bytes = source.read(entry.range.start + start..entry.range.start + end);
        let view = WeightView::new(name, format, (rows, cols), bytes);
        Some(match source {
            Source::Mapped(file) => view.backed_by(&**file),
            Source::Random(_) => view,
        })
    }

    /// The bytes of a packed matrix, which keep their file mapped.
    fn packed_matrix(&self, entry: &TensorEntry, packed: &Packed, index: usize) -> Option<PanelBytes> {
        let Source::Mapped(file) = &self.files[entry.file] else { return None };
        let start = entry.range.start + packed.stride()?.checked_mul(index)?;
        let end = start.checked_add(packed.matrix_bytes()?).filter(|&end| end <= entry.range.end)?;
        Some(PanelBytes { owner: file.clone(), range: start..end })
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
        let header::Contents { tensors, mut packing } = header::read(file.bytes()).map_err(invalid)?;
        for tensor in tensors {
            let taken = packing.as_mut().and_then(|packing| packing.take(&tensor)).transpose();
            let header::Placed { name, shape, dtype, range } = tensor;
            let (shape, packed) = match taken.map_err(invalid)? {
                Some((shape, packed)) => (shape, Some(packed)),
                None => (shape, None),
            };
            let entry = TensorEntry { shape, dtype, packed, file: self.files.len(), range };
            if self.tensors.contains_key(&name) {
                return Err(invalid(format!("tensor `{name}` is in two files of the checkpoint")));
            }
            self.tensors.insert(name, entry);
        }
        if let Some(packing) = packing {
            let held = packing.held().map_err(invalid)?;
            packing.finish().map_err(invalid)?;
            if self.packing.replace(held).is_some_and(|other| other != held) {
                return Err(invalid(
                    "its weights are packed in another way than those of other files".into(),
                ));
            }
        }
        self.files.push(Source::Mapped(Arc::new(file)));
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
