//! Writes a checkpoint as other programs read it: safetensors files of plain numbers, cut by size.
//!
//! One file is `model.safetensors`; several are `model-00001-of-00003.safetensors` and so on, beside
//! `model.safetensors.index.json`.
//!
//! Invariants: headers are complete before the first tensor, from shapes alone; of a tensor that is put together no more
//! than the rows that belong together are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::{ControlFlow, Range};

use moebius_backend::WeightFormat;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;
use serde_json::json;

use super::rows::{Rows, Sink, encode, finite};
use super::{Checkpoint, Encoding, FP8_SCALES, Part, header};
use crate::Result;
use crate::layout::{Stored, StoredValues};

/// What headers are filled up to a multiple of.
const ALIGNMENT: usize = 8;

/// A part of a tensor, and where in a checkpoint it comes from.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// A matrix of this many rows and columns.
    Matrix {
        /// Where it is.
        from: Stored,
        /// Where it goes.
        to: Part,
        /// Its rows and columns.
        matrix: (usize, usize),
    },
    /// As many numbers as both have.
    Values {
        /// Where they are.
        from: StoredValues,
        /// Where they go.
        to: StoredValues,
        /// How many there are.
        len: usize,
    },
    /// All bytes of a tensor whose elements are no floats.
    Bytes(String),
}

/// A tensor that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct PlainTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// What it consists of.
    pub(crate) pieces: Vec<Piece>,
}

#[derive(Serialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'static str, &'static str>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// The files of a checkpoint that is to be written.
pub struct PlainFiles<'a> {
    checkpoint: &'a Checkpoint,
    tensors: Vec<PlainTensor>,
    format: WeightFormat,
    /// The tensors of each file.
    files: Vec<Range<usize>>,
}

