//! Programs at work: where one is attached.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::links::FdLink;

use super::syscall;
use crate::{Error, Result};

/// An attached program. It is detached when the last handle and the last name of this are gone.
#[derive(Debug)]
pub struct Link {
    pub(super) link: FdLink,
    pub(super) program: String,
}

impl Link {
    /// Gives it a name in the BPF file system, by which it outlives this process.
    pub fn pin(self, path: &Path) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            let operation = format!("pin program {} at {}", self.program, path.display());
            Error::os(operation, io::Error::other(error.to_string()))
        };
        self.link.pin(path).map(drop).map_err(|error| failed(&error))
    }

    /// Whether a program is attached by this name: a link that was detached, or whose place has gone, keeps
    /// its name.
    pub fn is_attached(path: &Path) -> Result<bool> {
        let failed = |source| Error::os(format!("look at link {}", path.display()), source);
        match syscall::open(path) {
            Ok(fd) => Ok(syscall::link_info(fd.as_fd()).map_err(failed)?.is_attached()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed(source)),
        }
    }
}
