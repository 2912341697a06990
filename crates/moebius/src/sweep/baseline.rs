//! The logits of a reference, on disk while a sweep runs: a large vocabulary times a long text fits no memory.
//!
//! Layout: f32, little-endian, `[positions, vocab]`, the sequences one after the other.
//! Invariants: the file has no name and is gone with the process, however that ends.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use moebius_engine::ScoredToken;

use crate::partial::{check_room, write_error};
use crate::{Error, Result};

/// The logits of every position of some sequences.
#[derive(Debug)]
pub struct Baseline {
    file: Access,
    /// Number of the first position of each sequence.
    starts: Vec<u64>,
    vocab: usize,
    /// Where the file stands.
    offset: u64,
    bytes: Vec<u8>,
    row: Vec<f32>,
}

#[derive(Debug)]
enum Access {
    Writing(BufWriter<File>),
    Reading(BufReader<File>),
}

impl Baseline {
    /// Room for the logits of `sequences` over `vocab` tokens.
    pub(super) fn new(sequences: &[Vec<u32>], vocab: usize) -> Result<Self> {
        let mut positions = 0_u64;
        let mut starts = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            starts.push(positions);
            positions += sequence.len() as u64;
        }
        let dir = std::env::temp_dir();
        check_room(&dir, positions.saturating_mul(row_bytes(vocab)))?;
        let file = tempfile::tempfile().map_err(write_error(&dir))?;
        let file = Access::Writing(BufWriter::with_capacity(1 << 20, file));
        Ok(Baseline { file, starts, vocab, offset: 0, bytes: Vec::new(), row: Vec::new() })
    }

    /// Keeps the logits of a position.
    pub(super) fn put(&mut self, row: &ScoredToken<'_>) -> Result<()> {
        let at = self.place(row)?;
        self.bytes.clear();
        self.bytes.extend(row.logits.iter().flat_map(|logit| logit.to_le_bytes()));
        let Access::Writing(file) = &mut self.file else { return Err(lost("it is being read already")) };
        if self.offset != at {
            file.seek(SeekFrom::Start(at)).map_err(failed)?;
        }
        file.write_all(&self.bytes).map_err(failed)?;
        self.offset = at + self.bytes.len() as u64;
        Ok(())
    }

    /// The logits that were kept of the same position.
    pub(super) fn at(&mut self, row: &ScoredToken<'_>) -> Result<&[f32]> {
        let at = self.place(row)?;
        if let Access::Writing(file) = &mut self.file {
            file.flush().map_err(failed)?;
            let file = file.get_ref().try_clone().map_err(failed)?;
            self.file = Access::Reading(BufReader::with_capacity(1 << 20, file));
            self.offset = u64::MAX;
        }
        let Access::Reading(file) = &mut self.file else { return Err(lost("it is still being written")) };
        if self.offset != at {
            file.seek(SeekFrom::Start(at)).map_err(failed)?;
        }
        self.bytes.resize(row_bytes(self.vocab) as usize, 0);
        file.read_exact(&mut self.bytes).map_err(failed)?;
        self.offset = at + self.bytes.len() as u64;
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.row.clear();
        self.row.extend(self.bytes.chunks_exact(4).map(number));
        Ok(&self.row)
    }

    /// Where the row of a position begins.
    fn place(&self, row: &ScoredToken<'_>) -> Result<u64> {
        if row.logits.len() != self.vocab {
            return Err(lost(format!(
                "it is over {} tokens, the model over {}",
                self.vocab,
                row.logits.len()
            )));
        }
        let start = self.starts.get(row.sequence).ok_or_else(|| lost("it has fewer sequences"))?;
        Ok((start + row.position as u64) * row_bytes(self.vocab))
    }
}

fn row_bytes(vocab: usize) -> u64 {
    (vocab * size_of::<f32>()) as u64
}

fn failed(source: std::io::Error) -> Error {
    write_error(&std::env::temp_dir())(source)
}

/// A baseline that does not fit what is asked of it.
fn lost(reason: impl Into<String>) -> Error {
    Error::Baseline(reason.into())
}
