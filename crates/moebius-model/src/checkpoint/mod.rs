//! Reads safetensors checkpoints, single or sharded, and GGUF files without copying them; or makes one up.
//!
//! The format: an 8-byte little-endian length, a JSON header of names, types, shapes and offsets, then the
//! data (github.com/huggingface/safetensors). A sharded checkpoint adds `model.safetensors.index.json`.
//!
//! Invariants: header sizes, offsets, shapes and their products are checked before anything is used; a
//! shard's name never leads out of the checkpoint's directory; opening reads headers only; a packed matrix keeps the
//! mapping of its file.

mod encoded;
mod gguf;
mod header;
mod index;
mod mmap;
mod packed;
mod part;
mod plain;
mod random;
mod rows;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use moebius_backend::{FileSpan, MappedPages, PanelBytes, WeightFormat, WeightView};
use safetensors::Dtype;

use crate::formats::HeldFormats;
use crate::{Error, Result};
use mmap::MappedFile;

pub use mmap::end_with_message;
use random::RandomFile;

pub(crate) use encoded::{Encoding, FP8_BLOCK, FP8_SCALES};
pub(crate) use gguf::{Described, Gguf, is_gguf, open as open_gguf};
pub use gguf::{GgufFile, GgufMetadata, GgufValue};
pub use packed::PACKING;
pub(crate) use packed::Packed;
pub(crate) use part::Part;
pub use plain::PlainFiles;
pub(crate) use plain::{Piece, PlainTensor, is_covered};
pub(crate) use write::{Asked, AskedPart, PackedFile};

/// An opened checkpoint directory, or random tensors.
pub(crate) struct Checkpoint {
    files: Vec<Source>,
    paths: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorEntry>,
    /// The choice behind its packed weights, if it has any.
    packing: Option<HeldFormats>,
    /// Tensors that scale another one, and which.
    companions: BTreeMap<String, String>,
    /// Rows and columns that share a scale where elements are in FP8.
    fp8_block: (usize, usize),
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
    /// How its elements are stored.
    pub(crate) encoding: Encoding,
    /// For each row where it stands in the file, if not in its place.
    order: Option<Arc<[u32]>>,
    /// Added to plain numbers when they are read.
    shift: f32,
    file: usize,
    range: Range<usize>,
}

impl TensorEntry {
    /// Bytes in the file.
    pub(crate) fn size_bytes(&self) -> usize {
        self.range.len()
    }

    /// The weight format of its elements, if they are packed, scaled or plain floats of a known size.
    pub(crate) fn format(&self) -> Option<WeightFormat> {
        match (&self.packed, &self.encoding, self.dtype) {
            (Some(packed), ..) => Some(packed.format),
            (None, Encoding::Mxfp4 { .. }, _) => Some(WeightFormat::Mxfp4),
            (None, Encoding::Blocks(format), _) => Some(*format),
            (None, Encoding::Foreign(foreign), _) => Some(foreign.home()),
            // Its pieces have formats.
            (None, Encoding::Joined(_), _) => None,
            // No format has eight bits and a scale for each square, so they are multiplied out.
            (None, Encoding::Fp8 { .. }, _) | (None, Encoding::Plain, Dtype::F32) => Some(WeightFormat::F32),
            (None, Encoding::Plain, Dtype::BF16) => Some(WeightFormat::Bf16),
            (None, Encoding::Plain, Dtype::F16) => Some(WeightFormat::F16),
            (None, Encoding::Plain, _) => None,
        }
    }

    /// What its elements are held in when nothing else is asked for. The kernels of [`WeightFormat::Mxfp4`] round
    /// activations, so elements of a checkpoint in that format are held in bf16, which has all of them.
    pub(crate) fn exact_format(&self) -> Option<WeightFormat> {
        match (&self.packed, &self.encoding) {
            (None, Encoding::Mxfp4 { .. } | Encoding::Blocks(WeightFormat::Mxfp4)) => {
                Some(WeightFormat::Bf16)
            }
            _ => self.format(),
        }
    }
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and reads the headers of its files. `fp8_block` are the rows and columns that
    /// share a scale where elements are in FP8.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no checkpoint, [`Error::InvalidFile`] when a file is cut short,
    /// damaged, or inconsistent with its index, [`Error::Tensors`] when scales are missing or misshapen.
    pub(crate) fn open(dir: &Path, fp8_block: (usize, usize)) -> Result<Self> {
        let shards = index::shards(dir)?;
        let mut checkpoint = Checkpoint::of(Vec::new(), BTreeMap::new());
        for path in &shards.files {
            checkpoint.add_file(path)?;
        }
        shards.check(|name| Some(&*shards.files[checkpoint.get(name)?.file]))?;
        checkpoint.paths = shards.files;
        checkpoint.link_scales(fp8_block)?;
        Ok(checkpoint)
    }

