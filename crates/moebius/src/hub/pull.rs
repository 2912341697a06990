//! Bringing a model into the cache.
//!
//! Invariants: names, commits and checksums from the hub are checked before anything is made of them; a snapshot shows its
//! weights after everything else, and a revision names a commit after all its files are there, so that a download that
//! was cut short is not taken for a model.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use super::blob::{Checksum, Download, RemoteFile, Tally};
use super::name::{is_commit, is_file_name, is_hex};
use super::request::Client;
use super::select::{self, CONFIG, INDEX, SINGLE, choose_gguf, gguf_sets, is_companion};
use super::snapshot::{self, Copy};
use super::{Hub, HubError, HubName, HubWatch, Needs, Pulled};
use crate::Result;
use crate::partial::{check_room, directory_of, write_error};

/// Files that arrive at the same time.
const JOBS: usize = 4;

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Sibling {
    /// The file as it will be checked.
    fn describe(&self) -> Result<RemoteFile, String> {
        let name = &self.rfilename;
        if !is_file_name(name) {
            return Err(format!("{name:?} is no name for a file"));
        }
        let (bytes, checksum) = match (&self.lfs, self.size, &self.blob_id) {
            (Some(lfs), ..) if is_hex(&lfs.sha256, 64) => (lfs.size, Checksum::Sha256(lfs.sha256.clone())),
            (None, Some(bytes), Some(id)) if is_hex(id, 40) => (bytes, Checksum::Git(id.clone())),
            _ => return Err(format!("`{name}` has no size and checksum")),
        };
        Ok(RemoteFile { name: name.clone(), bytes, checksum })
    }
}

/// Everything that a download works on.
struct Pull<'a> {
    hub: &'a Hub,
    name: &'a HubName,
    copy: Copy,
    listing: Listing,
    client: Client<'a>,
}

/// Sees to it that what `needs` says of `name` is in the cache, whole and checked.
pub(super) fn pull(hub: &Hub, name: &HubName, needs: Needs, watch: HubWatch<'_>) -> Result<Pulled> {
    let stopped = || watch(0, 0).is_break();
    let client = Client::new(hub, name, &stopped)?;
    let bytes = client.listing()?;
    let refuse = |reason: String| HubError::Listing { repo: name.repo().into(), reason };
    let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if !is_commit(&listing.sha) {
        return Err(
            refuse(format!("expected a commit of 40 hexadecimal digits, got {:?}", listing.sha)).into()
        );
    }
    let copy = Copy::new(&hub.dir, name);
    for dir in [copy.dir.join("blobs"), hub.locks(&copy)] {
        fs::create_dir_all(&dir).map_err(write_error(&dir))?;
    }
    let pull = Pull { hub, name, copy, listing, client };
    pull.run(needs, watch)
}

