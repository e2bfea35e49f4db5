//! The durable, revisioned store of objects.
//!
//! One thread writes. It takes all the writes that wait, runs them one after the other on the
//! current state, and makes them durable together, so that they share the disk's latency; none is
//! acknowledged before. Readers never wait for the disk: they read the last durable state in memory.
//!
//! The store knows keys, values and revisions; which objects are acceptable is decided by those who
//! call [`Store::write`].

mod disk;
mod log;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard};
use std::thread;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::status::{Result, Status};
use disk::Disk;
pub(crate) use log::Change;
use log::Log;

/// Where an object is kept: index of its kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Stable name of the kind: plural and group.
    pub kind: Arc<str>,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// An object at a revision.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The revision that wrote it.
    pub revision: u64,
    /// The object, with `metadata.resourceVersion` set to that revision.
    pub value: Value,
    json: OnceLock<Bytes>,
}

impl Stored {
    fn new(revision: u64, value: Value) -> Arc<Self> {
        Arc::new(Self { revision, value, json: OnceLock::new() })
    }

    /// An object that is only shown, not stored.
    pub(crate) fn unsaved(value: Value) -> Arc<Self> {
        Self::new(0, value)
    }

    /// The same object with another resourceVersion.
    pub(crate) fn at(&self, revision: u64) -> Arc<Self> {
        let mut value = self.value.clone();
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        Self::new(revision, value)
    }

    /// The object as JSON, serialised once.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| {
            let bytes = serde_json::to_vec(&self.value).expect("a JSON value serialises");
            Bytes::from(bytes)
        })
    }
}

/// All objects at one revision.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    revision: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
}

impl Objects {
    /// The revision that this state is of.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Stored>> {
        self.objects.get(key)
    }

    /// Objects of a kind in the order of namespace and name; of one namespace, if given; after a
    /// key, if given.
    pub(crate) fn list<'a>(
        &'a self,
        kind: &Arc<str>,
        namespace: Option<&Arc<str>>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> + use<'a> {
        let first = Key {
            kind: kind.clone(),
            namespace: namespace.cloned().unwrap_or_default(),
            name: "".into(),
        };
        let start = match after {
            Some(key) if *key >= first => Bound::Excluded(key.clone()),
            _ => Bound::Included(first),
        };
        let (kind, namespace) = (kind.clone(), namespace.cloned());
        self.objects.range((start, Bound::Unbounded)).take_while(move |(key, _)| {
            key.kind == kind
                && namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace)
        })
    }
}

/// The state that one write sees and changes.
pub(crate) struct Transaction<'a> {
    state: &'a mut Objects,
    /// The revision that changes of this write get.
    revision: u64,
    changes: Vec<Arc<Change>>,
}

impl Transaction<'_> {
    /// The current state, with the changes made so far.
    pub(crate) fn objects(&self) -> &Objects {
        self.state
    }

    /// Writes an object and answers it as stored.
    pub(crate) fn put(&mut self, key: Key, mut value: Value) -> Arc<Stored> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let new = Stored::new(self.revision, value);
        let old = self.state.objects.insert(key.clone(), new.clone());
        let change =
            Change { revision: self.revision, key, old, new: Some(new.clone()), gone: None };
        self.changes.push(Arc::new(change));
        new
    }

    /// Removes an object and answers its last state, with the revision of the removal.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Stored>> {
        let old = self.state.objects.remove(key)?;
        self.revision += 1;
        let gone = old.at(self.revision);
        let change = Change {
            revision: self.revision,
            key: key.clone(),
            old: Some(old),
            new: None,
            gone: Some(gone.clone()),
        };
        self.changes.push(Arc::new(change));
        Some(gone)
    }
}

/// A write waiting for its turn: runs on the state, and is told the outcome once it is durable.
type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Box<dyn FnOnce(Result<()>) + Send> + Send>;

/// What readers see.
#[derive(Debug)]
struct Published {
    objects: RwLock<Objects>,
    log: RwLock<Log>,
    revision: watch::Sender<u64>,
}

