//! The one error type of this crate.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

/// What can go wrong with a pod on its node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A file could not be used.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was attempted, for example `write`.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of ours holds something else.
    #[error("{}: not a saved pod: {source}", path.display())]
    Saved {
        /// The file.
        path: PathBuf,
        /// What does not decode.
        source: serde_json::Error,
    },
    /// A range has no address to give.
    #[error(
        "{range}: too small to allocate from; a range has at least 4 addresses and no host bits"
    )]
    Range {
        /// The range.
        range: IpNet,
    },
    /// All addresses are taken.
    #[error("no IP addresses available in range set: {first}-{last}")]
    Exhausted {
        /// First address of the range.
        first: IpAddr,
        /// Last address of the range.
        last: IpAddr,
    },
    /// The owner has an address already.
    #[error("{container} {interface} already holds {address}; release it first")]
    AlreadyLeased {
        /// Container of the owner.
        container: String,
        /// Interface of the owner.
        interface: String,
        /// What it holds.
        address: IpAddr,
    },
    /// A background thread ended by a panic.
    #[error("a blocking task of pod {pod} ended abnormally")]
    Panicked {
        /// The pod it worked for.
        pod: String,
    },
}

/// Result of an operation on pods.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Names the file that an operation failed on; to be used with `map_err`.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}