impl Pull<'_> {
    fn run(&self, needs: Needs, watch: HubWatch<'_>) -> Result<Pulled> {
        let (mut files, weights, mut fetched_bytes) = self.choose(needs, watch)?;
        let n_companions = files.len();
        files.extend(weights);
        let total = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
        let total = total
            .ok_or_else(|| self.refuse("its files have more bytes than there are numbers for".into()))?;
        fetched_bytes += self.fetch(&files, &Tally::new(total, watch))?;
        let snapshot = self.copy.snapshot(&self.listing.sha);
        for file in &files {
            point(&self.copy.blob(file.checksum.hex()), &snapshot.join(&file.name), symlink)?;
        }
        if self.name.revision() != self.listing.sha {
            write_whole(&self.copy.reference(self.name.revision()), &self.listing.sha)?;
        }
        let path = match files.get(n_companions) {
            Some(first) if first.name.to_ascii_lowercase().ends_with(".gguf") => snapshot.join(&first.name),
            _ => snapshot,
        };
        Ok(Pulled { path, commit: self.listing.sha.clone(), files: files.len(), bytes: total, fetched_bytes })
    }

    /// Companions, weights, and the bytes that came to know them.
    fn choose(&self, needs: Needs, watch: HubWatch<'_>) -> Result<(Vec<RemoteFile>, Vec<RemoteFile>, u64)> {
        let names: Vec<&str> = self.listing.siblings.iter().map(|sibling| &*sibling.rfilename).collect();
        let has = |name: &str| names.contains(&name);
        let described = has(CONFIG) && self.name.quant().is_none();
        let companions = || -> Result<Vec<RemoteFile>> {
            names.iter().filter(|name| is_companion(name)).map(|name| self.file(name)).collect()
        };
        if described && needs == Needs::Description {
            return Ok((companions()?, Vec::new(), 0));
        }
        if described && has(SINGLE) {
            return Ok((companions()?, vec![self.file(SINGLE)?], 0));
        }
        if described && has(INDEX) {
            let index = self.file(INDEX)?;
            let fetched = self.fetch(std::slice::from_ref(&index), &Tally::new(index.bytes, watch))?;
            let text = snapshot::read_limited(&self.copy.blob(index.checksum.hex())).unwrap_or_default();
            let shards = select::shards_of(&text).map_err(|reason| self.refuse(reason))?;
            let mut companions: Vec<RemoteFile> = companions()?;
            companions.push(index);
            let weights = shards.iter().map(|shard| self.file(shard)).collect::<Result<_>>()?;
            return Ok((companions, weights, fetched));
        }
        let sets = gguf_sets(names.iter().copied());
        let other = |name: &&&str| name.ends_with(".bin") || name.ends_with(".pth");
        let reason = |reason: String| match names.iter().find(other) {
            Some(name) if sets.is_empty() => format!("it has `{name}`, which is not read"),
            _ => reason,
        };
        let none = |text: String| HubError::NoWeights { repo: self.name.repo().into(), reason: reason(text) };
        let set = choose_gguf(&sets, self.name.quant()).map_err(none)?;
        Ok((Vec::new(), set.files.iter().map(|file| self.file(file)).collect::<Result<_>>()?, 0))
    }

    fn refuse(&self, reason: String) -> HubError {
        HubError::Listing { repo: self.name.repo().into(), reason }
    }

    fn file(&self, name: &str) -> Result<RemoteFile> {
        let sibling = self.listing.siblings.iter().find(|sibling| sibling.rfilename == name);
        let sibling = sibling.ok_or_else(|| self.refuse(format!("`{name}` is missing")))?;
        Ok(sibling.describe().map_err(|reason| self.refuse(reason))?)
    }

    /// Brings blobs, several at a time; says how many bytes came.
    fn fetch(&self, files: &[RemoteFile], tally: &Tally<'_>) -> Result<u64> {
        let locks = self.hub.locks(&self.copy);
        let mut downloads: Vec<Download<'_>> = Vec::new();
        for file in files {
            let (etag, blob) = (file.checksum.hex(), self.copy.blob(file.checksum.hex()));
            // A repository may have one content under two names.
            if downloads.iter().any(|known| known.blob == blob) {
                tally.add(file.bytes);
                continue;
            }
            let (url, lock) =
                (self.client.url(&self.listing.sha, &file.name), locks.join(format!("{etag}.lock")));
            downloads.push(Download { file, url, blob, lock, tally });
        }
        let needed = downloads.iter().map(|d| d.file.bytes - d.left_bytes()).fold(0, u64::saturating_add);
        check_room(&self.copy.dir, needed)?;
        let stopped = || tally.stopped();
        let client = Client::new(self.hub, self.name, &stopped)?;
        let (next, failed, fetched) = (AtomicUsize::new(0), Mutex::new(None), Mutex::new(0_u64));
        let work = || {
            while let Some(download) = downloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                match download.finish(&client) {
                    Ok(bytes) => *fetched.lock().unwrap_or_else(|e| e.into_inner()) += bytes,
                    Err(error) => {
                        // The first error is the one that the others stop for.
                        failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                        return tally.stop();
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..JOBS.min(downloads.len()) {
                scope.spawn(work);
            }
        });
        match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok(fetched.into_inner().unwrap_or_else(|e| e.into_inner())),
        }
    }
}