    fn of(files: Vec<Source>, tensors: BTreeMap<String, TensorEntry>) -> Self {
        let (paths, companions) = Default::default();
        Checkpoint { files, paths, tensors, packing: None, companions, fp8_block: (1, 1) }
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
            let (dtype, encoding) = (Dtype::BF16, Encoding::Plain);
            tensors.insert(
                name,
                TensorEntry { shape, dtype, packed: None, encoding, order: None, shift: 0.0, file: 0, range },
            );
        }
        Ok(Checkpoint::of(vec![Source::Random(file)], tensors))
    }

    /// The tensor called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// Whether it has a tensor, or parts of it that were packed by themselves.
    pub(crate) fn has(&self, name: &str) -> bool {
        let parts = packed::parts_of(name);
        let packed =
            || self.tensors.range(parts.clone()..).next().is_some_and(|(name, _)| name.starts_with(&parts));
        self.tensors.contains_key(name) || (self.packing.is_some() && packed())
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

    /// Bytes that a matrix of this shape takes in a tensor.
    pub(crate) fn stored_bytes(&self, name: &str, (rows, cols): (usize, usize)) -> usize {
        let entry = &self.tensors[name];
        let elements = entry.shape.iter().product::<usize>().max(1);
        (entry.size_bytes() as u128 * (rows * cols) as u128 / elements as u128) as usize
    }

    /// Whether two tensors have the same bytes. Leaves neither in memory.
    pub(crate) fn same_bytes(&self, a: &TensorEntry, b: &TensorEntry) -> bool {
        const PIECE_BYTES: usize = 1 << 20;
        if a.size_bytes() != b.size_bytes() {
            return false;
        }
        let piece = |entry: &TensorEntry, first: usize| {
            let start = entry.range.start + first;
            self.files[entry.file].read(start..entry.range.end.min(start + PIECE_BYTES))
        };
        (0..a.size_bytes()).step_by(PIECE_BYTES).all(|first| {
            let (x, y) = (piece(a, first), piece(b, first));
            let same = x == y;
            self.files[a.file].release(&x);
            self.files[b.file].release(&y);
            same
        })
    }

    /// The tensor that `name` belongs to: the one that it scales, or itself.
    pub(crate) fn owner<'n>(&'n self, name: &'n str) -> &'n str {
        self.companions.get(name).map_or(name, String::as_str)
    }

    /// A matrix of shape `(rows, cols)` out of a tensor. It comes in the format that the tensor is packed in, or as it is
    /// stored; where that is no format, in `held` or in plain floats. `None` when it does not lie in the tensor.
    pub(crate) fn matrix(
        &self,
        (name, part): (&str, Part),
        (rows, cols): (usize, usize),
        held: WeightFormat,
    ) -> Option<WeightView<'_>> {
        if let Some((name, entry)) = self.packed_part(name, part) {
            return self.packed_view(entry, &name, 0, (rows, cols));
        }
        let entry = self.get(name)?;
        if entry.packed.is_some() {
            return self.packed_view(entry, name, part.index((rows, cols))?, (rows, cols));
        }
        let (&all_cols, outer) = entry.shape.split_last()?;
        if !part.fits((rows, cols), (outer.iter().product(), all_cols)) {
            return None;
        }
        if let Encoding::Joined(_) = entry.encoding {
            let (piece, part) = self.piece(name, part)?;
            return self.matrix((piece, part), (rows, cols), held);
        }
        if let Some(order) = &entry.order {
            return self.reordered(entry, order, (name, part), (rows, cols));
        }
        let source = &self.files[entry.file];
        let span = part.span((rows, cols));
        let row_bytes = entry.size_bytes() / outer.iter().product::<usize>();
        let start = entry.range.start + span.start * row_bytes;
        let bytes = source.read(start..start + span.len() * row_bytes);
        let (format, gathered) = match (&entry.encoding, part) {
            (Encoding::Plain | Encoding::Blocks(_), Part::Rows { step: 1, .. }) => {
                let view = WeightView::new(name, entry.format()?, (rows, cols), bytes);
                return Some(match source {
                    Source::Mapped(file) => view.backed_by(&**file),
                    Source::Random(_) => view,
                });
            }
            (Encoding::Plain, _) => {
                let format = entry.format()?;
                (format, part.gather(&bytes, (rows, cols), all_cols, format.block_bytes()))
            }
            (Encoding::Fp8 { scales }, _) => {
                let part = (part, (rows, cols));
                (WeightFormat::F32, self.decode_fp8((&bytes, span), scales, part, all_cols)?)
            }
            (Encoding::Mxfp4 { scales }, Part::Rows { step, .. }) => {
                let format = if held == WeightFormat::Mxfp4 { held } else { WeightFormat::Bf16 };
                (format, self.decode_mxfp4((&bytes, span), scales, (step, (rows, cols)), format)?)
            }
            (Encoding::Blocks(format), Part::Rows { step, .. }) => {
                let rows = bytes.chunks_exact(row_bytes).step_by(step).collect::<Vec<_>>();
                (*format, rows.concat())
            }
            (Encoding::Foreign(foreign), Part::Rows { step, .. }) => {
                let mut rewritten = Vec::new();
                for row in bytes.chunks_exact(row_bytes).step_by(step) {
                    foreign.transcode(row, &mut rewritten).ok()?;
                }
                (foreign.home(), rewritten)
            }
            (Encoding::Blocks(_) | Encoding::Foreign(_) | Encoding::Mxfp4 { .. }, Part::Columns { .. })
            | (Encoding::Joined(_), _) => {
                return None;
            }
        };
        source.release(&bytes);
        Some(WeightView::new(name, format, (rows, cols), gathered))
    }

    /// The tensor that a part lies in, if its own is joined from others: its name, and the part of it.
    pub(crate) fn piece(&self, name: &str, part: Part) -> Option<(&str, Part)> {
        let Encoding::Joined(pieces) = &self.get(name)?.encoding else { return None };
        let Part::Rows { first: mut at, step } = part else { return None };
        for piece in pieces {
            let rows = *self.get(piece)?.shape.first()?;
            if at < rows {
                return Some((piece, Part::Rows { first: at, step }));
            }
            at -= rows;
        }
        None
    }

    /// A matrix of rows that stand in another order in the file.
    fn reordered(
        &self,
        entry: &TensorEntry,
        order: &[u32],
        (name, part): (&str, Part),
        (rows, cols): (usize, usize),
    ) -> Option<WeightView<'_>> {
        let Part::Rows { first, step } = part else { return None };
        let (format, all) = (entry.format()?, self.bytes(entry));
        let row_bytes = all.len() / order.len();
        let mut bytes = Vec::with_capacity(rows * row_bytes);
        for row in order.iter().skip(first).step_by(step).take(rows) {
            bytes.extend_from_slice(&all[*row as usize * row_bytes..][..row_bytes]);
        }
        self.files[entry.file].release(&all);
        if let Encoding::Foreign(foreign) = entry.encoding {
            let mut rewritten = Vec::new();
            foreign.transcode(&bytes, &mut rewritten).ok()?;
            bytes = rewritten;
        }
        Some(WeightView::new(name, format, (rows, cols), bytes))
    }

    /// The tensor that a part was packed into by itself, with its name, if it was.
    pub(crate) fn packed_part(&self, name: &str, part: Part) -> Option<(String, &TensorEntry)> {
        self.packing?;
        let name = packed::part_name(name, part);
        let entry = self.get(&name).filter(|entry| entry.packed.is_some())?;
        Some((name, entry))
    }

    fn packed_view(
        &self,
        entry: &TensorEntry,
        name: &str,
        index: usize,
        shape: (usize, usize),
    ) -> Option<WeightView<'_>> {
        let packed = entry.packed.as_ref().filter(|packed| packed.matrix == shape)?;
        let bytes = self.packed_matrix(entry, packed, index)?;
        Some(WeightView::in_panels(name, packed.format, shape, bytes))
    }

    /// The bytes of a packed matrix, which keep their file mapped.
    fn packed_matrix(&self, entry: &TensorEntry, packed: &Packed, index: usize) -> Option<PanelBytes> {
        let Source::Mapped(file) = &self.files[entry.file] else { return None };
        let start = entry.range.start + packed.stride()?.checked_mul(index)?;
        let end = start.checked_add(packed.matrix_bytes()?).filter(|&end| end <= entry.range.end)?;
        let span = FileSpan { file: file.file().clone(), offset: start as u64 };
        Some(PanelBytes { owner: file.clone(), range: start..end, file: Some(span) })
    }

    /// All elements of a tensor as f32; `None` when it is absent or not made of plain floats.
    pub(crate) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let elements = self.get(name)?.shape.iter().product();
        self.floats_in(name, 0..elements)
    }

    /// As [`Checkpoint::floats`], of some elements; `None` too when the tensor has not that many.
    pub(crate) fn floats_in(&self, name: &str, elements: Range<usize>) -> Option<Vec<f32>> {
        let entry = self.get(name).filter(|entry| entry.encoding == Encoding::Plain)?;
        if let Some(order) = &entry.order {
            let stored = Some(self.plain(entry, 0..order.len())?);
            return stored.map(|all| {
                order.iter().map(|&row| all[row as usize]).skip(elements.start).take(elements.len()).collect()
            });
        }
        self.plain(entry, elements)
    }

    /// Elements of plain floats in the order of the file.
    fn plain(&self, entry: &TensorEntry, elements: Range<usize>) -> Option<Vec<f32>> {
        let mut values = self.unshifted(entry, elements)?;
        if entry.shift != 0.0 {
            values.iter_mut().for_each(|value| *value += entry.shift);
        }
        Some(values)
    }

    /// Elements of plain floats as they stand in the file.
    fn unshifted(&self, entry: &TensorEntry, elements: Range<usize>) -> Option<Vec<f32>> {
        let size = entry.dtype.bitsize() / 8;
        let (start, end) = (elements.start.checked_mul(size)?, elements.end.checked_mul(size)?);
        if start > end || end > entry.size_bytes() {
            return None;
        }
        let bytes = self.files[entry.file].read(entry.range.start + start..entry.range.start + end);
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
            let (encoding, file) = (Encoding::Plain, self.files.len());
            let entry = TensorEntry { shape, dtype, packed, encoding, order: None, shift: 0.0, file, range };
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
