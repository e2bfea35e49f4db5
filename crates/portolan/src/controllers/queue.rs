//! A queue of keys to look at: each at most once in the queue, and never looked at twice at a time.
//!
//! Knows nothing of the objects behind the keys. A key whose look failed comes back after a time
//! that doubles from 10 ms to 60 s.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::{Backoff, Error};

/// A handle to the queue; clones share it.
pub(super) struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    /// Name of the controller, for logs.
    name: &'static str,
    state: Mutex<State<K>>,
    added: Notify,
}

struct State<K> {
    order: VecDeque<K>,
    waiting: HashSet<K>,
    active: HashSet<K>,
    failures: HashMap<K, Backoff>,
}

/// How a look ended well.
pub(super) enum Done {
    /// Nothing is left to do until something changes.
    Settled,
    /// Look again after this time whatever happens.
    LookAgain(Duration),
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    pub(super) fn new(name: &'static str) -> Self {
        let state = State {
            order: VecDeque::new(),
            waiting: HashSet::new(),
            active: HashSet::new(),
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { name, state: Mutex::new(state), added: Notify::new() }) }
    }

    /// Has `key` looked at soon.
    pub(super) fn add(&self, key: K) {
        let mut state = self.state();
        if state.waiting.insert(key.clone()) && !state.active.contains(&key) {
            state.order.push_back(key);
            self.shared.added.notify_one();
        }
    }

    /// Has all `keys` looked at soon.
    pub(super) fn extend(&self, keys: impl IntoIterator<Item = K>) {
        keys.into_iter().for_each(|key| self.add(key));
    }

    /// Has `key` looked at after `delay`.
    pub(super) fn add_after(&self, key: K, delay: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            queue.add(key);
        });
    }

    /// Looks at keys with `workers` looks at a time, for ever.
    pub(super) async fn work<F, Fut>(self, workers: usize, look: F)
    where
        F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Done, Error>> + Send,
    {
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (queue, look) = (self.clone(), look.clone());
            tasks.spawn(async move {
                loop {
                    let key = queue.take().await;
                    let result = look(key.clone()).await;
                    queue.finish(key, result);
                }
            });
        }
        // The workers never end; if one panics, it is better to end than to go on with fewer.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    async fn take(&self) -> K {
        loop {
            let added = self.shared.added.notified();
            {
                let mut state = self.state();
                if let Some(key) = state.order.pop_front() {
                    state.waiting.remove(&key);
                    state.active.insert(key.clone());
                    if !state.order.is_empty() {
                        self.shared.added.notify_one();
                    }
                    return key;
                }
            }
            added.await;
        }
    }

    fn finish(&self, key: K, result: Result<Done, impl Display + IsConflict>) {
        let mut state = self.state();
        state.active.remove(&key);
        if state.waiting.contains(&key) {
            state.order.push_back(key.clone());
            self.shared.added.notify_one();
        }
        match result {
            Ok(done) => {
                state.failures.remove(&key);
                drop(state);
                if let Done::LookAgain(delay) = done {
                    self.add_after(key, delay);
                }
            }
            Err(error) => {
                let backoff = state.failures.entry(key.clone()).or_insert_with(|| {
                    Backoff::new(Duration::from_millis(10), Duration::from_secs(60))
                });
                let delay = backoff.advance();
                drop(state);
                let controller = self.shared.name;
                if error.is_conflict() {
                    tracing::debug!(controller, ?key, %error, "somebody was faster, looking again");
                } else {
                    tracing::warn!(controller, ?key, %error, ?delay, "failed, trying again");
                }
                self.add_after(key, delay);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the queue tell the everyday failure from those worth a warning.
trait IsConflict {
    fn is_conflict(&self) -> bool;
}

impl IsConflict for Error {
    fn is_conflict(&self) -> bool {
        Error::is_conflict(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused;

    impl IsConflict for Refused {
        fn is_conflict(&self) -> bool {
            true
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(test);
    }

    #[test]
    fn a_key_waits_once_and_is_not_looked_at_twice_at_a_time() {
        run(async {
            let queue = Queue::new("test");
            queue.add("a");
            queue.add("a");
            queue.add("b");
            assert_eq!(queue.take().await, "a");
            queue.add("a");
            assert_eq!(queue.take().await, "b");
            let blocked = tokio::time::timeout(Duration::from_millis(20), queue.take()).await;
            assert!(blocked.is_err(), "a is still being looked at");
            queue.finish("a", Ok::<_, Refused>(Done::Settled));
            assert_eq!(queue.take().await, "a");
        });
    }

    #[test]
    fn a_failed_look_is_repeated_later() {
        run(async {
            let queue = Queue::new("test");
            queue.add("a");
            let key = queue.take().await;
            queue.finish(key, Err(Refused));
            let again = tokio::time::timeout(Duration::from_secs(5), queue.take()).await;
            assert_eq!(again, Ok("a"));
        });
    }
}