/// Lets `pointer` lead to `blob`: by a relative link, or where `link` cannot make one, by a copy.
fn point(blob: &Path, pointer: &Path, link: fn(&Path, &Path) -> io::Result<()>) -> Result<()> {
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
    let dir = directory_of(pointer);
    fs::create_dir_all(dir).map_err(write_error(dir))?;
    if same(blob, pointer) {
        return Ok(());
    }
    let fresh = fresh(pointer);
    let _ = fs::remove_file(&fresh);
    let snapshots = |dir: &&Path| dir.file_name().is_some_and(|name| name == "snapshots");
    let depth = dir.ancestors().take_while(|dir| !snapshots(dir)).count();
    let up: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
    let linked = link(&target, &fresh).and_then(|()| fresh.metadata().map(|_| ()));
    if linked.is_err() {
        let _ = fs::remove_file(&fresh);
        fs::copy(blob, &fresh).map_err(write_error(pointer))?;
    }
    fs::rename(&fresh, pointer).map_err(write_error(pointer))
}

fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, link);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target, link);
    #[cfg(not(any(unix, windows)))]
    return Err(io::ErrorKind::Unsupported.into());
}

/// A name beside `path` that no other process uses.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Writes a small file so that nobody reads half of it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let (dir, fresh) = (directory_of(path), fresh(path));
    let written = fs::create_dir_all(dir)
        .and_then(|()| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(write_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sibling(name: &str, size: Option<u64>, id: Option<&str>, sha256: Option<&str>) -> Sibling {
        let lfs = sha256.map(|sha256| Lfs { sha256: sha256.into(), size: 7 });
        Sibling { rfilename: name.into(), size, blob_id: id.map(str::to_owned), lfs }
    }

    #[test]
    fn a_file_without_a_safe_name_a_size_and_a_checksum_is_refused() {
        let (git, sha256) = ("a".repeat(40), "b".repeat(64));
        let large = sibling("a", Some(1), None, Some(&sha256)).describe().unwrap();
        assert_eq!((large.bytes, large.checksum), (7, Checksum::Sha256(sha256.clone())));
        assert_eq!(sibling("a", Some(1), Some(&git), None).describe().unwrap().bytes, 1);
        for bad in [
            sibling("../a", Some(1), Some(&git), None),
            sibling("a", None, Some(&git), None),
            sibling("a", Some(1), None, None),
            sibling("a", Some(1), Some("../../etc/passwd"), None),
            sibling("a", Some(1), Some(&git), Some("../x")),
            sibling("a", Some(1), None, Some(&"B".repeat(64))),
        ] {
            assert!(bad.describe().is_err(), "{}", bad.rfilename);
        }
    }

    #[test]
    fn where_links_cannot_be_made_files_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (blob, snapshot) = (dir.path().join("blobs/x"), dir.path().join("snapshots/c"));
        fs::create_dir_all(directory_of(&blob)).unwrap();
        fs::write(&blob, "content").unwrap();
        let refuse = |_: &Path, _: &Path| Err(io::ErrorKind::Unsupported.into());
        for (name, link) in
            [("a", symlink as fn(&Path, &Path) -> io::Result<()>), ("d/b", symlink), ("copy", refuse)]
        {
            for _ in 0..2 {
                point(&blob, &snapshot.join(name), link).unwrap();
                assert_eq!(fs::read_to_string(snapshot.join(name)).unwrap(), "content");
            }
        }
        assert!(!snapshot.join("copy").is_symlink());
        assert_eq!(snapshot.join("d/b").is_symlink(), cfg!(unix));
    }
}
