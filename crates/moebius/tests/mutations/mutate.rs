//! Small changes to the bytes of a file, of the kinds that break readers. The same seed gives the same changes.

/// Numbers that counts, lengths and offsets go wrong at.
const EXTREMES: [u64; 12] = [
    0,
    1,
    7,
    255,
    65_535,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff0,
    u64::MAX,
];

/// Text that parsers of JSON go wrong at.
const WORDS: [&[u8]; 12] = [
    b"null",
    b"-1",
    b"1e999",
    b"0.5",
    b"[[",
    b"{\"",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\ud800",
    b"\"../x\"",
    b"true",
];

/// Where changes come from (xorshift64*, Marsaglia 2003).
pub(crate) struct Mutator {
    state: u64,
}

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Mutator { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let mixed = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (mixed >> 16) as usize % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Changes `bytes` in one to four places, mostly within the first `head` bytes, where what is read before it is
    /// believed lies.
    pub(crate) fn change(&mut self, bytes: &mut Vec<u8>, head: usize) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                bytes.push(self.below(256) as u8);
            }
            let reach = if self.below(16) == 0 { bytes.len() } else { head.min(bytes.len()) };
            let at = self.below(reach.max(1));
            self.change_at(bytes, at);
        }
    }

    fn change_at(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let end = bytes.len().min(at + 1 + self.below(64));
        match self.below(10) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'[', b'0', b'-', b',']),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            4 => {
                let width = self.pick(&[1, 2, 4, 8]).min(bytes.len() - at);
                self.put_extreme(&mut bytes[at..at + width]);
            }
            5 | 6 => self.replace_number(bytes, at),
            7 => {
                let word = self.pick(&WORDS);
                bytes.splice(at..end, word.iter().copied());
            }
            8 => {
                let other = self.below(bytes.len());
                bytes.swap(at, other);
            }
            _ if self.below(8) == 0 => bytes.truncate(at),
            _ => bytes[at] = self.below(256) as u8,
        }
    }

    /// Puts an extreme number in place of at most eight bytes.
    pub(crate) fn put_extreme(&mut self, bytes: &mut [u8]) {
        let extreme = self.pick(&EXTREMES).to_le_bytes();
        bytes.copy_from_slice(&extreme[..bytes.len()]);
    }

    /// Puts an extreme number in place of the next decimal one.
    fn replace_number(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else {
            return;
        };
        let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = self.pick(&EXTREMES).to_string();
        bytes.splice(start..start + digits, text.into_bytes());
    }
}
