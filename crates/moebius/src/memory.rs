//! Whether a model fits into what is free.

use crate::{Error, Result};

/// Room for activations, caches and the program itself.
const WORKING_BYTES: u64 = 128 << 20;

/// Fails when `weight_bytes` and room to work exceed the memory that is available, where that is known.
pub(crate) fn check_fits(weight_bytes: u64) -> Result<()> {
    let Some(available_bytes) = available_bytes() else { return Ok(()) };
    let needed_bytes = weight_bytes.saturating_add(WORKING_BYTES);
    if needed_bytes > available_bytes { Err(Error::Memory { needed_bytes, available_bytes }) } else { Ok(()) }
}

/// Bytes that can be allocated without swapping, as Linux estimates them; `None` elsewhere.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
