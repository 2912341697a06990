//! Reads a trace record by record.
//!
//! Invariants: memory is that of one record, whatever the file says; a file that ends within a record is read up to
//! there, and [`TraceReader::incomplete_bytes`] tells.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use moebius_router::ExpertLoad;

use super::TokenRoutes;
use super::header::{HeaderError, TraceHeader, TraceKind, fill};
use super::layout::Layout;
use crate::{Error, Result};

/// What a trace says next.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceRecord {
    /// A token.
    Token(TokenRoutes),
    /// How often the experts of each layer, `[layers][experts]`, were chosen by so many tokens.
    Counts(u32, Vec<Vec<u32>>),
}

/// A trace that is being read: an iterator over its records.
#[derive(Debug)]
pub struct TraceReader {
    file: BufReader<File>,
    path: PathBuf,
    header: TraceHeader,
    layout: Layout,
    record: Vec<u8>,
    offset: u64,
    records: u64,
    incomplete_bytes: usize,
    ended: bool,
}

impl TraceReader {
    /// Opens a trace and reads its header.
    ///
    /// # Errors
    /// A file that cannot be read, [`Error::Trace`] for one that is no trace or begins with a header that is none.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(read_error(path))?);
        let (header, offset) = TraceHeader::decode(&mut file).map_err(|error| match error {
            HeaderError::Io(source) => read_error(path)(source),
            HeaderError::Wrong(reason) => Error::Trace { path: path.into(), reason },
        })?;
        let layout = Layout::new(&header);
        let (record, incomplete_bytes) = (Vec::new(), 0);
        let path = path.into();
        Ok(TraceReader {
            file,
            path,
            header,
            layout,
            record,
            offset,
            records: 0,
            incomplete_bytes,
            ended: false,
        })
    }

    /// What the trace says before its first record.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Bytes after the last whole record, once all were read; 0 in a trace that was finished.
    pub fn incomplete_bytes(&self) -> usize {
        self.incomplete_bytes
    }

    /// The loads of the experts of each layer, over all that is left to read.
    ///
    /// # Errors
    /// Those of reading.
    pub fn loads(&mut self) -> Result<Vec<ExpertLoad>> {
        let mut loads: Vec<ExpertLoad> =
            self.header.layers.iter().map(|layer| ExpertLoad::new(layer.experts as usize)).collect();
        for record in self.by_ref() {
            add_to(&mut loads, &record?);
        }
        Ok(loads)
    }

    fn read(&mut self) -> Result<Option<TraceRecord>> {
        let size = self.layout.record_bytes();
        if self.record.is_empty() {
            // A header may promise records that no memory could hold, in a file that has not even one.
            let left = self.left().map_err(read_error(&self.path))?;
            if let Some(left) = left.filter(|&left| left < size as u64) {
                self.incomplete_bytes = left as usize;
                return Ok(None);
            }
            self.record.resize(size, 0);
        }
        let got = fill(&mut self.file, &mut self.record).map_err(read_error(&self.path))?;
        if got < size {
            self.incomplete_bytes = got;
            return Ok(None);
        }
        let decoded = match self.header.kind {
            TraceKind::Tokens => self.layout.decode_token(&self.record).map(TraceRecord::Token),
            TraceKind::Counts => self
                .layout
                .decode_counts(&self.record)
                .map(|(tokens, counts)| TraceRecord::Counts(tokens, counts)),
        };
        let record = decoded.map_err(|reason| {
            let reason = format!("record {} at byte {}: {reason}", self.records, self.offset);
            Error::Trace { path: self.path.clone(), reason }
        })?;
        self.offset += size as u64;
        self.records += 1;
        Ok(Some(record))
    }

    /// Bytes that the file still has; `None` for a pipe.
    fn left(&self) -> std::io::Result<Option<u64>> {
        let metadata = self.file.get_ref().metadata()?;
        Ok(metadata.is_file().then(|| metadata.len().saturating_sub(self.offset)))
    }
}

impl Iterator for TraceReader {
    type Item = Result<TraceRecord>;

    fn next(&mut self) -> Option<Result<TraceRecord>> {
        if self.ended {
            return None;
        }
        let record = self.read();
        self.ended = !matches!(record, Ok(Some(_)));
        record.transpose()
    }
}

/// Adds a record to the loads of the layers.
pub(super) fn add_to(loads: &mut [ExpertLoad], record: &TraceRecord) {
    match record {
        TraceRecord::Token(token) => {
            for (load, route) in loads.iter_mut().zip(&token.routes) {
                load.add_token(&route.experts);
            }
        }
        TraceRecord::Counts(tokens, counts) => {
            for (load, counts) in loads.iter_mut().zip(counts) {
                let counts = counts.iter().map(|&count| u64::from(count)).collect();
                load.merge(&ExpertLoad::from_counts(counts, u64::from(*tokens)))
                    .expect("the header was checked");
            }
        }
    }
}

/// Says which file could not be read.
pub(super) fn read_error(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Model(moebius_model::Error::Io { path: path.clone(), source })
}