impl<'a> PlainFiles<'a> {
    /// Files of at most `file_bytes` with `tensors`, or one tensor more, in a format of plain numbers.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        tensors: Vec<PlainTensor>,
        format: WeightFormat,
        file_bytes: u64,
    ) -> Self {
        let mut plain = PlainFiles { checkpoint, tensors, format, files: Vec::new() };
        let (mut start, mut bytes) = (0, 0u64);
        for (index, tensor) in plain.tensors.iter().enumerate() {
            let more = plain.tensor_bytes(tensor);
            if index > start && bytes.saturating_add(more) > file_bytes {
                plain.files.push(start..index);
                (start, bytes) = (index, 0);
            }
            bytes = bytes.saturating_add(more);
        }
        plain.files.push(start..plain.tensors.len());
        plain
    }

    /// The tensors of a checkpoint as they are, in the names and shapes that they have.
    pub(crate) fn tensors_of(checkpoint: &Checkpoint) -> Vec<PlainTensor> {
        // Scales that no tensor has are of no more use than those that were multiplied in.
        let scales = |name: &&str| name.ends_with(FP8_SCALES);
        let tensor = |name: &str| {
            let entry = &checkpoint.tensors[name];
            let shape = entry.shape.clone();
            let piece = match (shape.split_last(), entry.format()) {
                (Some((&cols, outer)), Some(_)) => {
                    let matrix = (outer.iter().product(), cols);
                    let from = Stored { name: name.into(), shape: shape.clone(), part: Part::WHOLE };
                    Piece::Matrix { from, to: Part::WHOLE, matrix }
                }
                (None, Some(_)) => {
                    let whole = || StoredValues { name: name.into(), shape: Vec::new(), first: 0, step: 1 };
                    Piece::Values { from: whole(), to: whole(), len: 1 }
                }
                _ => Piece::Bytes(name.into()),
            };
            PlainTensor { name: name.into(), shape, pieces: vec![piece] }
        };
        checkpoint.names().filter(|name| !scales(name)).map(tensor).collect()
    }

    /// Bytes of the checkpoint that will be read.
    pub fn source_bytes(&self) -> u64 {
        let sources: BTreeSet<&str> =
            self.tensors.iter().flat_map(|tensor| &tensor.pieces).map(Piece::source).collect();
        sources.into_iter().filter_map(|name| self.checkpoint.get(name)).map(|e| e.size_bytes() as u64).sum()
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        let sizes = (0..self.files.len()).map(|file| self.file_bytes(file));
        sizes.fold(0, u64::saturating_add)
    }

    /// How the files are called, in their order.
    pub fn names(&self) -> Vec<String> {
        let count = self.files.len();
        let name = |number| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        (1..=count).map(name).collect()
    }

    /// The text of `model.safetensors.index.json`, if there is more than one file.
    pub fn index(&self) -> Option<String> {
        if self.files.len() == 1 {
            return None;
        }
        let names = self.names();
        let of_file = |(tensors, name): (&Range<usize>, &String)| {
            let names = self.tensors[tensors.clone()].iter().map(|tensor| tensor.name.clone());
            names.map(|tensor| (tensor, name.clone().into())).collect::<Vec<_>>()
        };
        let map: serde_json::Map<_, _> = self.files.iter().zip(&names).flat_map(of_file).collect();
        let total = self.tensors.iter().map(|tensor| self.tensor_bytes(tensor)).fold(0, u64::saturating_add);
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        Some(serde_json::to_string_pretty(&index).expect("plain data can be written"))
    }

    /// Bytes of file number `file`.
    pub fn file_bytes(&self, file: usize) -> u64 {
        let tensors = self.tensors[self.files[file].clone()].iter().map(|tensor| self.tensor_bytes(tensor));
        tensors.fold(self.header(file).len() as u64, u64::saturating_add)
    }

    /// What file number `file` begins with: the header, and its length in front of it.
    pub fn header(&self, file: usize) -> Vec<u8> {
        let (mut tensors, mut start) = (BTreeMap::new(), 0usize);
        for tensor in &self.tensors[self.files[file].clone()] {
            let end = start.saturating_add(self.tensor_bytes(tensor) as usize);
            let (dtype, shape) = (self.dtype(tensor), tensor.shape.clone());
            tensors.insert(tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) });
            start = end;
        }
        // Readers in Python want to know whose layout it is.
        let header = Header { metadata: [("format", "pt")].into(), tensors };
        let mut json = serde_json::to_vec(&header).expect("plain data can be written");
        json.resize(
            (header::LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT) - header::LENGTH_BYTES,
            b' ',
        );
        [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()
    }

    /// Writes what follows the header of file number `file`, rounded by `threads` threads. `advance` is told how many
    /// bytes were read since it was last told; says to stop without an error, and what was written then is no file.
    ///
    /// # Errors
    /// [`crate::Error::Output`] when `out` refuses; a weight that is a NaN or an infinity, or beyond the format.
    pub fn write_weights(
        &self,
        file: usize,
        out: &mut dyn Write,
        threads: usize,
        advance: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        for tensor in &self.tensors[self.files[file].clone()] {
            let mut sink = Sink { out: &mut *out, bytes: 0 };
            for group in together(tensor) {
                if self.write_group(tensor, &group, (&mut sink, threads), advance)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            debug_assert_eq!(sink.bytes, self.tensor_bytes(tensor), "{}", tensor.name);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes the pieces of a run of rows.
    fn write_group(
        &self,
        tensor: &PlainTensor,
        Group { rows, pieces }: &Group<'_>,
        (sink, threads): (&mut Sink<'_>, usize),
        advance: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let size = self.format.block_bytes();
        let cols = tensor.shape.last().copied().unwrap_or(1);
        // A piece that is the whole run needs no place of its own.
        let alone = |piece: &Piece| matches!(piece, Piece::Matrix { to: Part::Rows { step: 1, .. }, .. });
        let mut joined = match pieces[..] {
            [piece] if alone(piece) => None,
            _ => Some(vec![0; rows.len() * cols * size]),
        };
        for piece in pieces {
            let read = match piece {
                Piece::Bytes(name) => {
                    let bytes = self.checkpoint.bytes(&self.checkpoint.tensors[name]);
                    joined = None;
                    sink.write(&bytes)?;
                    bytes.len()
                }
                Piece::Matrix { from, to, matrix } => {
                    let view = self.checkpoint.matrix((&from.name, from.part), *matrix, self.format);
                    let view = view.expect("a plan has found the tensor whole");
                    let source = Rows { view: &view, format: self.format, order: None, columns: None };
                    match &mut joined {
                        None => source.write(sink, threads)?,
                        Some(joined) => {
                            let mut bytes = Vec::with_capacity(matrix.0 * matrix.1 * size);
                            source.write(&mut Sink { out: &mut bytes, bytes: 0 }, threads)?;
                            let span = to.span(*matrix).start - rows.start;
                            to.scatter(&bytes, *matrix, &mut joined[span * cols * size..], (cols, size));
                        }
                    }
                    view.release(&view.bytes);
                    self.checkpoint.stored_bytes(&from.name, *matrix)
                }
                Piece::Values { from, to, len } => {
                    let elements = from.first..from.first + (len - 1) * from.step + 1;
                    let values = self.checkpoint.floats_in(&from.name, elements);
                    let values = values.expect("a plan has found the tensor whole");
                    finite(&from.name, &values)?;
                    let values: Vec<f32> = values.into_iter().step_by(from.step).collect();
                    let mut bytes = vec![0; len * size];
                    encode(&from.name, &values, self.format, &mut bytes)?;
                    let joined = joined.as_mut().expect("numbers are put into their places");
                    let first = to.first - rows.start * cols;
                    for (index, value) in bytes.chunks_exact(size).enumerate() {
                        joined[(first + index * to.step) * size..][..size].copy_from_slice(value);
                    }
                    len * size_of::<f32>()
                }
            };
            if advance(read as u64).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        joined.map_or(Ok(()), |joined| sink.write(&joined))?;
        Ok(ControlFlow::Continue(()))
    }

    fn tensor_bytes(&self, tensor: &PlainTensor) -> u64 {
        if let [Piece::Bytes(name)] = &tensor.pieces[..] {
            return self.checkpoint.tensors[name].size_bytes() as u64;
        }
        let elements = tensor.shape.iter().fold(1u64, |product, &n| product.saturating_mul(n as u64));
        elements.saturating_mul(self.format.block_bytes() as u64)
    }

    fn dtype(&self, tensor: &PlainTensor) -> Dtype {
        match (&tensor.pieces[..], self.format) {
            ([Piece::Bytes(name)], _) => self.checkpoint.tensors[name].dtype,
            (_, WeightFormat::Bf16) => Dtype::BF16,
            (_, WeightFormat::F16) => Dtype::F16,
            _ => Dtype::F32,
        }
    }
}

impl Piece {
    fn source(&self) -> &str {
        match self {
            Piece::Matrix { from, .. } => &from.name,
            Piece::Values { from, .. } => &from.name,
            Piece::Bytes(name) => name,
        }
    }

    /// The rows of its tensor that it touches.
    fn rows(&self, cols: usize) -> Range<usize> {
        match self {
            Piece::Matrix { to, matrix, .. } => to.span(*matrix),
            Piece::Values { to, len, .. } => {
                to.first / cols..(to.first + len.saturating_sub(1) * to.step) / cols + 1
            }
            Piece::Bytes(_) => 0..0,
        }
    }
}

/// Pieces that share rows of a tensor.
struct Group<'t> {
    rows: Range<usize>,
    pieces: Vec<&'t Piece>,
}

/// The pieces of a tensor in runs of rows, in their order.
fn together(tensor: &PlainTensor) -> Vec<Group<'_>> {
    let cols = tensor.shape.last().copied().unwrap_or(1).max(1);
    let mut pieces: Vec<_> = tensor.pieces.iter().map(|piece| (piece.rows(cols), piece)).collect();
    pieces.sort_by_key(|(rows, _)| rows.start);
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (rows, piece) in pieces {
        match groups.last_mut().filter(|group| rows.start < group.rows.end) {
            Some(group) => {
                group.rows.end = group.rows.end.max(rows.end);
                group.pieces.push(piece);
            }
            None => groups.push(Group { rows, pieces: vec![piece] }),
        }
    }
    groups
}

/// Whether the pieces of a tensor leave no row of it out.
pub(crate) fn is_covered(tensor: &PlainTensor) -> bool {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let elements: usize = tensor.shape.iter().product();
    let size = |piece: &Piece| match piece {
        Piece::Matrix { matrix, .. } => matrix.0 * matrix.1,
        Piece::Values { len, .. } => *len,
        Piece::Bytes(_) => elements,
    };
    let groups = together(tensor);
    let full = |group: &Group<'_>| {
        group.pieces.iter().map(|piece| size(piece)).sum::<usize>() == group.rows.len() * cols
    };
    let whole = groups.iter().map(|group| group.rows.len() * cols).sum::<usize>() == elements;
    matches!(&tensor.pieces[..], [Piece::Bytes(_)]) || (whole && groups.iter().all(full))
}

impl Checkpoint {
    /// Whether every tensor is one of floats in its own shape, scaled or not, or of no floats at all: as it is in files
    /// that are not a format's own.
    pub(crate) fn is_in_place(&self) -> bool {
        let in_place = |encoding: &Encoding| matches!(encoding, Encoding::Plain | Encoding::Fp8 { .. });
        self.tensors.values().all(|entry| in_place(&entry.encoding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(parts: &[(Part, (usize, usize))], shape: &[usize]) -> PlainTensor {
        let piece = |&(to, matrix): &(Part, (usize, usize))| {
            let from = Stored { name: "x".into(), shape: vec![matrix.0, matrix.1], part: Part::WHOLE };
            Piece::Matrix { from, to, matrix }
        };
        PlainTensor { name: "t".into(), shape: shape.to_vec(), pieces: parts.iter().map(piece).collect() }
    }

    #[test]
    fn pieces_that_share_rows_are_written_together() {
        // Two experts, gate and up in turns, transposed.
        let part = |expert: usize, first| (Part::Columns { from_row: expert * 3, first, step: 2 }, (4, 3));
        let parts = [part(0, 0), part(1, 0), part(0, 1), part(1, 1)];
        let whole = tensor(&parts, &[2, 3, 8]);
        let runs: Vec<_> =
            together(&whole).iter().map(|group| (group.rows.clone(), group.pieces.len())).collect();
        assert_eq!(runs, [(0..3, 2), (3..6, 2)]);
        assert!(is_covered(&whole));
        assert!(!is_covered(&tensor(&parts[..3], &[2, 3, 8])));
        assert!(!is_covered(&tensor(&parts, &[3, 3, 8])));
    }
}
