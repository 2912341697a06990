//! GGUF files that no library has written: of a small model with every element type that is read, or of a large one; and
//! where in them a number stands.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::ops::Range;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: usize = 32;
/// Blocks, scales and floats of it are all sound.
const FILLER: u8 = 0x11;
const HIDDEN: u64 = 256;
const HEAD: u64 = 32;
/// Texts of a list that are looked into.
const TEXTS: u64 = 4;

/// Element types: number, elements of a block, bytes of a block.
type Kind = (u32, u64, u64);
const F32: Kind = (0, 1, 4);
/// Of 32 elements or fewer; then of 256.
const SMALL: [Kind; 10] = [
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (20, 32, 18),
    (30, 1, 2),
    (39, 32, 17),
    F32,
];
const LARGE: [Kind; 6] =
    [(10, 256, 84), (11, 256, 110), (12, 256, 144), (13, 256, 176), (14, 256, 210), (23, 256, 136)];

/// Numbers in which models differ.
struct Sizes {
    layers: u64,
    experts: u64,
    intermediate: u64,
}
const ALL_TYPES: Sizes = Sizes { layers: 5, experts: 2, intermediate: 32 };

/// What a file says about text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// Byte-level merges, and a template.
    Merges,
    /// Pieces with scores.
    Scores,
}

/// A header as it is written.
#[derive(Default)]
struct Header {
    pairs: Vec<u8>,
    n_pairs: u64,
    tensors: Vec<(String, Vec<u64>, Kind)>,
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl Header {
    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.pairs.extend([&text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat());
        self.n_pairs += 1;
    }

    fn count(&mut self, key: &str, count: u64) {
        self.pair(key, 4, &(count as u32).to_le_bytes());
    }

    fn words(&mut self, key: &str, words: &str) {
        self.pair(key, 8, &text(words.as_bytes()));
    }

    fn list(&mut self, key: &str, kind: u32, values: &[Vec<u8>]) {
        let start = [kind.to_le_bytes().to_vec(), (values.len() as u64).to_le_bytes().to_vec()].concat();
        self.pair(key, 9, &[start, values.concat()].concat());
    }

    fn tensor(&mut self, name: &str, dims: &[u64], kind: Kind) {
        self.tensors.push((format!("{name}.weight"), dims.to_vec(), kind));
    }

    /// The file, its data all filler.
    fn file(&self) -> Vec<u8> {
        let counts = [(self.tensors.len() as u64).to_le_bytes(), self.n_pairs.to_le_bytes()].concat();
        let mut file = [&MAGIC[..], &3u32.to_le_bytes(), &counts, &self.pairs].concat();
        let mut end = 0;
        for (name, dims, (id, len, bytes)) in &self.tensors {
            file.extend(text(name.as_bytes()));
            file.extend((dims.len() as u32).to_le_bytes());
            file.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(id.to_le_bytes());
            file.extend((end as u64).to_le_bytes());
            let size = dims.iter().product::<u64>() / len * bytes;
            end = (end + size as usize).next_multiple_of(ALIGNMENT);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.resize(file.len() + end, FILLER);
        file
    }
}

/// A model of five layers that holds every type.
pub(crate) fn model(words: Words) -> Vec<u8> {
    let mut header = described(words, &ALL_TYPES);
    tensors(&mut header);
    header.file()
}

/// A model of one layer that consists of experts in Q8_0, so many of 213 kB.
pub(crate) fn of_experts(experts: u64) -> Vec<u8> {
    const Q8_0: Kind = (8, 32, 34);
    let sizes = Sizes { layers: 1, experts, intermediate: 256 };
    let mut header = described(Words::Merges, &sizes);
    outer(&mut header, &mut || Q8_0);
    layer(&mut header, &sizes, 0, (&mut || Q8_0, [Q8_0; 2]));
    header.file()
}

/// The same in two parts.
pub(crate) fn parts() -> [Vec<u8>; 2] {
    let mut whole = described(Words::Merges, &ALL_TYPES);
    tensors(&mut whole);
    let n_tensors = whole.tensors.len();
    let mut second = Header { tensors: whole.tensors.split_off(n_tensors / 2), ..Header::default() };
    for (number, part) in [&mut whole, &mut second].into_iter().enumerate() {
        part.count("split.no", number as u64);
        part.count("split.count", 2);
        part.count("split.tensors.count", n_tensors as u64);
    }
    [whole.file(), second.file()]
}

/// Everything but tensors.
fn described(words: Words, sizes: &Sizes) -> Header {
    let mut header = Header::default();
    header.words("general.architecture", "qwen3moe");
    for (key, count) in [
        ("block_count", sizes.layers),
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", HEAD),
        ("attention.value_length", HEAD),
        ("rope.dimension_count", HEAD),
        ("expert_count", sizes.experts),
        ("expert_used_count", 1),
        ("expert_feed_forward_length", sizes.intermediate),
    ] {
        header.count(&format!("qwen3moe.{key}"), count);
    }
    header.pair("qwen3moe.attention.layer_norm_rms_epsilon", 6, &1e-6f32.to_le_bytes());
    header.pair("qwen3moe.rope.freq_base", 6, &1e4f32.to_le_bytes());
    let tokens = tokens(words);
    let kinds = tokens.iter().map(|(_, kind)| kind.to_le_bytes().to_vec()).collect::<Vec<_>>();
    let texts = tokens.iter().map(|(token, _)| text(token.as_bytes())).collect::<Vec<_>>();
    header.list("tokenizer.ggml.tokens", 8, &texts);
    header.list("tokenizer.ggml.token_type", 5, &kinds);
    header.count("tokenizer.ggml.bos_token_id", 1);
    header.count("tokenizer.ggml.eos_token_id", 2);
    match words {
        Words::Merges => {
            header.words("tokenizer.ggml.model", "gpt2");
            header.words("tokenizer.ggml.pre", "llama-bpe");
            let merges = ["a i", "s ai", "sai d"].map(|pair| text(pair.as_bytes()));
            header.list("tokenizer.ggml.merges", 8, &merges);
            let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
            header.words("tokenizer.chat_template", template);
        }
        Words::Scores => {
            header.words("tokenizer.ggml.model", "llama");
            let scores =
                (0..tokens.len()).map(|rank| (-(rank as f32)).to_le_bytes().to_vec()).collect::<Vec<_>>();
            header.list("tokenizer.ggml.scores", 6, &scores);
        }
    }
    header
}

/// Tokens and their types.
fn tokens(words: Words) -> Vec<(String, i32)> {
    let mut tokens = vec![("<unk>".into(), 2), ("<s>".into(), 3), ("</s>".into(), 3)];
    match words {
        Words::Merges => {
            // Every byte has a letter of its own.
            let letters = (33..=126u32).chain(161..=172).chain(174..=323).filter_map(char::from_u32);
            tokens.extend(letters.map(|letter| (letter.to_string(), 1)));
        }
        Words::Scores => tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6))),
    }
    for token in ["a", "i", "s", "d", "ai", "sai", "said", "\u{2581}"] {
        if !tokens.iter().any(|(other, _)| other == token) {
            tokens.push((token.into(), 1));
        }
    }
    tokens
}

