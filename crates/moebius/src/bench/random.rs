//! Numbers for prompts and caches: splitmix64, whose quality is far beyond what they need.

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `count` token ids of a vocabulary.
    pub(crate) fn tokens(&mut self, count: usize, vocab_size: usize) -> Vec<u32> {
        let id = |n: u64| u32::try_from(n % vocab_size.max(1) as u64).unwrap_or(0);
        (0..count).map(|_| id(self.next())).collect()
    }

    /// A number between 0 and 1, neither of them.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A number from -1 to 1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_the_vocabulary_and_numbers_within_their_range() {
        let mut random = Random::new(3);
        let tokens = random.tokens(1000, 7);
        assert!((0..7).all(|id| tokens.contains(&id)) && tokens.iter().all(|&id| id < 7));
        let numbers: Vec<f32> = (0..1000).map(|_| random.signed()).collect();
        assert!(numbers.iter().all(|n| (-1.0..=1.0).contains(n)));
        assert!(numbers.iter().any(|&n| n > 0.9) && numbers.iter().any(|&n| n < -0.9));
        assert!((0..1000).map(|_| random.unit()).all(|n| 0.0 < n && n < 1.0));
        assert_eq!(Random::new(3).tokens(1000, 7), tokens);
    }
}
