//! Where experts go that are to be fetched and do not lie packed in a file.

use std::path::{Path, PathBuf};

use crate::{Result, knobs, partial};

/// Where systems that hold temporary files in memory have those that are large.
const ON_DISK: &str = "/var/tmp";

/// What [`knobs::SPILL_DIR`] says, else the directory of temporary files. If that is in memory, which it would take from
/// beside the budget, one that is not.
pub(crate) fn directory() -> PathBuf {
    let usual = || {
        let temporary = std::env::temp_dir();
        let on_disk = Path::new(ON_DISK);
        if in_memory(&temporary) && on_disk.is_dir() && !in_memory(on_disk) {
            on_disk.into()
        } else {
            temporary
        }
    };
    knobs::SPILL_DIR.value().map_or_else(usual, PathBuf::from)
}

/// Fails when so many bytes do not fit there, where the system tells.
pub(crate) fn check_room(needed_bytes: u64) -> Result<()> {
    partial::check_room(&directory(), needed_bytes)
}

/// Whether files there take memory, as far as Linux tells.
#[cfg(target_os = "linux")]
fn in_memory(dir: &Path) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    // Magic numbers have 32 bits, whatever type a machine has for them.
    rustix::fs::statfs(dir).is_ok_and(|system| [TMPFS, RAMFS].contains(&(system.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn more_than_any_disk_has_does_not_fit() {
        assert!(check_room(1).is_ok());
        assert!(matches!(check_room(u64::MAX), Err(Error::DiskSpace { .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_of_a_file_system_in_memory_are_told_from_others() {
        let shared = Path::new("/dev/shm");
        assert!(!shared.is_dir() || in_memory(shared));
        assert!(!in_memory(Path::new("/proc")) && !in_memory(Path::new("/not/there")));
    }
}
