//! Removing models from the cache.
//!
//! Invariants: only a directory of the cache that is named after the model is touched, and nothing through a link; a blob
//! goes when no snapshot that stays leads to it; nothing goes while somebody downloads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::list::{commits, references};
use super::select::{choose_gguf, gguf_sets};
use super::snapshot::{self, Copy};
use super::{Hub, HubError, HubName};
use crate::Result;
use crate::partial::write_error;

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Files of models, links and what they lead to counted once.
    pub files: usize,
    /// Bytes that are free again.
    pub bytes: u64,
}

/// What is to go.
pub(super) struct Plan {
    name: String,
    locks: PathBuf,
    /// Everything, if nothing of the model stays.
    whole: Option<PathBuf>,
    /// A whole snapshot.
    snapshot: Option<PathBuf>,
    files: BTreeSet<PathBuf>,
    summary: Removed,
}

/// What has to go for `name` to be gone.
pub(super) fn plan(hub: &Hub, name: &HubName) -> Result<Plan> {
    let copy = Copy::new(&hub.dir, name);
    let not_here = || HubError::NotHere { name: name.to_string(), dir: hub.dir.clone() };
    let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|m| m.is_dir());
    if !is_dir(&copy.dir) {
        return Err(not_here().into());
    }
    let locks = hub.locks(&copy);
    let whole = |copy: &Copy| {
        let (files, bytes) = measure(&copy.dir);
        let summary = Removed { files, bytes };
        let (whole, locks) = (Some(copy.dir.clone()), locks.clone());
        Plan { name: name.to_string(), locks, whole, snapshot: None, files: BTreeSet::new(), summary }
    };
    if !name.has_revision() && name.quant().is_none() {
        return Ok(whole(&copy));
    }
    let commit = copy.commit(name.revision()).ok_or_else(not_here)?;
    let gone = copy.snapshot(&commit);
    let all = snapshot::files(&gone);
    let leaving = match name.quant() {
        None => all.clone(),
        Some(quant) => {
            choose_gguf(&gguf_sets(all.iter().map(String::as_str)), Some(quant))
                .map_err(|_| not_here())?
                .files
        }
    };
    let is_all = leaving.len() == all.len();
    if is_all && commits(&copy).len() == 1 {
        return Ok(whole(&copy));
    }
    let staying = commits(&copy).into_iter().flat_map(|other| {
        let dir = copy.snapshot(&other);
        let stays = |file: &String| other != commit || !leaving.contains(file);
        let files = snapshot::files(&dir).into_iter().filter(stays).map(move |file| dir.join(file));
        files.collect::<Vec<_>>()
    });
    let staying: BTreeSet<PathBuf> = staying.filter_map(|path| path.canonicalize().ok()).collect();
    let blobs = copy.dir.join("blobs").canonicalize().unwrap_or_default();
    let mut files: BTreeSet<PathBuf> = leaving.iter().map(|file| gone.join(file)).collect();
    let targets = files.iter().filter_map(|path| path.canonicalize().ok());
    let targets: Vec<_> =
        targets.filter(|path| path.parent() == Some(&*blobs) && !staying.contains(path)).collect();
    files.extend(targets);
    if is_all {
        let refs = references(&copy).into_iter().filter(|(_, of)| *of == commit);
        files.extend(refs.map(|(revision, _)| copy.reference(&revision)));
    }
    let bytes = files
        .iter()
        .filter_map(|path| path.symlink_metadata().ok())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum();
    let summary = Removed { files: leaving.len(), bytes };
    let snapshot = is_all.then_some(gone);
    Ok(Plan { name: name.to_string(), locks, whole: None, snapshot, files, summary })
}

impl Plan {
    pub(super) fn summary(&self) -> Removed {
        self.summary
    }

    pub(super) fn execute(self) -> Result<Removed> {
        let _locks = self.lock()?;
        if let Some(whole) = &self.whole {
            fs::remove_dir_all(whole).map_err(write_error(whole))?;
            // Locks are not worth an error, and others may have made new ones.
            let _ = fs::remove_dir_all(&self.locks);
            return Ok(self.summary);
        }
        // Links first: a link that leads nowhere is no file of a model any more.
        let (links, others): (Vec<_>, Vec<_>) = self.files.iter().partition(|path| path.is_symlink());
        for path in links.into_iter().chain(others) {
            fs::remove_file(path).map_err(write_error(path))?;
        }
        if let Some(snapshot) = &self.snapshot {
            fs::remove_dir_all(snapshot).map_err(write_error(snapshot))?;
        }
        Ok(self.summary)
    }

    /// Holds every lock of the model's blobs.
    fn lock(&self) -> Result<Vec<File>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.locks).into_iter().flatten().flatten() {
            let Ok(file) = File::options().read(true).write(true).open(entry.path()) else { continue };
            if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
                return Err(HubError::Busy(self.name.clone()).into());
            }
            held.push(file);
        }
        Ok(held)
    }
}

/// Files below a directory and their bytes; links count as nothing.
fn measure(dir: &Path) -> (usize, u64) {
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) if metadata.is_file() => (files, bytes) = (files + 1, bytes + metadata.len()),
                _ => {}
            }
        }
    }
    (files, bytes)
}
