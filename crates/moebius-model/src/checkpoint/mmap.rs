//! A read-only mapping of one file, and what happens when the file behind it goes: the only place of this crate with unsafe
//! code.
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
        // process that truncates it while it is read would end this one, by [`end_with_message`] or without a word. Of a
        // file with packed weights that holds for as long as the model lives; a converted model is put in place whole and
        // never written again.
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

/// From now on a mapped file that was cut short, or whose disk fails, ends the program with `message` on stderr and exit
/// code 1, and no longer without a word. For programs, not for libraries: it concerns the whole process.
#[cfg(target_os = "linux")]
pub fn end_with_message(message: &'static str) {
    if MESSAGE.set(message).is_err() {
        return;
    }
    // SAFETY: `action` is initialised in every field that the call reads: all zeros are a valid set of signals and no
    // flags. The handler has the signature that `SA_SIGINFO` asks for and calls only what may be called in a handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = unreadable as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // A refusal leaves things as they were.
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Other systems say so in other ways, or not at all.
#[cfg(not(target_os = "linux"))]
pub fn end_with_message(_: &'static str) {}

#[cfg(target_os = "linux")]
static MESSAGE: std::sync::OnceLock<&str> = std::sync::OnceLock::new();

#[cfg(target_os = "linux")]
extern "C" fn unreadable(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system calls a handler with `SA_SIGINFO` with information that is valid until it returns. `write`,
    // `_exit` and `signal` may be called in a handler; reading an initialised `OnceLock` is one atomic load.
    unsafe {
        if (*info).si_code == libc::BUS_ADRERR
            && let Some(message) = MESSAGE.get()
        {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(1);
        }
        // Anything else ends the program as if this handler were not here, when what caused it happens again.
        libc::signal(signal, libc::SIG_DFL);
    }
}
