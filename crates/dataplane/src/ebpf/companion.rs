//! The table of nftables behind the programs: the whole plan where programs can't be at links, and else what
//! they leave, if there is anything.

use std::collections::HashMap;
use std::sync::Arc;

use plan::{Group, GroupId, NodePlan};

use crate::Result;
use crate::backend::{Backend, Delta, Replacement, Watcher};
use crate::nftables::role::has_rest;
use crate::nftables::{Nftables, Role};

/// The companion of programs.
#[derive(Debug)]
pub(super) struct Companion {
    table: Nftables,
    /// It has the whole plan.
    is_complete: bool,
    /// It is there.
    is_active: bool,
    /// The node and the ranges of the last plan, without groups.
    node: Option<NodePlan>,
}

impl Companion {
    pub(super) fn open(is_complete: bool) -> Result<Self> {
        let role = if is_complete { Role::Complete } else { Role::Rest };
        let table = Nftables::for_role(role)?;
        Ok(Self { table, is_complete, is_active: false, node: None })
    }

    fn is_needed<'g>(&self, mut groups: impl Iterator<Item = &'g Arc<Group>>) -> bool {
        self.is_complete || groups.any(|group| has_rest(group))
    }

    pub(super) fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        if let Some(plan) = whole.node {
            self.node = Some(NodePlan::new(plan.node.clone(), plan.service_ranges.clone()));
        }
        self.is_active = self.is_needed(whole.groups.iter().filter_map(|(_, g)| g.as_ref()));
        if self.is_active {
            return self.table.restore(whole);
        }
        if !self.table.is_left()? {
            return Ok(0);
        }
        self.table.cleanup().map(|()| 1)
    }

    /// Programs a change; `groups` are those of before.
    pub(super) fn update(
        &mut self,
        change: &Delta<'_>,
        groups: &HashMap<GroupId, Arc<Group>>,
    ) -> Result<usize> {
        if let Some(plan) = change.node {
            self.node = Some(NodePlan::new(plan.node.clone(), plan.service_ranges.clone()));
        }
        if self.is_active {
            return self.table.update(change);
        }
        if !self.is_needed(change.groups.iter().filter_map(|(_, group)| group.as_ref())) {
            return Ok(0);
        }
        // Something has come that is left to it.
        let mut all: HashMap<GroupId, Option<Arc<Group>>> =
            groups.iter().map(|(id, group)| (id.clone(), Some(group.clone()))).collect();
        all.extend(change.groups.iter().cloned());
        let groups: Vec<Replacement> = all.into_iter().collect();
        let node = self.node.take();
        let restored = self.table.restore(&Delta { node: node.as_ref(), groups });
        self.node = node;
        self.is_active = restored.is_ok();
        restored
    }

    pub(super) fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        match self.is_needed(whole.groups.iter().filter_map(|(_, group)| group.as_ref())) {
            true => self.table.verify(whole),
            false if self.table.is_left()? => {
                Ok(vec!["table portolan-ebpf is too much".to_owned()])
            }
            false => Ok(Vec::new()),
        }
    }

    pub(super) fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize> {
        if self.is_active { self.table.forget_stale(groups) } else { Ok(0) }
    }

    pub(super) fn forget_connections(&mut self) -> Result<usize> {
        self.table.forget_connections()
    }

    pub(super) fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        self.table.watcher()
    }

    pub(super) fn cleanup(&mut self) -> Result<()> {
        self.is_active = false;
        self.table.cleanup()
    }
}
