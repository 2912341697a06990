//! What of a hub is in the cache.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::select::{self, CONFIG, gguf_sets};
use super::snapshot::{self, Copy};
use super::{Hub, HubName, is_hex};
use crate::{Error, Result};

/// One commit of a repository in the cache.
#[derive(Clone, Debug)]
pub struct HubEntry {
    /// `owner/name`.
    pub repo: String,
    /// The commit; its first digits are enough for people.
    pub commit: String,
    /// Branches and tags that were this commit when they were pulled.
    pub revisions: Vec<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of downloads of this repository that were cut short.
    pub unfinished_bytes: u64,
    /// The models in it.
    pub models: Vec<HubModel>,
}

/// Something that can be opened, or could if it were whole.
#[derive(Clone, Debug)]
pub struct HubModel {
    /// Which GGUF file it is; `None` for safetensors.
    pub quant: Option<String>,
    /// What [`crate::Model::open`] takes.
    pub path: PathBuf,
    /// Whether all its weights are there.
    pub is_complete: bool,
}

pub(super) fn entries(hub: &Hub) -> Result<Vec<HubEntry>> {
    let unreadable = |source| Error::Model(moebius_model::Error::Io { path: hub.dir.clone(), source });
    let dirs = match fs::read_dir(&hub.dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dirs => dirs.map_err(unreadable)?,
    };
    let mut entries = Vec::new();
    for entry in dirs.flatten() {
        let repo = entry.file_name().into_string().ok().and_then(|name| repo_of(&name));
        if let Some(repo) = repo.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            entries.extend(entries_of(hub, &repo));
        }
    }
    entries.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
    Ok(entries)
}

/// `models--owner--name` as a name; `None` for what is none.
fn repo_of(dir: &str) -> Option<HubName> {
    let (owner, name) = dir.strip_prefix("models--")?.split_once("--")?;
    format!("{owner}/{name}").parse().ok()
}

fn entries_of(hub: &Hub, name: &HubName) -> Vec<HubEntry> {
    let copy = Copy::new(&hub.dir, name);
    let incomplete = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "incomplete");
    let blobs =
        fs::read_dir(copy.dir.join("blobs")).into_iter().flatten().flatten().map(|entry| entry.path());
    let unfinished_bytes =
        blobs.filter(incomplete).filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
    let refs = references(&copy);
    let entry = |commit: String| {
        let snapshot = copy.snapshot(&commit);
        let files = snapshot::files(&snapshot);
        let bytes =
            files.iter().filter_map(|file| snapshot.join(file).metadata().ok()).map(|m| m.len()).sum();
        let mut models = Vec::new();
        if snapshot.join(CONFIG).is_file() {
            let is_complete = snapshot::has_all_safetensors(&snapshot);
            models.push(HubModel { quant: None, path: snapshot.clone(), is_complete });
        }
        for set in gguf_sets(files.iter().map(String::as_str)) {
            let path = set.files.first().map(|file| snapshot.join(file)).unwrap_or_default();
            models.push(HubModel { is_complete: set.is_complete(), quant: Some(set.quant), path });
        }
        // Some repositories of GGUF files have a config.json too.
        let only_config = |model: &HubModel| {
            model.quant.is_none() && !model.is_complete && !snapshot.join(select::INDEX).exists()
        };
        if models.iter().any(|model| model.quant.is_some()) {
            models.retain(|model| !only_config(model));
        }
        let of_commit = |(revision, of): &(String, String)| (*of == commit).then(|| revision.clone());
        let revisions = refs.iter().filter_map(of_commit).collect();
        HubEntry { repo: name.repo().into(), revisions, commit, bytes, unfinished_bytes, models }
    };
    commits(&copy).into_iter().map(entry).collect()
}

/// The commits of which there is a snapshot.
pub(super) fn commits(copy: &Copy) -> Vec<String> {
    let entries = fs::read_dir(copy.dir.join("snapshots")).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_hex(name, 40));
    names.sort();
    names
}

/// Every revision with its commit, such as `main` or `refs/pr/1`.
pub(super) fn references(copy: &Copy) -> Vec<(String, String)> {
    const MAX_DEPTH: usize = 8;
    let mut references = Vec::new();
    let mut open = vec![(copy.dir.join("refs"), String::new(), 0)];
    while let Some((dir, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
            let name = format!("{prefix}{name}");
            if kind.is_dir() && depth < MAX_DEPTH {
                open.push((entry.path(), format!("{name}/"), depth + 1));
            } else if let Some(commit) = copy.commit(&name).filter(|_| kind.is_file()) {
                references.push((name, commit));
            }
        }
    }
    references.sort();
    references
}
