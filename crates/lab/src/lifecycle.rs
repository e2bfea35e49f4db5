//! A lab from its making to its end, and finding one that another process runs.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use kernel::netns::Netns;
use kernel::process::Process;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fabric::{self, Underlay};
use crate::host::Host;
use crate::teardown::{self, Removed};
use crate::{Directory, Error, Result};

/// What a lab is made of, as it stands on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The process that runs it.
    pub pid: u32,
    /// Clock ticks since boot at which that process was started: pids are used again.
    pub started: u64,
    /// Hosts.
    pub underlay: Underlay,
    /// Whatever the one who runs the lab wants to find again; not read here.
    pub notes: Map<String, Value>,
}

/// A process that is part of the lab.
#[derive(Debug)]
pub struct Daemon {
    /// What it is called; also names its log.
    pub name: String,
    /// The host that it runs on.
    pub host: String,
    /// The process.
    pub process: Process,
}

/// A lab that this process runs. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    directory: Directory,
    record: Record,
    /// Held as long as the lab lives; `None` once it was taken down.
    lock: Option<File>,
    daemons: Vec<Daemon>,
}

impl Lab {
    /// Makes the hosts. A dead lab of the same name is removed first.
    ///
    /// # Errors
    /// [`Error::Running`] if another process runs a lab of this name.
    pub fn create(name: &str, underlay: Underlay) -> Result<Self> {
        let directory = Directory::of(name)?;
        let Some(lock) = directory.try_lock()? else {
            let pid = Record::read(&directory).map_or(0, |record| record.pid);
            return Err(Error::Running { name: name.to_owned(), pid });
        };
        let leftovers = teardown::clear(&directory)?;
        if !leftovers.is_empty() {
            tracing::info!(lab = name, "removed what a dead lab left behind: {leftovers}");
        }
        let own = Process::open(std::process::id())?;
        let (pid, started) = (own.pid(), own.start_time()?);
        let record = Record { pid, started, underlay, notes: Map::new() };
        // From here on dropping it cleans up.
        let lab = Self { directory, record, lock: Some(lock), daemons: Vec::new() };
        lab.record.write(&lab.directory)?;
        lab.directory.cgroup()?.create()?;
        fabric::build(&lab.directory, &lab.record.underlay)?;
        Ok(lab)
    }

    /// Where it keeps its things.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What it is made of.
    pub fn underlay(&self) -> &Underlay {
        &self.record.underlay
    }

    /// Remembers something under a name, for other processes to find in the [`Record`].
    pub fn note(&mut self, name: &str, value: impl Into<Value>) -> Result<()> {
        self.record.notes.insert(name.to_owned(), value.into());
        self.record.write(&self.directory)
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.record.host(&self.directory, name)
    }

    /// Starts a process that belongs to the lab, its output in a log of its own. Standard input is
    /// the command's.
    pub fn start(&mut self, host: &str, name: &str, mut command: Command) -> Result<()> {
        let path = self.directory.log(name);
        let logs = path.parent().unwrap_or(self.directory.path());
        fs::create_dir_all(logs).map_err(Error::file("create", logs))?;
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(Error::file("open", &path))?;
        let second = log.try_clone().map_err(Error::file("open", &path))?;
        command.stdout(Stdio::from(log)).stderr(Stdio::from(second));
        let child = self.host(host)?.spawn(&mut command)?;
        let process = Process::of_child(&child)?;
        let group = self.directory.cgroup()?.child("hosts");
        group.create()?;
        group.add(process.pid())?;
        self.daemons.push(Daemon { name: name.to_owned(), host: host.to_owned(), process });
        Ok(())
    }

    /// The processes that were started.
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Ends every process of the lab and removes everything that it made.
    pub fn down(mut self) -> Result<Removed> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Removed> {
        let Some(lock) = self.lock.take() else { return Ok(Removed::default()) };
        let removed = teardown::clear(&self.directory).and_then(|removed| {
            teardown::remove_directory(&self.directory)?;
            Ok(removed)
        });
        // Reaps the children that were just killed.
        for daemon in &self.daemons {
            let _ = daemon.process.try_wait();
        }
        drop(lock);
        removed
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(lab = self.directory.name(), %error, "taking the lab down");
        }
    }
}

impl Record {
    /// The record of a lab that some process runs.
    pub fn of_running(directory: &Directory) -> Result<Self> {
        if !directory.is_held()? {
            return Err(Error::Missing { name: directory.name().to_owned() });
        }
        Self::read(directory)
    }

    /// The record of a lab, running or dead.
    pub fn read(directory: &Directory) -> Result<Self> {
        let path = directory.record();
        let text =
            fs::read(&path).map_err(|_| Error::Missing { name: directory.name().to_owned() })?;
        serde_json::from_slice(&text).map_err(|source| Error::Record { path, source })
    }

    /// A host by name.
    pub fn host(&self, directory: &Directory, name: &str) -> Result<Host> {
        let host = self.underlay.host(directory.name(), name)?;
        let netns = Netns::open(&directory.netns(name))?;
        Ok(Host { name: host.name.clone(), address: host.address, netns })
    }

    /// Something that was remembered as text.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name)?.as_str()
    }

    fn write(&self, directory: &Directory) -> Result<()> {
        let path = directory.record();
        let text = serde_json::to_vec_pretty(self).expect("a record has only text for keys");
        // Renamed into place, so that a reader never sees half of it.
        let next = path.with_extension("json.new");
        fs::write(&next, text).map_err(Error::file("write", &next))?;
        fs::rename(&next, &path).map_err(Error::file("rename", &next))
    }
}
