//! A read-only mapping of one file, the only place of this crate with unsafe code.
//!
//! Invariants: the mapping is never written; pages that were read are given back on request, so that a
//! checkpoint and its packed copy are not resident at the same time; weights that lie packed in a file keep its mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use moebius_backend::MappedPages;

use crate::{Error, Result};

/// The bytes of a file.
pub(super) struct MappedFile {
    map: Mmap,
    file: Arc<File>,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { what: "checkpoint file", path: path.into() },
            _ => Error::Io { path: path.into(), source },
        };
        // Asked before the file is opened: opening a named pipe waits for its writer.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::InvalidFile { path: path.into(), reason: "expected a regular file".into() });
        }
        if metadata.len() == 0 {
            return Err(Error::InvalidFile { path: path.into(), reason: "the file is empty".into() });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is private to this process and read-only. As with every mapped file, another
        // process that truncates it while it is read would end this one. Of a file with packed weights that holds for as
        // long as the model lives; a converted model is put in place whole and never written again.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(MappedFile { map, file: Arc::new(file) })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The file itself, for whoever reads what another maps. Offsets are the same.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl MappedPages for MappedFile {
    fn release(&self, bytes: &[u8]) {
        let start = bytes.as_ptr() as usize;
        let Some(offset) = start.checked_sub(self.map.as_ptr() as usize) else { return };
        if offset + bytes.len() > self.map.len() {
            return;
        }
        // Rounded outward, to the front by as much as Linux maps around a page that is read: a neighbour's
        // part is read again from the file when needed, while thousands of remainders would add up.
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            const MAPPED_AROUND: usize = 16 * PAGE;
            let first = offset.saturating_sub(MAPPED_AROUND) / PAGE * PAGE;
            let length = (offset + bytes.len() - first).min(self.map.len() - first);
            // SAFETY: dropping clean pages of a read-only file mapping loses nothing; a later access reads
            // them from the file again. Failure is harmless, so the result does not matter.
            let _ =
                unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, length) };
        }
    }
}
