//! What this machine has.

use std::fs;
use std::io;

use nix::time::{ClockId, clock_gettime};

use crate::{Error, Result};

/// Its memory, in bytes (proc_meminfo(5)).
pub fn memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|source| Error::os("read /proc/meminfo", source))?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let bytes = kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024));
    bytes.ok_or_else(|| Error::os("read /proc/meminfo", io::ErrorKind::InvalidData))
}

/// Time since some moment before the machine began, in nanoseconds, as programs in the kernel have it
/// (`CLOCK_MONOTONIC`).
pub fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every machine has this clock");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or_default()
}

/// Gives memory back to the kernel that was needed for a while and is free now (malloc_trim(3)), where the allocator can.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: It touches only what is free.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
