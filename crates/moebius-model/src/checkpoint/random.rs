//! A file that nobody wrote: random bf16 weights for measuring a shape, each byte made when it is read.
//!
//! Matrices are roughly normal with the deviation that models start their training from, embeddings have
//! deviation 1 and norms are 1: activations then stay in range and tokens differ, so that a router spreads them
//! over all its experts. The values come from a small pool, of which every block of the file shows a stretch that
//! the seed and the block's number choose: reading is copying, and costs little beside packing.
//!
//! Invariants: a byte depends on the seed, its place and its tensor's kind alone, not on what was read before.

use std::collections::BTreeMap;
use std::ops::Range;

use half::bf16;

/// Deviation of matrices.
const MATRIX_DEVIATION: f32 = 0.02;
/// Values of a pool: they stay in a core's cache.
const POOL_LEN: usize = 1 << 18;
const ELEMENT_BYTES: usize = size_of::<bf16>();
/// Bytes that come from one place of the pool.
const BLOCK_BYTES: usize = 4096;

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Norm,
    Embedding,
    Matrix,
}

impl Kind {
    fn of(name: &str) -> Self {
        if name.ends_with("norm.weight") {
            Kind::Norm
        } else if name.ends_with("embed_tokens.weight") {
            Kind::Embedding
        } else {
            Kind::Matrix
        }
    }
}

/// Random tensors, one after another.
pub(super) struct RandomFile {
    seed: u64,
    /// Where tensors begin, and what they hold.
    kinds: BTreeMap<usize, Kind>,
    matrices: Vec<u8>,
    embeddings: Vec<u8>,
}

impl RandomFile {
    /// A file without tensors.
    pub(super) fn new(seed: u64) -> Self {
        let matrices = pool(seed, MATRIX_DEVIATION);
        RandomFile { seed, kinds: BTreeMap::new(), matrices, embeddings: pool(seed ^ 1, 1.0) }
    }

    /// Places a tensor, which must begin where the last one ended.
    pub(super) fn place(&mut self, name: &str, start: usize) {
        self.kinds.insert(start, Kind::of(name));
    }

    /// The bytes of a range within one tensor.
    pub(super) fn read(&self, range: Range<usize>) -> Vec<u8> {
        let kind = self.kinds.range(..=range.start).next_back().map_or(Kind::Matrix, |(_, kind)| *kind);
        match kind {
            Kind::Norm => bf16::ONE.to_le_bytes().repeat(range.len() / ELEMENT_BYTES),
            Kind::Embedding => self.copy(&self.embeddings, range),
            Kind::Matrix => self.copy(&self.matrices, range),
        }
    }

    fn copy(&self, pool: &[u8], range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        let mut at = range.start;
        while at < range.end {
            let (block, within) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let take = (BLOCK_BYTES - within).min(range.end - at);
            let places = (pool.len() - BLOCK_BYTES) / ELEMENT_BYTES;
            let place = mix(self.seed.wrapping_add(block as u64)) as usize % places;
            let start = place * ELEMENT_BYTES + within;
            bytes.extend_from_slice(&pool[start..start + take]);
            at += take;
        }
        bytes
    }
}

/// Roughly normal values: each the sum of four uniform ones.
fn pool(seed: u64, deviation: f32) -> Vec<u8> {
    // Each of the four has variance 2^32 / 12.
    let scale = deviation / (f32::from(u16::MAX) * (4.0f32 / 12.0).sqrt());
    let value = |index: u64| {
        let bits = mix(mix(seed).wrapping_add(index));
        let sum: u32 = (0..4).map(|part| u32::from((bits >> (16 * part)) as u16)).sum();
        bf16::from_f32((sum as f32 - 2.0 * f32::from(u16::MAX)) * scale)
    };
    (0..POOL_LEN as u64).flat_map(|index| value(index).to_le_bytes()).collect()
}

/// A number that looks unrelated to `n` (splitmix64's step and finaliser).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    fn file(seed: u64) -> RandomFile {
        let mut file = RandomFile::new(seed);
        file.place("model.embed_tokens.weight", 0);
        file.place("model.layers.0.mlp.gate.weight", 100_000);
        file.place("model.norm.weight", 300_000);
        file
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
    }

    /// Checks mean and deviation of what a range holds.
    #[track_caller]
    fn check(range: Range<usize>, mean: f32, deviation: f32) {
        let values = floats(&file(1).read(range));
        let count = values.len() as f32;
        let got_mean = values.iter().sum::<f32>() / count;
        let got_deviation = (values.iter().map(|v| (v - got_mean).powi(2)).sum::<f32>() / count).sqrt();
        assert!((got_mean - mean).abs() < 0.03 * deviation.max(0.1), "mean {got_mean}");
        assert!((got_deviation - deviation).abs() <= 0.03 * deviation, "deviation {got_deviation}");
    }

    #[test]
    fn each_kind_of_tensor_has_its_deviation() {
        check(0..100_000, 0.0, 1.0);
        check(100_000..300_000, 0.0, MATRIX_DEVIATION);
        check(300_000..304_096, 1.0, 0.0);
    }

    #[test]
    fn a_part_is_the_same_alone_and_within_the_whole() {
        let whole = file(7).read(100_000..300_000);
        for range in [0..2, 4094..4098, 96_000..120_002, 199_998..200_000] {
            let part = file(7).read(100_000 + range.start..100_000 + range.end);
            assert_eq!(part, whole[range.clone()], "{range:?}");
        }
    }

    #[test]
    fn tensors_beyond_the_address_space_are_refused() {
        let open = |rows| Checkpoint::random([("a".to_owned(), vec![rows, 1 << 20])].into(), 0);
        assert!(open(1).is_ok());
        for rows in [1 << 43, usize::MAX] {
            assert!(open(rows).is_err(), "{rows}");
        }
    }

    #[test]
    fn seeds_and_places_give_different_bytes() {
        let one = file(7).read(100_000..120_000);
        assert_eq!(one, file(7).read(100_000..120_000));
        assert_ne!(one, file(8).read(100_000..120_000));
        assert_ne!(one, file(7).read(120_000..140_000));
    }
}
