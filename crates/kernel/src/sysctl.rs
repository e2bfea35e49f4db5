//! Kernel parameters under `/proc/sys`. Those below `net/` belong to the network namespace of the
//! calling thread (proc_sys_net(5)): use [`crate::netns::Netns::run`] to reach another's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Reads a parameter, for example `net/ipv4/ip_forward`, without surrounding white space.
pub fn read(name: &str) -> Result<String> {
    fs::read_to_string(path(name))
        .map(|text| text.trim().to_owned())
        .map_err(|source| Error::os(format!("read sysctl {name}"), source))
}

/// Makes a parameter have `value`. Nothing is written if it has it already, so that a read-only
/// `/proc/sys` with the right values is good enough.
pub fn write(name: &str, value: &str) -> Result<()> {
    if read(name)? == value {
        return Ok(());
    }
    fs::write(path(name), value)
        .map_err(|source| Error::os(format!("set sysctl {name} to {value}"), source))
}

/// Names are joined by `/`, so that a link named `eth0.5` stays one part.
fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}
