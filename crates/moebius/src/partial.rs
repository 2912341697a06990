//! A directory that is written beside the place it is for, and renamed into it when it is whole.
//!
//! The directory `.NAME.partial-P-N` has a file `.NAME.partial-P-N.lock` beside it, which is there before it and after it
//! and which its writer holds locked; the system frees the lock however the writer ends.
//!
//! Invariants: what stands at the target is whole; a directory is swept away only if a lock file with the right text lies
//! beside it and nobody holds the lock, so that what lives, and what others made, stays. A lock file without a word and
//! without a directory goes as well: its writer ended before it could write either.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What a lock file says.
const MARK: &str =
    "moebius writes the directory of the same name; it may go when no program holds this file\n";
const INFIX: &str = ".partial-";
const SUFFIX: &str = ".lock";

/// A directory that is not whole yet; removed unless it is renamed.
pub(crate) struct Partial {
    path: PathBuf,
    lock_path: PathBuf,
    /// Locked as long as this lives, where the system has locks.
    _lock: File,
}

impl Partial {
    /// An empty directory beside `out`, so that renaming it moves no data.
    pub(crate) fn beside(out: &Path) -> Result<Self> {
        /// More than programs with this process's number can have left behind.
        const TRIES: u32 = 1000;
        let name = out.file_name().ok_or_else(|| write_error(out)(io::ErrorKind::InvalidInput.into()))?;
        for number in 0..TRIES {
            let mut hidden = hidden(name);
            hidden.push(format!("{}-{number}", std::process::id()));
            let path = out.with_file_name(&hidden);
            hidden.push(SUFFIX);
            let lock_path = out.with_file_name(hidden);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            if let Some(lock) = locked(&lock_path).map_err(write_error(out))? {
                let partial = Partial { path, lock_path, _lock: lock };
                fs::create_dir(&partial.path).map_err(write_error(out))?;
                return Ok(partial);
            }
        }
        Err(write_error(out)(io::ErrorKind::AlreadyExists.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts a file of the directory in place of nothing at `out`, and removes the rest.
    pub(crate) fn rename_file(self, name: &str, out: &Path) -> Result<()> {
        refuse_existing(out)?;
        fs::rename(self.file(name), out).map_err(write_error(out))?;
        sync_directory(directory_of(out));
        Ok(())
    }

    /// Puts the directory in place of nothing at `out`. No file in it may be open: some systems refuse that.
    pub(crate) fn rename(self, out: &Path) -> Result<()> {
        sync_directory(&self.path);
        refuse_existing(out)?;
        fs::rename(&self.path, out).map_err(write_error(out))?;
        sync_directory(directory_of(out));
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing under this name. Otherwise an error is on its way already.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes what ended programs left beside `out`, and says how many bytes that freed.
pub(crate) fn sweep_beside(out: &Path) -> u64 {
    out.file_name().map_or(0, |name| sweep(directory_of(out), &hidden(name)))
}

/// Removes what ended programs left in `dir`, whatever it was for, and says how many bytes that freed.
pub(crate) fn sweep_all(dir: &Path) -> u64 {
    sweep(dir, OsStr::new("."))
}

/// What cannot be removed is in nobody's way, so that errors do not matter.
fn sweep(dir: &Path, prefix: &OsStr) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let infix = name.windows(INFIX.len()).any(|part| part == INFIX.as_bytes());
        let is_lock = name.starts_with(prefix.as_encoded_bytes()) && infix;
        if is_lock && name.ends_with(SUFFIX.as_bytes()) && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            bytes += sweep_one(&entry.path()).unwrap_or(0);
        }
    }
    bytes
}

fn sweep_one(lock_path: &Path) -> io::Result<u64> {
    let mut lock = OpenOptions::new().read(true).write(true).open(lock_path)?;
    lock.try_lock()?;
    let mut text = String::new();
    (&mut lock).take(MARK.len() as u64 + 1).read_to_string(&mut text)?;
    let path = lock_path.with_extension("");
    let barely_begun = text.is_empty() && path.symlink_metadata().is_err();
    if text != MARK && !barely_begun {
        return Ok(0);
    }
    let bytes = files_bytes(&path);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::remove_file(lock_path)?,
    }
    Ok(bytes)
}

/// A new lock file that is locked; `None` if something has the name, or a sweep was faster.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let mut file = match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        file => file?,
    };
    // Where there are no locks nobody gets one, and nothing is ever swept.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Ok(None);
    }
    let written = file.write_all(MARK.as_bytes());
    if let Err(error) = written {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    // A sweep may have held and removed the file between the two steps.
    Ok(path.symlink_metadata().is_ok().then_some(file))
}

