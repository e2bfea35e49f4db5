//! Maps that are tables: keys and values of fixed length.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::syscall::{self, BatchAttributes, Command, ElementAttributes, bpf, map_info, number};
use crate::{Error, Result};

/// How many elements one call reads or writes.
const BATCH: usize = 4096;

/// An open map whose keys have `K` bytes and its values `V`.
///
/// Its elements are seen by programs at once, each as a whole.
#[derive(Debug)]
pub struct Table<const K: usize, const V: usize> {
    fd: OwnedFd,
    name: String,
}

impl<const K: usize, const V: usize> Table<K, V> {
    /// Takes an open map.
    ///
    /// # Errors
    /// If its keys or values have another length.
    pub(super) fn new(fd: OwnedFd, name: &str) -> Result<Self> {
        let failed = |source: io::Error| Error::os(format!("look at map {name}"), source);
        let info = map_info(fd.as_fd()).map_err(failed)?;
        if (info.key_size as usize, info.value_size as usize) != (K, V) {
            let detail = format!(
                "its elements have {} and {} bytes, not {K} and {V}",
                info.key_size, info.value_size
            );
            return Err(Error::Malformed { operation: format!("open map {name}"), detail });
        }
        Ok(Self { fd, name: name.to_owned() })
    }

    /// Opens a pinned map; `None` if nothing has this name.
    ///
    /// # Errors
    /// Also if its keys or values have another length.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        match syscall::open(path) {
            Ok(fd) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Self::new(fd, &name).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::os(format!("open map {}", path.display()), source)),
        }
    }

    /// Gives it a name in the BPF file system.
    pub fn pin(&self, path: &Path) -> Result<()> {
        syscall::pin(self.fd.as_fd(), path).map_err(|source| {
            Error::os(format!("pin map {} at {}", self.name, path.display()), source)
        })
    }

    /// How many elements it takes.
    pub fn capacity(&self) -> Result<usize> {
        let failed = |source: io::Error| Error::os(format!("look at map {}", self.name), source);
        Ok(map_info(self.fd.as_fd()).map_err(failed)?.max_entries as usize)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8; K]) -> Result<Option<[u8; V]>> {
        self.get_at(key.as_ptr() as u64)
    }

    /// The value that is kept with a socket, where this is a map of such
    /// (`BPF_MAP_TYPE_SK_STORAGE`).
    pub fn get_of_socket(&self, socket: BorrowedFd<'_>) -> Result<Option<[u8; V]>> {
        assert_eq!(K, size_of::<u32>(), "the key is a file descriptor");
        let key = number(socket);
        self.get_at(std::ptr::from_ref(&key) as u64)
    }

    /// `key` points at K bytes.
    fn get_at(&self, key: u64) -> Result<Option<[u8; V]>> {
        let mut value = [0; V];
        let mut attributes = self.element(key, value.as_mut_ptr() as u64);
        // SAFETY: Key and value have the lengths of the map's.
        match unsafe { bpf(Command::Lookup, &mut attributes) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// `E2BIG` if the map is full.
    pub fn put(&self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        let mut attributes = self.element(key.as_ptr() as u64, value.as_ptr() as u64);
        // SAFETY: Key and value have the lengths of the map's.
        let done = unsafe { bpf(Command::Update, &mut attributes) };
        done.map(drop).map_err(|source| self.failed("write", source))
    }

    /// Removes a key. Answers whether it was there.
    pub fn delete(&self, key: &[u8; K]) -> Result<bool> {
        let mut attributes = self.element(key.as_ptr() as u64, 0);
        // SAFETY: The key has the length of the map's.
        match unsafe { bpf(Command::Delete, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(source) => Err(self.failed("remove from", source)),
        }
    }

    /// Gives many keys their values, one after the other.
    ///
    /// # Errors
    /// `E2BIG` if the map is full; those before are written.
    pub fn put_all(&self, keys: &[[u8; K]], values: &[[u8; V]]) -> Result<()> {
        assert_eq!(keys.len(), values.len(), "each key has its value");
        if let ([key], [value]) = (keys, values) {
            return self.put(key, value);
        }
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let mut attributes = BatchAttributes {
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                ..self.batch(keys.len())
            };
            // SAFETY: There are as many keys and values as is said, of the map's lengths.
            unsafe { bpf(Command::UpdateBatch, &mut attributes) }
                .map_err(|source| self.failed("write", source))?;
        }
        Ok(())
    }

    /// Removes many keys, each if it is there.
    pub fn delete_all(&self, keys: &[[u8; K]]) -> Result<()> {
        let mut rest = keys;
        while !rest.is_empty() {
            if let [key] = rest {
                return self.delete(key).map(drop);
            }
            let some = &rest[..rest.len().min(BATCH)];
            let mut attributes =
                BatchAttributes { keys: some.as_ptr() as u64, ..self.batch(some.len()) };
            // SAFETY: There are as many keys as is said, of the map's length.
            match unsafe { bpf(Command::DeleteBatch, &mut attributes) } {
                Ok(_) => rest = &rest[some.len()..],
                // It ends at the first that is not there.
                Err(error) if is_missing(&error) => {
                    rest = &rest[(attributes.count as usize + 1).min(rest.len())..];
                }
                Err(source) => return Err(self.failed("remove from", source)),
            }
        }
        Ok(())
    }

    /// All elements. What is changed meanwhile may be missing or be there twice.
    pub fn entries(&self) -> Result<Vec<([u8; K], [u8; V])>> {
        let mut found = Vec::new();
        let mut room = BATCH;
        // Where it goes on: for tables the number of a bucket, for all others less than a key.
        let (mut from, mut next) = ([0_u8; 64], [0_u8; 64]);
        assert!(K <= from.len(), "keys are short");
        let mut is_first = true;
        loop {
            let mut keys = vec![[0; K]; room];
            let mut values = vec![[0; V]; room];
            let mut attributes = BatchAttributes {
                from: if is_first { 0 } else { from.as_mut_ptr() as u64 },
                next: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                ..self.batch(room)
            };
            // SAFETY: There is room for as many keys and values as is said, and for where it goes on.
            let done = unsafe { bpf(Command::LookupBatch, &mut attributes) };
            let is_last = match done {
                Ok(_) => false,
                Err(error) if is_missing(&error) => true,
                // A bucket has more than there is room for.
                Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                    room *= 2;
                    continue;
                }
                Err(source) => return Err(self.failed("read", source)),
            };
            let count = (attributes.count as usize).min(room);
            found.extend(keys.into_iter().zip(values).take(count));
            if is_last {
                return Ok(found);
            }
            from = next;
            is_first = false;
        }
    }

    fn element(&self, key: u64, value: u64) -> ElementAttributes {
        ElementAttributes {
            map: number(self.fd.as_fd()),
            key,
            value,
            ..ElementAttributes::default()
        }
    }

    fn batch(&self, count: usize) -> BatchAttributes {
        BatchAttributes {
            count: u32::try_from(count).expect("batches are small"),
            map: number(self.fd.as_fd()),
            ..BatchAttributes::default()
        }
    }

    fn failed(&self, verb: &str, source: io::Error) -> Error {
        Error::os(format!("{verb} map {}", self.name), source)
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}
