//! The one error type of this crate: which kernel operation failed, on what, and the kernel's answer.

use std::io;

use nix::errno::Errno;

/// What a call into the kernel can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or netlink request was refused.
    #[error("{operation}: {source}")]
    Os {
        /// What was attempted, on what object, for example `add route 10.244.1.0/24`.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel sent bytes that do not decode.
    #[error("{operation}: malformed reply from the kernel: {detail}")]
    Malformed {
        /// What was being read.
        operation: String,
        /// What did not decode.
        detail: String,
    },
}

/// Result of a kernel operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps the kernel's answer to `operation`.
    pub fn os(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { operation: operation.into(), source: source.into() }
    }

    /// Whether a map of the kernel has no room for more (`E2BIG`).
    pub fn is_full(&self) -> bool {
        self.errno() == Some(Errno::E2BIG as i32)
    }

    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } => None,
        }
    }
}