/// The tensors of a model that holds every type.
fn tensors(header: &mut Header) {
    let (mut small, mut large) = (SMALL.iter().copied().cycle(), LARGE.iter().copied().cycle());
    // Every second matrix of wide rows is in blocks of 32.
    let mut turn = false;
    let mut wide = || {
        turn = !turn;
        if turn { large.next() } else { small.next() }.expect("they go round")
    };
    outer(header, &mut wide);
    for index in 0..ALL_TYPES.layers as usize {
        layer(header, &ALL_TYPES, index, (&mut wide, [SMALL[index], SMALL[9 - index]]));
    }
}

/// What is in no layer, its types one after another.
fn outer(header: &mut Header, wide: &mut dyn FnMut() -> Kind) {
    let vocab = tokens(Words::Merges).len().max(tokens(Words::Scores).len()) as u64;
    header.tensor("token_embd", &[HIDDEN, vocab], wide());
    header.tensor("output", &[HIDDEN, vocab], wide());
    header.tensor("output_norm", &[HIDDEN], F32);
}

/// A layer, its wide rows in types one after another, its two kinds of narrow ones in the others.
fn layer(
    header: &mut Header,
    sizes: &Sizes,
    index: usize,
    (wide, [output, down]): (&mut dyn FnMut() -> Kind, [Kind; 2]),
) {
    let mut add = |name: &str, dims: &[u64], kind| header.tensor(&format!("blk.{index}.{name}"), dims, kind);
    for (name, width) in
        [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)]
    {
        add(name, &[width], F32);
    }
    let Sizes { experts, intermediate, .. } = *sizes;
    add("ffn_gate_inp", &[HIDDEN, experts], F32);
    add("attn_q", &[HIDDEN, 2 * HEAD], wide());
    add("attn_k", &[HIDDEN, HEAD], wide());
    add("attn_v", &[HIDDEN, HEAD], wide());
    add("attn_output", &[2 * HEAD, HIDDEN], output);
    let gate = wide();
    add("ffn_gate_exps", &[HIDDEN, intermediate, experts], gate);
    add("ffn_up_exps", &[HIDDEN, intermediate, experts], gate);
    add("ffn_down_exps", &[intermediate, HIDDEN, experts], down);
}

/// Where counts, lengths, types, sizes and offsets stand in a file, and where its header ends.
pub(crate) fn numbers(file: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut walk = Walk { file, at: 4, numbers: Vec::new() };
    walk.number(4);
    let (n_tensors, n_pairs) = (walk.number(8), walk.number(8));
    for _ in 0..n_pairs {
        walk.text(true);
        match walk.number(4) {
            8 => walk.text(true),
            9 => {
                let (kind, count) = (walk.number(4), walk.number(8));
                for index in 0..count {
                    if kind == 8 { walk.text(index < TEXTS) } else { walk.at += 4 }
                }
            }
            _ => {
                walk.number(4);
            }
        }
    }
    for _ in 0..n_tensors {
        walk.text(true);
        for _ in 0..walk.number(4) {
            walk.number(8);
        }
        walk.number(4);
        walk.number(8);
    }
    (walk.numbers, walk.at)
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    numbers: Vec<Range<usize>>,
}

impl Walk<'_> {
    fn number(&mut self, width: usize) -> u64 {
        let range = self.at..self.at + width;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.file[range.clone()]);
        self.at = range.end;
        self.numbers.push(range);
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self, noted: bool) {
        let length = self.number(8);
        self.at += length as usize;
        if !noted {
            self.numbers.pop();
        }
    }
}
