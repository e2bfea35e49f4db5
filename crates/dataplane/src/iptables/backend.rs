//! The backend: what is written in which run of iptables-restore(8), for both families.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use kernel::netlink::{Protocol, Socket};
use model::Family;
use plan::{FrontendKey, Group, GroupId, NodePlan};

use super::chains::{Surroundings, Table};
use super::changes::TableChanges;
use super::ruleset::{Changes, Ruleset};
use super::tool::{self, Flavour, Tool};
use super::watch::{LegacyWatcher, NftWatcher, Own};
use crate::backend::{Backend, Delta, Replacement, Watcher};
use crate::{Error, Result, conntrack};

/// The bit of packet marks that is used unless another is asked for: kube-proxy's `masqueradeBit`.
pub(crate) const MASQUERADE_BIT: u8 = 14;

/// A change of more rules is written while nobody here listens, and read back.
const LARGE: usize = 2_000;

/// How often rules are read back before others are taken to change them all the time.
const RESTORE_ATTEMPTS: usize = 3;

/// The iptables data plane of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Iptables {
    tool: Tool,
    mark: u32,
    socket: Socket,
    families: Vec<Ruleset>,
    own: Own,
    /// Frontends that are gone and whose tracked connections are still to be looked at.
    gone: BTreeSet<FrontendKey>,
}

impl Iptables {
    /// Opens iptables of the calling thread's network namespace. Changes nothing.
    pub fn open(flavour: Flavour) -> Result<Self> {
        Ok(Self {
            tool: Tool::open(flavour)?,
            mark: 1 << MASQUERADE_BIT,
            socket: Socket::open(Protocol::Netfilter)?,
            families: Vec::new(),
            own: Own::default(),
            gone: BTreeSet::new(),
        })
    }

    /// Uses this bit of packet marks, from 0, for connections whose source is to be rewritten.
    pub fn masquerading_by(mut self, bit: u8) -> Self {
        self.mark = 1_u32.checked_shl(bit.into()).unwrap_or(self.mark);
        self
    }

    fn rulesets(&self, plan: &NodePlan) -> Vec<Ruleset> {
        let ruleset = |family| Ruleset::new(Surroundings::of(plan, family, self.mark));
        families().map(ruleset).collect()
    }

    /// What makes the kernel hold a family's rules, and what it held of frontends.
    fn difference(&self, wanted: &Ruleset) -> Result<(Changes, Vec<FrontendKey>)> {
        let mut changes = Changes::new();
        let mut frontends = Vec::new();
        for table in Table::ALL {
            let saved = self.tool.saved(wanted.family(), table).map_err(failure)?;
            if table == Table::Nat {
                frontends = saved.frontends(wanted.family()).collect();
            }
            changes.insert(table, saved.changes_to(&wanted.wanted(table), table));
        }
        Ok((changes, frontends))
    }

    /// Writes changes of a family. Answers the number of operations, and whether changes of others may
    /// have been missed meanwhile.
    fn write(&self, family: Family, changes: &Changes) -> Result<(usize, bool), tool::Error> {
        let mut input = String::new();
        for (table, changes) in changes {
            changes.append_to(table.as_str(), &mut input);
        }
        if input.is_empty() {
            return Ok((0, false));
        }
        let operations = changes.values().map(TableChanges::operations).sum();
        let restore = || self.tool.restore(family, &input, |process| self.own.started(process));
        let (result, is_deaf) = self.own.writing(operations > LARGE, restore);
        result.map(|()| (operations, is_deaf))
    }

    /// Makes the kernel hold these rules.
    fn restore_families(&mut self, families: &[Ruleset]) -> Result<usize, Attempt> {
        let mut operations = 0;
        for ruleset in families {
            for _ in 0..RESTORE_ATTEMPTS {
                let (changes, held) = self.difference(ruleset)?;
                let (written, is_deaf) = self.write(ruleset.family(), &changes)?;
                operations += written;
                let is_gone = |key: &FrontendKey| !ruleset.has(key);
                self.gone.extend(held.into_iter().filter(is_gone));
                if !is_deaf {
                    break;
                }
            }
        }
        Ok(operations)
    }

