//! Text that many objects carry, kept once: names of namespaces, nodes, zones and ports, and the keys of
//! labels.
//!
//! Only memory depends on it: shared and unshared text compare equal.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { texts: None, limit: 1024 }) };
}

/// What has been shared on this thread.
struct Pool {
    texts: Option<HashSet<Arc<str>>>,
    /// Number of texts at which those that nobody else holds are forgotten.
    limit: usize,
}

/// The text, the same allocation for all who ask on this thread while somebody holds it.
pub(crate) fn shared(text: &str) -> Arc<str> {
    POOL.with_borrow_mut(|pool| {
        let texts = pool.texts.get_or_insert_default();
        if let Some(known) = texts.get(text) {
            return known.clone();
        }
        if texts.len() >= pool.limit {
            texts.retain(|text| Arc::strong_count(text) > 1);
            pool.limit = (texts.len() * 2).max(1024);
        }
        let text: Arc<str> = text.into();
        texts.insert(text.clone());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let (a, b) = (shared("node-1"), shared("node-1"));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &shared("node-2")));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let held: Vec<_> = (0..100).map(|n| shared(&format!("held-{n}"))).collect();
        for n in 0..100_000 {
            shared(&format!("passing-{n}"));
        }
        let known = POOL.with_borrow(|pool| pool.texts.as_ref().map_or(0, HashSet::len));
        assert!(known <= 1024, "{known}");
        assert!(Arc::ptr_eq(&held[7], &shared("held-7")));
    }
}
