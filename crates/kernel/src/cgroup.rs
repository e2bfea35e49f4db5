//! Control groups, version 2 (cgroups(7), Documentation/admin-guide/cgroup-v2.rst): finding,
//! killing and removing all processes of a subtree, however they forked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Result, mount};

/// A group: a directory of the cgroup2 file system. It may not exist (yet, or any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The root of the hierarchy, wherever it is mounted: `/sys/fs/cgroup`, or below that on hosts
    /// that mount version 1 too.
    pub fn root() -> Result<Self> {
        let mounted = mount::list()?.into_iter().find(|m| m.kind == "cgroup2");
        match mounted {
            Some(mounted) => Ok(Self { path: mounted.target }),
            None => Err(Error::os(
                "find the cgroup2 file system (mount -t cgroup2 none /sys/fs/cgroup)",
                Errno::ENODEV,
            )),
        }
    }

    /// The group with this directory.
    ///
    /// # Errors
    /// `ENOTDIR` if the directory is none of a group.
    pub fn at(path: &Path) -> Result<Self> {
        let group = Self { path: path.to_owned() };
        match path.join("cgroup.procs").exists() {
            true => Ok(group),
            false => Err(Error::os(
                format!("use {} (not a directory of the cgroup2 file system)", path.display()),
                Errno::ENOTDIR,
            )),
        }
    }

    /// The group below this one at the relative path `name`.
    pub fn child(&self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.join(name) }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the group and those above it, unless they exist.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.path).map_err(|source| self.error("create", source))
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// The groups directly below; none if this one does not exist.
    pub fn children(&self) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(source) if is_gone(&source) => return Ok(Vec::new()),
            Err(source) => return Err(self.error("list", source)),
        };
        let directories = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(directories.map(|entry| Self { path: entry.path() }).collect())
    }

    /// Processes in this group itself, as pids of the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<u32>> {
        match fs::read_to_string(self.path.join("cgroup.procs")) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(source) if is_gone(&source) => Ok(Vec::new()),
            Err(source) => Err(self.error("list processes of", source)),
        }
    }

    /// Threads in this group and below it, as the caller's PID namespace has them.
    pub fn threads(&self) -> Result<Vec<u32>> {
        let mut found = match fs::read_to_string(self.path.join("cgroup.threads")) {
            Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
            Err(source) if is_gone(&source) => Vec::new(),
            Err(source) => return Err(self.error("list threads of", source)),
        };
        for child in self.children()? {
            found.extend(child.threads()?);
        }
        Ok(found)
    }

    /// The group of the calling thread.
    pub fn current() -> Result<Self> {
        let path = "/proc/thread-self/cgroup";
        let text =
            fs::read_to_string(path).map_err(|source| Error::os(format!("read {path}"), source))?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.ok_or_else(|| Error::os(format!("read {path}"), Errno::ENODEV))?;
        Ok(Self::root()?.child(own))
    }

    /// Makes the group one of threads: those of one process may be in several such groups, and in the
    /// one above. It has to be empty.
    pub fn make_threaded(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.type"), "threaded")
            .map_err(|source| self.error("make threaded", source))
    }

    /// Moves the calling thread alone into the group, which has to be one of threads.
    pub fn add_this_thread(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.threads"), "0")
            .map_err(|source| self.error("add this thread to", source))
    }

    /// Moves a process, with its threads but not its children, into the group.
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .map_err(|source| self.error(&format!("add process {pid} to"), source))
    }

    /// The file through which a process puts itself into the group: it writes `0`.
    pub(crate) fn door(&self) -> Result<File> {
        OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .map_err(|source| self.error("open", source))
    }

    /// Whether a process lives in the group or below it; a group that does not exist has none.
    pub fn is_populated(&self) -> Result<bool> {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
            Err(source) if is_gone(&source) => Ok(false),
            Err(source) => Err(self.error("watch", source)),
        }
    }

    /// Sends SIGKILL to every process in the group and below it. No group, nothing to do.
    pub fn kill(&self) -> Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(source) if !is_gone(&source) => Err(self.error("kill", source)),
            _ => Ok(()),
        }
    }

    /// Waits until the group and all below it are empty; false if they aren't in time.
    pub fn wait_empty(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let events = match File::open(self.path.join("cgroup.events")) {
            Ok(events) => events,
            Err(source) if is_gone(&source) => return Ok(true),
            Err(source) => return Err(self.error("watch", source)),
        };
        while self.is_populated()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // A change may fall between the look above and this call: never sleep long.
            let nap = left.min(Duration::from_millis(50));
            let timeout = PollTimeout::try_from(nap).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.error("watch", errno.into())),
            }
        }
        Ok(true)
    }

    /// Kills what lives in the group and below it, and removes all of it. No group, nothing to do.
    ///
    /// # Errors
    /// `EBUSY` if processes don't end within `limit` (they hang in the kernel).
    pub fn destroy(&self, limit: Duration) -> Result<()> {
        self.kill()?;
        self.wait_empty(limit)?;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        for child in self.children()? {
            child.remove()?;
        }
        match fs::remove_dir(&self.path) {
            Err(source) if !is_gone(&source) => Err(self.error("remove", source)),
            _ => Ok(()),
        }
    }

    fn error(&self, verb: &str, source: io::Error) -> Error {
        Error::os(format!("{verb} cgroup {}", self.path.display()), source)
    }
}

/// The directory is gone, before or after its file was opened.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_processes_below_a_group_end_with_it() {
        let group = Cgroup::root().unwrap().child(format!("kernel-test-{}", std::process::id()));
        let leaf = group.child("a/b");
        leaf.create().expect("this test needs root: it makes a cgroup");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        leaf.add(child.id()).unwrap();
        assert_eq!(leaf.processes().unwrap(), [child.id()]);
        assert!(group.is_populated().unwrap());
        assert!(!group.wait_empty(Duration::from_millis(10)).unwrap());
        group.destroy(Duration::from_secs(5)).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!group.exists());
        group.destroy(Duration::from_secs(5)).unwrap();
        assert!(!group.is_populated().unwrap());
    }
}
