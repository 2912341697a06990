//! Packed copies of models that are kept, so that a model is rounded and packed once and mapped from then on.
//!
//! An entry holds weights only: the configuration, the tokenizer and all else are read from the model's own directory. It
//! is found by a [`key::Key`], which it also tells in full.
//!
//! Invariants: an entry is whole from the moment it has its name, and never written again; one whose key is not the very
//! one that is looked for is not used. Whoever gives or takes an entry its name holds the cache's lock; readers need none.
//! Only entries, and what ended programs left of them, are ever removed.

mod entry;
mod key;
mod place;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moebius_backend::Backend;
use moebius_model::{HeldFormats, ModelFiles};

pub use entry::{CacheEntry, EntryState};
use key::Key;

use crate::backend::open_backend;
use crate::convert::{Converted, Watch, write_weights};
use crate::partial::{self, Partial, write_error};
use crate::{ConvertOptions, Error, Result, memory};

/// Held while names are given and taken; the file stays.
const LOCK: &str = ".lock";
/// Tells programs that make backups to leave the directory out (bford.info/cachedir).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# moebius keeps packed models here; `moebius cache` lists them.\n",
);

/// A directory of packed models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

/// What the cache had for a model that was opened.
#[derive(Debug)]
pub enum CacheUse {
    /// It was not asked: nobody wanted it, or nothing needs packing.
    NotAsked,
    /// Nothing; the weights were packed while they were loaded.
    Absent,
    /// This entry, made from the model as it was before its files changed; weights were packed while they were loaded.
    Outdated(PathBuf),
    /// This entry, from which the weights are mapped.
    Mapped(PathBuf),
    /// An entry that cannot be used; the weights were packed while they were loaded.
    Unusable(Box<Error>),
}

/// What became of a wish to have a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It is packed already, or the backend does not pack.
    NotNeeded,
    /// It was there.
    Found(PathBuf),
    /// It was packed, and is there now.
    Packed {
        /// Its directory.
        path: PathBuf,
        /// What was read and written.
        converted: Converted,
    },
}

/// Which entries are meant: those that meet every condition.
#[derive(Clone, Debug, Default)]
pub struct CacheFilter {
    /// Copies of the model in this directory, or with this configuration.
    pub model: Option<PathBuf>,
    /// Copies in this format.
    pub format: Option<HeldFormats>,
    /// Copies that do not serve any more.
    pub outdated: bool,
}

