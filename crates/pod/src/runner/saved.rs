//! What is remembered of a pod across the runner's own restarts: one file a pod, replaced whole.
//!
//! It says what to adopt, never what is true: every process named here is checked before it is
//! believed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kernel::process::Process;
use serde::{Deserialize, Serialize};

use crate::spec::Pod;
use crate::status::ContainerStatus;
use crate::{Error, Result};

/// Name of the file in a pod's directory.
const FILE: &str = "pod.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Run of the kernel that all of this is about.
    pub(super) boot: String,
    pub(super) pod: Pod,
    pub(super) start_time: Timestamp,
    /// How many sandboxes the pod has had. Written before one is made, so that what a crash leaves
    /// of it can be named.
    pub(super) attempt: u32,
    /// Addresses, once the sandbox is whole.
    pub(super) sandbox: Option<Vec<IpAddr>>,
    /// All containers have ended for good, and the sandbox is gone.
    pub(super) is_finished: bool,
    pub(super) containers: BTreeMap<String, SavedContainer>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct SavedContainer {
    pub(super) status: ContainerStatus,
    pub(super) process: Option<ProcessName>,
}

/// A process, named so that it is not taken for another one of the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessName {
    pub(super) pid: u32,
    /// In clock ticks since boot.
    pub(super) start: u64,
}

impl ProcessName {
    pub(super) fn of(process: &Process) -> Result<Self> {
        Ok(Self { pid: process.pid(), start: process.start_time()? })
    }

    /// The process, if it is still there.
    pub(super) fn open(self) -> Option<Process> {
        let process = Process::open(self.pid).ok()?;
        (process.start_time().ok()? == self.start && !process.has_ended().ok()?).then_some(process)
    }
}

impl Saved {
    pub(super) fn new(pod: Pod, boot: String, start_time: Timestamp) -> Self {
        Self {
            boot,
            pod,
            start_time,
            attempt: 0,
            sandbox: None,
            is_finished: false,
            containers: BTreeMap::new(),
        }
    }

    /// Id of the current sandbox.
    pub(super) fn sandbox_id(&self) -> String {
        format!("{}-{}", self.pod.metadata.uid, self.attempt)
    }

    /// Writes it into the pod's directory. Not forced to the disk: it is worth nothing after the
    /// machine went down.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(FILE);
        let new = directory.join(".pod.json.new");
        let text = serde_json::to_vec(self)
            .map_err(|source| Error::Saved { path: path.clone(), source })?;
        fs::write(&new, text).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("replace", &path))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::file("read", path))?;
        serde_json::from_slice(&text)
            .map_err(|source| Error::Saved { path: path.to_owned(), source })
    }

    /// All pods remembered in the directories below `directory`. What can't be read is logged and
    /// left out.
    pub(super) fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let directories = match fs::read_dir(directory) {
            Ok(directories) => directories,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::file("list", directory)(source)),
        };
        let files: Vec<PathBuf> = directories
            .filter_map(|entry| Some(entry.ok()?.path().join(FILE)))
            .filter(|path| path.is_file())
            .collect();
        Ok(files
            .iter()
            .filter_map(|path| {
                Self::read(path).inspect_err(|error| tracing::warn!(%error, "pod not adopted")).ok()
            })
            .collect())
    }
}
