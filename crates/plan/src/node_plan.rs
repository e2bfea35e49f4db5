//! The whole plan of a node: the groups, and who owns a frontend that two of them claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::claims::Claims;
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
    /// Groups that lost something to others, without it.
    reduced: HashMap<GroupId, Arc<Group>>,
    frontends: Claims<FrontendKey>,
    cluster_ips: Claims<IpAddr>,
}

impl NodePlan {
    /// A plan without groups.
    pub fn new(node: NodeFacts, service_ranges: Vec<IpNet>) -> Self {
        Self {
            node,
            service_ranges,
            planned: BTreeMap::new(),
            reduced: HashMap::new(),
            frontends: Claims::new(),
            cluster_ips: Claims::new(),
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
        if let Some(old) = &old {
            for frontend in &old.frontends {
                self.frontends.disclaim(frontend.key, id, &mut changed);
            }
            for ip in &old.cluster_ips {
                self.cluster_ips.disclaim(*ip, id, &mut changed);
            }
            self.planned.remove(id);
        }
        if let Some(group) = group {
            for frontend in &group.frontends {
                self.frontends.claim(frontend.key, id, &mut changed);
            }
            for ip in &group.cluster_ips {
                self.cluster_ips.claim(*ip, id, &mut changed);
            }
            self.planned.insert(id.clone(), Arc::new(group));
        }
        for id in &changed {
            self.reduce(id);
        }
        changed
    }

    /// A group with the frontends and addresses it owns.
    pub fn group(&self, id: &str) -> Option<&Arc<Group>> {
        self.reduced.get(id).or_else(|| self.planned.get(id))
    }

    /// All groups in the order of their ids, each with the frontends and addresses it owns.
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
        let group = self.planned.get(self.frontends.owner(key)?)?;
        Some((group, group.frontends.iter().find(|f| f.key == *key)?))
    }

    /// The group whose virtual address this is.
    pub fn cluster_ip_owner(&self, ip: IpAddr) -> Option<&GroupId> {
        self.cluster_ips.owner(&ip)
    }

    /// Frontends that several groups claim, with the claimants; the first one owns it.
    pub fn contested(&self) -> &BTreeMap<FrontendKey, BTreeSet<GroupId>> {
        self.frontends.contested()
    }

    /// Recomputes what `id` has lost to others.
    fn reduce(&mut self, id: &GroupId) {
        self.reduced.remove(id);
        let Some(group) = self.planned.get(id) else { return };
        let owns_frontend = |f: &Frontend| self.frontends.owner(&f.key) == Some(id);
        let owns_ip = |ip: &IpAddr| self.cluster_ips.owner(ip) == Some(id);
        if !(group.frontends.iter().all(owns_frontend) && group.cluster_ips.iter().all(owns_ip)) {
            let mut reduced = Group::clone(group);
            reduced.frontends.retain(owns_frontend);
            reduced.cluster_ips.retain(owns_ip);
            self.reduced.insert(id.clone(), Arc::new(reduced));
        }
    }
}
