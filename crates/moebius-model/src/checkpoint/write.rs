//! Writes a packed checkpoint: one safetensors file, a matrix at a time.
//!
//! Packed tensors come first, each a whole number of 64 bytes, so that every one starts aligned; the header is filled
//! up with spaces to the same end. Tensors that are not packed follow as they are.
//!
//! Invariants: the header is complete before the first tensor, from shapes alone; no more than one matrix is in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::ControlFlow;

use moebius_backend::{Packer, WeightFormat};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;

use super::packed::{ALIGNMENT, KEY, Packed, Packing, part_name};
use super::part::Part;
use super::{Checkpoint, header};
use crate::formats::HeldFormats;
use crate::{Error, Result};

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// Plain numbers, as they are.
    Values,
    /// Matrices.
    Matrices(Vec<AskedPart>),
}

/// A matrix that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskedPart {
    /// Which of the tensor.
    pub(crate) part: Part,
    /// Rows and columns.
    pub(crate) matrix: (usize, usize),
    /// What it is held in.
    pub(crate) format: WeightFormat,
}

/// Told of bytes that were read; says whether to go on.
type Advance<'a> = &'a mut dyn FnMut(usize) -> ControlFlow<()>;

#[derive(Serialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// A packed tensor that is to be written.
struct PackedTensor<'a> {
    /// Its name in the file.
    name: Cow<'a, str>,
    /// Its shape, as the tensor's that it stands for.
    shape: Vec<usize>,
    /// The tensor that its matrices come from.
    source: &'a str,
    matrices: Vec<Part>,
    packed: Packed,
}

/// A file that is to be written.
pub(crate) struct PackedFile<'a> {
    checkpoint: &'a Checkpoint,
    packed: Vec<PackedTensor<'a>>,
    plain: Vec<&'a str>,
    held: HeldFormats,
}

impl<'a> PackedFile<'a> {
    /// The tensors `asked` of a checkpoint that has all of them; `held` is the choice that their formats come from.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        asked: &'a BTreeMap<String, Asked>,
        held: HeldFormats,
    ) -> Result<Self> {
        let mut file = PackedFile { checkpoint, packed: Vec::new(), plain: Vec::new(), held };
        for (name, asked) in asked {
            match asked {
                Asked::Values => file.plain.push(name),
                Asked::Matrices(parts) => file.pack(name, parts)?,
            }
        }
        Ok(file)
    }

    /// Packs a tensor whole if it consists of equal matrices, or else each part as a tensor of its own.
    fn pack(&mut self, source: &'a str, parts: &[AskedPart]) -> Result<()> {
        let shape = &self.checkpoint.tensors[source].shape;
        if let Some((packed, matrices)) = stack(shape, parts) {
            let (name, shape) = (Cow::Borrowed(source), shape.clone());
            self.packed.push(PackedTensor { name, shape, source, matrices, packed });
            return Ok(());
        }
        for &AskedPart { part, matrix, format } in parts {
            let shape = vec![matrix.0, matrix.1];
            let packed = Packed::new(format, &shape, 1).ok_or_else(too_large)?;
            let name = Cow::Owned(part_name(source, part));
            self.packed.push(PackedTensor { name, shape, source, matrices: vec![part], packed });
        }
        Ok(())
    }

    /// Bytes of the checkpoint that will be read.
    pub(crate) fn source_bytes(&self) -> u64 {
        let sources: BTreeSet<&str> = self.packed.iter().map(|tensor| tensor.source).collect();
        let names = sources.into_iter().chain(self.plain.iter().copied());
        names.map(|name| self.checkpoint.tensors[name].size_bytes() as u64).sum()
    }

    /// Bytes of the file that will be written.
    pub(crate) fn size_bytes(&self) -> Result<u64> {
        let packed = self.packed.iter().map(|tensor| tensor.packed.size_bytes().unwrap_or(usize::MAX) as u64);
        let plain = self.plain.iter().map(|name| self.checkpoint.tensors[*name].size_bytes() as u64);
        Ok(packed.chain(plain).fold(self.header()?.len() as u64, u64::saturating_add))
    }

    /// Writes the file. Stops without an error when `advance` says so; what is written then is no file.
    pub(crate) fn write(
        &self,
        packer: &dyn Packer,
        out: &mut dyn Write,
        advance: Advance<'_>,
    ) -> Result<ControlFlow<()>> {
        out.write_all(&self.header()?).map_err(Error::Output)?;
        for PackedTensor { source, matrices, packed, .. } in &self.packed {
            for &part in matrices {
                let view = self.checkpoint.matrix((source, part), packed.matrix, packed.format);
                let view = view.expect("a plan has found the tensor whole");
                let bytes = packer.pack(&view, packed.format)?;
                out.write_all(&bytes).map_err(Error::Output)?;
                let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
                out.write_all(&[0; ALIGNMENT][..padding]).map_err(Error::Output)?;
                if advance(self.checkpoint.stored_bytes(source, packed.matrix)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        for name in &self.plain {
            let bytes = self.checkpoint.bytes(&self.checkpoint.tensors[*name]);
            out.write_all(&bytes).map_err(Error::Output)?;
            if advance(bytes.len()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The length and the header, filled up so that tensors start aligned.
    fn header(&self) -> Result<Vec<u8>> {
        let mut packing = Packing::new(self.held);
        let (mut tensors, mut start) = (BTreeMap::new(), 0usize);
        let mut place = |name: &str, dtype, shape, bytes: Option<usize>| {
            let end = bytes.and_then(|bytes| start.checked_add(bytes)).ok_or_else(too_large)?;
            tensors.insert(name.to_owned(), TensorInfo { dtype, shape, data_offsets: (start, end) });
            start = end;
            Ok::<_, Error>(())
        };
        for PackedTensor { name, shape, packed, .. } in &self.packed {
            let bytes = packed.size_bytes();
            packing.insert(name, shape.clone(), packed);
            place(name, Dtype::U8, bytes.into_iter().collect(), bytes)?;
        }
        for name in &self.plain {
            let entry = &self.checkpoint.tensors[*name];
            place(name, entry.dtype, entry.shape.clone(), Some(entry.size_bytes()))?;
        }
        let header = Header { metadata: [(KEY, packing.text())].into(), tensors };
        let mut json = serde_json::to_vec(&header).expect("plain data can be written");
        let end = (header::LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT);
        json.resize(end - header::LENGTH_BYTES, b' ');
        if json.len() as u64 > header::HEADER_LIMIT_BYTES {
            return Err(too_large());
        }
        Ok([&(json.len() as u64).to_le_bytes(), json.as_slice()].concat())
    }
}

/// The matrices of a tensor in their order, if the parts that were asked for are equal and are all there is.
fn stack(shape: &[usize], parts: &[AskedPart]) -> Option<(Packed, Vec<Part>)> {
    let &AskedPart { matrix, format, .. } = parts.first()?;
    let mut of_index = BTreeMap::new();
    for asked in parts {
        if (asked.matrix, asked.format) != (matrix, format) {
            return None;
        }
        of_index.insert(asked.part.index(matrix)?, asked.part);
    }
    let rows: usize = shape.iter().rev().skip(1).product();
    let packed = Packed::new(format, shape, rows.checked_div(matrix.0)?).filter(|p| p.matrix == matrix)?;
    let whole = of_index.len() == packed.matrices && of_index.keys().copied().eq(0..packed.matrices);
    whole.then(|| (packed, of_index.into_values().collect()))
}

fn too_large() -> Error {
    Error::Output(io::Error::new(io::ErrorKind::FileTooLarge, "the model is too large for one file"))
}
