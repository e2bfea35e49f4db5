//! Who owns what several groups claim: the first claimant by name, whatever the order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::frontend::GroupId;

/// Owners of keys. Memory is spent on sets of claimants only for keys that have several.
#[derive(Debug, Clone)]
pub(crate) struct Claims<K> {
    owners: HashMap<K, GroupId>,
    contested: BTreeMap<K, BTreeSet<GroupId>>,
}

impl<K: Copy + Ord + Hash> Claims<K> {
    pub(crate) fn new() -> Self {
        Self { owners: HashMap::new(), contested: BTreeMap::new() }
    }

    pub(crate) fn owner(&self, key: &K) -> Option<&GroupId> {
        self.owners.get(key)
    }

    /// Keys with several claimants; the first one is the owner.
    pub(crate) fn contested(&self) -> &BTreeMap<K, BTreeSet<GroupId>> {
        &self.contested
    }

    /// Adds a claimant. A group that loses the key by it is added to `changed`.
    pub(crate) fn claim(&mut self, key: K, id: &GroupId, changed: &mut BTreeSet<GroupId>) {
        match self.owners.get(&key).cloned() {
            None => {
                self.owners.insert(key, id.clone());
            }
            Some(owner) if owner == *id => {}
            Some(owner) => {
                self.contested.entry(key).or_default().extend([owner.clone(), id.clone()]);
                if *id < owner {
                    self.owners.insert(key, id.clone());
                    changed.insert(owner);
                }
            }
        }
    }

    /// Removes a claimant. A group that inherits the key by it is added to `changed`.
    pub(crate) fn disclaim(&mut self, key: K, id: &GroupId, changed: &mut BTreeSet<GroupId>) {
        let Some(claimants) = self.contested.get_mut(&key) else {
            self.owners.remove(&key);
            return;
        };
        claimants.remove(id);
        let heir = claimants.first().cloned();
        if claimants.len() < 2 {
            self.contested.remove(&key);
        }
        if self.owners.get(&key) == Some(id)
            && let Some(heir) = heir
        {
            changed.insert(heir.clone());
            self.owners.insert(key, heir);
        }
    }
}
