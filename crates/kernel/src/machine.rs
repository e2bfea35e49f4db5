//! What this machine has.

use std::fs;
use std::io;

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
