//! The directory of leases: one file an address, made whole and durable under an exclusive lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::Owner;
use crate::{Error, Result};

/// File that the lock is taken on.
const LOCK: &str = "lock";
/// File with the address leased last.
const CURSOR: &str = "last_reserved_ip.0";
/// File with the boot that the leases are of.
const BOOT: &str = "boot_id";

#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

/// A reserved address.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    /// `None`: the file was torn by a crash.
    pub(super) owner: Option<Owner>,
}

/// The directory while no one else may change it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    directory: &'a Path,
    /// Closing it gives up the lock.
    _lock: File,
}

impl Store {
    pub(super) fn open(directory: &Path, boot_id: &str) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        let store = Self { directory: directory.to_owned() };
        let locked = store.lock()?;
        let boot = directory.join(BOOT);
        if fs::read_to_string(&boot).ok().as_deref() != Some(boot_id) {
            for entry in locked.entries()? {
                locked.free(entry.address)?;
            }
            // Last: an interrupted clearing is started again.
            fs::write(&boot, boot_id).map_err(Error::file("write", &boot))?;
        }
        drop(locked);
        Ok(store)
    }

    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        let path = self.directory.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock =
            file.and_then(|file| file.lock().map(|()| file)).map_err(Error::file("lock", &path))?;
        Ok(Locked { directory: &self.directory, _lock: lock })
    }
}

impl Locked<'_> {
    /// Everything reserved, ordered.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        let directory =
            fs::read_dir(self.directory).map_err(Error::file("list", self.directory))?;
        let mut entries = Vec::new();
        for file in directory {
            let file = file.map_err(Error::file("list", self.directory))?;
            let Some(address) = file.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = file.path();
            let content = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            entries.push(Entry { address, owner: parse(&content) });
        }
        entries.sort_by_key(|entry| entry.address);
        Ok(entries)
    }

    /// The address leased last. Losing it is harmless.
    pub(super) fn cursor(&self) -> Option<IpAddr> {
        fs::read_to_string(self.directory.join(CURSOR)).ok()?.trim().parse().ok()
    }

    /// Reserves an address durably. False if somebody has it.
    pub(super) fn reserve(&self, address: IpAddr, owner: &Owner) -> Result<bool> {
        let path = self.path(address);
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(source) => return Err(Error::file("create", &path)(source)),
        };
        // One write, with an end that tells a whole entry from a torn one.
        let content = format!("{}\r\n{}", owner.container, owner.interface);
        let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(Error::file("write", &path))?;
        self.sync()?;
        let cursor = self.directory.join(CURSOR);
        fs::write(&cursor, address.to_string()).map_err(Error::file("write", &cursor))?;
        Ok(true)
    }

    /// Takes a reservation away, if it is there. Need not be durable: coming back after a crash of
    /// the machine it is one of an earlier boot.
    pub(super) fn free(&self, address: IpAddr) -> Result<()> {
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &path)(source))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    fn sync(&self) -> Result<()> {
        let synced = File::open(self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(Error::file("sync", self.directory))
    }
}

/// Reads `<container>\r\n<interface>`.
fn parse(content: &str) -> Option<Owner> {
    let (container, interface) = content.split_once("\r\n")?;
    if container.is_empty() || interface.is_empty() {
        return None;
    }
    Some(Owner { container: container.to_owned(), interface: interface.to_owned() })
}
