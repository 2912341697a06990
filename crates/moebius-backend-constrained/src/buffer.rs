//! Memory for experts: a run of bytes that starts with a page.
//!
//! Invariants: the first byte lies at a multiple of [`PAGE`], where every unit of every format may start and where disks
//! that bypass the system's cache may write.

/// What buffers, and reads into them, are aligned to.
pub(crate) const PAGE: usize = 4096;

/// Bytes from a page on.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many zeros.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        assert!(start < PAGE, "bytes can be aligned");
        Buffer { bytes, start, len }
    }

    /// All bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_any_size_start_with_a_page() {
        for len in [0, 1, 63, 64, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.bytes_mut().as_ptr() as usize % PAGE, 0);
            buffer.bytes_mut().fill(7);
            assert_eq!(buffer.as_ref(), vec![7; len]);
        }
    }
}
