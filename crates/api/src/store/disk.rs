//! The store's file: every object and the revision, by redb, which is atomic and durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::{Change, Key};

/// Kind, namespace and name, to revision and JSON.
const OBJECTS: TableDefinition<'_, (&str, &str, &str), (u64, &[u8])> =
    TableDefinition::new("objects");
/// The one row is the last revision.
const REVISION: TableDefinition<'_, (), u64> = TableDefinition::new("revision");

/// Memory that redb may use to cache pages: everything is in memory already.
const CACHE_BYTES: usize = 1 << 20;

/// The file.
pub(super) struct Disk {
    path: PathBuf,
    /// `None` after a write failed: redb wants to be opened anew then.
    database: Option<Database>,
    /// The last revision that is known to be durable.
    revision: u64,
}

impl Disk {
    /// Opens or makes the file; answers what is in it.
    #[expect(clippy::type_complexity, reason = "read once, right where it is made")]
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64, Vec<(Key, u64, Value)>)> {
        let database = open(path)?;
        let read = || -> Result<_, redb::Error> {
            let transaction = database.begin_write()?;
            let mut objects = Vec::new();
            let revision = {
                let revision = transaction.open_table(REVISION)?;
                let table = transaction.open_table(OBJECTS)?;
                for row in table.iter()? {
                    let (key, value) = row?;
                    let (kind, namespace, name) = key.value();
                    let key = Key {
                        kind: Arc::from(kind),
                        namespace: Arc::from(namespace),
                        name: Arc::from(name),
                    };
                    let (revision, json) = value.value();
                    objects.push((key, revision, json.to_vec()));
                }
                revision.get(())?.map_or(0, |row| row.value())
            };
            transaction.commit()?;
            Ok((revision, objects))
        };
        let (revision, rows) = read().map_err(|error| failed("read", path, error))?;
        let decode = |(key, revision, json): (Key, u64, Vec<u8>)| {
            let value =
                serde_json::from_slice(&json).map_err(|error| failed("read", path, error))?;
            Ok((key, revision, value))
        };
        let objects = rows.into_iter().map(decode).collect::<io::Result<Vec<_>>>()?;
        let disk = Self { path: path.to_owned(), database: Some(database), revision };
        Ok((disk, revision, objects))
    }

    /// Makes changes durable, all or none. After a failure (a full disk, most likely) the next call
    /// tries anew.
    pub(super) fn commit(&mut self, revision: u64, changes: &[Arc<Change>]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => self.open_again()?,
        };
        write(&database, revision, changes).map_err(|error| failed("write", &self.path, error))?;
        self.database = Some(database);
        self.revision = revision;
        Ok(())
    }

    fn open_again(&self) -> io::Result<Database> {
        let database = open(&self.path)?;
        let held = held_revision(&database).map_err(|error| failed("read", &self.path, error))?;
        match held == self.revision {
            true => Ok(database),
            // What was reported as lost is there after all, and nobody here knows it.
            false => {
                Err(failed("write", &self.path, "an earlier failure was none: restart the server"))
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Database> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).create(path).map_err(|error| failed("open", path, error))
}

fn held_revision(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_read()?;
    let revision = transaction.open_table(REVISION)?.get(())?.map_or(0, |row| row.value());
    Ok(revision)
}

fn write(database: &Database, revision: u64, changes: &[Arc<Change>]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for change in changes {
            let key = (&*change.key.kind, &*change.key.namespace, &*change.key.name);
            match &change.new {
                Some(new) => objects.insert(key, (new.revision, &new.json()[..]))?,
                None => objects.remove(key)?,
            };
        }
        transaction.open_table(REVISION)?.insert((), revision)?;
    }
    transaction.commit()?;
    Ok(())
}

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what} the store {}: {error}", path.display()))
}
