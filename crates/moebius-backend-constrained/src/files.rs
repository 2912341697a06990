//! Where experts lie: runs of bytes in files, which are read into our own memory and never mapped.
//!
//! Files are read past the system's cache where it allows that, so that memory holds an expert once and within the budget;
//! elsewhere what was read is given up at once.
//!
//! Invariants: a file that is shorter than it was, or that was written to, is an error of the read; nothing is read beyond
//! the region that it is read into.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use moebius_backend::{Error, Result};

use crate::buffer::PAGE;

/// Bytes of memory into which `len` bytes are read from anywhere in a file, with what lies around them up to whole pages.
pub(crate) fn region_bytes(len: usize) -> usize {
    (len + PAGE - 1).next_multiple_of(PAGE)
}

/// A file with experts.
pub(crate) struct ExpertFile {
    file: Arc<File>,
    /// The same file past the system's cache.
    direct: Option<File>,
    direct_refused: AtomicBool,
    /// What it was when it was opened; `None` of one that nobody else can reach.
    stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl ExpertFile {
    /// A file that others can write to, which is an error from now on.
    pub(crate) fn shared(file: Arc<File>) -> io::Result<Self> {
        let stamp = Some(Stamp::of(&file.metadata()?));
        Ok(ExpertFile { stamp, ..ExpertFile::own(file) })
    }

    /// A file without a name.
    fn own(file: Arc<File>) -> Self {
        let direct = open_direct(&file);
        ExpertFile { file, direct, direct_refused: AtomicBool::new(false), stamp: None }
    }

    pub(crate) fn is(&self, file: &Arc<File>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// Reads `len` bytes from `offset` on into `region`, which has [`region_bytes`] of them and starts with a page; says
    /// where they lie in it.
    pub(crate) fn read(&self, offset: u64, len: usize, region: &mut [u8]) -> io::Result<Range<usize>> {
        let before = (offset % PAGE as u64) as usize;
        let (first, wanted) = (offset - before as u64, before + len);
        let mut got = 0;
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.direct_refused.load(Relaxed)) {
            match read_at(direct, &mut region[..wanted.next_multiple_of(PAGE)], first) {
                Ok(read) => got = read,
                // Some systems open a file so and read none.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.direct_refused.store(true, Relaxed)
                }
                Err(error) => return Err(error),
            }
        }
        if got < wanted {
            self.read_buffered(first, got..wanted, region)?;
        }
        self.check()?;
        Ok(before..wanted)
    }

    fn read_buffered(&self, first: u64, missing: Range<usize>, region: &mut [u8]) -> io::Result<()> {
        let Range { start, end } = missing;
        let mut got = start;
        while got < end {
            match read_at(&self.file, &mut region[got..end], first + got as u64) {
                Ok(0) => {
                    let (expected, got) = (first + end as u64, first + got as u64);
                    let reason = format!("the file ends too early: expected {expected} bytes, got {got}");
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, reason));
                }
                Ok(read) => got += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        give_up_cached(&self.file, first, end as u64);
        Ok(())
    }

    /// Fails if somebody wrote to the file.
    fn check(&self) -> io::Result<()> {
        match self.stamp {
            Some(stamp) if Stamp::of(&self.file.metadata()?) != stamp => {
                Err(io::Error::new(ErrorKind::InvalidData, "the file was written to while the model ran"))
            }
            _ => Ok(()),
        }
    }
}

/// Where an expert's matrices lie, in the order of its projections.
pub(crate) struct UnitSpans {
    pub(crate) parts: Vec<Span>,
}

/// Where a matrix lies in a file.
#[derive(Clone)]
pub(crate) struct Span {
    pub(crate) file: Arc<ExpertFile>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

impl UnitSpans {
    /// Bytes of the matrices.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len as u64).sum()
    }

    /// Memory that reading them takes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.parts.iter().map(|part| region_bytes(part.len)).sum()
    }

    /// Reads the matrices into `memory`.
    pub(crate) fn read(&self, memory: &mut [u8]) -> io::Result<()> {
        let mut rest = memory;
        for part in &self.parts {
            let (region, after) = rest.split_at_mut(region_bytes(part.len));
            part.file.read(part.offset, part.len, region)?;
            rest = after;
        }
        Ok(())
    }

    /// Where in memory each matrix lies that [`UnitSpans::read`] has read.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts.iter().scan(0, |start, part| {
            let first = *start + (part.offset % PAGE as u64) as usize;
            *start += region_bytes(part.len);
            Some(first..first + part.len)
        })
    }
}