/// What the names of all directories for `name` begin with.
fn hidden(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(INFIX);
    hidden
}

/// Bytes of the files in a directory, and not below it; 0 for a link to one.
fn files_bytes(dir: &Path) -> u64 {
    if dir.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        return 0;
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

/// What `path` lies in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails if there is anything at `path`, be it a link that leads nowhere.
pub(crate) fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() { Err(Error::OutputExists(path.into())) } else { Ok(()) }
}

pub(crate) fn write_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path: path.clone(), source: source.into() }
}

/// Fails when the disk that `dir` is on has less room than `needed_bytes`, where the system tells.
pub(crate) fn check_room(dir: &Path, needed_bytes: u64) -> Result<()> {
    match free_bytes(dir) {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(Error::DiskSpace { path: dir.into(), needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Bytes that this user may write below `dir`; `None` where that is not known.
fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        // A file system without blocks does not count them.
        let disk = rustix::fs::statvfs(dir).ok().filter(|disk| disk.f_blocks > 0)?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// Makes the names in a directory last. Not every system can, and the files themselves are safe by then.
fn sync_directory(path: &Path) {
    let _ = File::open(path).and_then(|directory| directory.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a directory, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a program that was killed leaves: the directory with a file of five bytes, and its lock, free.
    fn leave(out: &Path, text: &str) -> PathBuf {
        let mut name = hidden(out.file_name().unwrap());
        name.push("1-0");
        let path = out.with_file_name(&name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("half"), "12345").unwrap();
        name.push(SUFFIX);
        fs::write(out.with_file_name(name), text).unwrap();
        path
    }

    #[test]
    fn what_a_dead_program_left_is_swept_and_what_lives_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a.b");
        let living = Partial::beside(&out).unwrap();
        let dead = leave(&out, MARK);
        assert_eq!(sweep_beside(&out), 5);
        assert!(!dead.exists() && living.path().exists());
        assert_eq!(names(dir.path()).len(), 2);
        assert_eq!((sweep_all(dir.path()), names(dir.path()).len()), (0, 2));
        drop(living);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_sweep_leaves_alone_what_is_for_another_place_or_has_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        leave(&dir.path().join("a"), MARK);
        leave(&dir.path().join("b"), "a text of somebody else");
        assert_eq!(sweep_beside(&dir.path().join("c")), 0);
        assert_eq!(names(dir.path()).len(), 4);
        assert_eq!(sweep_all(dir.path()), 5);
        assert_eq!(names(dir.path()), [".b.partial-1-0", ".b.partial-1-0.lock"]);
    }

    #[test]
    fn a_lock_that_was_never_written_goes_unless_it_has_a_directory_or_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a");
        let lock_path = dir.path().join(".a.partial-1-0.lock");
        let held = File::create(&lock_path).unwrap();
        held.lock().unwrap();
        assert_eq!((sweep_beside(&out), names(dir.path()).len()), (0, 1));
        drop(held);
        assert_eq!((sweep_beside(&out), names(dir.path()).len()), (0, 0));
        leave(&out, "");
        assert_eq!((sweep_beside(&out), names(dir.path()).len()), (0, 2));
    }

    #[test]
    #[cfg(unix)]
    fn a_link_in_place_of_a_left_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (out, precious) = (dir.path().join("a"), dir.path().join("precious"));
        let left = leave(&out, MARK);
        fs::rename(&left, &precious).unwrap();
        std::os::unix::fs::symlink(&precious, &left).unwrap();
        assert_eq!(sweep_beside(&out), 0);
        assert_eq!(names(&precious), ["half"]);
        assert_eq!(names(dir.path()), ["precious"]);
    }

    #[test]
    fn a_whole_directory_is_renamed_and_no_lock_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a");
        Partial::beside(&out).unwrap().rename(&out).unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        assert!(matches!(Partial::beside(&out).unwrap().rename(&out), Err(Error::OutputExists(_))));
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn too_little_room_is_an_error_with_both_figures() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_room(dir.path(), 0).is_ok());
        let refused = check_room(dir.path(), u64::MAX);
        assert!(cfg!(not(unix)) || matches!(refused, Err(Error::DiskSpace { needed_bytes: u64::MAX, .. })));
    }
}
