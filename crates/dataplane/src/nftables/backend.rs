//! The backend: what happens in which transaction, over the tables of both families.
//!
//! What connections see changes in one transaction. Chains that it needs are made in one before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{self, Batch, Family, Monitor, Operation, Refused, Subscription};
use plan::{FrontendKey, Group, GroupId, LocalDetector};

use super::connections;
use super::family_table::{FamilyTable, table_id};
use super::held::Held;
use super::layout::{Element, frontend_key};
use super::role::Role;
use super::sets::ENTRY_MAPS;
use super::table::Table;
use super::watch::Watcher;
use crate::backend::{self, Backend, Delta};
use crate::{Error, Result, conntrack};

/// Unused chains that are kept in each table.
const MAX_UNUSED_CHAINS: usize = 64;

/// How often a restore starts again because others changed the packet filter meanwhile.
const RESTORE_ATTEMPTS: usize = 5;

/// A change of more elements is made while nobody here listens.
const LARGE: usize = 2_000;

/// The nftables data plane of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Nftables {
    role: Role,
    socket: Socket,
    /// Our ear for what others change, if somebody listens.
    subscription: Option<Subscription>,
    /// Transactions of this socket, each of which has made a generation.
    transactions: u32,
    tables: Vec<FamilyTable>,
    /// Frontends that are gone and whose tracked connections are still to be looked at.
    gone: BTreeSet<FrontendKey>,
}