impl Cache {
    /// The cache in the directory `dir`, which need not be there.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Cache { dir: dir.into() }
    }

    /// This user's cache: `MOEBIUS_CACHE_DIR`, else `moebius/packed` in `XDG_CACHE_HOME` or `~/.cache`, on macOS
    /// in `~/Library/Caches`, on Windows in `%LOCALAPPDATA%`.
    ///
    /// # Errors
    /// [`Error::NoCachePlace`] when the environment names none of these.
    pub fn standard() -> Result<Self> {
        place::standard().map(Cache::at).ok_or(Error::NoCachePlace)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sees to it that the model in `model` is here, packed as `options` say. `progress` is told the bytes read so far
    /// and in all; `None` when it said to stop, and then nothing is left. When two programs pack the same at once, the
    /// entry of the first stays and serves both.
    ///
    /// # Errors
    /// Those of [`crate::convert`]; [`Error::Memory`] for a model that could not be opened afterwards;
    /// [`Error::SourceChanged`] when somebody wrote to it meanwhile.
    pub fn pack(
        &self,
        model: impl AsRef<Path>,
        options: &ConvertOptions,
        progress: Watch<'_>,
    ) -> Result<Option<Cached>> {
        let open = || ModelFiles::open(model.as_ref(), None).map(|files| files.hold(options.format));
        let mut files = open()?;
        if files.checkpoint_bytes().is_none() {
            return Err(Error::NoWeights(model.as_ref().into()));
        }
        let backend = open_backend(&options.backend)?;
        let Some(packer) = backend.packer().filter(|_| files.is_packable()) else {
            return Ok(Some(Cached::NotNeeded));
        };
        if let CacheUse::Mapped(path) = self.attach(&mut files, &backend) {
            return Ok(Some(Cached::Found(path)));
        }
        memory::check_fits(files.info(&backend)?.weight_bytes().unwrap_or(0), None)?;
        self.prepare()?;
        let key = Key::of(&files, packer)?;
        // What is read is opened after the key was taken, so that a file that is replaced meanwhile shows below.
        let files = open()?;
        let partial = Partial::beside(&self.dir.join(key.name()))?;
        let Some(converted) = write_weights(&files, &backend, &partial, progress)? else { return Ok(None) };
        if Key::of(&files, packer)? != key {
            return Err(Error::SourceChanged(files.dir().into()));
        }
        entry::describe(&partial, key.clone())?;
        let name_given = self.publish(partial, &key)?;
        let path = self.dir.join(key.name());
        Ok(Some(if name_given { Cached::Packed { path, converted } } else { Cached::Found(path) }))
    }

    /// Every entry, by model and format.
    ///
    /// # Errors
    /// A directory that is there and cannot be read.
    pub fn entries(&self) -> Result<Vec<CacheEntry>> {
        let paths = self
            .paths()
            .map_err(|source| Error::Model(moebius_model::Error::Io { path: self.dir.clone(), source }))?;
        let mut entries: Vec<_> = paths.iter().filter_map(|path| entry::inspect(path)).collect();
        entries.sort_by(|a, b| (&a.model, &a.format, &a.path).cmp(&(&b.model, &b.format, &b.path)));
        Ok(entries)
    }

    /// Removes the entries that `filter` means, and what ended programs left; says which entries, and how many bytes were
    /// left over by ended programs. Programs that have an entry mapped go on where the system allows it.
    ///
    /// # Errors
    /// [`Error::Write`] when a directory refuses.
    pub fn clear(&self, filter: &CacheFilter) -> Result<(Vec<CacheEntry>, u64)> {
        if !self.dir.is_dir() {
            return Ok((Vec::new(), 0));
        }
        let _lock = self.lock()?;
        let mut entries = self.entries()?;
        entries.retain(|entry| filter.means(entry));
        for entry in &entries {
            entry::remove(&entry.path).map_err(write_error(&entry.path))?;
        }
        Ok((entries, partial::sweep_all(&self.dir)))
    }

    /// Lets `files` take their weights from here, if there is a copy that serves.
    pub(crate) fn attach(&self, files: &mut ModelFiles, backend: &Arc<dyn Backend>) -> CacheUse {
        let Some(packer) = backend.packer().filter(|_| files.is_packable()) else {
            return CacheUse::NotAsked;
        };
        let key = match Key::of(files, packer) {
            Ok(key) => key,
            Err(error) => return CacheUse::Unusable(error.into()),
        };
        let path = match entry::find(&self.dir, &key) {
            Ok(Some(path)) => path,
            Ok(None) => return self.superseded(&key).pop().map_or(CacheUse::Absent, CacheUse::Outdated),
            Err(error) => return CacheUse::Unusable(error.into()),
        };
        if let Err(error) = files.map_copy(&path, backend) {
            return CacheUse::Unusable(entry::damaged(&path, error).into());
        }
        entry::touch(&path);
        CacheUse::Mapped(path)
    }

    /// Gives an entry its name and removes the one that it replaces; false if a whole one has the name.
    fn publish(&self, partial: Partial, key: &Key) -> Result<bool> {
        let _lock = self.lock()?;
        if let Ok(Some(_)) = entry::find(&self.dir, key) {
            return Ok(false);
        }
        let path = self.dir.join(key.name());
        entry::remove(&path).map_err(write_error(&path))?;
        partial.rename(&path)?;
        for path in self.superseded(key) {
            // It can be cleared later.
            let _ = entry::remove(&path);
        }
        Ok(true)
    }

    /// Entries of the same model, format and program, from before its files changed.
    fn superseded(&self, key: &Key) -> Vec<PathBuf> {
        let mut paths = self.paths().unwrap_or_default();
        paths.retain(|path| entry::is_superseded(path, key));
        paths
    }

    /// Makes the directory, for this user alone, and removes what ended programs left in it.
    fn prepare(&self) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.dir).map_err(write_error(&self.dir))?;
        // Nobody's backup is to leave out a directory that was there before.
        if self.paths().is_ok_and(|paths| paths.is_empty()) {
            let tag = self.dir.join(TAG.0);
            fs::write(&tag, TAG.1).map_err(write_error(&tag))?;
        }
        partial::sweep_all(&self.dir);
        Ok(())
    }

    /// Waits until no other program gives or takes names. Where there are no locks there is nothing to wait for.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join(LOCK);
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&path).map_err(write_error(&path))?;
        match file.lock() {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => Err(write_error(&path)(error)),
            _ => Ok(file),
        }
    }

    /// What lies in the directory; nothing if it is not there.
    fn paths(&self) -> std::io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect(),
        }
    }
}

impl CacheFilter {
    fn means(&self, entry: &CacheEntry) -> bool {
        let model = |model: &PathBuf| {
            // The model may be gone, and its name as the list shows it is still its name.
            let whole =
                |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_default();
            let named = entry.model.as_deref().map(Path::new);
            match (model.is_file(), model.file_name()) {
                // A file of a directory, or the one file that a model is.
                (true, Some(name)) => {
                    let dir = whole(partial::directory_of(model));
                    named == Some(&*dir) || named == Some(&*dir.join(name))
                }
                _ => named == Some(&*whole(model)),
            }
        };
        let format = |format: &HeldFormats| entry.format.as_deref() == Some(&*format.to_string());
        self.model.as_ref().is_none_or(model)
            && self.format.as_ref().is_none_or(format)
            && (!self.outdated || entry.state != EntryState::Current)
    }
}
