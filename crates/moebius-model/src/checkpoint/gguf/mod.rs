//! Reads GGUF files, single or split, without copying them.
//!
//! A file says what its model is in key-value pairs and holds tensors under names of its own. Opening one gives what a
//! directory of Hugging Face files would: the keys of a config.json, and a checkpoint under the names that a family asks
//! for. Block formats are those of the kernels, so a matrix is a view of the mapping; only where rows stand in another
//! order are they put together one matrix at a time. Experts stay stacked, under the names of the file.
//!
//! Invariants: everything in a header is checked before it is used; of a split file all parts are there and agree.

mod arch;
mod header;
mod metadata;
mod split;
mod types;
mod value;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use moebius_backend::WeightFormat;
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::mmap::MappedFile;
use super::{Checkpoint, Encoding, Source, TensorEntry};
use crate::{Error, Result};
use arch::Arch;
use header::Tensor;
pub use metadata::GgufMetadata;
use types::{Reading, TensorType};
pub use value::GgufValue;
pub(crate) use write::Described;
pub use write::GgufFile;

/// A GGUF file that was opened.
pub(crate) struct Gguf {
    /// What it says.
    pub(crate) metadata: GgufMetadata,
    /// The config.json that it stands for.
    pub(crate) config: Map<String, Value>,
    /// Its tensors.
    pub(crate) checkpoint: Checkpoint,
}

/// Whether a path is that of a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let begins = || {
        let mut mark = [0; 4];
        let file = std::fs::File::open(path);
        file.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut mark)).is_ok()
            && mark == *header::MAGIC
    };
    path.is_file() && (named || begins())
}

/// Opens a file; of a split one, any part.
///
/// # Errors
/// [`Error::NotFound`] for a part that is missing, [`Error::InvalidFile`] for a file that is cut short, damaged, of an
/// architecture that no family reads, or with elements of a type that is not read.
pub(crate) fn open(path: &Path) -> Result<Gguf> {
    let parts = split::parts(path)?;
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
    let mut metadata = None;
    for (number, path) in parts.paths.iter().enumerate() {
        let file = Arc::new(MappedFile::open(path)?);
        let invalid = |reason| Error::InvalidFile { path: path.clone(), reason };
        let header = header::read(file.clone(), path).map_err(invalid)?;
        parts.check(number, &header.metadata, metadata.as_ref())?;
        for (name, tensor) in header.tensors {
            if tensors.contains_key(&name) {
                return Err(invalid(format!("tensor `{name}` is in two parts of the file")));
            }
            tensors.insert(name, (number, tensor));
        }
        metadata.get_or_insert(header.metadata);
        files.push(file);
    }
    let metadata = metadata.expect("a file has a part");
    parts.check_tensors(&metadata, tensors.len())?;
    let values = |name: &str| {
        let (file, tensor) = tensors.get(name)?;
        plain(&files[*file].bytes()[tensor.range.clone()], tensor.kind)
    };
    let (arch, config) = configure(&metadata, &tensors, &values)?;
    let entries = entries(arch, &config, &metadata, tensors)?;
    let files = files.into_iter().map(Source::Mapped).collect();
    let mut checkpoint = Checkpoint::of(files, entries);
    checkpoint.paths = parts.paths;
    checkpoint.join(arch);
    Ok(Gguf { metadata, config, checkpoint })
}

/// Tensors by name, with the file that each is in.
type Tensors = BTreeMap<String, (usize, Tensor)>;

