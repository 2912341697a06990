//! One file on its way into the cache.
//!
//! It grows in `blobs/ETAG.incomplete` under the lock that huggingface_hub would take, goes on where an earlier attempt
//! ended, and gets its name when size and checksum are as promised.
//!
//! Invariants: what has a blob's name is whole; every byte that is in a blob went through its checksum, those of an earlier
//! attempt too.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::request::{Client, Failure, content_range, network};
use super::{HubError, HubWatch};
use crate::Result;
use crate::partial::write_error;

const BUFFER_BYTES: usize = 1 << 18;
/// How often a program that waits for another one looks whether it is done.
const GLANCE: Duration = Duration::from_millis(50);

/// A file of a repository, as the hub describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path in the repository.
    pub(super) name: String,
    /// Its size.
    pub(super) bytes: u64,
    /// Its checksum, and the name of its blob.
    pub(super) checksum: Checksum,
}

/// What a file's content is checked against, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of the content: large files.
    Sha256(String),
    /// Of the content as Git stores it: small files.
    Git(String),
}

impl Checksum {
    pub(super) fn hex(&self) -> &str {
        match self {
            Checksum::Sha256(hex) | Checksum::Git(hex) => hex,
        }
    }

    /// The checksum of nothing yet, of `bytes` that will come.
    fn begin(&self, bytes: u64) -> Running {
        match self {
            Checksum::Sha256(_) => Running::Sha256(Sha256::new()),
            Checksum::Git(_) => Running::Git(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
        }
    }
}

enum Running {
    Sha256(Sha256),
    Git(Sha1),
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Running::Sha256(hash) => hash.update(bytes),
            Running::Git(hash) => hash.update(bytes),
        }
    }

    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Running::Sha256(hash) => hex(&hash.finalize()),
            Running::Git(hash) => hex(&hash.finalize()),
        }
    }
}

/// How far all files together are.
pub(super) struct Tally<'a> {
    pub(super) total: u64,
    done: AtomicU64,
    stop: AtomicBool,
    watch: HubWatch<'a>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(total: u64, watch: HubWatch<'a>) -> Self {
        Tally { total, done: AtomicU64::new(0), stop: AtomicBool::new(false), watch }
    }

    /// Whether to stop, told how far it is.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || (self.watch)(self.done.load(Ordering::Relaxed), self.total).is_break()
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A blob that is to be in the cache.
pub(super) struct Download<'a> {
    pub(super) file: &'a RemoteFile,
    pub(super) url: String,
    pub(super) blob: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) tally: &'a Tally<'a>,
}

/// The part of a blob that is there, and its checksum so far.
struct Part {
    file: File,
    bytes: u64,
    hash: Running,
}

