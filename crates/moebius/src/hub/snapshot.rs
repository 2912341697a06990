//! Copies of models in the shared cache of Hugging Face's programs.
//!
//! `models--OWNER--NAME` holds `blobs/ETAG`, `refs/REVISION` with a commit in it, and `snapshots/COMMIT/FILE`, links to
//! blobs; `.locks` beside it holds a lock for each blob that is being written.
//!
//! Invariants: what is read here decides nothing about paths before it is checked; a model is found only when every file
//! that it needs is there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::name::{HubName, is_commit, is_file_name};
use super::select::{self, CONFIG, INDEX, SINGLE};

/// Real indices are a few megabytes at most.
const INDEX_LIMIT_BYTES: u64 = 256 << 20;
/// Directories of a snapshot are few and flat.
const MAX_DEPTH: usize = 8;

/// A repository in the cache.
pub(super) struct Copy {
    /// Its directory.
    pub(super) dir: PathBuf,
    repo: CacheRepo,
}

impl Copy {
    pub(super) fn new(cache: &Path, name: &HubName) -> Self {
        let repo = Repo::with_revision(name.repo().into(), RepoType::Model, name.revision().into());
        Copy { dir: cache.join(repo.folder_name()), repo: hf_hub::Cache::new(cache.into()).repo(repo) }
    }

    /// Where the content that a hub calls `etag` lies.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    /// The files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The file that says which commit a revision is.
    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.dir.join("refs").join(revision)
    }

    /// The commit that a revision was when it was last pulled.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let text = match is_commit(revision) {
            true => revision.to_owned(),
            false => read_start(&self.reference(revision))?,
        };
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit) && self.snapshot(commit).is_dir())
    }
}

/// What a revision of a model in the cache is.
pub(super) struct Found {
    pub(super) snapshot: PathBuf,
}

/// The revision that `name` means, if anything of it is in the cache.
pub(super) fn find(cache: &Path, name: &HubName) -> Option<Found> {
    let copy = Copy::new(cache, name);
    let commit = copy.commit(name.revision())?;
    Some(Found { snapshot: copy.snapshot(&commit) })
}

/// What in a snapshot can be opened as a model with all its weights; `quant` chooses among GGUF files.
pub(super) fn complete(snapshot: &Path, quant: Option<&str>) -> Option<PathBuf> {
    if quant.is_none() && has_all_safetensors(snapshot) {
        return Some(snapshot.into());
    }
    let files = files(snapshot);
    let set = select::choose_gguf(&select::gguf_sets(files.iter().map(String::as_str)), quant).ok()?;
    set.files.first().map(|file| snapshot.join(file))
}

/// Whether config.json and all its safetensors are there.
pub(super) fn has_all_safetensors(snapshot: &Path) -> bool {
    let is_file = |name: &str| snapshot.join(name).is_file();
    let shards = || select::shards_of(&read_limited(&snapshot.join(INDEX))?).ok();
    is_file(CONFIG)
        && (is_file(SINGLE) || shards().is_some_and(|names| names.iter().all(|name| is_file(name))))
}

/// The files of a snapshot whose content is there, as a repository names them.
pub(super) fn files(snapshot: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![(snapshot.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else { continue };
            let name = format!("{prefix}{name}");
            // A link to a directory is nothing that a download makes.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth < MAX_DEPTH {
                    open.push((path, format!("{name}/"), depth + 1));
                }
            } else if path.is_file() && is_file_name(&name) {
                files.push(name);
            }
        }
    }
    files.sort();
    files
}

pub(super) fn read_limited(path: &Path) -> Option<Vec<u8>> {
    let file = fs::File::open(path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|m| m.len() <= INDEX_LIMIT_BYTES))?;
    let mut bytes = Vec::new();
    file.take(INDEX_LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// As much of a text as could be a commit.
fn read_start(path: &Path) -> Option<String> {
    const MOST: u64 = 64;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}