/// The architecture, and the configuration that the file stands for.
fn configure(
    metadata: &GgufMetadata,
    tensors: &Tensors,
    values: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<(&'static Arch, Map<String, Value>)> {
    const ARCHITECTURE: &str = "general.architecture";
    let name = metadata.text(ARCHITECTURE)?;
    let name = name.ok_or_else(|| metadata.invalid(format!("metadata `{ARCHITECTURE}` is missing")))?;
    let arch = arch::find(metadata, name)?;
    let shape = |name: &str| Some(tensors.get(name)?.1.shape.clone());
    let source = arch::Source { metadata, arch: name, shape: &shape, values };
    Ok((arch, arch::config(arch, &source)?))
}

/// Numbers in f32; `None` for another type. Such tables are small.
fn plain(bytes: &[u8], kind: TensorType) -> Option<Vec<f32>> {
    let is_f32 = kind == TensorType::F32;
    is_f32.then(|| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// The tensors under the names that a family asks for; others keep theirs.
fn entries(
    arch: &Arch,
    config: &Map<String, Value>,
    metadata: &GgufMetadata,
    tensors: Tensors,
) -> Result<BTreeMap<String, TensorEntry>> {
    let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    let n_layers = size("num_hidden_layers");
    let mut orders: BTreeMap<(usize, usize), Arc<[u32]>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    // Tables of factors on rotations are part of what a file says.
    let is_table = |name: &str| {
        arch.tables
            && matches!(
                name.split('.').next(),
                Some("rope_freqs" | "rope_factors_long" | "rope_factors_short")
            )
    };
    for (name, (file, tensor)) in tensors.into_iter().filter(|(name, _)| !is_table(name)) {
        let Tensor { shape, kind, range } = tensor;
        let Some(reading) = kind.reading() else {
            let read = (0..64).filter_map(TensorType::of).filter(|kind| kind.reading().is_some());
            let read = read.map(TensorType::name).collect::<Vec<_>>().join(", ");
            let kind = kind.name();
            return Err(metadata.invalid(format!("tensor `{name}`: expected {read}, got {kind}")));
        };
        let heads = match name.split('.').nth(2) {
            Some("attn_q") if arch.paired => size("num_attention_heads"),
            Some("attn_k") if arch.paired => size("num_key_value_heads"),
            _ => 0,
        };
        let rows = shape.iter().rev().skip(1).product::<usize>() * usize::from(shape.len() > 1)
            + shape[0] * usize::from(shape.len() == 1);
        let order = match rows.checked_div(heads) {
            Some(head) if head % 2 == 0 && head * heads == rows => {
                let order = orders.entry((heads, head)).or_insert_with(|| halves(heads, head));
                Some(order.clone())
            }
            _ => None,
        };
        let (dtype, encoding) = match reading {
            Reading::Own(WeightFormat::F32) => (Dtype::F32, Encoding::Plain),
            Reading::Own(WeightFormat::F16) => (Dtype::F16, Encoding::Plain),
            Reading::Own(WeightFormat::Bf16) => (Dtype::BF16, Encoding::Plain),
            Reading::Own(blocks) => (Dtype::U8, Encoding::Blocks(blocks)),
            Reading::Rewritten(foreign) => (Dtype::U8, Encoding::Foreign(foreign)),
        };
        let plus_one =
            arch.norms_plus_one && name.ends_with("norm.weight") && !name.ends_with("ssm_norm.weight");
        let shift = if plus_one { -1.0 } else { 0.0 };
        let ours = ours(arch, &name, n_layers);
        let shape = reshaped(&ours, shape);
        let entry = TensorEntry { shape, dtype, packed: None, encoding, order, shift, file, range };
        if entries.contains_key(&ours) {
            return Err(metadata.invalid(format!("tensor `{name}`: another one is also `{ours}`")));
        }
        entries.insert(ours, entry);
    }
    Ok(entries)
}

/// The name that a family asks for. Of layers that predict further tokens, which no family asks for, the layer is told in
/// the same words.
fn ours(arch: &Arch, name: &str, n_layers: usize) -> String {
    if let Some(ours) = arch::translate(arch, name) {
        return ours;
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match layer.and_then(|(layer, rest)| Some((layer.parse::<usize>().ok()?, rest))) {
        Some((layer, rest)) if layer >= n_layers => format!("model.layers.{layer}.{rest}"),
        _ => name.to_owned(),
    }
}

/// The shape that Hugging Face gives a tensor: with a side of length one where GGUF has none, and without where it has.
fn reshaped(name: &str, shape: Vec<usize>) -> Vec<usize> {
    let ends = |ending: &str| name.ends_with(ending);
    match shape[..] {
        [n] if ends("shared_expert_gate.weight") || ends("moe_statics.e_score_correction_bias") => vec![1, n],
        [rows, cols] if ends("conv.conv.weight") || ends("conv1d.weight") => vec![rows, 1, cols],
        [n, 1] if ends(".A") || ends(".D") => vec![n],
        [groups, n] if ends("mamba.norm.weight") || ends("mixer.norm.weight") => vec![groups * n],
        _ => shape,
    }
}

/// Where in a file each row of queries or keys lies: first halves of a head, then second ones, out of pairs.
fn halves(heads: usize, head: usize) -> Arc<[u32]> {
    let row = |row: usize| {
        let (within, first) = (row % head, row - row % head);
        (first + within % (head / 2) * 2 + within / (head / 2)) as u32
    };
    (0..heads * head).map(row).collect()
}

impl Checkpoint {
    /// Joins what a family asks for in one tensor and files have in several.
    fn join(&mut self, arch: &Arch) {
        for (whole, pieces) in arch.joined {
            let first = format!(".{}.", pieces[0]);
            let first = arch::translate(arch, &format!("blk.0{first}weight"));
            let ending =
                first.as_deref().and_then(|name| arch::in_layer(arch, name)).map(|(_, rest)| rest.to_owned());
            let Some(ending) = ending else { continue };
            let layers: Vec<u16> = (self.tensors.keys())
                .filter_map(|name| arch::in_layer(arch, name).filter(|(_, rest)| *rest == ending))
                .map(|(layer, _)| layer)
                .collect();
            for (layer, kind) in layers.into_iter().flat_map(|layer| [(layer, "weight"), (layer, "bias")]) {
                let ours = |piece: &&str| arch::translate(arch, &format!("blk.{layer}.{piece}.{kind}"));
                if let Some(pieces) = pieces.iter().map(ours).collect() {
                    self.join_rows(format!("{}.{layer}.{whole}.{kind}", arch.layers), pieces);
                }
            }
        }
    }

    /// A tensor of the rows of others, one after another; none where one of them is missing or of another width.
    fn join_rows(&mut self, name: String, pieces: Vec<String>) {
        let entries: Option<Vec<_>> = pieces.iter().map(|piece| self.tensors.get(piece)).collect();
        let Some(entries) = entries else { return };
        let (mut rows, mut bytes) = (0, 0);
        for entry in &entries {
            let &[more, cols] = entry.shape.as_slice() else { return };
            if entries[0].shape.get(1) != Some(&cols) {
                return;
            }
            rows += more;
            bytes += entry.size_bytes();
        }
        let shape = vec![rows, entries[0].shape[1]];
        let (dtype, file) = (entries[0].dtype, entries[0].file);
        for piece in &pieces {
            self.companions.insert(piece.clone(), name.clone());
        }
        let encoding = Encoding::Joined(pieces);
        let entry = TensorEntry {
            shape,
            dtype,
            packed: None,
            encoding,
            order: None,
            shift: 0.0,
            file,
            range: 0..bytes,
        };
        self.tensors.insert(name, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_pairs_are_read_as_halves() {
        assert_eq!(halves(2, 6)[..], [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
