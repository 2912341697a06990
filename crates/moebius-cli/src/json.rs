//! Results for programs: one JSON object on one line. What is unknown is null.

use std::io::Write;

use serde::Serialize;

use crate::errors::{CliError, Result};

/// Prints one object.
pub(crate) fn print(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).expect("plain data without foreign keys can be written");
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).map_err(CliError::Output)
}
