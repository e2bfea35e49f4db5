//! The rules of one family, kept in step with what the kernel holds, and the changes that lead from one
//! content to the next.
//!
//! Pure. What stands in the kernel is not mirrored here but for the trees: a group that was programmed
//! is rendered again when it changes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey, Group, GroupId};

use super::chains::{self, Surroundings, Table, node_ports_of};
use super::changes::TableChanges;
use super::render::{Rendered, TreeId, hairpin, render_group};
use super::rule::{Chain, Rule};
use super::saved::Wanted;
use super::tree::{Domain, Edits, Key, Tree};

/// What is to be done to the tables of a family.
pub type Changes = BTreeMap<Table, TableChanges>;

/// What has been programmed for one family.
#[derive(Debug, Clone)]
pub struct Ruleset {
    surroundings: Surroundings,
    groups: HashMap<GroupId, Arc<Group>>,
    trees: BTreeMap<TreeId, Tree>,
    /// How many groups have an endpoint on this node at an address.
    hairpins: BTreeMap<IpAddr, usize>,
}

impl Ruleset {
    /// Rules without a group.
    pub fn new(surroundings: Surroundings) -> Self {
        let family = surroundings.family;
        let mut trees = BTreeMap::new();
        let mut plant = |id: TreeId, domain, root, tag| {
            trees.insert(id, Tree::new(domain, root, tag));
        };
        plant(TreeId::Frontends, Domain::Destination(family), chains::FRONTENDS, "");
        plant(TreeId::Hairpins, Domain::Source(family), chains::HAIRPINS, "H");
        plant(TreeId::Refusals, Domain::Destination(family), chains::REFUSALS, "");
        plant(TreeId::ClusterIps, Domain::Destination(family), chains::CLUSTER_IPS, "V");
        for protocol in Protocol::ALL {
            let (domain, root) = (Domain::Port(protocol), node_ports_of(protocol));
            plant(TreeId::NodePorts(protocol), domain, root, "");
            plant(TreeId::NodePortRefusals(protocol), domain, root, "");
        }
        Self { surroundings, groups: HashMap::new(), trees, hairpins: BTreeMap::new() }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.surroundings.family
    }

    /// A group as it was programmed.
    pub fn group(&self, id: &GroupId) -> Option<&Arc<Group>> {
        self.groups.get(id)
    }

    /// All that a table is to hold.
    pub fn wanted(&self, table: Table) -> Wanted {
        let mut wanted = Wanted { lines: self.surroundings.chains(table), ..Wanted::default() };
        for (_, tree) in self.trees.iter().filter(|(id, _)| id.table() == table) {
            wanted.trees.extend(tree.chains());
        }
        if table == Table::Nat {
            wanted.lines.extend(self.groups.values().flat_map(|group| self.render(group).sets));
        }
        wanted
    }

