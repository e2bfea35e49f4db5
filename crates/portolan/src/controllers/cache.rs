//! What the API server holds of one kind, kept up to date by one watch that all controllers share.
//!
//! Knows nothing of what controllers do with it. A controller that has written an object hands the
//! answer to [`Cache::wrote`], so that its next look sees its own write even if the watch is late:
//! that is what keeps a ReplicaSet from making a pod twice.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::ObjectName;
use tokio::sync::watch;

use crate::client::{ApiObject, Change, Client, Source, Watch, Watched};

/// Called with the state before and after a change, on the task of the watch: it must be quick and
/// must not block; usually it adds a key to a queue.
type Hook<K> = Box<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

/// All objects of a kind.
pub(super) struct Cache<K> {
    state: Mutex<State<K>>,
    hooks: Mutex<Vec<Arc<Hook<K>>>>,
    listed: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<ObjectName, Arc<K>>,
    /// Version the watch has reached. Versions are one increasing number over all kinds
    /// (KEP-5504); where one can't be read as a number it counts as 0.
    reached: u64,
    /// Uids of objects we deleted and whose deletion the watch has not yet told.
    deleted: HashSet<String>,
}

impl<K: ApiObject + Watched> Cache<K> {
    pub(super) fn new() -> Self {
        let state = State { objects: BTreeMap::new(), reached: 0, deleted: HashSet::new() };
        Self {
            state: Mutex::new(state),
            hooks: Mutex::default(),
            listed: watch::Sender::new(false),
        }
    }

    /// Keeps the cache up to date, for ever.
    pub(super) async fn run(&self, client: Client) {
        let mut watch = Watch::new(client, Source::all::<K>());
        loop {
            self.apply(watch.next().await);
        }
    }

    /// Has `hook` called for every object that is here and for every later change.
    pub(super) fn on_change(&self, hook: impl Fn(Option<&K>, Option<&K>) + Send + Sync + 'static) {
        let hook: Arc<Hook<K>> = Arc::new(Box::new(hook));
        lock(&self.hooks).push(hook.clone());
        for object in self.all() {
            hook(None, Some(&object));
        }
    }

