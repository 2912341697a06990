//! Goldens as GGUF files have them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use moebius::Model;

use super::{Scratch, golden};

/// Families that GGUF has no architecture for.
pub(crate) const WITHOUT_ARCHITECTURE: [&str; 2] = ["PanguProMoE", "flex_olmo"];

/// A file of models/goldens-gguf.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/goldens-gguf").join(name)
}

/// The files that were made from goldens, with the names of these. Those of which only a delta is kept are put together in a
/// directory that goes with this.
pub(crate) struct Files {
    pub(crate) list: Vec<(PathBuf, String)>,
    _dir: TempDir,
}

impl Files {
    pub(crate) fn all() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut list = Vec::new();
        for entry in std::fs::read_dir(file("")).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let name = stem.split('.').next().unwrap().to_owned();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("gguf") if golden(&name).is_dir() => list.push((path, name)),
                Some("delta") => {
                    let whole = dir.path().join(format!("{stem}.gguf"));
                    let bytes = put_together(&std::fs::read(&path).unwrap(), &elements(&golden(&name)));
                    std::fs::write(&whole, bytes).unwrap();
                    list.push((whole, name));
                }
                _ => {}
            }
        }
        list.sort();
        Files { list, _dir: dir }
    }
}

/// All elements of a checkpoint, through its tensors by name.
fn elements(dir: &Path) -> Vec<f32> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_part = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    let mut tensors = BTreeMap::new();
    for path in paths.filter(is_part) {
        for (name, view) in SafeTensors::deserialize(&std::fs::read(path).unwrap()).unwrap().tensors() {
            tensors.insert(name, floats(view.data(), view.dtype()));
        }
    }
    tensors.into_values().flatten().collect()
}

pub(crate) fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::BF16 => {
            let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            bytes.as_chunks().0.iter().map(wide).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The file that a delta stands for: steps of new bytes and of elements of the checkpoint.
fn put_together(mut delta: &[u8], elements: &[f32]) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some((step, rest)) = delta.split_first_chunk::<16>() {
        let number = |index: usize| u32::from_le_bytes(step[4 * index..][..4].try_into().unwrap()) as usize;
        let (new, first, distance, count) = (number(0), number(1), number(2), number(3));
        file.extend(&rest[..new]);
        file.extend((0..count).flat_map(|index| elements[first + index * distance].to_le_bytes()));
        delta = &rest[new..];
    }
    file
}

/// What a model continues the prompts of a golden with.
pub(crate) fn texts(model: &mut Model, name: &str) -> Vec<Vec<u32>> {
    let prompts = super::golden_prompts(name).into_iter();
    prompts.map(|(prompt, expected)| super::greedy_text(model, &prompt, expected.len())).collect()
}

/// A golden that can be said in GGUF, where needed with another config.json; and whether what its reference computed is what
/// it computes.
pub(crate) fn sayable(name: &str) -> (Scratch, bool) {
    let kind = |layer: usize| if layer == 3 { "full_attention" } else { "sliding_attention" };
    let edits: Vec<(&str, Value)> = match name {
        // One layer in four has no window.
        "afmoe" => {
            vec![("global_attn_every_n_layers", 4.into()), ("layer_types", (0..4).map(kind).collect())]
        }
        // As many experts in every layer.
        "hunyuan_v1_moe" => vec![("moe_topk", json!([2, 2, 2]))],
        // Sizes of chunks and the slope of temperatures are those of the published models.
        "llama4" => vec![
            ("attention_chunk_size", 8192.into()),
            ("floor_scale", 8192.into()),
            ("attn_scale", 0.1.into()),
        ],
        _ => Vec::new(),
    };
    let scratch = Scratch::of(name);
    let as_it_is = edits.is_empty();
    scratch.edit_config(|config| {
        config.extend(edits.into_iter().map(|(key, value)| (key.to_owned(), value)));
        if let ("phimoe", Some(scaling)) = (name, config.get_mut("rope_scaling")) {
            // One factor for all lengths; the golden's prompts are short.
            scaling["long_mscale"] = scaling["short_mscale"].clone();
        }
    });
    (scratch, as_it_is)
}

