//! Where this user's packed models are.

use std::path::PathBuf;

use crate::knobs;

/// Below the directory of all caches.
const BELOW: [&str; 2] = ["moebius", "packed"];

/// `MOEBIUS_CACHE_DIR`, else a directory where this system keeps what can be made again; `None` if nothing says where.
pub(super) fn standard() -> Option<PathBuf> {
    let named = knobs::CACHE_DIR.value().map(PathBuf::from);
    named.or_else(|| caches().map(|caches| caches.join(BELOW[0]).join(BELOW[1])))
}

#[cfg(target_os = "windows")]
fn caches() -> Option<PathBuf> {
    absolute("LOCALAPPDATA")
}

#[cfg(target_os = "macos")]
fn caches() -> Option<PathBuf> {
    absolute("HOME").map(|home| home.join("Library").join("Caches"))
}

/// As the XDG Base Directory Specification says: a relative path is ignored.
#[cfg(not(any(target_os = "windows", target_os = "macos")))]
fn caches() -> Option<PathBuf> {
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