/// A file without a name that takes the experts which lie in none: it is gone when the program is, however it ends.
pub(crate) struct Spill {
    dir: Option<PathBuf>,
    file: Option<(Arc<File>, Arc<ExpertFile>)>,
    end: u64,
}

impl Spill {
    /// A file in `dir`, or where temporary files are, once there is something to write.
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Spill { dir, file: None, end: 0 }
    }

    /// Writes the bytes of a matrix.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<Span> {
        self.write(bytes).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: io::Error) -> Error {
        Error::Spill {
            dir: self.dir.clone().unwrap_or_else(|| "the directory of temporary files".into()),
            source,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<Span> {
        if self.file.is_none() {
            let file = match &self.dir {
                Some(dir) => std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)),
                None => tempfile::tempfile(),
            };
            let file = Arc::new(file?);
            self.file = Some((file.clone(), Arc::new(ExpertFile::own(file))));
        }
        let (file, expert_file) = self.file.as_ref().expect("it was made above");
        write_all_at(file, bytes, self.end)?;
        let span = Span { file: expert_file.clone(), offset: self.end, len: bytes.len() };
        self.end = (self.end + bytes.len() as u64).next_multiple_of(PAGE as u64);
        Ok(span)
    }

    /// Leaves nothing of what was written in memory.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some((file, _)) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|source| self.refused(source))?;
        give_up_cached(file, 0, self.end);
        Ok(())
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Opens a file again, past the system's cache; `None` where that cannot be.
#[cfg(target_os = "linux")]
fn open_direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).custom_flags(direct).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &File) -> Option<File> {
    None
}

/// Says that a part of a file need not stay in the system's cache.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn give_up_cached(file: &File, offset: u64, len: u64) {
    // A refusal costs memory that is not ours, and nothing else.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), rustix::fs::Advice::DontNeed);
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn give_up_cached(_: &File, _: u64, _: u64) {}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::buffer::Buffer;

    fn numbers(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    /// Reads and says what was read.
    fn read(file: &ExpertFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Buffer::new(region_bytes(len));
        let place = file.read(offset, len, buffer.bytes_mut())?;
        Ok(buffer.as_ref()[place].to_vec())
    }

    #[test]
    fn any_part_of_a_file_is_read_past_the_cache_and_through_it() {
        let bytes = numbers(3 * PAGE + 100);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let file = ExpertFile::shared(Arc::new(file)).unwrap();
        for refused in [false, true] {
            file.direct_refused.store(refused, Relaxed);
            for (offset, len) in
                [(0, 1), (64, 100), (4032, 128), (4096, 4096), (64, 3 * PAGE), (3 * PAGE, 100)]
            {
                assert_eq!(
                    read(&file, offset as u64, len).unwrap(),
                    bytes[offset..offset + len],
                    "{offset} {len}"
                );
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_or_written_to_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&numbers(2 * PAGE)).unwrap();
        let opened = Arc::new(File::open(file.path()).unwrap());
        let shared = ExpertFile::shared(opened).unwrap();
        read(&shared, 4096, 4096).unwrap();
        file.as_file().set_len(PAGE as u64 + 5).unwrap();
        let error = read(&shared, 4096, 4096).unwrap_err();
        assert_eq!(error.to_string(), "the file ends too early: expected 8192 bytes, got 4101");
        file.as_file().set_len(2 * PAGE as u64).unwrap();
        file.as_file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let error = read(&shared, 0, 64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn what_was_spilled_comes_back_and_a_directory_that_refuses_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(Some(dir.path().join("below")));
        let (one, other) = (numbers(5000), numbers(77));
        let parts = vec![spill.put(&one).unwrap(), spill.put(&other).unwrap()];
        spill.settle().unwrap();
        let spans = UnitSpans { parts };
        let mut buffer = Buffer::new(spans.slot_bytes());
        spans.read(buffer.bytes_mut()).unwrap();
        let got: Vec<&[u8]> = spans.places().map(|place| &buffer.as_ref()[place]).collect();
        assert_eq!(got, [&one[..], &other[..]]);
        assert_eq!(spans.bytes(), 5077);
        assert!(std::fs::read_dir(dir.path().join("below")).unwrap().next().is_none());

        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let error = Spill::new(Some(file.clone())).put(&one).map(drop).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot put experts into a file in `{}`", file.display()));
    }
}
