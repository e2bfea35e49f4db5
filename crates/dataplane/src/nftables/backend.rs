//! The backend: what happens in which transaction, over the tables of both families.
//!
//! What connections see changes in one transaction. Chains that it needs are made in one before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{self, Batch, Family, Operation, Refused};
use plan::{FrontendKey, Group, GroupId, LocalDetector};

use super::family_table::{FamilyTable, HANDOVER, Held, Remembered, TABLE, table_id};
use super::layout::{Element, frontend_key};
use super::sets::ENTRY_MAPS;
use super::table::Table;
use crate::backend::{Backend, Delta};
use crate::{Error, Result, conntrack};

/// Unused chains that are kept in each table.
const MAX_UNUSED_CHAINS: usize = 64;

/// How often a restore starts again because others changed the packet filter while it was read.
const RESTORE_ATTEMPTS: usize = 5;

/// The nftables data plane of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    tables: Vec<FamilyTable>,
    /// Frontends that are gone and whose tracked connections are still to be looked at.
    gone: BTreeSet<FrontendKey>,
}

impl Nftables {
    /// Opens the packet filter of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            tables: Vec::new(),
            gone: BTreeSet::new(),
        })
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Port of the netlink socket that makes our changes; changes by other ports are not ours.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Makes the kernel hold `tables`, whatever it holds now.
    fn restore_tables(&mut self, tables: &mut [FamilyTable]) -> Result<usize, Refused> {
        for _ in 0..RESTORE_ATTEMPTS {
            let generation = nftables::generation(&mut self.socket)?;
            let mut chains = Batch::new();
            let mut elements = Batch::new();
            let mut replaced = Vec::new();
            for table in &mut *tables {
                let wanted = table.content.content();
                let held = table.read(&mut self.socket)?;
                let changes = match held {
                    Held::Ours(held) => {
                        let changes = held.changes_to(&wanted);
                        self.gone.extend(table.frontends(&changes.removed));
                        table.unused = changes.old_chains.clone();
                        table.append_chains(&mut chains, &held.chains, &changes.new_chains);
                        changes
                    }
                    Held::Nothing | Held::Other => {
                        let mut remembered = Remembered::new();
                        if matches!(held, Held::Other) {
                            remembered = table.remembered(&mut self.socket)?;
                            replaced.push(table.handover());
                        }
                        table.append_whole(&mut elements, &remembered);
                        continue;
                    }
                };
                table.append_elements(&mut elements, &changes);
            }
            // What was read is compared with the generation, and this makes one of its own.
            let generation = generation.wrapping_add(u32::from(!replaced.is_empty()));
            self.hand_over(replaced)?;
            let mut operations = chains.operations().len() + elements.operations().len();
            let outcome = chains.run(&mut self.socket, Some(generation)).and_then(|()| {
                // If the first batch was not empty, it has made the next generation.
                let generation = generation.wrapping_add(u32::from(!chains.is_empty()));
                elements.run(&mut self.socket, Some(generation))
            });
            match outcome {
                Err(Refused::Stale) => continue,
                Err(other) => return Err(other),
                Ok(()) => operations += self.remove_unused(tables)?,
            }
            // An earlier process may have left it.
            self.end_handover()?;
            return Ok(operations);
        }
        Err(Refused::Stale)
    }

    /// Lets other tables do the work of those that are about to be replaced.
    fn hand_over(&mut self, tables: Vec<FamilyTable>) -> Result<(), Refused> {
        let mut batch = Batch::new();
        for mut table in tables {
            // It is met only by packets that just missed the other.
            table.append_whole(&mut batch, &Remembered::new());
        }
        batch.run(&mut self.socket, None)
    }

    /// Removes what [`Nftables::hand_over`] made, if it is there.
    fn end_handover(&mut self) -> Result<(), Refused> {
        let mut batch = Batch::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = nftables::Table { family, name: HANDOVER.into() };
            if nftables::table_exists(&mut self.socket, &table)? {
                batch.push(Operation::DeleteTable(table));
            }
        }
        batch.run(&mut self.socket, None)
    }

    /// Removes chains that no entry leads to, if there are many.
    fn remove_unused(&mut self, tables: &mut [FamilyTable]) -> Result<usize, Refused> {
        let mut batch = Batch::new();
        for table in tables.iter_mut().filter(|table| table.unused.len() > MAX_UNUSED_CHAINS) {
            table.append_removal_of_unused(&mut batch);
        }
        batch.run(&mut self.socket, None)?;
        if !batch.is_empty() {
            for table in tables.iter_mut().filter(|table| table.unused.len() > MAX_UNUSED_CHAINS) {
                table.unused.clear();
            }
        }
        Ok(batch.operations().len())
    }

    /// Builds the tables anew with each group's elements in operations of their own, to learn which
    /// groups the kernel refuses.
    fn find_refused(&mut self, whole: &Delta<'_>) -> Result<Vec<(GroupId, String)>> {
        let mut batch = Batch::new();
        let mut owners: BTreeMap<usize, GroupId> = BTreeMap::new();
        for mut table in empty_tables(whole) {
            table.append_constant(&mut batch);
            if let Some(plan) = whole.node {
                let changes = table.content.set_node(plan);
                table.append_elements(&mut batch, &changes);
            }
            for (id, group) in &whole.groups {
                let first = batch.operations().len();
                let before = table.content.chains();
                let changes = table.content.set_groups([(id, group.as_ref())]);
                table.append_chains(&mut batch, &before, &changes.new_chains);
                table.append_elements(&mut batch, &changes);
                owners.extend((first..batch.operations().len()).map(|i| (i, id.clone())));
            }
        }
        match batch.run(&mut self.socket, None) {
            Ok(()) => Ok(Vec::new()),
            Err(Refused::Operations(refusals)) => {
                let mut groups = BTreeMap::new();
                for refusal in refusals {
                    if let Some(id) = owners.get(&refusal.operation) {
                        groups.entry(id.clone()).or_insert_with(|| refusal.error.to_string());
                    }
                }
                Ok(groups.into_iter().collect())
            }
            Err(other) => Err(failure(other)),
        }
    }
}