    /// Waits until everything has been listed once.
    pub(super) async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        listed.wait_for(|listed| *listed).await.expect("the sender lives in self");
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<Arc<K>> {
        lock(&self.state).objects.get(name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<K>> {
        lock(&self.state).objects.values().cloned().collect()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        lock(&self.state)
            .objects
            .range(ObjectName::new(namespace, "")..)
            .take_while(|(name, _)| &*name.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Takes in the API server's answer to a write. If the watch is already past it, the watch
    /// knows better.
    pub(super) fn wrote(&self, object: K) {
        if version(&object) > lock(&self.state).reached {
            self.put(object);
        }
    }

    /// Takes in the API server's answer to a delete: the last state, if the object is still there.
    pub(super) fn deleted(&self, old: &K, answer: Option<K>) {
        match answer {
            Some(object) => self.wrote(object),
            None => {
                let name = old.object_name();
                let same = |object: &Arc<K>| object.uid() == old.uid();
                let mut state = lock(&self.state);
                if state.objects.get(&name).is_some_and(same) {
                    state.deleted.insert(old.uid().to_owned());
                    drop(state);
                    self.remove(&name);
                }
            }
        }
    }

    fn apply(&self, change: Change<K>) {
        match change {
            Change::Listed { objects, version: listed } => {
                let listed = number(&listed);
                let mut state = lock(&self.state);
                state.reached = listed;
                state.deleted.clear();
                // What we wrote after the list was made is newer than the list: the watch that
                // follows tells the rest of its story.
                let (newer, older): (Vec<_>, Vec<_>) =
                    state.objects.iter().partition(|(_, held)| version(&***held) > listed);
                let newer: HashSet<ObjectName> =
                    newer.into_iter().map(|(name, _)| name.clone()).collect();
                let mut gone: HashSet<ObjectName> =
                    older.into_iter().map(|(name, _)| name.clone()).collect();
                drop(state);
                for object in objects {
                    let name = object.object_name();
                    gone.remove(&name);
                    if !newer.contains(&name) {
                        self.put(object);
                    }
                }
                for name in gone {
                    self.remove(&name);
                }
                self.listed.send_replace(true);
            }
            Change::Put(object) => {
                let mut state = lock(&self.state);
                state.reached = state.reached.max(version(&object));
                let name = object.object_name();
                // Our own write may be here already, or something newer.
                let newer = |held: &Arc<K>| {
                    held.uid() == object.uid() && version(&**held) > version(&object)
                };
                let stale = state.deleted.contains(object.uid())
                    || state.objects.get(&name).is_some_and(newer);
                drop(state);
                if !stale {
                    self.put(object);
                }
            }
            Change::Removed(object) => {
                let name = object.object_name();
                let mut state = lock(&self.state);
                state.reached = state.reached.max(version(&object));
                state.deleted.remove(object.uid());
                let same = |held: &Arc<K>| held.uid() == object.uid();
                let held = state.objects.get(&name).is_some_and(same);
                drop(state);
                if held {
                    self.remove(&name);
                }
            }
        }
    }

    fn put(&self, mut object: K) {
        // The largest part of many objects, and nothing here reads it.
        object.metadata_mut().managed_fields = None;
        let object = Arc::new(object);
        let old = lock(&self.state).objects.insert(object.object_name(), object.clone());
        let same = |old: &Arc<K>| resource_version(&**old) == resource_version(&*object);
        if !old.as_ref().is_some_and(same) {
            self.tell(old.as_deref(), Some(&object));
        }
    }

    fn remove(&self, name: &ObjectName) {
        let old = lock(&self.state).objects.remove(name);
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    fn tell(&self, old: Option<&K>, new: Option<&K>) {
        let hooks = lock(&self.hooks).clone();
        for hook in &hooks {
            hook(old, new);
        }
    }
}

fn version<K: ApiObject>(object: &K) -> u64 {
    number(resource_version(object))
}

/// `metadata.resourceVersion`, opaque.
fn resource_version<K: ApiObject>(object: &K) -> &str {
    object.metadata().resource_version.as_deref().unwrap_or_default()
}

fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

/// A panic elsewhere does not make the map wrong: every change of it is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                uid: Some(uid.into()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }

    fn names(cache: &Cache<Pod>) -> Vec<String> {
        cache.all().iter().map(|pod| pod.object_name().to_string()).collect()
    }

    fn cache(version: u64) -> Cache<Pod> {
        let cache = Cache::new();
        cache.apply(Change::Listed { objects: vec![], version: version.to_string() });
        cache
    }

    #[test]
    fn own_writes_are_seen_before_the_watch_tells_them() {
        let cache = cache(10);
        cache.wrote(pod("a", "1", 11));
        assert_eq!(names(&cache), ["default/a"]);
        cache.apply(Change::Put(pod("a", "1", 11)));
        assert_eq!(names(&cache), ["default/a"]);
    }

    #[test]
    fn an_own_write_that_the_watch_has_passed_is_no_news() {
        let cache = cache(10);
        cache.apply(Change::Put(pod("a", "1", 11)));
        cache.apply(Change::Removed(pod("a", "1", 12)));
        cache.wrote(pod("a", "1", 11));
        assert!(names(&cache).is_empty(), "it would never be removed again");
    }

    #[test]
    fn a_late_change_does_not_bring_back_what_we_deleted() {
        let cache = cache(10);
        cache.apply(Change::Put(pod("a", "1", 11)));
        cache.deleted(&pod("a", "1", 11), None);
        cache.apply(Change::Put(pod("a", "1", 12)));
        assert!(names(&cache).is_empty());
        cache.apply(Change::Removed(pod("a", "1", 13)));
        cache.apply(Change::Put(pod("a", "2", 14)));
        assert_eq!(names(&cache), ["default/a"], "a new pod of that name is another one");
    }

    #[test]
    fn a_new_list_does_not_undo_a_later_own_write() {
        let cache = cache(10);
        cache.wrote(pod("a", "1", 12));
        cache.apply(Change::Listed { objects: vec![pod("b", "2", 9)], version: "11".into() });
        assert_eq!(names(&cache), ["default/a", "default/b"]);
        cache.apply(Change::Listed { objects: vec![], version: "13".into() });
        assert!(names(&cache).is_empty());
    }

    #[test]
    fn a_list_tells_what_is_gone_and_hooks_hear_each_change_once() {
        let cache = cache(10);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        cache.on_change(move |old, new| {
            let name = |pod: Option<&Pod>| pod.map(|pod| pod.object_name().name.to_string());
            lock(&log).push((name(old), name(new)));
        });
        cache.apply(Change::Put(pod("a", "1", 11)));
        cache.apply(Change::Put(pod("a", "1", 11)));
        let objects = vec![pod("b", "2", 12)];
        cache.apply(Change::Listed { objects, version: "12".into() });
        let a = || Some("a".to_owned());
        assert_eq!(*lock(&heard), [(None, a()), (None, Some("b".into())), (a(), None)]);
    }
}
