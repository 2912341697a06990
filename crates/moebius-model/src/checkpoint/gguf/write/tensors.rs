//! Which tensors a file has, and what they are made of.
//!
//! Everything that a family asks for is written, under the names that its architecture has for it: experts as stacks,
//! up-projections of latent attention split, tensors that hold several apart.
//!
//! Shapes: outermost first, as everywhere but in the file.

use std::collections::BTreeSet;
use std::sync::Arc;

use moebius_backend::{ExpertSpec, Projection, WeightFormat};

use super::super::arch::{self, Arch};
use super::super::types::TensorType;
use super::{Described, delta};
use crate::checkpoint::{Asked, AskedPart, Checkpoint, Part};
use crate::formats::HeldFormats;
use crate::layers::{BaseConfig, RopeConfig};
use crate::layout::{ExpertLayout, STACKS, Stored, StoredValues};
use crate::{Error, Result};

/// A tensor that is to be written.
pub(super) struct TensorOut {
    /// Its name in the file.
    pub(super) name: String,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// What its elements are written in.
    pub(super) format: WeightFormat,
    /// Where they come from.
    pub(super) content: Content,
    /// For each row, or each element of a vector, where it comes from; `None` for their own places.
    pub(super) order: Option<Arc<[u32]>>,
    /// For each column of a matrix where it comes from; `None` for their own places.
    pub(super) columns: Option<Arc<[u32]>>,
    /// What becomes of plain numbers.
    pub(super) change: Change,
}

/// What becomes of plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// One more, as norms are stored in some architectures.
    PlusOne,
    /// `-exp(x)`: files have the rates of recurrences, and checkpoints their logarithms.
    Rate,
}

impl Change {
    /// The number that is written.
    pub(super) fn apply(self, value: f32) -> f32 {
        match self {
            Change::None => value,
            Change::PlusOne => value + 1.0,
            Change::Rate => -value.exp(),
        }
    }
}

/// What a tensor is made of.
pub(super) enum Content {
    /// Matrices of the same shape, one after another.
    Matrices(Vec<Stored>, (usize, usize)),
    /// Plain numbers, one run after another.
    Values(Vec<StoredValues>, usize),
    /// Numbers that are in no tensor.
    Numbers(Vec<f32>),
}

impl TensorOut {
    /// Its type in the file.
    pub(super) fn kind(&self) -> TensorType {
        TensorType::of_format(self.format)
    }

    /// Its bytes in the file; `None` where that is too much, or its rows are no whole blocks.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        let cols = *self.shape.last()?;
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |product, &n| product.checked_mul(n))?;
        self.format.bytes_for(rows, cols).map(|bytes| bytes as u64)
    }

    /// The tensors of the checkpoint that it comes from.
    pub(super) fn sources(&self) -> Vec<&str> {
        match &self.content {
            Content::Matrices(parts, _) => parts.iter().map(|part| part.name.as_str()).collect(),
            Content::Values(parts, _) => parts.iter().map(|part| part.name.as_str()).collect(),
            Content::Numbers(_) => Vec::new(),
        }
    }

    /// A tensor whose parts are written in their places, unchanged.
    fn new(name: String, shape: Vec<usize>, format: WeightFormat, content: Content) -> Self {
        TensorOut { name, shape, format, content, order: None, columns: None, change: Change::None }
    }
}

/// What the tensors of a file follow from.
pub(super) struct Source<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) arch: &'static Arch,
    pub(super) model: &'a Described<'a>,
}

