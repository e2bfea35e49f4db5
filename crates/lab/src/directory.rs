//! Where a lab of a given name keeps its things, and who holds it.
//!
//! The lock is on the directory itself (flock(2)): it ends with the process that holds it, whatever
//! ends that process.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::cgroup::Cgroup;

use crate::{Error, Result};

/// Directory of all labs.
const LABS: &str = "/run/portolan/lab";

/// The places that belong to a lab, whether or not they exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    name: String,
    path: PathBuf,
}

impl Directory {
    /// The places of the lab `name`.
    pub fn of(name: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 40 || !name.chars().all(is_plain) {
            return Err(Error::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: Path::new(LABS).join(name) })
    }

    /// Names of the labs that have a directory.
    pub fn all() -> Vec<String> {
        let entries = fs::read_dir(LABS).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether anything of the lab is there.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// The file that names a host's network namespace.
    pub fn netns(&self, host: &str) -> PathBuf {
        self.path.join("netns").join(host)
    }

    /// Where the output of a process goes.
    pub fn log(&self, process: &str) -> PathBuf {
        self.path.join("logs").join(format!("{process}.log"))
    }

    /// Where a process keeps its data.
    pub fn data(&self, process: &str) -> PathBuf {
        self.path.join(process)
    }

    /// The file that says what the lab is made of.
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("lab.json")
    }

    /// The control group that every process of the lab is in.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::root()?.child(format!("portolan-lab-{}", self.name)))
    }

    /// Takes the lock, making the directory. `Ok(None)` if another process has it.
    pub(crate) fn try_lock(&self) -> Result<Option<File>> {
        loop {
            fs::create_dir_all(&self.path).map_err(Error::file("create", &self.path))?;
            let Some(lock) = self.open()? else { continue };
            match lock.try_lock() {
                Ok(()) if self.is_current(&lock) => return Ok(Some(lock)),
                // Its last holder removed it while we were opening it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => {
                    return Err(Error::file("lock", &self.path)(source));
                }
            }
        }
    }

    /// Whether a process holds the lock.
    pub fn is_held(&self) -> Result<bool> {
        let Some(lock) = self.open()? else { return Ok(false) };
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(self.is_current(&lock)),
            Err(TryLockError::Error(source)) => Err(Error::file("lock", &self.path)(source)),
        }
    }

    /// Waits until nobody holds the lock; false if that does not happen in time.
    pub(crate) fn wait_released(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while self.is_held()? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }

    fn open(&self) -> Result<Option<File>> {
        match File::open(&self.path) {
            Ok(directory) => Ok(Some(directory)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::file("open", &self.path)(source)),
        }
    }

    fn is_current(&self, lock: &File) -> bool {
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = lock.metadata().map(inode).ok();
        held.is_some() && held == fs::metadata(&self.path).map(inode).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_directory() {
        for name in ["", "..", "a/b", "a b", &"x".repeat(41)] {
            assert!(matches!(Directory::of(name), Err(Error::Name(_))), "{name:?}");
        }
        let directory = Directory::of("lab").unwrap();
        assert_eq!(directory.netns("node-1"), Path::new("/run/portolan/lab/lab/netns/node-1"));
    }
}