    /// Programs all that is not refused. Answers what is.
    fn restore_rest(
        &mut self,
        whole: &Delta<'_>,
        plan: &NodePlan,
        mut error: tool::Error,
    ) -> Result<Vec<(GroupId, String)>> {
        let mut refused: Vec<(GroupId, String)> = Vec::new();
        loop {
            let Some(id) = self.who_asks_for(whole, plan, &error) else {
                refused.extend(self.find_refused(whole, plan, &refused, error)?);
                return Ok(refused);
            };
            refused.push((id, error.to_string()));
            let families = self.filled(whole, plan, &refused);
            match self.restore_families(&families) {
                Ok(_) => {
                    self.families = families;
                    return Ok(refused);
                }
                Err(Attempt::Refused(next)) => error = next,
                Err(Attempt::Failed(error)) => return Err(error),
            }
        }
    }

    /// The group whose rule was refused, if the program has told the rule.
    fn who_asks_for(
        &self,
        whole: &Delta<'_>,
        plan: &NodePlan,
        error: &tool::Error,
    ) -> Option<GroupId> {
        let tool::Error::Failed { rule: Some(line), .. } = error else { return None };
        let (chain, rule) = line.strip_prefix("-A ")?.split_once(' ')?;
        let rulesets = self.rulesets(plan);
        let asks = |group: &Arc<Group>| rulesets.iter().any(|r| r.asks_for(group, chain, rule));
        let mut groups = whole.groups.iter();
        let found = groups.find(|(_, group)| group.as_ref().is_some_and(asks));
        found.map(|(id, _)| id.clone())
    }