impl Download<'_> {
    /// Sees to it that the blob is there and as promised; says how many bytes came from the hub.
    pub(super) fn finish(&self, client: &Client<'_>) -> Result<u64> {
        let _lock = self.lock(client)?;
        if self.is_whole(client)? {
            return Ok(0);
        }
        let mut part = self.open(client)?;
        let resumed = part.bytes;
        let mut fetched = self.fetch(client, &mut part)?;
        let Part { mut file, hash, .. } = part;
        let mut got = hash.hex();
        // What an earlier attempt, or another program, left may have been damaged: then begin anew, once.
        if got != self.file.checksum.hex() && resumed > 0 {
            self.tally.take_back(self.file.bytes);
            let mut part = self.restart(file)?;
            fetched += self.fetch(client, &mut part)?;
            (file, got) = (part.file, part.hash.hex());
        }
        if got != self.file.checksum.hex() {
            drop(file);
            let _ = fs::remove_file(self.incomplete());
            return Err(self.damaged(format!("checksum {}", self.file.checksum.hex()), got).into());
        }
        let named = file.sync_all().and_then(|()| fs::rename(self.incomplete(), &self.blob));
        named.map_err(write_error(&self.blob))?;
        Ok(fetched)
    }

    /// Bytes that an earlier attempt left.
    pub(super) fn left_bytes(&self) -> u64 {
        let bytes = |path: &Path| path.metadata().map_or(0, |m| m.len());
        bytes(&self.blob).max(bytes(&self.incomplete())).min(self.file.bytes)
    }

    fn incomplete(&self) -> PathBuf {
        let mut path = self.blob.clone().into_os_string();
        path.push(".incomplete");
        path.into()
    }

    fn damaged(&self, expected: String, got: String) -> HubError {
        HubError::Damaged { file: self.file.name.clone(), expected, got }
    }

    /// Waits until no other program writes this blob. Where there are no locks there is nothing to wait for.
    fn lock(&self, client: &Client<'_>) -> Result<File> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&self.lock).map_err(write_error(&self.lock))?;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            client.wait(GLANCE)?;
        }
        Ok(file)
    }

    /// Whether the blob is there and as promised; one that is not goes.
    fn is_whole(&self, client: &Client<'_>) -> Result<bool> {
        let Ok(mut file) = File::open(&self.blob) else { return Ok(false) };
        let bytes = file.metadata().map_or(0, |m| m.len());
        if bytes == self.file.bytes {
            let mut hash = self.file.checksum.begin(bytes);
            self.read_through(client, &mut file, &mut hash)?;
            if hash.hex() == self.file.checksum.hex() {
                return Ok(true);
            }
            self.tally.take_back(bytes);
        }
        drop(file);
        fs::remove_file(&self.blob).map_err(write_error(&self.blob))?;
        Ok(false)
    }

    /// Hashes what is in a file.
    fn read_through(&self, client: &Client<'_>, file: &mut File, hash: &mut Running) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            client.check()?;
            match file.read(&mut buffer).map_err(write_error(&self.blob))? {
                0 => return Ok(()),
                n => {
                    hash.update(&buffer[..n]);
                    self.tally.add(n as u64);
                }
            }
        }
    }

    fn open(&self, client: &Client<'_>) -> Result<Part> {
        let path = self.incomplete();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(write_error(&path))?;
        let bytes = file.metadata().map_err(write_error(&path))?.len();
        if bytes > self.file.bytes {
            return self.restart(file);
        }
        let mut hash = self.file.checksum.begin(self.file.bytes);
        self.read_through(client, &mut file, &mut hash)?;
        Ok(Part { file, bytes, hash })
    }

    /// Forgets what is there.
    fn restart(&self, mut file: File) -> Result<Part> {
        let emptied = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        emptied.map_err(write_error(&self.blob))?;
        Ok(Part { file, bytes: 0, hash: self.file.checksum.begin(self.file.bytes) })
    }

    fn fetch(&self, client: &Client<'_>, part: &mut Part) -> Result<u64> {
        let mut fetched = 0;
        client.persist(|progressed| {
            if part.bytes == self.file.bytes {
                return Ok(());
            }
            let response = client.get(&self.url, part.bytes)?;
            self.accept(&response, part)?;
            let before = part.bytes;
            let read = self.read(client, response, part);
            fetched += part.bytes - before;
            *progressed = part.bytes > before;
            read
        })?;
        Ok(fetched)
    }

    /// Fits the part to what the server sends: from where it was asked to, or from the beginning.
    fn accept(&self, response: &Response<Body>, part: &mut Part) -> Result<(), Failure> {
        if part.bytes == 0 && response.status() == 200 {
            return Ok(());
        }
        let expected = (part.bytes, self.file.bytes);
        match (response.status().as_u16(), content_range(response)) {
            (206, Some(range)) if range == expected => Ok(()),
            (206, range) => {
                let expected = format!("bytes from {} of {}", expected.0, expected.1);
                let got = range.map_or("no range".into(), |(from, of)| format!("from {from} of {of}"));
                Err(self.damaged(expected, got).into())
            }
            _ => {
                self.tally.take_back(part.bytes);
                let file = part.file.try_clone().map_err(write_error(&self.blob))?;
                *part = self.restart(file)?;
                Ok(())
            }
        }
    }

    /// Appends what comes, up to the promised size.
    fn read(&self, client: &Client<'_>, response: Response<Body>, part: &mut Part) -> Result<(), Failure> {
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            client.check()?;
            let again = |error: io::Error| Failure::Passing(network(&self.url, error), None);
            let n = reader.read(&mut buffer).map_err(again)?;
            let left = self.file.bytes - part.bytes;
            match n as u64 {
                0 if left == 0 => return Ok(()),
                0 => return Err(again(io::ErrorKind::UnexpectedEof.into())),
                n if n > left => {
                    let _ = fs::remove_file(self.incomplete());
                    let expected = format!("{} bytes", self.file.bytes);
                    return Err(self.damaged(expected, "more".into()).into());
                }
                _ => {}
            }
            part.file.write_all(&buffer[..n]).map_err(write_error(&self.incomplete()))?;
            part.hash.update(&buffer[..n]);
            part.bytes += n as u64;
            self.tally.add(n as u64);
        }
    }
}
