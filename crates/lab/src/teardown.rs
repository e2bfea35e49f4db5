//! Removing a lab, however it ended: kill its processes, take its mounts away, delete its files.
//!
//! Links, routes and packet filters need no care: they are in the namespaces and go with them.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use kernel::cgroup::Cgroup;
use kernel::mount;
use kernel::process::{Process, Signal};

use crate::lifecycle::Record;
use crate::{Directory, Error, Result};

/// How long killed processes may take to vanish.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long the process that runs a lab may take to remove it.
const OWNER_LIMIT: Duration = Duration::from_secs(20);

/// What was there and is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The process that ran the lab and was asked to end: it removed the rest itself.
    pub owner: Option<u32>,
    /// Processes killed.
    pub processes: usize,
    /// Control groups.
    pub cgroups: usize,
    /// Network namespaces, of hosts and of pods.
    pub namespaces: usize,
    /// Other mounts.
    pub mounts: usize,
    /// The lab's directory had content.
    pub directory: bool,
}

impl Removed {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing was there");
        }
        let mut separator = "";
        if let Some(pid) = self.owner {
            write!(f, "process {pid} ended and removed its lab")?;
            separator = ", ";
        }
        for (count, what) in [
            (self.processes, "processes"),
            (self.cgroups, "cgroups"),
            (self.namespaces, "network namespaces"),
            (self.mounts, "mounts"),
        ] {
            if count != 0 {
                write!(f, "{separator}{count} {what}")?;
                separator = ", ";
            }
        }
        if self.directory {
            write!(f, "{separator}its directory")?;
        }
        Ok(())
    }
}

/// Takes a lab down, whoever runs or ran it. One that is not there is no error.
pub fn take_down(name: &str) -> Result<Removed> {
    let directory = Directory::of(name)?;
    let owner = stop_owner(&directory)?;
    let there = directory.exists() || directory.cgroup()?.exists();
    if !there {
        return Ok(Removed { owner, ..Removed::default() });
    }
    let Some(_lock) = directory.try_lock()? else {
        let pid = Record::read(&directory).map_or(0, |record| record.pid);
        return Err(Error::Running { name: name.to_owned(), pid });
    };
    let removed = clear(&directory)?;
    remove_directory(&directory)?;
    Ok(Removed { owner, ..removed })
}

/// Asks the process that runs the lab to end, if there is one, and waits for that.
fn stop_owner(directory: &Directory) -> Result<Option<u32>> {
    if !directory.is_held()? {
        return Ok(None);
    }
    let record = Record::read(directory)?;
    let pid = record.pid;
    let is_owner = |process: &Process| process.start_time().is_ok_and(|at| at == record.started);
    if let Some(owner) = Process::open(pid).ok().filter(is_owner) {
        owner.signal(Signal::SIGTERM)?;
    }
    if !directory.wait_released(OWNER_LIMIT)? {
        return Err(Error::Stuck { name: directory.name().to_owned(), pid, limit: OWNER_LIMIT });
    }
    Ok(Some(pid))
}

/// Removes everything but the directory itself, which carries the caller's lock. Goes on after a
/// failure and reports all of them.
pub(crate) fn clear(directory: &Directory) -> Result<Removed> {
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    let mut keep = |result: Result<()>| failures.extend(result.err());
    keep(kill(directory, &mut removed));
    keep(unmount(directory, &mut removed));
    keep(delete_content(directory, &mut removed));
    if failures.is_empty() { Ok(removed) } else { Err(Error::LeftBehind(failures)) }
}

fn kill(directory: &Directory, removed: &mut Removed) -> Result<()> {
    let group = directory.cgroup()?;
    if group.exists() {
        count(&group, removed)?;
        group.destroy(KILL_LIMIT)?;
    }
    Ok(())
}

fn count(group: &Cgroup, removed: &mut Removed) -> Result<()> {
    removed.cgroups += 1;
    removed.processes += group.processes()?.len();
    group.children()?.iter().try_for_each(|child| count(child, removed))
}

/// Takes away every mount below the directory, the latest first.
fn unmount(directory: &Directory, removed: &mut Removed) -> Result<()> {
    let mounts = mount::list()?;
    for point in mounts.iter().rev().filter(|m| m.target.starts_with(directory.path())) {
        mount::detach(&point.target)?;
        match point.kind.as_str() {
            "nsfs" => removed.namespaces += 1,
            _ => removed.mounts += 1,
        }
    }
    Ok(())
}

fn delete_content(directory: &Directory, removed: &mut Removed) -> Result<()> {
    let entries = match fs::read_dir(directory.path()) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::file("list", directory.path())(source)),
    };
    for entry in entries {
        let path = entry.map_err(Error::file("list", directory.path()))?.path();
        let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let deleted = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        deleted.map_err(Error::file("remove", &path))?;
        removed.directory = true;
    }
    Ok(())
}

/// Removes the empty directory, and with it the lock.
pub(crate) fn remove_directory(directory: &Directory) -> Result<()> {
    fs::remove_dir(directory.path()).map_err(Error::file("remove", directory.path()))
}
