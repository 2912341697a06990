//! Files that a command writes besides what it prints.

use std::path::Path;

use moebius::Error;

use crate::errors::Result;

/// Writes all of a file and says how many bytes it has.
pub(crate) fn write(path: &Path, contents: &str) -> Result<u64> {
    std::fs::write(path, contents)
        .map_err(|source| Error::Write { path: path.into(), source: source.into() })?;
    Ok(contents.len() as u64)
}
