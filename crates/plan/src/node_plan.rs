//! The whole plan of a node: the groups, and who owns a frontend that two of them claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::frontend::{Frontend, FrontendKey, Group, GroupId};
use crate::node::NodeFacts;

/// Everything that is to be programmed on a node.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// The node and its settings.
    pub node: NodeFacts,
    /// Ranges of virtual addresses: an address in them that no group has leads nowhere.
    pub service_ranges: Vec<IpNet>,
    /// Groups as planned.
    planned: BTreeMap<GroupId, Arc<Group>>,
    /// Groups that lost frontends to others, without those.
    reduced: HashMap<GroupId, Arc<Group>>,
    /// The group that each frontend belongs to.
    owners: HashMap<FrontendKey, GroupId>,
    /// Frontends claimed by several groups, with all claimants: the first by name owns it.
    contested: BTreeMap<FrontendKey, BTreeSet<GroupId>>,
    /// The group that each virtual address belongs to.
    cluster_ips: HashMap<IpAddr, GroupId>,
}

impl NodePlan {
    /// A plan without groups.
    pub fn new(node: NodeFacts, service_ranges: Vec<IpNet>) -> Self {
        Self {
            node,
            service_ranges,
            planned: BTreeMap::new(),
            reduced: HashMap::new(),
            owners: HashMap::new(),
            contested: BTreeMap::new(),
            cluster_ips: HashMap::new(),
        }
    }

    /// Replaces the group `id`, or removes it. Answers the groups to be programmed again: normally
    /// that one alone, others if frontends changed hands, none if nothing changed.
    pub fn replace(&mut self, id: &GroupId, group: Option<Group>) -> BTreeSet<GroupId> {
        let old = self.planned.get(id).cloned();
        if old.as_deref() == group.as_ref() {
            return BTreeSet::new();
        }
        let mut changed = BTreeSet::from([id.clone()]);
        for key in old.iter().flat_map(|old| old.frontends.iter().map(|f| f.key)) {
            self.disclaim(key, id, &mut changed);
        }
        for ip in old.iter().flat_map(|old| &old.cluster_ips) {
            if self.cluster_ips.get(ip) == Some(id) {
                self.cluster_ips.remove(ip);
            }
        }
        match group {
            Some(group) => {
                for frontend in &group.frontends {
                    self.claim(frontend.key, id, &mut changed);
                }
                for ip in &group.cluster_ips {
                    self.cluster_ips.insert(*ip, id.clone());
                }
                self.planned.insert(id.clone(), Arc::new(group));
            }
            None => {
                self.planned.remove(id);
            }
        }
        for id in &changed {
            self.reduce(id);
        }
        changed
    }

    /// A group with the frontends it owns.
    pub fn group(&self, id: &str) -> Option<&Arc<Group>> {
        self.reduced.get(id).or_else(|| self.planned.get(id))
    }

    /// All groups in the order of their ids, each with the frontends it owns.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.planned.iter().map(|(id, group)| self.reduced.get(id).unwrap_or(group))
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.planned.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }

    /// The frontend at `key`, with its group.
    pub fn frontend(&self, key: &FrontendKey) -> Option<(&Arc<Group>, &Frontend)> {
        let group = self.planned.get(self.owners.get(key)?)?;
        Some((group, group.frontends.iter().find(|f| f.key == *key)?))
    }

    /// The group whose virtual address this is.
    pub fn cluster_ip_owner(&self, ip: IpAddr) -> Option<&GroupId> {
        self.cluster_ips.get(&ip)
    }

    /// Frontends that several groups claim, with the claimants; the first one owns it.
    pub fn contested(&self) -> &BTreeMap<FrontendKey, BTreeSet<GroupId>> {
        &self.contested
    }

    fn claim(&mut self, key: FrontendKey, id: &GroupId, changed: &mut BTreeSet<GroupId>) {
        match self.owners.get(&key) {
            None => {
                self.owners.insert(key, id.clone());
            }
            Some(owner) if owner == id => {}
            Some(owner) => {
                let owner = owner.clone();
                let claimants = self.contested.entry(key).or_default();
                claimants.extend([owner.clone(), id.clone()]);
                if *id < owner {
                    self.owners.insert(key, id.clone());
                    changed.insert(owner);
                }
            }
        }
    }

    fn disclaim(&mut self, key: FrontendKey, id: &GroupId, changed: &mut BTreeSet<GroupId>) {
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

    /// Recomputes which frontends `id` has lost.
    fn reduce(&mut self, id: &GroupId) {
        self.reduced.remove(id);
        let Some(group) = self.planned.get(id) else { return };
        let owned = |frontend: &Frontend| self.owners.get(&frontend.key) == Some(id);
        if !group.frontends.iter().all(owned) {
            let mut reduced = Group::clone(group);
            reduced.frontends.retain(owned);
            self.reduced.insert(id.clone(), Arc::new(reduced));
        }
    }
}
