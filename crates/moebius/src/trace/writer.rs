//! Writes a trace as it comes.
//!
//! Invariants: nothing that is no trace is overwritten; after [`TraceWriter::flush`] everything so far is in the file,
//! and whatever ends the program later, the file reads up to there.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::TokenRoutes;
use super::header::{MAGIC, TraceHeader, TraceKind, fill};
use super::layout::Layout;
use crate::partial::write_error;
use crate::{Error, Result};

/// A trace under way.
#[derive(Debug)]
pub struct TraceWriter {
    file: BufWriter<File>,
    path: PathBuf,
    kind: TraceKind,
    layout: Layout,
    record: Vec<u8>,
    bytes: u64,
}

impl TraceWriter {
    /// Begins a trace at `path`. A trace that is there is replaced, and an empty file is used; any other file is left
    /// alone.
    ///
    /// # Errors
    /// [`Error::TraceTarget`] where another file is, [`Error::Trace`] for a header that describes no trace, and
    /// [`Error::Write`].
    pub fn create(path: &Path, header: &TraceHeader) -> Result<Self> {
        if let Some(reason) = header.problem() {
            return Err(Error::Trace { path: path.into(), reason: format!("header: {reason}") });
        }
        let file = open_target(path)?;
        let layout = Layout::new(header);
        let mut writer = TraceWriter {
            file: BufWriter::new(file),
            path: path.into(),
            kind: header.kind,
            record: Vec::with_capacity(layout.record_bytes()),
            layout,
            bytes: 0,
        };
        writer.record = header.encode();
        writer.put()?;
        writer.flush()?;
        Ok(writer)
    }

    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a token.
    ///
    /// # Errors
    /// [`Error::Trace`] for a token that does not fit the header, or a trace of counts; [`Error::Write`].
    pub fn token(&mut self, token: &TokenRoutes) -> Result<()> {
        self.expect(TraceKind::Tokens)?;
        self.record.clear();
        let encoded = self.layout.encode_token(token, &mut self.record);
        encoded.map_err(|reason| self.refuse(reason))?;
        self.put()
    }

    /// Appends how often the experts of each layer were chosen by `tokens` further tokens: `[layers][experts]`.
    ///
    /// # Errors
    /// [`Error::Trace`] for counts that do not fit the header, or a trace of tokens; [`Error::Write`].
    pub fn counts(&mut self, tokens: u32, counts: &[Vec<u32>]) -> Result<()> {
        self.expect(TraceKind::Counts)?;
        self.record.clear();
        let encoded = self.layout.encode_counts(tokens, counts, &mut self.record);
        encoded.map_err(|reason| self.refuse(reason))?;
        self.put()
    }

    /// Hands everything so far to the system.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(write_error(&self.path))
    }

    fn put(&mut self) -> Result<()> {
        self.file.write_all(&self.record).map_err(write_error(&self.path))?;
        self.bytes += self.record.len() as u64;
        Ok(())
    }

    fn expect(&self, kind: TraceKind) -> Result<()> {
        let got = self.kind;
        if got == kind {
            Ok(())
        } else {
            Err(self.refuse(format!("expected a trace of {kind:?}, got {got:?}")))
        }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Trace { path: self.path.clone(), reason }
    }
}

/// An empty file at `path`.
fn open_target(path: &Path) -> Result<File> {
    let create = OpenOptions::new().write(true).create_new(true).open(path);
    match create {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => return created.map_err(write_error(path)),
    }
    // A device or a pipe has no beginning to look at, and nothing in it to lose.
    let is_file = std::fs::metadata(path).map_err(write_error(path))?.is_file();
    let mut file = OpenOptions::new().read(is_file).write(true).open(path).map_err(write_error(path))?;
    if is_file {
        let mut start = [0; MAGIC.len()];
        let got = fill(&mut file, &mut start).map_err(write_error(path))?;
        if got > 0 && start != *MAGIC {
            return Err(Error::TraceTarget(path.into()));
        }
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(write_error(path))?;
    }
    Ok(file)
}
