//! Headers that lie. The classes are those that readers of the format have been attacked with.

use super::*;

/// Builds a file.
#[derive(Default)]
struct File {
    tensors: Vec<u8>,
    n_tensors: u64,
    pairs: Vec<u8>,
    n_pairs: u64,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self.n_pairs += 1;
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|n| n.to_le_bytes()).collect();
        let count = (dims.len() as u32).to_le_bytes().to_vec();
        let parts =
            [text(name), count, dims_bytes, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()];
        self.tensors.extend(parts.concat());
        self.n_tensors += 1;
        self
    }

    fn data(self, data: usize) -> Self {
        File { data, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.n_tensors.to_le_bytes(), self.n_pairs.to_le_bytes()].concat();
        let mut bytes = [MAGIC.as_slice(), &3u32.to_le_bytes(), &counts, &self.pairs, &self.tensors].concat();
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }

    /// Checks that it is refused for a reason that says `expected`.
    #[track_caller]
    fn refused(&self, expected: &str) {
        refused(self.bytes(), expected);
    }
}

#[track_caller]
fn refused(bytes: Vec<u8>, expected: &str) {
    match read(Arc::new(bytes), Path::new("a.gguf")) {
        Ok(_) => panic!("it was read, expected `{expected}`"),
        Err(reason) => assert!(reason.contains(expected), "{reason}"),
    }
}

fn good() -> File {
    let array = [5u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), vec![1, 0, 0, 0, 2, 0, 0, 0]];
    let file = File::default().pair("a.text", 8, &text("hello")).pair("a.list", 9, &array.concat());
    file.tensor("t", &[32, 2], 0, 0).tensor("u", &[32], 8, 256).data(256 + 34)
}

#[test]
fn a_sound_file_is_read() {
    let header = read(Arc::new(good().bytes()), Path::new("a.gguf")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(header.metadata.text("a.text").unwrap(), Some("hello"));
    assert_eq!(header.metadata.numbers("a.list").unwrap(), Some(vec![1.0, 2.0]));
    assert!(header.metadata.count("a.text").is_err() && header.metadata.count("none").unwrap().is_none());
    assert_eq!(header.tensors["t"].shape, [2, 32]);
    assert_eq!(header.tensors["u"].range.len(), 34);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = good().bytes();
    for length in 0..bytes.len() {
        assert!(read(Arc::new(bytes[..length].to_vec()), Path::new("a.gguf")).is_err(), "{length}");
    }
}

#[test]
fn another_mark_version_or_byte_order_is_refused() {
    let with = |at: usize, new: &[u8]| {
        let mut bytes = good().bytes();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    refused(with(0, b"GGML"), "begins with `GGUF`");
    refused(with(4, &1u32.to_le_bytes()), "expected version 2 or 3, got 1");
    refused(with(4, &3u32.to_be_bytes()), "big-endian");
    assert!(read(Arc::new(with(4, &2u32.to_le_bytes())), Path::new("a.gguf")).is_ok());
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    for count in [MAX_ENTRIES + 1, 1 << 40, u64::MAX] {
        File { n_pairs: count, ..good() }.refused("expected at most 65536 pairs");
        File { n_tensors: count, ..good() }.refused("expected at most 65536 tensors");
    }
    // The most that may be claimed, where nothing follows.
    let bytes = |at: usize| {
        let mut bytes = File::default().bytes()[..24].to_vec();
        bytes[at..at + 8].copy_from_slice(&MAX_ENTRIES.to_le_bytes());
        bytes
    };
    refused(bytes(8), "cut short");
    refused(bytes(16), "cut short");
}

#[test]
fn lengths_of_texts_beyond_the_file_are_refused() {
    for length in [100_000, 1 << 62, u64::MAX] {
        File::default().pair("k", 8, &length.to_le_bytes()).refused("cut short");
        let array = [8u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec(), length.to_le_bytes().to_vec()];
        File::default().pair("k", 9, &array.concat()).refused("cut short");
        let mut bytes = File::default().pair("key", 4, &[0; 4]).bytes();
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        refused(bytes, "a key: expected 1 to");
    }
}

#[test]
fn lists_whose_bytes_overflow_or_are_not_there_are_refused() {
    for (kind, count) in [(5u32, u64::MAX / 4 + 2), (10, 1 << 61), (0, 1 << 40), (8, u64::MAX), (8, 1 << 32)]
    {
        let array = [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
        let reason = if kind == 10 || kind == 5 { "too many" } else { "cut short" };
        File::default().pair("k", 9, &array).refused(reason);
    }
}

#[test]
fn lists_of_lists_and_unknown_types_are_refused() {
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    File::default().pair("k", 9, &nested).refused("a list of lists");
    File::default().pair("k", 13, &[0; 8]).refused("expected a type from 0 to 12, got 13");
    good().tensor("v", &[32], 4, 320).refused("expected a known element type, got number 4");
}

#[test]
fn alignment_is_a_power_of_two_within_limits() {
    for alignment in [0u32, 3, 24, 1 << 21, u32::MAX] {
        File::default().pair("general.alignment", 4, &alignment.to_le_bytes()).refused("a power of two");
    }
    File::default().pair("general.alignment", 8, &text("32")).refused("expected a number");
}

#[test]
fn dimensions_are_few_positive_and_their_product_is_checked() {
    let with = |dims: &[u64]| File::default().tensor("t", dims, 0, 0).data(64);
    with(&[]).refused("expected 1 to 4 dimensions, got 0");
    with(&[1, 1, 1, 1, 1]).refused("expected 1 to 4 dimensions, got 5");
    with(&[0, 4]).refused("whole blocks");
    with(&[1 << 33, 1 << 33]).refused("whole blocks");
    with(&[1 << 62, 2]).refused("whole blocks");
    with(&[1 << 62]).refused("whole blocks");
    with(&[1 << 61]).refused("cut short");
    File::default().tensor("t", &[33], 8, 0).data(64).refused("whole blocks of Q8_0");
}

#[test]
fn offsets_are_aligned_inside_the_file_and_apart() {
    let with = |offset| File::default().tensor("t", &[8], 0, offset).data(64);
    with(16).refused("a multiple of 32, got 16");
    with(64).refused("cut short");
    with(u64::MAX - 31).refused("cut short");
    good().tensor("v", &[8], 0, 32).refused("share bytes");
}

#[test]
fn names_are_there_once_and_not_empty() {
    good().tensor("t", &[8], 0, 320).data(400).refused("`t` is there twice");
    good().pair("a.text", 4, &[0; 4]).refused("`a.text` is there twice");
    File::default().tensor("", &[8], 0, 0).data(64).refused("expected 1 to 256 bytes, got 0");
    File::default().tensor(&"n".repeat(257), &[8], 0, 0).data(64).refused("expected 1 to 256 bytes, got 257");
}
