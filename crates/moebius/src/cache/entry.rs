//! One packed copy: a directory with the weights and a file that says what they are.
//!
//! Invariants: a directory is an entry if it has the file [`MANIFEST`]; removing one removes its two files by name and then
//! the directory if nothing else is in it, and follows no links; the weights go first, so that what a killed program
//! leaves is still an entry.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::key::{Key, Stamp, text};
use crate::convert::WEIGHTS;
use crate::partial::{Partial, write_error};
use crate::{Error, Result};

/// The file that makes a directory an entry. The time at which it was modified is that of the entry's last use.
const MANIFEST: &str = "moebius-cache.json";
/// Longer than any that is written: a shard takes a hundred bytes.
const MANIFEST_LIMIT_BYTES: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Manifest {
    key: Key,
    /// The weights as they were written.
    weights: Stamp,
    /// Seconds since 1970.
    made: u64,
}

/// A packed copy of a model in the cache.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// Its directory.
    pub path: PathBuf,
    /// The model's directory or GGUF file; `None` when the entry is damaged.
    pub model: Option<String>,
    /// What weights are held in; `None` when the entry is damaged.
    pub format: Option<String>,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was packed; `None` when the entry is damaged.
    pub made: Option<SystemTime>,
    /// When it was mapped last.
    pub used: Option<SystemTime>,
    /// Whether it serves.
    pub state: EntryState,
}

/// Whether an entry serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// The model is as it was when it was packed.
    Current,
    /// The model has changed or gone, or another version of this program has packed it.
    Outdated,
    /// It is not as it was written.
    Damaged,
}

impl EntryState {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            EntryState::Current => "current",
            EntryState::Outdated => "outdated",
            EntryState::Damaged => "damaged",
        }
    }
}

/// Says what the weights in `partial` are, so that it is an entry when it is renamed.
pub(super) fn describe(partial: &Partial, key: Key) -> Result<()> {
    let (weights, manifest) = (partial.file(WEIGHTS), partial.file(MANIFEST));
    let stamp = Stamp::of(&weights).map_err(write_error(&weights))?;
    let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let json =
        serde_json::to_vec(&Manifest { key, weights: stamp, made }).expect("plain data can be written");
    let mut file = File::create_new(&manifest).map_err(write_error(&manifest))?;
    file.write_all(&json).and_then(|()| file.sync_all()).map_err(write_error(&manifest))
}

/// The directory in `cache` that holds what `key` says; `None` if there is none.
///
/// # Errors
/// [`Error::CachedCopy`] when it is not as it was written.
pub(super) fn find(cache: &Path, key: &Key) -> Result<Option<PathBuf>> {
    let path = cache.join(key.name());
    let manifest = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        manifest => manifest.map_err(|error| damaged(&path, error))?,
    };
    // Names of different keys may be the same, and a person may have put another directory here.
    if manifest.key != *key {
        return Ok(None);
    }
    match Stamp::of(&path.join(WEIGHTS)) {
        Ok(stamp) if stamp == manifest.weights => Ok(Some(path)),
        Ok(stamp) if stamp.bytes != manifest.weights.bytes => {
            let (expected, got) = (manifest.weights.bytes, stamp.bytes);
            Err(damaged(&path, format!("`{WEIGHTS}`: expected {expected} bytes, got {got}")))
        }
        Ok(_) => Err(damaged(&path, format!("`{WEIGHTS}` was written to after it was packed"))),
        // It is being removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(&path, error)),
    }
}

pub(super) fn damaged(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::CachedCopy { path: path.into(), source: source.into() }
}

/// Notes that an entry was used. A cache that may only be read serves as well.
pub(super) fn touch(path: &Path) {
    let manifest = File::options().write(true).open(path.join(MANIFEST));
    let _ = manifest.and_then(|file| file.set_modified(SystemTime::now()));
}

/// The entry at `path`; `None` if that is not one.
pub(super) fn inspect(path: &Path) -> Option<CacheEntry> {
    let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let manifest_file = path.join(MANIFEST).symlink_metadata().ok().filter(|m| is_dir && m.is_file())?;
    let weights = path.join(WEIGHTS).symlink_metadata();
    let bytes = manifest_file.len() + weights.map_or(0, |metadata| metadata.len());
    let manifest = read(path).ok();
    let state = match &manifest {
        Some(manifest) if Stamp::of(&path.join(WEIGHTS)).ok() != Some(manifest.weights) => {
            EntryState::Damaged
        }
        Some(manifest) if manifest.key.is_current() => EntryState::Current,
        Some(_) => EntryState::Outdated,
        None => EntryState::Damaged,
    };
    Some(CacheEntry {
        path: path.into(),
        model: manifest.as_ref().map(|m| text(&m.key.place())),
        format: manifest.as_ref().map(|m| m.key.format.clone()),
        bytes,
        made: manifest.as_ref().and_then(|m| UNIX_EPOCH.checked_add(Duration::from_secs(m.made))),
        used: manifest_file.modified().ok(),
        state,
    })
}

/// Whether the entry at `path` is an older state of what `key` says.
pub(super) fn is_superseded(path: &Path, key: &Key) -> bool {
    read(path).is_ok_and(|manifest| key.supersedes(&manifest.key))
}

/// Removes the entry at `path`, if that is one, and nothing else.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if inspect(path).is_none() {
        // An empty directory is what is left when a removal was cut short, and no loss.
        let _ = fs::remove_dir(path);
        return Ok(());
    }
    for name in [WEIGHTS, MANIFEST] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Manifest> {
    let path = path.join(MANIFEST);
    if path.metadata()?.len() > MANIFEST_LIMIT_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