impl Backend for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let mut tables = wanted_tables(whole);
        match self.restore_tables(&mut tables) {
            Ok(operations) => {
                self.tables = tables;
                Ok(operations)
            }
            Err(refused @ Refused::Operations(_)) => match self.find_refused(whole)? {
                groups if groups.is_empty() => Err(failure(refused)),
                groups => Err(Error::Refused(groups)),
            },
            Err(other) => Err(failure(other)),
        }
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        let mut chains = Batch::new();
        let mut elements = Batch::new();
        let mut replaced = Vec::new();
        for table in &mut self.tables {
            let mut present = table.content.chains();
            present.append(&mut table.unused.clone());
            let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
            let mut changes = table.content.set_groups(groups);
            if let Some(plan) = change.node {
                changes.merge(table.content.set_node(plan));
                let detector = &plan.node.settings.local_detector;
                if !have_the_same_rules(&table.detector, detector) {
                    table.detector = detector.clone();
                    replaced.push(table.handover());
                    let remembered = table.remembered(&mut self.socket).map_err(Error::Kernel)?;
                    table.append_whole(&mut elements, &remembered);
                    continue;
                }
            }
            self.gone.extend(table.frontends(&changes.removed));
            let missing = changes.new_chains.difference(&present).copied().collect();
            table.append_chains(&mut chains, &present, &missing);
            table.append_elements(&mut elements, &changes);
            table.unused.retain(|chain| !changes.new_chains.contains(chain));
            table.unused.append(&mut changes.old_chains);
        }
        let is_replaced = !replaced.is_empty();
        self.hand_over(replaced).map_err(failure)?;
        chains.run(&mut self.socket, None).map_err(failure)?;
        elements.run(&mut self.socket, None).map_err(failure)?;
        if is_replaced {
            self.end_handover().map_err(failure)?;
        }
        let mut tables = std::mem::take(&mut self.tables);
        let removed = self.remove_unused(&mut tables).map_err(failure);
        self.tables = tables;
        Ok(chains.operations().len() + elements.operations().len() + removed?)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        for table in wanted_tables(whole) {
            let name = format!("table {} {TABLE}", table.family());
            match table.read(&mut self.socket)? {
                Held::Nothing => differences.push(format!("{name} is missing")),
                Held::Other => {
                    differences.push(format!("{name} has other sets, chains or rules than ours"));
                }
                Held::Ours(held) => {
                    let changes = held.changes_to(&table.content.content());
                    let family = table.content.family();
                    let say = |what: &str, element: &Element| {
                        format!("{name}: {what}: {}", describe(element, family))
                    };
                    differences.extend(changes.added.iter().map(|e| say("missing", e)));
                    differences.extend(changes.removed.iter().map(|e| say("too much", e)));
                }
            }
        }
        Ok(differences)
    }

    fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize> {
        let groups = groups.iter().map(|group| &**group);
        let forgotten = conntrack::forget_stale(&mut self.socket, groups, &self.gone)?;
        self.gone.clear();
        Ok(forgotten)
    }

    fn cleanup(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = table_id(family);
            if nftables::table_exists(&mut self.socket, &table)? {
                batch.push(Operation::DeleteTable(table));
            }
        }
        self.tables.clear();
        batch.run(&mut self.socket, None).map_err(failure)?;
        self.end_handover().map_err(failure)
    }
}

/// An element for people: its set, and the frontend or the bytes of its key.
fn describe(element: &Element, family: model::Family) -> String {
    let set = element.set.as_str();
    let is_entry = ENTRY_MAPS.contains(&element.set);
    match frontend_key(element.set, family, &element.key).filter(|_| is_entry) {
        Some(key) => format!("{key} in {set}"),
        None => {
            let bytes: Vec<String> = element.key.iter().map(|b| format!("{b:02x}")).collect();
            format!("{} in {set}", bytes.join(""))
        }
    }
}

/// Whether pods are told by the same rules; ranges are elements of a set.
fn have_the_same_rules(old: &LocalDetector, new: &LocalDetector) -> bool {
    let by_set = |detector: &LocalDetector| {
        matches!(detector, LocalDetector::None | LocalDetector::Sources(_))
    };
    old == new || (by_set(old) && by_set(new))
}

fn empty_tables(whole: &Delta<'_>) -> Vec<FamilyTable> {
    let detector = whole.node.map(|plan| plan.node.settings.local_detector.clone());
    [(Family::Ipv4, model::Family::V4), (Family::Ipv6, model::Family::V6)]
        .map(|(family, content)| FamilyTable {
            id: table_id(family),
            content: Table::new(content),
            detector: detector.clone().unwrap_or(LocalDetector::None),
            unused: BTreeSet::new(),
        })
        .into()
}

/// The tables with all that is to be in them.
fn wanted_tables(whole: &Delta<'_>) -> Vec<FamilyTable> {
    let mut tables = empty_tables(whole);
    for table in &mut tables {
        if let Some(plan) = whole.node {
            table.content.set_node(plan);
        }
        table.content.set_groups(whole.groups.iter().map(|(id, group)| (id, group.as_ref())));
    }
    tables
}

fn failure(refused: Refused) -> Error {
    match refused {
        Refused::Failed(error) => Error::Kernel(error),
        other => Error::Kernel(kernel::Error::os(
            other.to_string(),
            std::io::Error::from(std::io::ErrorKind::ResourceBusy),
        )),
    }
}