    /// Replaces some groups; `None` removes one. All in one step, so that a frontend can pass from one
    /// group to another.
    pub fn set_groups<'g>(
        &mut self,
        groups: impl IntoIterator<Item = (&'g GroupId, Option<&'g Arc<Group>>)>,
    ) -> Changes {
        let mut changes = Changes::new();
        let mut edits: BTreeMap<TreeId, Edits> = BTreeMap::new();
        let mut hairpins: BTreeMap<IpAddr, isize> = BTreeMap::new();
        for (id, group) in groups {
            let new = group.map(|group| self.render(group)).unwrap_or_default();
            let held = match group.filter(|_| !new.is_empty()) {
                Some(group) => self.groups.insert(id.clone(), group.clone()),
                None => self.groups.remove(id),
            };
            let old = held.map(|held| self.render(&held)).unwrap_or_default();
            for (tree, key, _) in old.entries {
                // Another group may have said already that it has it now.
                edits.entry(tree).or_default().entry(key).or_insert(None);
            }
            for (tree, key, rules) in new.entries {
                edits.entry(tree).or_default().insert(key, Some(rules));
            }
            for address in old.hairpins {
                *hairpins.entry(address).or_default() -= 1;
            }
            for address in new.hairpins {
                *hairpins.entry(address).or_default() += 1;
            }
            let nat = changes.entry(Table::Nat).or_default();
            let mut old: BTreeMap<Chain, Vec<Rule>> = old.sets.into_iter().collect();
            for (chain, rules) in new.sets {
                if old.remove(&chain).as_ref() != Some(&rules) {
                    nat.write(chain, rules);
                }
            }
            for chain in old.into_keys() {
                nat.remove(chain);
            }
        }
        let of_hairpins = self.count(hairpins);
        edits.insert(TreeId::Hairpins, of_hairpins);
        for (id, edits) in edits {
            let tree = self.trees.get_mut(&id).expect("every tree was planted");
            tree.apply(edits, changes.entry(id.table()).or_default());
        }
        changes.retain(|_, changes| !changes.is_empty());
        changes
    }

    /// The same groups in other surroundings.
    pub fn with(&self, surroundings: Surroundings) -> Self {
        let mut new = Self::new(surroundings);
        new.set_groups(self.groups.iter().map(|(id, group)| (id, Some(group))));
        new
    }

    /// Whether a frontend is programmed.
    pub fn has(&self, key: &FrontendKey) -> bool {
        let port = key.port.get();
        let (trees, at) = match key.address {
            FrontendAddress::Ip(ip) => {
                ([TreeId::Frontends, TreeId::Refusals], Key::at_address(ip, key.protocol, port))
            }
            FrontendAddress::AnyOfNode(_) => (
                [TreeId::NodePorts(key.protocol), TreeId::NodePortRefusals(key.protocol)],
                Key::port(port),
            ),
        };
        key.family() == self.family() && trees.iter().any(|tree| self.trees[tree].has(&at))
    }

    /// Replaces what surrounds the groups. Answers `None` if the groups' own rules depend on what has
    /// changed.
    pub fn set_surroundings(&mut self, surroundings: Surroundings) -> Option<Changes> {
        if !self.surroundings.has_same_groups_as(&surroundings) {
            return None;
        }
        let mut changes = Changes::new();
        for table in Table::ALL {
            let (old, new) = (self.surroundings.chains(table), surroundings.chains(table));
            for (chain, rules) in new {
                if old.get(&chain) != Some(&rules) {
                    changes.entry(table).or_default().write(chain, rules);
                }
            }
        }
        self.surroundings = surroundings;
        Some(changes)
    }

    /// Whether a group asks for this rule in this chain.
    pub fn asks_for(&self, group: &Group, chain: &str, rule: &str) -> bool {
        let rendered = self.render(group);
        let mut entries = rendered.entries.iter().flat_map(|(_, _, rules)| rules);
        rendered.sets.iter().any(|(set, _)| &**set == chain) || entries.any(|held| &**held == rule)
    }

    fn render(&self, group: &Group) -> Rendered {
        render_group(group, &self.surroundings)
    }

    /// Counts who has endpoints on this node, and answers what that changes for their tree.
    fn count(&mut self, by: BTreeMap<IpAddr, isize>) -> Edits {
        let mut edits = Edits::new();
        for (address, by) in by {
            let held = self.hairpins.get(&address).copied().unwrap_or(0);
            let now = held.saturating_add_signed(by);
            let (key, rules) = hairpin(address);
            match now {
                0 => _ = self.hairpins.remove(&address),
                now => _ = self.hairpins.insert(address, now),
            }
            edits.insert(key, (now > 0).then_some(rules));
        }
        edits
    }
}

impl TreeId {
    /// The table that it stands in.
    pub fn table(self) -> Table {
        match self {
            TreeId::Frontends | TreeId::NodePorts(_) | TreeId::Hairpins => Table::Nat,
            TreeId::Refusals | TreeId::NodePortRefusals(_) | TreeId::ClusterIps => Table::Filter,
        }
    }
}
