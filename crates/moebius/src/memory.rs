//! Whether a model fits into what is free.

use crate::{Error, Result};

/// Room for activations, caches and the program itself.
const WORKING_BYTES: u64 = 128 << 20;

/// Fails when `needed_bytes` and room to work exceed what the device has free, or the host for a backend without memory of
/// its own, where that is known.
pub(crate) fn check_fits(needed_bytes: u64, device_free_bytes: Option<u64>) -> Result<()> {
    let Some(available_bytes) = device_free_bytes.or_else(available_bytes) else { return Ok(()) };
    let needed_bytes = needed_bytes.saturating_add(WORKING_BYTES);
    if needed_bytes > available_bytes { Err(Error::Memory { needed_bytes, available_bytes }) } else { Ok(()) }
}

/// Bytes that can be allocated without swapping, as Linux estimates them; `None` elsewhere.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    field_bytes(&text, "MemAvailable:")
}

/// Bytes of memory of the machine; `None` elsewhere than on Linux.
pub(crate) fn total_bytes() -> Option<u64> {
    field_bytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Memory that this process holds now, as Linux counts it; `None` elsewhere.
pub(crate) fn resident_bytes() -> Option<u64> {
    field_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most memory that this process has held at once since [`forget_peak`], as Linux counts it; `None`
/// elsewhere.
pub(crate) fn peak_bytes() -> Option<u64> {
    field_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Starts the peak anew. Where that is not possible it stays that of the whole process.
pub(crate) fn forget_peak() {
    const PEAK_RESIDENT_SET: &str = "5";
    let _ = std::fs::write("/proc/self/clear_refs", PEAK_RESIDENT_SET);
}

/// A line such as `VmHWM:  1024 kB` in bytes.
fn field_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{check_fits, field_bytes};
    use crate::Error;

    #[test]
    fn a_model_must_fit_into_the_memory_of_its_device() {
        let refused =
            |needed_bytes, free| matches!(check_fits(needed_bytes, free), Err(Error::Memory { .. }));
        assert!(!refused(1 << 30, Some(2 << 30)));
        assert!(refused(2 << 30, Some(2 << 30)));
        assert!(refused(u64::MAX, Some(u64::MAX - 1)));
    }

    #[test]
    fn a_field_is_found_by_its_name_and_read_in_kibibytes() {
        let text = "VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS: many kB\n";
        assert_eq!(field_bytes(text, "VmHWM:"), Some(2 << 20));
        assert_eq!((field_bytes(text, "VmRSS:"), field_bytes(text, "VmSwap:")), (None, None));
    }
}