    /// Programs groups in halves on top of what was programmed last, and those in halves, until each that
    /// is refused stands alone: the legacy flavour does not say which rule the kernel refuses.
    fn find_refused(
        &mut self,
        whole: &Delta<'_>,
        plan: &NodePlan,
        known: &[(GroupId, String)],
        error: tool::Error,
    ) -> Result<Vec<(GroupId, String)>> {
        let mut families = match self.families.is_empty() {
            true => self.rulesets(plan),
            false => self.families.clone(),
        };
        self.restore_families(&families)?;
        let is_new = |(id, group): &&Replacement| {
            let is_held = |ruleset: &Ruleset| ruleset.group(id) == group.as_ref();
            !known.iter().any(|(refused, _)| refused == id) && !families.iter().any(is_held)
        };
        let candidates: Vec<_> = whole.groups.iter().filter(is_new).cloned().collect();
        let mut refused = Vec::new();
        let mut parts: Vec<&[Replacement]> = vec![&candidates];
        while let Some(part) = parts.pop() {
            let mut tried = families.clone();
            match (self.add(&mut tried, part), part) {
                (Ok(_), _) => families = tried,
                (Err(_), []) => return Err(failure(error)),
                (Err(error), [(id, _)]) => refused.push((id.clone(), error.to_string())),
                (Err(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        self.families = families;
        match refused.is_empty() {
            // Nothing of the groups is to blame.
            true => Err(failure(error)),
            false => Ok(refused),
        }
    }

    /// Rules of all groups but some.
    fn filled(
        &self,
        whole: &Delta<'_>,
        plan: &NodePlan,
        without: &[(GroupId, String)],
    ) -> Vec<Ruleset> {
        let mut families = self.rulesets(plan);
        let is_wanted = |id: &GroupId| !without.iter().any(|(refused, _)| refused == id);
        for ruleset in &mut families {
            let groups = whole.groups.iter().filter(|(id, _)| is_wanted(id));
            ruleset.set_groups(groups.map(|(id, group)| (id, group.as_ref())));
        }
        families
    }

    /// Programs groups on top of what stands there.
    fn add(&self, families: &mut [Ruleset], groups: &[Replacement]) -> Result<usize, tool::Error> {
        let mut operations = 0;
        for ruleset in families {
            let groups = groups.iter().map(|(id, group)| (id, group.as_ref()));
            let changes = ruleset.set_groups(groups);
            operations += self.write(ruleset.family(), &changes)?.0;
        }
        Ok(operations)
    }
}

impl Backend for Iptables {
    fn name(&self) -> &'static str {
        "iptables"
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let Some(plan) = whole.node else { return self.update(whole) };
        let families = self.filled(whole, plan, &[]);
        match self.restore_families(&families) {
            Ok(operations) => {
                self.families = families;
                Ok(operations)
            }
            Err(Attempt::Refused(error)) => {
                Err(Error::Refused(self.restore_rest(whole, plan, error)?))
            }
            Err(Attempt::Failed(error)) => Err(error),
        }
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        let mut families = std::mem::take(&mut self.families);
        let mut all_changes = Vec::new();
        let mut is_anew = false;
        let mut undo = Vec::new();
        for ruleset in &mut families {
            let mut changes = Changes::new();
            if let Some(plan) = change.node {
                let surroundings = Surroundings::of(plan, ruleset.family(), self.mark);
                match ruleset.set_surroundings(surroundings.clone()) {
                    Some(of_node) => changes = of_node,
                    None => {
                        *ruleset = ruleset.with(surroundings);
                        is_anew = true;
                    }
                }
            }
            let held = change.groups.iter().map(|(id, _)| (id, ruleset.group(id).cloned()));
            let held: Vec<_> = held.collect();
            let frontends = held.iter().filter_map(|(_, group)| group.as_ref());
            self.gone.extend(frontends.flat_map(|group| group.frontends.iter().map(|f| f.key)));
            undo.push(held);
            let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
            for (table, of_groups) in ruleset.set_groups(groups) {
                changes.entry(table).or_default().merge(of_groups);
            }
            all_changes.push(changes);
        }
        self.gone.retain(|key| !families.iter().any(|ruleset| ruleset.has(key)));
        let outcome = match is_anew {
            true => self.restore_families(&families),
            false => {
                let write = |(ruleset, changes): (&Ruleset, &Changes)| {
                    self.write(ruleset.family(), changes)
                };
                let written: Result<Vec<(usize, bool)>, _> =
                    families.iter().zip(&all_changes).map(write).collect();
                match written {
                    Ok(written) if written.iter().any(|(_, is_deaf)| *is_deaf) => {
                        self.restore_families(&families)
                    }
                    Ok(written) => Ok(written.iter().map(|(operations, _)| operations).sum()),
                    Err(error) => Err(Attempt::from(error)),
                }
            }
        };
        if outcome.is_err() {
            // What was programmed last is what a search for the refused group begins with.
            for (ruleset, held) in families.iter_mut().zip(undo) {
                ruleset.set_groups(held.iter().map(|(id, group)| (*id, group.as_ref())));
            }
        }
        self.families = families;
        Ok(outcome?)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let Some(plan) = whole.node else { return Ok(Vec::new()) };
        let mut differences = Vec::new();
        for ruleset in self.filled(whole, plan, &[]) {
            let (changes, _) = self.difference(&ruleset)?;
            for (table, changes) in changes {
                let place =
                    format!("{} {} table {}", ruleset.family(), self.name(), table.as_str());
                differences.extend(changes.describe().map(|what| format!("{place}: {what}")));
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

    fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        Ok(match self.tool.flavour() {
            Flavour::Nft => Box::new(NftWatcher::new(self.own.clone())?),
            Flavour::Legacy => Box::new(LegacyWatcher::new(self.own.clone())?),
        })
    }

    fn forget_connections(&mut self) -> Result<usize> {
        let mut frontends = HashSet::new();
        for family in Family::ALL {
            let saved = self.tool.left(family, Table::Nat).map_err(failure)?;
            frontends.extend(saved.frontends(family));
        }
        Ok(conntrack::forget_translated(&mut self.socket, &frontends)?)
    }

    fn cleanup(&mut self) -> Result<()> {
        self.families.clear();
        for family in Family::ALL {
            let mut changes = Changes::new();
            for table in Table::ALL {
                let saved = self.tool.left(family, table).map_err(failure)?;
                changes.insert(table, saved.removal());
            }
            self.write(family, &changes).map_err(failure)?;
        }
        Ok(())
    }
}

/// The families that this kernel has: one without IPv6 has no tables for it.
fn families() -> impl Iterator<Item = Family> {
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    Family::ALL.into_iter().filter(move |family| *family == Family::V4 || has_ipv6)
}

/// What a restore fails with.
enum Attempt {
    /// The rules were not taken.
    Refused(tool::Error),
    /// Anything else.
    Failed(Error),
}

impl From<tool::Error> for Attempt {
    fn from(error: tool::Error) -> Self {
        match error {
            error @ tool::Error::Failed { .. } => Self::Refused(error),
            error => Self::Failed(failure(error)),
        }
    }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Attempt> for Error {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::Refused(error) => failure(error),
            Attempt::Failed(error) => error,
        }
    }
}

fn failure(error: tool::Error) -> Error {
    Error::Iptables(error.to_string())
}
