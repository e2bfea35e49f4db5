//! A map that one writes and any number read, without waiting for each other.
//!
//! It is many small sorted lists. A reader takes the one that its key falls to as it is; the writer replaces that
//! list by another one, so that a change costs as much in a large cluster as in a small one.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// What the keys of one place lead to, in their order.
type List<K, V> = ArcSwapOption<Vec<(K, V)>>;

/// A map from `K`, which stands for bytes, to `V`; both are cheap to clone.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    lists: Box<[List<K, V>]>,
}

impl<K: AsRef<[u8]> + Clone, V: Clone> Table<K, V> {
    /// One of so many lists.
    pub(crate) fn with_lists(count: usize) -> Self {
        Self { lists: (0..count).map(|_| ArcSwapOption::empty()).collect() }
    }

    fn place_of(&self, key: &[u8]) -> &List<K, V> {
        // Whoever can choose keys can at most make lists long, in which is searched by halves.
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        &self.lists[hasher.finish() as usize % self.lists.len()]
    }

    /// Reads what a key leads to.
    pub(crate) fn with<R>(&self, key: &[u8], read: impl FnOnce(&V) -> R) -> Option<R> {
        let list = self.place_of(key).load();
        let list = list.as_ref()?;
        let at = list.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(read(&list[at].1))
    }

    /// What a key leads to.
    pub(crate) fn get(&self, key: &[u8]) -> Option<V> {
        self.with(key, V::clone)
    }

    /// A key as it is kept.
    pub(crate) fn key(&self, key: &[u8]) -> Option<K> {
        let list = self.place_of(key).load();
        let list = list.as_ref()?;
        let at = list.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(list[at].0.clone())
    }

    /// Sets or removes what a key leads to. There is one who writes.
    pub(crate) fn set(&self, key: K, value: Option<V>) {
        let place = self.place_of(key.as_ref());
        let list = place.load();
        let list = list.as_ref().map_or(&[][..], |list| &list[..]);
        let found = list.binary_search_by(|(known, _)| known.as_ref().cmp(key.as_ref()));
        let changed = match (found, value) {
            (Err(_), None) => return,
            (Ok(at), Some(value)) => {
                let mut list = list.to_vec();
                list[at].1 = value;
                list
            }
            (Err(at), Some(value)) => {
                let mut longer = Vec::with_capacity(list.len() + 1);
                longer.extend_from_slice(&list[..at]);
                longer.push((key, value));
                longer.extend_from_slice(&list[at..]);
                longer
            }
            (Ok(at), None) => [&list[..at], &list[at + 1..]].concat(),
        };
        place.store((!changed.is_empty()).then(|| Arc::new(changed)));
    }

    /// Sets what a key leads to, in a list of `room` entries: the one that `order` has first goes for it. There is one
    /// who writes. Answers whether there is one more, and how many went.
    pub(crate) fn set_within<O: Ord>(
        &self,
        key: K,
        value: V,
        room: usize,
        order: impl Fn(&V) -> O,
    ) -> (u64, u64) {
        let place = self.place_of(key.as_ref());
        let mut list = place.load().as_ref().map_or_else(Vec::new, |list| list.to_vec());
        let found = list.binary_search_by(|(known, _)| known.as_ref().cmp(key.as_ref()));
        let mut evicted = 0;
        let is_new = match found {
            Ok(at) => {
                list[at].1 = value;
                false
            }
            Err(at) => {
                list.insert(at, (key, value));
                let others = list.iter().enumerate().filter(|(other, _)| *other != at);
                let first = others.min_by_key(|(_, (_, value))| order(value));
                // One has come, so one goes.
                if let (Some((first, _)), true) = (first, list.len() > room) {
                    list.remove(first);
                    evicted = 1;
                }
                true
            }
        };
        place.store(Some(Arc::new(list)));
        (is_new.into(), evicted)
    }

    /// Everything, in no order.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<(K, V)> {
        let lists = self.lists.iter().filter_map(ArcSwapOption::load_full);
        lists.flat_map(|list| list.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..40, prop::option::of(0_u8..4)), 0..200)) {
            let table: Table<Arc<[u8]>, u8> = Table::with_lists(16);
            let mut model = BTreeMap::new();
            for (key, value) in steps {
                table.set(Arc::from([key]), value);
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            let mut entries: Vec<(u8, u8)> = table.entries().iter().map(|(k, v)| (k[0], *v)).collect();
            entries.sort_unstable();
            prop_assert_eq!(entries, model.clone().into_iter().collect::<Vec<_>>());
            for key in 0..40 {
                prop_assert_eq!(table.get(&[key][..]), model.get(&key).copied());
            }
        }
    }

    #[test]
    fn who_is_first_makes_room() {
        let table: Table<Arc<[u8]>, u8> = Table::with_lists(1);
        let set = |key: u8, value| table.set_within(Arc::from([key]), value, 2, |value| *value);
        assert_eq!(set(5, 7), (1, 0));
        assert_eq!(set(4, 8), (1, 0));
        assert_eq!(set(4, 9), (0, 0));
        assert_eq!(set(6, 1), (1, 1), "it goes for the new one, whatever that is");
        let there = |key: u8| table.get(&[key]);
        assert_eq!((there(4), there(5), there(6)), (Some(9), None, Some(1)));
    }

    #[test]
    fn readers_see_whole_entries() {
        let table: Table<Arc<[u8]>, Arc<[u64; 8]>> = Table::with_lists(1);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        table.with(&b"key"[..], |value| {
                            assert!(value.iter().all(|number| *number == value[0]));
                        });
                    }
                });
            }
            for number in 0..20_000 {
                table.set(Arc::from(&b"key"[..]), Some(Arc::new([number; 8])));
                table.set(Arc::from(&b"key"[..]), (number % 3 > 0).then(|| Arc::new([number; 8])));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
