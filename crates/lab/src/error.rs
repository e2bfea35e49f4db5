//! What building, entering or removing a lab can fail with.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something about a lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that can't be part of a path, a control group or a link.
    #[error("lab name {0:?}: use 1 to 40 letters, digits, '-' or '_'")]
    Name(String),
    /// Another process runs a lab of this name.
    #[error(
        "lab {name} is running already (process {pid}): use it, take it down with \
         `portolan lab down --name {name}`, or choose another --name"
    )]
    Running {
        /// The lab.
        name: String,
        /// Who runs it; 0 if it has not said so yet.
        pid: u32,
    },
    /// There is no lab of this name.
    #[error("there is no lab {name}: start it with `portolan lab up --name {name}`")]
    Missing {
        /// The lab.
        name: String,
    },
    /// No such host in the lab.
    #[error("lab {lab} has no host {host:?}: it has {}", .hosts.join(", "))]
    UnknownHost {
        /// The lab.
        lab: String,
        /// What was asked for.
        host: String,
        /// What there is.
        hosts: Vec<String>,
    },
    /// The process that runs the lab did not end when asked to.
    #[error("lab {name}: process {pid} runs it and did not end within {limit:?}")]
    Stuck {
        /// The lab.
        name: String,
        /// Who runs it.
        pid: u32,
        /// How long was waited.
        limit: Duration,
    },
    /// A command ran for too long and was killed.
    #[error("`{command}` on {host} did not end within {limit:?}")]
    TooSlow {
        /// The command.
        command: String,
        /// Where it ran.
        host: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A file or directory of the lab.
    #[error("{verb} {}: {source}", path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// A process could not be started or waited for.
    #[error("run {program:?} on {host}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Where.
        host: String,
        /// The answer.
        source: io::Error,
    },
    /// The record of the lab does not decode.
    #[error("read {}: {source}; take the lab down and start it again", path.display())]
    Record {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Teardown went on, and this is all that failed.
    #[error("left behind: {}", .0.iter().map(Error::to_string).collect::<Vec<_>>().join("; "))]
    LeftBehind(Vec<Error>),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

/// Result of an operation on a lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps the answer to `verb` on `path`.
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { verb, path: path.to_owned(), source }
    }
}
