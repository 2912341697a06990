//! Tensors whose matrices lie in a file as the kernels hold them, in panels of sixteen rows.
//!
//! Such a file is a safetensors file with the names of its source. A packed tensor is a run of bytes: its matrices one
//! after another, each from a multiple of 64 bytes on. What they are is said by the text `moebius` of the header's
//! metadata, a JSON object: `version` 1, `layout` "panels16", `held` (the `--format` behind it, or null), and for each
//! packed tensor its `format`, its `shape` in the source and the number of `matrices` that its rows divide into.
//!
//! Invariants: everything that the text says is compared with the bytes that are there before it is used.

use std::collections::BTreeMap;

use moebius_backend::WeightFormat;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::header::Placed;
use super::part::Part;
use crate::formats::HeldFormats;

/// The key of the text in the header's metadata.
pub(super) const KEY: &str = "moebius";
/// What a matrix starts at a multiple of: every unit of every format may start there.
pub(super) const ALIGNMENT: usize = 64;

const VERSION: u64 = 1;
const LAYOUT: &str = "panels16";
/// The layout and the version of packed files, as one word: a file with another one is not read.
pub const PACKING: &str = "panels16-1";

/// The name of a tensor that holds one part of another one, where its parts are not equal matrices in their order.
pub(super) fn part_name(name: &str, part: Part) -> String {
    format!("{}{part}", parts_of(name))
}

/// How the names of all parts of a tensor begin.
pub(super) fn parts_of(name: &str) -> String {
    format!("{name}: ")
}

/// The matrices of a packed tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// What they are held in.
    pub(crate) format: WeightFormat,
    /// Rows and columns of each.
    pub(crate) matrix: (usize, usize),
    /// How many there are.
    pub(crate) matrices: usize,
}

impl Packed {
    /// Matrices of `matrix` that fill a tensor of `shape`; `None` if they cannot.
    pub(super) fn new(format: WeightFormat, shape: &[usize], matrices: usize) -> Option<Self> {
        let (&cols, outer) = shape.split_last()?;
        let rows = outer.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
        let fits = matrices > 0 && rows > 0 && cols > 0 && rows.is_multiple_of(matrices);
        let packed = Packed { format, matrix: (rows.checked_div(matrices)?, cols), matrices };
        packed.size_bytes().filter(|_| fits)?;
        Some(packed)
    }

    /// Bytes of one matrix, without what follows up to the next.
    pub(super) fn matrix_bytes(&self) -> Option<usize> {
        self.format.packed_bytes_for(self.matrix.0, self.matrix.1)
    }

    /// Bytes from one matrix to the next.
    pub(super) fn stride(&self) -> Option<usize> {
        self.matrix_bytes()?.checked_next_multiple_of(ALIGNMENT)
    }

    /// Bytes of all.
    pub(super) fn size_bytes(&self) -> Option<usize> {
        self.stride()?.checked_mul(self.matrices)
    }
}

/// What the text says.
#[derive(Serialize, Deserialize)]
pub(super) struct Packing {
    version: u64,
    layout: String,
    held: Option<String>,
    tensors: BTreeMap<String, Entry>,
}

/// What the text says of a tensor.
#[derive(Serialize, Deserialize)]
struct Entry {
    format: String,
    shape: Vec<usize>,
    matrices: usize,
}

impl Packing {
    /// A text that names no tensor yet.
    pub(super) fn new(held: HeldFormats) -> Self {
        let held = (held != HeldFormats::AsStored).then(|| held.to_string());
        Packing { version: VERSION, layout: LAYOUT.into(), held, tensors: BTreeMap::new() }
    }

    /// Names a tensor.
    pub(super) fn insert(&mut self, name: &str, shape: Vec<usize>, packed: &Packed) {
        let entry = Entry { format: packed.format.to_string(), shape, matrices: packed.matrices };
        self.tensors.insert(name.into(), entry);
    }

    /// The text.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data can be written")
    }

    /// Reads the text; or what is wrong, with expected and got.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let wrong = |error| format!("the packing cannot be read: {error}");
        // On its own first: another version may have other fields.
        let Versioned { version } = serde_json::from_str(text).map_err(wrong)?;
        if version != VERSION {
            return Err(format!("the packing: expected version {VERSION}, got {version}"));
        }
        let packing: Packing = serde_json::from_str(text).map_err(wrong)?;
        if packing.layout != LAYOUT {
            return Err(format!("the packing: expected layout `{LAYOUT}`, got `{}`", packing.layout));
        }
        Ok(packing)
    }

    /// The choice that weights were packed with.
    pub(super) fn held(&self) -> Result<HeldFormats, String> {
        let Some(name) = &self.held else { return Ok(HeldFormats::AsStored) };
        name.parse().map_err(|error| format!("the packing: {error}"))
    }

    /// Takes out what is said of a tensor: its shape and its matrices. `None` if nothing is.
    pub(super) fn take(&mut self, tensor: &Placed) -> Option<Result<(Vec<usize>, Packed), String>> {
        let Entry { format, shape, matrices } = self.tensors.remove(&tensor.name)?;
        let wrong = |what: String| Err(format!("packed tensor `{}`: {what}", tensor.name));
        let Ok(format) = format.parse::<WeightFormat>() else {
            return Some(wrong(format!("unknown weight format `{format}`")));
        };
        let Some(packed) = Packed::new(format, &shape, matrices) else {
            return Some(wrong(format!("expected {matrices} matrices in {format}, got shape {shape:?}")));
        };
        let (expected, got) = (packed.size_bytes(), tensor.range.len());
        if tensor.dtype != Dtype::U8 || expected != Some(got) {
            let expected = expected.unwrap_or(usize::MAX);
            return Some(wrong(format!("expected {expected} bytes of U8, got {got} of {}", tensor.dtype)));
        }
        if !tensor.range.start.is_multiple_of(ALIGNMENT) {
            let start = tensor.range.start;
            return Some(wrong(format!(
                "expected it to start at a multiple of {ALIGNMENT}, got byte {start}"
            )));
        }
        Some(Ok((shape, packed)))
    }

    /// Fails if it names tensors that were not taken out.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("packed tensor `{name}`: expected it in the file, got none")),
        }
    }
}