impl Nftables {
    /// Opens the packet filter of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self> {
        Self::for_role(Role::Translate)
    }

    /// The same for tables of another role.
    pub(crate) fn for_role(role: Role) -> Result<Self> {
        Ok(Self {
            role,
            socket: Socket::open(Protocol::Netfilter)?,
            subscription: None,
            transactions: 0,
            tables: Vec::new(),
            gone: BTreeSet::new(),
        })
    }

    /// Runs a batch and counts its transaction.
    fn run(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), Refused> {
        batch.run(&mut self.socket, generation)?;
        self.transactions = self.transactions.wrapping_add(u32::from(!batch.is_empty()));
        Ok(())
    }

    /// Plays another part from the next restore on.
    pub(crate) fn set_role(&mut self, role: Role) {
        self.role = role;
    }

    /// Whether a table of this role is there.
    pub(crate) fn is_left(&mut self) -> Result<bool> {
        for family in [Family::Ipv4, Family::Ipv6] {
            if nftables::table_exists(&mut self.socket, &table_id(family, &self.role))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn listen(&self) -> Result<(), Refused> {
        Ok(self.subscription.as_ref().map_or(Ok(()), Subscription::join)?)
    }

    /// Does work that changes many elements without being told of each. That nobody else has changed
    /// anything meanwhile is seen by the generation; else the answer is [`Refused::Stale`].
    fn unheard<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let Some(subscription) = &self.subscription else { return work(self) };
        subscription.leave()?;
        let generation = nftables::generation(&mut self.socket)?;
        let before = self.transactions;
        let result = work(self);
        self.listen()?;
        let made = self.transactions.wrapping_sub(before);
        let now = nftables::generation(&mut self.socket)?;
        match result {
            Ok(_) if now != generation.wrapping_add(made) => Err(Refused::Stale),
            result => result,
        }
    }

    /// Makes the kernel hold `tables`, whatever it holds now.
    fn restore_tables(&mut self, tables: &mut [FamilyTable]) -> Result<usize, Refused> {
        self.listen()?;
        let mut operations = 0;
        for _ in 0..RESTORE_ATTEMPTS {
            let generation = nftables::generation(&mut self.socket)?;
            let mut chains = Batch::new();
            let mut elements = Batch::new();
            let mut missing = Vec::new();
            for table in &mut *tables {
                match table.held(&mut self.socket)? {
                    Held::Ours(changes) => {
                        self.gone.extend(table.frontends(&changes.removed));
                        table.unused = changes.old_chains.clone();
                        let mut held = table.content.chains();
                        held.retain(|chain| !changes.new_chains.contains(chain));
                        held.extend(&changes.old_chains);
                        table.append_chains(&mut chains, &held, &changes.new_chains);
                        table.append_elements(&mut elements, &changes);
                    }
                    Held::Nothing => missing.push((table, false)),
                    Held::Other => missing.push((table, true)),
                }
            }
            operations += chains.operations().len() + elements.operations().len();
            let outcome = self.run(&chains, Some(generation)).and_then(|()| {
                // If the first batch was not empty, it has made the next generation.
                let generation = generation.wrapping_add(u32::from(!chains.is_empty()));
                self.run(&elements, Some(generation))
            });
            let outcome = match outcome {
                Ok(()) if !missing.is_empty() => self.unheard(|this| this.build(missing)),
                Ok(()) => Ok(0),
                Err(refused) => Err(refused),
            };
            match outcome {
                Ok(built) => operations += built,
                // What stands there now is read again.
                Err(Refused::Stale) => continue,
                Err(other) => return Err(other),
            }
            operations += self.remove_unused(tables)?;
            // An earlier process may have left it.
            self.end_handover()?;
            return Ok(operations);
        }
        Err(Refused::Stale)
    }

    /// Makes tables with all that is in them, in the place of what is there, which packets may meet
    /// (`true`) or not. Answers the number of transactions.
    fn build(&mut self, tables: Vec<(&mut FamilyTable, bool)>) -> Result<usize, Refused> {
        let before = self.transactions;
        for (table, is_in_use) in tables {
            match is_in_use {
                true => self.replace(table)?,
                false => {
                    self.build_inner(table)?;
                    let mut hooks = Batch::new();
                    table.append_hooks(&mut hooks);
                    self.run(&hooks, None)?;
                }
            }
            table.unused.clear();
        }
        Ok(self.transactions.wrapping_sub(before) as usize)
    }

    /// Makes a table that packets meet anew, while another does its work.
    fn replace(&mut self, table: &FamilyTable) -> Result<(), Refused> {
        let stand_in = table.handover();
        self.build_inner(&stand_in)?;
        let mut hooks = Batch::new();
        stand_in.append_hooks(&mut hooks);
        stand_in.append_remembered(&mut hooks, table.remembered(&mut self.socket)?);
        self.run(&hooks, None)?;

        self.build_inner(table)?;
        let mut hooks = Batch::new();
        table.append_hooks(&mut hooks);
        table.append_remembered(&mut hooks, stand_in.remembered(&mut self.socket)?);
        self.run(&hooks, None)?;
        self.end_handover()
    }

    /// Makes a table but for its hooks.
    fn build_inner(&mut self, table: &FamilyTable) -> Result<(), Refused> {
        let mut batch = Batch::new();
        table.append_inner(&mut batch);
        table.append_chains(&mut batch, &BTreeSet::new(), &table.content.chains());
        self.run(&batch, None)?;
        let transactions = table.add_elements(&mut self.socket)?;
        self.transactions = self.transactions.wrapping_add(transactions);
        Ok(())
    }

    /// Removes the stand-in of [`Nftables::replace`], if it is there.
    fn end_handover(&mut self) -> Result<(), Refused> {
        let mut batch = Batch::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = nftables::Table { family, name: self.role.handover().into() };
            if nftables::table_exists(&mut self.socket, &table)? {
                batch.push(Operation::DeleteTable(table));
            }
        }
        self.run(&batch, None)
    }

    /// Removes chains that no entry leads to, if there are many.
    fn remove_unused(&mut self, tables: &mut [FamilyTable]) -> Result<usize, Refused> {
        let mut batch = Batch::new();
        for table in tables.iter_mut().filter(|table| table.unused.len() > MAX_UNUSED_CHAINS) {
            table.append_removal_of_unused(&mut batch);
        }
        self.run(&batch, None)?;
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
        for mut table in empty_tables(whole, &self.role) {
            table.append_inner(&mut batch);
            table.append_hooks(&mut batch);
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
        match self.run(&batch, None) {
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
        let mut tables = wanted_tables(whole, &self.role);
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
        let mut tables = std::mem::take(&mut self.tables);
        let mut chains = Batch::new();
        let mut elements = Batch::new();
        let mut outdated = Vec::new();
        let mut size = 0;
        for table in &mut tables {
            let mut present = table.content.chains();
            present.append(&mut table.unused.clone());
            let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
            let mut changes = table.content.set_groups(groups);
            if let Some(plan) = change.node {
                changes.merge(table.content.set_node(plan));
                let detector = &plan.node.settings.local_detector;
                if table.detector != *detector {
                    table.detector = detector.clone();
                    outdated.push((table, true));
                    continue;
                }
            }
            size += changes.added.len() + changes.removed.len();
            self.gone.extend(table.frontends(&changes.removed));
            let missing = changes.new_chains.difference(&present).copied().collect();
            table.append_chains(&mut chains, &present, &missing);
            table.append_elements(&mut elements, &changes);
            table.unused.retain(|chain| !changes.new_chains.contains(chain));
            table.unused.append(&mut changes.old_chains);
        }
        let run = |this: &mut Self| {
            this.run(&chains, None)?;
            this.run(&elements, None)?;
            this.build(outdated)
        };
        let is_large = size > LARGE || change.node.is_some();
        let outcome = if is_large { self.unheard(run) } else { run(self) };
        let built = outcome.map_err(failure)?;
        let removed = self.remove_unused(&mut tables).map_err(failure)?;
        self.tables = tables;
        Ok(chains.operations().len() + elements.operations().len() + built + removed)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        for table in wanted_tables(whole, &self.role) {
            let name = format!("table {} {}", table.family(), self.role.table());
            match table.held(&mut self.socket)? {
                Held::Nothing => differences.push(format!("{name} is missing")),
                Held::Other => {
                    differences.push(format!("{name} has other sets, chains or rules than ours"));
                }
                Held::Ours(changes) => {
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

    fn watcher(&mut self) -> Result<Box<dyn backend::Watcher>> {
        let (monitor, subscription) = Monitor::of_others(self.socket.port())?;
        self.subscription = Some(subscription);
        Ok(Box::new(Watcher::new(monitor, self.role.table())?))
    }

    fn forget_connections(&mut self) -> Result<usize> {
        let frontends = connections::frontends(&mut self.socket, &self.role)?;
        Ok(conntrack::forget_translated(&mut self.socket, &frontends)?)
    }

    fn cleanup(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = table_id(family, &self.role);
            if nftables::table_exists(&mut self.socket, &table)? {
                batch.push(Operation::DeleteTable(table));
            }
        }
        self.tables.clear();
        self.run(&batch, None).map_err(failure)?;
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

fn empty_tables(whole: &Delta<'_>, role: &Role) -> Vec<FamilyTable> {
    let detector = whole.node.map(|plan| plan.node.settings.local_detector.clone());
    [(Family::Ipv4, model::Family::V4), (Family::Ipv6, model::Family::V6)]
        .map(|(family, content)| FamilyTable {
            id: table_id(family, role),
            content: Table::for_role(content, role.clone()),
            detector: detector.clone().unwrap_or(LocalDetector::None),
            unused: BTreeSet::new(),
        })
        .into()
}

/// The tables with all that is to be in them.
fn wanted_tables(whole: &Delta<'_>, role: &Role) -> Vec<FamilyTable> {
    let mut tables = empty_tables(whole, role);
    for table in &mut tables {
        if let Some(plan) = whole.node {
            table.content.set_node(plan);
        }
        let groups = whole.groups.iter().filter_map(|(id, group)| Some((id, group.as_ref()?)));
        table.content.fill(groups);
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
