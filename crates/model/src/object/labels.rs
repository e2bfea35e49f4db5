//! Labels and annotations, as small as they can be held.

use std::sync::Arc;

use super::wire::Pairs;
use crate::intern::shared;

/// A map of a few strings, ordered by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let place = self.0.binary_search_by(|(held, _)| (**held).cmp(key)).ok()?;
        Some(&self.0[place].1)
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(key, _)| key)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of the wire whose key is wanted.
    pub(super) fn of(pairs: &Pairs<'_>, is_wanted: impl Fn(&str) -> bool) -> Self {
        let wanted = pairs.0.iter().filter(|(key, _)| is_wanted(key));
        let mut labels: Vec<(Arc<str>, Arc<str>)> =
            wanted.map(|(key, value)| (shared(key), Arc::from(&**value))).collect();
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        labels.dedup_by(|a, b| a.0 == b.0);
        Self(labels.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_whatever_their_order_on_the_wire() {
        let pairs: Pairs<'_> = serde_json::from_str(r#"{"b":"2","c":"3","a":"1"}"#).unwrap();
        let labels = Labels::of(&pairs, |key| key != "c");
        assert_eq!(labels.get("a").map(|value| &**value), Some("1"));
        assert_eq!(labels.get("c"), None);
        assert_eq!(labels.keys().map(|key| &**key).collect::<Vec<_>>(), ["a", "b"]);
    }
}