/// A GGUF file taken apart.
pub(crate) struct Whole {
    pairs: Vec<u8>,
    n_pairs: u64,
    /// What the header says of each tensor up to its offset, and its bytes with their padding.
    pub(crate) tensors: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Whole {
    const ALIGNMENT: usize = 32;

    /// Takes a sound file apart, whose tensors stand in the order of the header.
    pub(crate) fn read(file: &[u8]) -> Self {
        let mut reader = Reader { file, at: 8 };
        let (n_tensors, n_pairs) = (reader.u64(), reader.u64());
        let first = reader.at;
        (0..n_pairs).for_each(|_| reader.pair());
        let pairs = file[first..reader.at].to_vec();
        let infos: Vec<(Vec<u8>, usize)> = (0..n_tensors).map(|_| reader.tensor()).collect();
        let data = &file[reader.at.next_multiple_of(Self::ALIGNMENT)..];
        let ends = infos.iter().skip(1).map(|(_, offset)| *offset).chain([data.len()]);
        let tensors =
            infos.iter().zip(ends).map(|((info, start), end)| (info.clone(), data[*start..end].to_vec()));
        Whole { tensors: tensors.collect(), pairs, n_pairs }
    }

    /// The parts of the file, where tensor `i` is in part `share(i)`.
    pub(crate) fn parts(&self, share: impl Fn(usize) -> usize, count: usize) -> Vec<Vec<u8>> {
        self.parts_of(share, count, self.tensors.len())
    }

    /// The same, where each part says that there are `all` tensors.
    pub(crate) fn parts_of(&self, share: impl Fn(usize) -> usize, count: usize, all: usize) -> Vec<Vec<u8>> {
        (0..count).map(|part| self.part(&|tensor| share(tensor) == part, part, count, all)).collect()
    }

    fn part(&self, holds: &dyn Fn(usize) -> bool, number: usize, count: usize, all: usize) -> Vec<u8> {
        const U16: u32 = 2;
        const I32: u32 = 5;
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let (mut pairs, mut n_pairs) = (Vec::new(), 3);
        if number == 0 {
            pairs.extend(&self.pairs);
            n_pairs += self.n_pairs;
        }
        for (key, number) in [("split.no", number), ("split.count", count)] {
            pairs.extend(
                [text(key), U16.to_le_bytes().to_vec(), (number as u16).to_le_bytes().to_vec()].concat(),
            );
        }
        pairs.extend(
            [text("split.tensors.count"), I32.to_le_bytes().to_vec(), (all as i32).to_le_bytes().to_vec()]
                .concat(),
        );
        let held =
            self.tensors.iter().enumerate().filter(|(index, _)| holds(*index)).map(|(_, tensor)| tensor);
        let (mut infos, mut data) = (Vec::new(), Vec::new());
        let mut n_tensors = 0u64;
        for (info, bytes) in held {
            infos.extend(info);
            infos.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(Self::ALIGNMENT), 0);
            n_tensors += 1;
        }
        let counts = [n_tensors.to_le_bytes(), n_pairs.to_le_bytes()].concat();
        let mut part = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &counts, &pairs, &infos].concat();
        part.resize(part.len().next_multiple_of(Self::ALIGNMENT), 0);
        part.extend(data);
        part
    }
}

/// Walks through the header of a sound file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u32(&mut self) -> u32 {
        self.at += 4;
        u32::from_le_bytes(self.file[self.at - 4..self.at].try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        self.at += 8;
        u64::from_le_bytes(self.file[self.at - 8..self.at].try_into().unwrap())
    }

    fn text(&mut self) {
        self.at += self.u64() as usize;
    }

    fn pair(&mut self) {
        const LIST: u32 = 9;
        self.text();
        match self.u32() {
            LIST => {
                let (kind, count) = (self.u32(), self.u64());
                (0..count).for_each(|_| self.value(kind));
            }
            kind => self.value(kind),
        }
    }

    fn value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            8 => self.text(),
            _ => self.at += 8,
        }
    }

    /// What stands before the offset, and the offset.
    fn tensor(&mut self) -> (Vec<u8>, usize) {
        let start = self.at;
        self.text();
        self.at += self.u32() as usize * 8 + 4;
        let info = self.file[start..self.at].to_vec();
        (info, self.u64() as usize)
    }
}
