//! Rows of a checkpoint on their way into a file of plain numbers or blocks.
//!
//! Invariants: no more than a stretch of rows is in memory; rows that are stored as they are written are copied; no number
//! is written that is not finite.

use std::io::Write;
use std::thread;

use moebius_backend::{WeightFormat, WeightView};

use crate::{Error, Result};

/// Rows that are rounded together, by all threads.
const STRETCH: usize = 4096;
/// The least number that f16 has none for.
const BEYOND_F16: f32 = 65520.0;

/// Counts what is written.
pub(super) struct Sink<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) bytes: u64,
}

impl Sink<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::Output)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn write_floats(&mut self, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write(&bytes)
    }
}

/// The rows of a matrix on their way into a file.
pub(super) struct Rows<'a> {
    pub(super) view: &'a WeightView<'a>,
    /// What they are written in.
    pub(super) format: WeightFormat,
    /// For each row which one is written there, if not its own.
    pub(super) order: Option<&'a [u32]>,
    /// The same for columns.
    pub(super) columns: Option<&'a [u32]>,
}

impl Rows<'_> {
    /// Writes all of them, rounded by `threads` threads.
    pub(super) fn write(&self, sink: &mut Sink<'_>, threads: usize) -> Result<()> {
        let as_stored = self.view.format == self.format && self.columns.is_none();
        if as_stored && self.order.is_none() {
            return sink.write(&self.view.bytes);
        }
        let all = self.order.map_or(self.view.rows, <[u32]>::len);
        let row_bytes =
            self.format.bytes_for(1, self.view.cols).expect("the plan has chosen a format that fits");
        for start in (0..all).step_by(STRETCH) {
            let count = STRETCH.min(all - start);
            let mut bytes = vec![0; count * row_bytes];
            let share = count.div_ceil(threads.max(1));
            thread::scope(|scope| {
                let rounding: Vec<_> = (bytes.chunks_mut(share * row_bytes).enumerate())
                    .map(|(index, out)| {
                        scope.spawn(move || self.round(start + index * share, out, row_bytes))
                    })
                    .collect();
                rounding.into_iter().try_for_each(|thread| thread.join().expect("rounding does not panic"))
            })?;
            sink.write(&bytes)?;
        }
        Ok(())
    }

    /// Rounds rows from number `first` on, as many as `out` has room for.
    fn round(&self, first: usize, out: &mut [u8], row_bytes: usize) -> Result<()> {
        let stored_bytes = self.view.bytes.len() / self.view.rows.max(1);
        let mut values = vec![0.0; self.view.cols];
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
            let row = self.order.map_or(row, |order| order[row] as usize);
            let stored = &self.view.bytes[row * stored_bytes..][..stored_bytes];
            if self.view.format == self.format && self.columns.is_none() {
                out.copy_from_slice(stored);
                continue;
            }
            self.view.format.decode(stored, &mut values).map_err(|error| weight(&self.view.name, error))?;
            finite(&self.view.name, &values)?;
            if let Some(columns) = self.columns {
                values = columns.iter().map(|&col| values[col as usize]).collect();
            }
            encode(&self.view.name, &values, self.format, out)?;
        }
        Ok(())
    }
}

/// Writes numbers in a format that has them.
pub(super) fn encode(name: &str, values: &[f32], format: WeightFormat, out: &mut [u8]) -> Result<()> {
    let beyond = |value: &&f32| format == WeightFormat::F16 && value.abs() >= BEYOND_F16;
    if let Some(value) = values.iter().find(beyond) {
        return Err(weight(name, format!("f16 has no number as large as {value}")));
    }
    format.encode(values, out).map_err(|error| weight(name, error))
}

/// Fails if a number is none.
pub(super) fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(weight(name, format!("expected finite numbers, got {value}"))),
    }
}

fn weight(name: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    moebius_backend::Error::Weight { name: name.into(), source: source.into() }.into()
}