impl Source<'_> {
    /// All tensors of a file, layer by layer.
    pub(super) fn tensors(&self) -> Result<Vec<TensorOut>> {
        let mut tensors = Vec::new();
        let mut taken = BTreeSet::new();
        for (spec, layout) in self.model.banks {
            for &projection in spec.projections() {
                let stacks = self.stacks(spec, layout, projection);
                taken.extend(stacks.iter().flat_map(TensorOut::sources).map(str::to_owned));
                tensors.extend(stacks);
            }
        }
        for (name, asked) in self.model.asked.iter().filter(|(name, _)| !taken.contains(*name)) {
            tensors.extend(self.tensors_of(name, asked)?);
        }
        tensors.extend(self.tables()?);
        let is_table = |tensor: &TensorOut| matches!(tensor.content, Content::Numbers(_));
        tensors.sort_by_cached_key(|tensor| (!is_table(tensor), natural(&tensor.name)));
        let mut names = BTreeSet::new();
        match tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            None => Ok(tensors),
            Some(tensor) => Err(refused(&tensor.name, "two tensors would have this name")),
        }
    }

    /// One projection of a layer's experts, and its biases.
    fn stacks(&self, spec: &ExpertSpec, layout: &ExpertLayout, projection: Projection) -> Vec<TensorOut> {
        let (rows, cols) = spec.shape(projection);
        let (n, name) = (spec.n_experts, format!("blk.{}.{}", spec.layer, STACKS[projection as usize]));
        let stored: Vec<Stored> = (0..n).map(|expert| layout.locate(spec, expert, projection)).collect();
        let format = self.format(&stored[0].name, spec.format_of(projection));
        let content = Content::Matrices(stored, (rows, cols));
        let mut tensors =
            vec![TensorOut::new(format!("{name}.weight"), vec![n, rows, cols], format, content)];
        if spec.biases {
            let biases = (0..n).map(|expert| layout.locate_bias(spec, expert, projection)).collect();
            let content = Content::Values(biases, rows);
            tensors.push(TensorOut::new(format!("{name}.bias"), vec![n, rows], WeightFormat::F32, content));
        }
        tensors
    }

    /// What is written of a tensor that has no experts.
    fn tensors_of(&self, name: &str, asked: &Asked) -> Result<Vec<TensorOut>> {
        let shape = &self.checkpoint.get(name).expect("it was found when it was asked for").shape;
        let parts = match asked {
            Asked::Values => return self.values(name, shape),
            Asked::Matrices(parts) => parts,
        };
        if let Some(prefix) = name.strip_suffix(".kv_b_proj.weight") {
            return self.keys_and_values(name, prefix, parts);
        }
        let (&cols, outer) = shape.split_last().expect("a matrix has dimensions");
        let rows: usize = outer.iter().product();
        let format = self.format(name, parts[0].format);
        let whole = || Stored { name: name.to_owned(), shape: shape.clone(), part: Part::WHOLE };
        let all = || Content::Matrices(vec![whole()], (rows, cols));
        if let Some(prefix) = name.strip_suffix("in_proj_qkvz.weight") {
            let orders = delta::by_part(&delta::Heads::of(self.model.keys));
            let parts = ["in_proj_qkv.weight", "in_proj_z.weight"].into_iter().zip(orders);
            let tensor = |(part, order): (&str, Arc<[u32]>)| {
                let theirs = self.name_of(&format!("{prefix}{part}"))?;
                let tensor = TensorOut::new(theirs, vec![order.len(), cols], format, all());
                Ok(TensorOut { order: Some(order), ..tensor })
            };
            return parts.map(tensor).collect();
        }
        if let Some(runs) = self.joined(name, rows) {
            let mut first = 0;
            let tensor = |(theirs, rows): (String, usize)| {
                let stored = Stored::rows_from(name.to_owned(), (rows, cols), first);
                first += rows;
                let content = Content::Matrices(vec![stored], (rows, cols));
                let order = self.order(&theirs, rows);
                TensorOut { order, ..TensorOut::new(theirs, vec![rows, cols], format, content) }
            };
            return Ok(runs.into_iter().map(tensor).collect());
        }
        let theirs = self.name_of(name)?;
        let squeezed = squeezed(shape);
        let plain = squeezed.len() < 2 || theirs.contains("ffn_gate_inp");
        let format = if plain { WeightFormat::F32 } else { format };
        let order = self.order(&theirs, rows).or_else(|| self.tiled_rows(&theirs, rows));
        let columns = self.tiled_columns(&theirs, cols);
        Ok(vec![TensorOut { order, columns, ..TensorOut::new(theirs, squeezed, format, all()) }])
    }

    /// A tensor of plain numbers, or those that it is written in.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<TensorOut>> {
        let elements: usize = shape.iter().product();
        let stored = |first| StoredValues { name: name.to_owned(), shape: shape.to_vec(), first, step: 1 };
        // Of a convolution, a row is what one channel has.
        let width = if shape.len() > 2 { shape[1..].iter().product() } else { 1 };
        let tensor = |theirs: String, shape, first: usize, len: usize| {
            let rows = self.order(&theirs, len).or_else(|| self.tiled_rows(&theirs, len / width));
            let whole = |&row: &u32| (0..width as u32).map(move |col| row * width as u32 + col);
            let order = rows.map(|rows| rows.iter().flat_map(whole).collect());
            let content = Content::Values(vec![stored(first)], len);
            TensorOut { order, ..TensorOut::new(theirs, shape, WeightFormat::F32, content) }
        };
        if let Some(runs) = self.joined(name, elements) {
            let mut first = 0;
            let run = |(theirs, len): (String, usize)| {
                first += len;
                tensor(theirs, vec![len], first - len, len)
            };
            return Ok(runs.into_iter().map(run).collect());
        }
        // The layers ask for rates under either name.
        let logarithm = name.strip_suffix("_log").filter(|name| name.ends_with(".A"));
        let theirs = self.name_of(logarithm.unwrap_or(name))?;
        let norm = theirs.ends_with("norm.weight") && !theirs.ends_with("ssm_norm.weight");
        let change = match logarithm {
            Some(_) => Change::Rate,
            None if norm && self.arch.norms_plus_one => Change::PlusOne,
            None => Change::None,
        };
        let shape = self.spread(&theirs, squeezed(shape));
        Ok(vec![TensorOut { change, ..tensor(theirs, shape, 0, elements) }])
    }

    /// The shape that files have for vectors of a state space with heads, which is Mamba-2.
    fn spread(&self, theirs: &str, shape: Vec<usize>) -> Vec<usize> {
        let is_vector = shape.len() == 1 && matches!(self.arch.name, "granitehybrid" | "nemotron_h_moe");
        match (theirs.split('.').nth(2), shape[..].first()) {
            (Some("ssm_a" | "ssm_d"), Some(&n)) if is_vector => vec![n, 1],
            (Some("ssm_norm"), Some(&n)) if is_vector => {
                let count = |key: &str| self.model.keys.get(key).and_then(serde_json::Value::as_u64);
                let usual = if self.arch.name == "granitehybrid" { 1 } else { 8 };
                let groups = count("n_groups").or_else(|| count("mamba_n_groups")).unwrap_or(usual) as usize;
                if groups > 0 && n % groups == 0 { vec![groups, n / groups] } else { shape }
            }
            _ => shape,
        }
    }

    /// The two up-projections that latent attention has in one tensor: that of keys transposed, that of values.
    fn keys_and_values(&self, name: &str, prefix: &str, parts: &[AskedPart]) -> Result<Vec<TensorOut>> {
        let stack = |to: &str, is_key: bool| {
            let of: Vec<_> =
                parts.iter().filter(|asked| matches!(asked.part, Part::Columns { .. }) == is_key).collect();
            let Some(first) = of.first() else { return Err(refused(name, "its heads have no parts")) };
            let (rows, cols) = first.matrix;
            let shape = self.checkpoint.get(name).map(|entry| entry.shape.clone()).unwrap_or_default();
            let stored =
                |asked: &&AskedPart| Stored { name: name.into(), shape: shape.clone(), part: asked.part };
            let content = Content::Matrices(of.iter().map(stored).collect(), (rows, cols));
            let theirs = self.name_of(&format!("{prefix}.{to}.weight"))?;
            Ok(TensorOut::new(theirs, vec![of.len(), rows, cols], self.format(name, first.format), content))
        };
        Ok(vec![stack("k_b_proj", true)?, stack("v_b_proj", false)?])
    }

    /// What a matrix is written in: as it is held, but for what is held in more than it is stored in.
    fn format(&self, name: &str, held: WeightFormat) -> WeightFormat {
        match (self.model.held, self.checkpoint.get(name).and_then(|entry| entry.format())) {
            (HeldFormats::AsStored, Some(stored)) => stored,
            _ => held,
        }
    }

    /// The runs of rows that a tensor is written in, if there are several: names, and how many rows each has.
    fn joined(&self, name: &str, rows: usize) -> Option<Vec<(String, usize)>> {
        let name = arch::unwrapped(name);
        let (layer, rest) = arch::in_layer(self.arch, &name)?;
        let (stem, ending) = rest.rsplit_once('.')?;
        let (_, names) = self.arch.joined.iter().find(|(ours, _)| *ours == stem)?;
        let BaseConfig { heads, kv_heads, head_dim, .. } = *self.model.base;
        let run = |name: &&str| {
            let rows = match *name {
                "attn_q" => heads * head_dim,
                "attn_k" | "attn_v" => kv_heads * head_dim,
                _ => rows / names.len(),
            };
            (format!("blk.{layer}.{name}.{ending}"), rows)
        };
        Some(names.iter().map(run).collect())
    }

    /// The order of rows of queries and keys, where files have pairs and families halves.
    fn order(&self, theirs: &str, rows: usize) -> Option<Arc<[u32]>> {
        let heads = match theirs.split('.').nth(2) {
            Some("attn_q") if self.arch.paired => self.model.base.heads,
            Some("attn_k") if self.arch.paired => self.model.base.kv_heads,
            _ => return None,
        };
        Some(pairs(heads, rows / heads))
    }

    /// The order of rows, or of elements, where files have value heads in another one.
    fn tiled_rows(&self, theirs: &str, rows: usize) -> Option<Arc<[u32]>> {
        let heads = self.tiled()?;
        match theirs.split('.').nth(2)? {
            "attn_qkv" | "ssm_conv1d" => Some(delta::after_keys(&heads, rows)),
            "attn_gate" => Some(delta::tiled(&heads, heads.value_dim)),
            "ssm_alpha" | "ssm_beta" | "ssm_a" | "ssm_dt" => Some(delta::tiled(&heads, 1)),
            _ => None,
        }
    }

    /// The order of columns where files have value heads in another one.
    fn tiled_columns(&self, theirs: &str, cols: usize) -> Option<Arc<[u32]>> {
        let heads = self.tiled().filter(|_| theirs.split('.').nth(2) == Some("ssm_out"))?;
        let order = delta::tiled(&heads, heads.value_dim);
        (order.len() == cols).then_some(order)
    }

    /// The heads of a delta rule, if they are to be written in another order than they have.
    fn tiled(&self) -> Option<delta::Heads> {
        let is_tiled = self.model.keys.get("linear_value_heads_tiled").and_then(serde_json::Value::as_bool);
        let turns = self.arch.name == "qwen35moe" && is_tiled != Some(true);
        turns.then(|| delta::Heads::of(self.model.keys))
    }

    fn name_of(&self, name: &str) -> Result<String> {
        let unknown = || refused(name, &format!("the architecture `{}` has no such tensor", self.arch.name));
        arch::untranslate(self.arch, &arch::unwrapped(name)).ok_or_else(unknown)
    }

    /// Factors on rotations that no metadata describes.
    fn tables(&self) -> Result<Vec<TensorOut>> {
        let tables: Vec<_> = self.model.ropes.iter().flat_map(RopeConfig::tables).collect();
        if !tables.is_empty() && !self.arch.tables {
            let reason = format!("files of the architecture `{}` have no table for it", self.arch.name);
            return Err(Error::NotInGguf { what: "the scaling of its positions".into(), reason });
        }
        let tensor = |(name, factors): (&str, Vec<f32>)| {
            let shape = vec![factors.len()];
            TensorOut::new(name.into(), shape, WeightFormat::F32, Content::Numbers(factors))
        };
        Ok(tables.into_iter().map(tensor).collect())
    }
}

fn refused(name: &str, reason: &str) -> Error {
    Error::NotInGguf { what: format!("tensor `{name}`"), reason: reason.into() }
}

/// A shape without the sides of length one that GGUF leaves out.
fn squeezed(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [1, n] => vec![n],
        [rows, 1, cols] => vec![rows, cols],
        _ => shape.to_vec(),
    }
}

/// Where each row of pairs comes from: the first row of a head's first half, that of its second half, and so on.
fn pairs(heads: usize, head: usize) -> Arc<[u32]> {
    let row = |row: usize| {
        let (within, first) = (row % head, row - row % head);
        (first + within / 2 + within % 2 * (head / 2)) as u32
    };
    (0..heads * head).map(row).collect()
}

/// Sorts layers by number, and what is outside of them before them.
fn natural(name: &str) -> (Option<usize>, String) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    (layer, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_written_as_pairs() {
        assert_eq!(pairs(2, 6)[..], [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn layers_are_sorted_by_number() {
        let mut names = ["blk.10.a", "output", "blk.2.a"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["output", "blk.2.a", "blk.10.a"]);
    }
}
