//! The content of one family's table, kept in step with what the kernel holds, and the changes that
//! lead from one content to the next.
//!
//! Pure. What stands in the kernel is not mirrored here: a group that was programmed is rendered
//! again when it changes, and only what groups share is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::Family;
use plan::{Group, GroupId, NodePlan};

use super::layout::{Dispatch, Element, SetName};
use super::render::{Rendered, render_node};
use super::role::Role;

/// What is to be done to the kernel's table, in an order that is valid within one transaction:
/// chains, deletions, additions, and last the chains nobody leads to any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Chains to add, with their place in the dispatch map of the set that leads to them.
    pub new_chains: BTreeSet<(SetName, Dispatch)>,
    /// Elements to remove.
    pub removed: Vec<Element>,
    /// Elements to add.
    pub added: Vec<Element>,
    /// Chains to remove, with their place in the dispatch map.
    pub old_chains: BTreeSet<(SetName, Dispatch)>,
}

impl Changes {
    /// Adds changes that touch other elements.
    pub fn merge(&mut self, other: Changes) {
        self.new_chains.extend(other.new_chains);
        self.removed.extend(other.removed);
        self.added.extend(other.added);
        self.old_chains.extend(other.old_chains);
    }

    /// Drops elements that are both removed and added: they pass from one group to another, and stay.
    fn cancel(&mut self) {
        self.removed.sort_unstable();
        self.added.sort_unstable();
        let (removed, added) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.added));
        difference(&removed, &added, self);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.new_chains.is_empty()
            && self.removed.is_empty()
            && self.added.is_empty()
            && self.old_chains.is_empty()
    }
}

/// What has been programmed for one family.
#[derive(Debug, Clone)]
pub struct Table {
    family: Family,
    role: Role,
    groups: HashMap<GroupId, Arc<Group>>,
    node: Vec<Element>,
    shared: BTreeMap<Element, usize>,
    chains: BTreeMap<(SetName, Dispatch), usize>,
}

impl Table {
    /// A table without content that translates.
    pub fn new(family: Family) -> Self {
        Self::for_role(family, Role::Translate)
    }

    /// A table without content.
    pub fn for_role(family: Family, role: Role) -> Self {
        Self {
            family,
            role,
            groups: HashMap::new(),
            node: Vec::new(),
            shared: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// What it is for.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Replaces what the node itself puts into the table.
    pub fn set_node(&mut self, plan: &NodePlan) -> Changes {
        let mut node = render_node(plan, self.family);
        node.sort();
        let mut changes = Changes::default();
        difference(&self.node, &node, &mut changes);
        self.node = node;
        changes
    }

    /// Takes groups into a table that has none, without saying what changes: that is everything.
    pub fn fill<'g>(&mut self, groups: impl IntoIterator<Item = (&'g GroupId, &'g Arc<Group>)>) {
        for (id, group) in groups {
            let rendered = self.role.render_group(group, self.family);
            for element in rendered.shared {
                *self.shared.entry(element).or_default() += 1;
            }
            for chain in rendered.dispatches {
                *self.chains.entry(chain).or_default() += 1;
            }
            if !rendered.elements.is_empty() {
                self.groups.insert(id.clone(), group.clone());
            }
        }
    }

    /// Replaces some groups; `None` removes one. All in one step, so that an element can pass from
    /// one group to another.
    pub fn set_groups<'g>(
        &mut self,
        groups: impl IntoIterator<Item = (&'g GroupId, Option<&'g Arc<Group>>)>,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut shared: BTreeMap<Element, isize> = BTreeMap::new();
        let mut chains: BTreeMap<(SetName, Dispatch), isize> = BTreeMap::new();
        let mut take = |rendered: Rendered, sign: isize| {
            for element in rendered.shared {
                *shared.entry(element).or_default() += sign;
            }
            for chain in rendered.dispatches {
                *chains.entry(chain).or_default() += sign;
            }
            let mut elements = rendered.elements;
            elements.sort_unstable();
            elements
        };
        for (id, group) in groups {
            let render = |group: &Group| self.role.render_group(group, self.family);
            let new = group.map(|group| render(group)).unwrap_or_default();
            let held = match group.filter(|_| !new.elements.is_empty()) {
                Some(group) => self.groups.insert(id.clone(), group.clone()),
                None => self.groups.remove(id),
            };
            let old = held.map(|held| render(&held)).unwrap_or_default();
            difference(&take(old, -1), &take(new, 1), &mut changes);
        }
        changes.cancel();
        let (added, removed) = count(&mut self.shared, shared);
        changes.added.extend(added);
        changes.removed.extend(removed);
        let (added, removed) = count(&mut self.chains, chains);
        changes.new_chains.extend(added);
        changes.old_chains.extend(removed);
        changes
    }

    /// The chains that choose a backend.
    pub fn chains(&self) -> BTreeSet<(SetName, Dispatch)> {
        self.chains.keys().copied().collect()
    }

    /// Hands every element to `each`, those of an endpoint set one after the other, for as long as
    /// it wants more. Answers whether it saw all.
    pub fn try_for_each<E>(
        &self,
        mut each: impl FnMut(Element) -> Result<bool, E>,
    ) -> Result<bool, E> {
        for element in self.node.iter().chain(self.shared.keys()) {
            if !each(element.clone())? {
                return Ok(false);
            }
        }
        for group in self.groups.values() {
            for element in self.role.render_group(group, self.family).elements {
                if !each(element)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The whole content: every element and every chain.
    pub fn content(&self) -> Content {
        let mut content = Content { chains: self.chains(), ..Content::default() };
        let add = |element| {
            content.elements.insert(element);
            Ok::<_, std::convert::Infallible>(true)
        };
        let Ok(_) = self.try_for_each(add);
        content
    }
}

/// Everything that stands in a table and can change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Elements.
    pub elements: BTreeSet<Element>,
    /// Chains that choose a backend.
    pub chains: BTreeSet<(SetName, Dispatch)>,
}

impl Content {
    /// What leads from this content to `wanted`.
    pub fn changes_to(&self, wanted: &Content) -> Changes {
        Changes {
            new_chains: wanted.chains.difference(&self.chains).copied().collect(),
            removed: self.elements.difference(&wanted.elements).cloned().collect(),
            added: wanted.elements.difference(&self.elements).cloned().collect(),
            old_chains: self.chains.difference(&wanted.chains).copied().collect(),
        }
    }
}

/// Appends what leads from one sorted list to another.
pub(super) fn difference(old: &[Element], new: &[Element], changes: &mut Changes) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => changes.removed.extend(old.next().cloned()),
            (_, Some(_)) => changes.added.extend(new.next().cloned()),
            (Some(_), None) => changes.removed.extend(old.next().cloned()),
            (None, None) => return,
        }
    }
}

/// Applies differences to counters; answers the keys that began and those that ceased to be counted.
fn count<K: Clone + Ord>(
    counters: &mut BTreeMap<K, usize>,
    differences: BTreeMap<K, isize>,
) -> (Vec<K>, Vec<K>) {
    let (mut began, mut ceased) = (Vec::new(), Vec::new());
    for (key, difference) in differences {
        let before = counters.get(&key).copied().unwrap_or(0);
        let after = before
            .checked_add_signed(difference)
            .expect("nothing is given back that was not counted before");
        match (before, after) {
            (0, 1..) => began.push(key.clone()),
            (1.., 0) => ceased.push(key.clone()),
            _ => {}
        }
        match after {
            0 => counters.remove(&key),
            after => counters.insert(key, after),
        };
    }
    (began, ceased)
}