/// The store. Cloning it is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    published: Arc<Published>,
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the store in a file, which is made if it does not exist. `inspect` sees all objects
    /// before the first write, and again when writes that had been run were lost, because they could
    /// not be made durable: whoever has drawn conclusions from them has to draw them anew.
    pub(crate) fn open(
        path: &Path,
        inspect: impl Fn(&Objects) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (disk, revision, objects) = Disk::open(path)?;
        let objects: BTreeMap<Key, Arc<Stored>> = objects
            .into_iter()
            .map(|(key, revision, value)| (key, Stored::new(revision, value)))
            .collect();
        let state = Objects { revision, objects: objects.clone() };
        inspect(&state);
        let published = Arc::new(Published {
            objects: RwLock::new(state),
            log: RwLock::new(Log::starting_at(revision)),
            revision: watch::Sender::new(revision),
        });
        let (jobs, waiting) = mpsc::channel();
        let working = Objects { revision, objects };
        let writer = published.clone();
        thread::Builder::new()
            .name("store".into())
            .spawn(move || write_loop(disk, working, &writer, &waiting, inspect))?;
        Ok(Self { published, jobs })
    }

    /// The last durable state. Hold it shortly: it keeps the next one from being published.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.published.objects.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a write in its turn, and answers when what it did is durable. A write that answers an
    /// error must not have changed anything.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = write(transaction);
            Box::new(move |durable: Result<()>| {
                // Whoever asked may have gone away.
                let _ = done.send(durable.and(result));
            })
        });
        self.jobs.send(job).map_err(|_| Status::internal("the store is closed"))?;
        outcome.await.map_err(|_| Status::internal("the store is closed"))?
    }

    /// Changes after a revision, oldest first; an error if history does not go back that far.
    pub(crate) fn changes_since(&self, revision: u64) -> Result<Vec<Arc<Change>>> {
        self.published.log.read().unwrap_or_else(|p| p.into_inner()).since(revision)
    }

    /// The revision of the last durable state, now and as it grows.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.published.revision.subscribe()
    }
}

/// Takes what waits, runs it, makes it durable, publishes it, and tells those who asked.
fn write_loop(
    mut disk: Disk,
    mut working: Objects,
    published: &Published,
    waiting: &mpsc::Receiver<Job>,
    inspect: impl Fn(&Objects),
) {
    while let Ok(first) = waiting.recv() {
        let mut changes: Vec<Arc<Change>> = Vec::new();
        let mut replies = Vec::new();
        for job in std::iter::once(first).chain(waiting.try_iter()) {
            let revision = working.revision;
            let mut transaction =
                Transaction { state: &mut working, revision, changes: Vec::new() };
            replies.push(job(&mut transaction));
            let Transaction { revision, changes: made, .. } = transaction;
            working.revision = revision;
            changes.extend(made);
        }
        let durable = match disk.commit(working.revision, &changes) {
            Ok(()) => {
                publish(published, &working, changes);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "writes are refused");
                undo(&mut working, changes);
                inspect(&working);
                Err(Status::internal(error))
            }
        };
        for reply in replies {
            reply(durable.clone());
        }
    }
}

fn publish(published: &Published, working: &Objects, changes: Vec<Arc<Change>>) {
    if changes.is_empty() {
        return;
    }
    let mut objects = published.objects.write().unwrap_or_else(|p| p.into_inner());
    for change in &changes {
        match &change.new {
            Some(new) => objects.objects.insert(change.key.clone(), new.clone()),
            None => objects.objects.remove(&change.key),
        };
    }
    objects.revision = working.revision;
    published.log.write().unwrap_or_else(|p| p.into_inner()).append(changes);
    drop(objects);
    published.revision.send_replace(working.revision);
}

/// Takes back changes that did not become durable.
fn undo(working: &mut Objects, changes: Vec<Arc<Change>>) {
    for change in changes.into_iter().rev() {
        match &change.old {
            Some(old) => working.objects.insert(change.key.clone(), old.clone()),
            None => working.objects.remove(&change.key),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: "services".into(), namespace: "default".into(), name: name.into() }
    }

    fn open(directory: &Path) -> Store {
        Store::open(&directory.join("objects"), |_| ()).unwrap()
    }

    async fn put(store: &Store, name: &'static str, number: u64) -> Result<Arc<Stored>> {
        let value = json!({"metadata": {"name": name}, "number": number});
        store.write(move |transaction| Ok(transaction.put(key(name), value))).await
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart_and_revisions_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let first = put(&store, "a", 1).await.unwrap();
        let second = put(&store, "a", 2).await.unwrap();
        assert!(second.revision > first.revision);
        assert_eq!(second.value["metadata"]["resourceVersion"], second.revision.to_string());
        store.write(|transaction| Ok(transaction.remove(&key("a")))).await.unwrap();
        let last = put(&store, "b", 3).await.unwrap();
        drop(store);
        // The writer ends with its last client, and gives the file free.
        let store = loop {
            match Store::open(&directory.path().join("objects"), |_| ()) {
                Ok(store) => break store,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        };
        assert!(store.read().get(&key("a")).is_none());
        assert_eq!(store.read().get(&key("b")).unwrap().value["number"], 3);
        assert!(put(&store, "c", 4).await.unwrap().revision > last.revision);
    }

    #[tokio::test]
    async fn changes_are_told_in_order_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let start = store.read().revision();
        for number in 0..5 {
            put(&store, "a", number).await.unwrap();
        }
        let changes = store.changes_since(start).unwrap();
        let numbers: Vec<_> = changes
            .iter()
            .map(|change| change.new.as_ref().unwrap().value["number"].clone())
            .collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let middle = changes[2].revision;
        assert_eq!(store.changes_since(middle).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_file_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let _store = open(directory.path());
        let error = Store::open(&directory.path().join("objects"), |_| ()).unwrap_err();
        assert!(error.to_string().contains("objects"), "{error}");
    }
}
