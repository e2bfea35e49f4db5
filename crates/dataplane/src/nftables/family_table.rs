//! Our table of one family in the kernel: how it is made and changed, as operations for a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use kernel::netlink::Socket;
use kernel::nftables::{
    self, BaseChain, Batch, Bulk, Chain, ChainType, ElementRef, Family, Hook, Operation, Refused,
    Rule, Verdict,
};
use plan::{FrontendKey, LocalDetector};

use super::layout::{Dispatch, Element, SetName, frontend_key};
use super::role::Role;
use super::rules::{self, RuleChain, Rules, affinity_map, dispatch_map};
use super::sets::{ENTRY_MAPS, affinity_set, constant_sets, to_kernel};
use super::table::{Changes, Table};

/// Our table in one family, and what it holds after the last successful transaction.
#[derive(Debug, Clone)]
pub(super) struct FamilyTable {
    pub(super) id: nftables::Table,
    pub(super) content: Table,
    pub(super) detector: LocalDetector,
    /// Chains that are there and that no entry leads to at the moment: numbers of backends come back.
    pub(super) unused: BTreeSet<(SetName, Dispatch)>,
}

/// Clients with affinity and their endpoints, by timeout in seconds.
pub(super) type Remembered = BTreeMap<u32, Vec<nftables::Element>>;

impl FamilyTable {
    pub(super) fn family(&self) -> Family {
        self.id.family
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules::new(self.family(), &self.detector, self.content.role())
    }

    /// The frontends that elements are for.
    pub(super) fn frontends(&self, elements: &[Element]) -> impl Iterator<Item = FrontendKey> {
        let family = self.content.family();
        let entries = elements.iter().filter(|element| ENTRY_MAPS.contains(&element.set));
        entries.filter_map(move |element| frontend_key(element.set, family, &element.key))
    }

    /// The same under another name, for the time that this one is replaced.
    pub(super) fn handover(&self) -> Self {
        let id =
            nftables::Table { family: self.family(), name: self.content.role().handover().into() };
        Self { id, ..self.clone() }
    }

    /// The hook of one of our chains; `None` if packets come from other chains only.
    pub(super) fn base_chain(&self, name: &str) -> Option<BaseChain> {
        let mut base = base_chain(name)?;
        // Affinity is remembered where packets come first.
        base.priority += i32::from(&*self.id.name == self.content.role().handover());
        Some(base)
    }

    /// Appends the making of the table with all that is always in it, in the place of what is there,
    /// but for its hooks: no packet meets it.
    pub(super) fn append_inner(&self, batch: &mut Batch) {
        let table = || self.id.clone();
        // A table has to exist to be deleted, and the deletion is part of the same transaction.
        batch.push(Operation::AddTable(table()));
        batch.push(Operation::DeleteTable(table()));
        batch.push(Operation::AddTable(table()));
        for set in constant_sets(self.family()) {
            batch.push(Operation::AddSet(table(), set));
        }
        let chains = self.rules().constant_chains();
        let inner = chains.into_iter().filter(|chain| self.base_chain(&chain.name).is_none());
        let inner: Vec<RuleChain> = inner.collect();
        for RuleChain { name, .. } in &inner {
            batch.push(Operation::AddChain(table(), Chain { name: name.clone(), base: None }));
        }
        for (map, key, verdict) in rules::constant_verdicts() {
            let element = nftables::Element::verdict(key.to_ne_bytes(), verdict);
            batch.push(Operation::AddElements(table(), map.into(), vec![element]));
        }
        for map in ENTRY_MAPS {
            // Entries with nothing to choose from end here, so that no other map is asked.
            let none = nftables::Element::verdict(Dispatch::NONE.to_bytes(), Verdict::Accept);
            batch.push(Operation::AddElements(table(), dispatch_map(map), vec![none]));
        }
        for chain in inner {
            push_rules(batch, &self.id, chain);
        }
    }

    /// Appends the hooks: from now on packets meet the table.
    pub(super) fn append_hooks(&self, batch: &mut Batch) {
        for chain in self.rules().constant_chains() {
            let Some(base) = self.base_chain(&chain.name) else { continue };
            let name = chain.name.clone();
            batch.push(Operation::AddChain(self.id.clone(), Chain { name, base: Some(base) }));
            push_rules(batch, &self.id, chain);
        }
    }

    /// Appends clients and their endpoints, as far as there are chains for them.
    pub(super) fn append_remembered(&self, batch: &mut Batch, remembered: Remembered) {
        let known = timeouts(&self.content.chains());
        for (seconds, clients) in remembered.into_iter().filter(|(s, _)| known.contains(s)) {
            let map = affinity_map(seconds);
            batch.push(Operation::AddElements(self.id.clone(), map, clients));
        }
    }

    /// Adds every element to the table in the kernel, whose chains have to be there. Answers the
    /// number of transactions.
    pub(super) fn add_elements(&self, socket: &mut Socket) -> Result<u32, Refused> {
        let mut bulk = Bulk::new(socket, self.id.clone());
        self.content.try_for_each(|element| {
            let Element { set, key, key_end, data } = &element;
            bulk.add(set.as_str(), ElementRef { key, key_end: key_end.as_deref(), data })?;
            Ok::<_, Refused>(true)
        })?;
        bulk.finish()
    }

    /// The clients that the table in the kernel knows and their endpoints, as far as our maps can
    /// hold them. Their timeouts begin anew.
    pub(super) fn remembered(&self, socket: &mut Socket) -> Result<Remembered, kernel::Error> {
        let address = self.family().address_length() as usize;
        let fits = |element: &nftables::Element| match &element.value {
            nftables::Value::Data(data) => {
                element.key.len() == address + 8 && data.len() == address + 4
            }
            _ => false,
        };
        let mut remembered = Remembered::new();
        for seconds in timeouts(&self.content.chains()) {
            let map = affinity_map(seconds);
            if nftables::sets(socket, &self.id)?.iter().any(|set| set.name == map) {
                let mut clients = nftables::elements(socket, &self.id, &map)?;
                clients.retain(fits);
                remembered.insert(seconds, clients);
            }
        }
        Ok(remembered)
    }

    /// Appends chains that choose a backend, given those that are there.
    ///
    /// They go in before the elements that lead to them, in a transaction of their own: a packet
    /// that is on its way through the table sees new elements at once, but the rules of the moment
    /// at which it entered, and so would find a new chain empty.
    pub(super) fn append_chains(
        &self,
        batch: &mut Batch,
        present: &BTreeSet<(SetName, Dispatch)>,
        new: &BTreeSet<(SetName, Dispatch)>,
    ) {
        let table = || self.id.clone();
        for seconds in timeouts(new).difference(&timeouts(present)) {
            batch.push(Operation::AddSet(table(), affinity_set(self.family(), *seconds)));
        }
        for (set, dispatch) in new {
            let chain = self.rules().choosing_chain(*set, *dispatch);
            let element = dispatch_element(*set, *dispatch);
            let name = chain.name.clone();
            batch.push(Operation::AddChain(table(), Chain { name, base: None }));
            push_rules(batch, &self.id, chain);
            batch.push(Operation::AddElements(table(), dispatch_map(*set), vec![element]));
        }
    }

    pub(super) fn append_elements(&self, batch: &mut Batch, changes: &Changes) {
        let table = || self.id.clone();
        for (set, elements) in by_set(&changes.removed) {
            batch.push(Operation::DeleteElements(table(), set.as_str().into(), elements));
        }
        for (set, elements) in by_set(&changes.added) {
            batch.push(Operation::AddElements(table(), set.as_str().into(), elements));
        }
    }

    pub(super) fn append_removal_of_unused(&self, batch: &mut Batch) {
        let table = || self.id.clone();
        for (set, dispatch) in &self.unused {
            let element = dispatch_element(*set, *dispatch);
            batch.push(Operation::DeleteElements(table(), dispatch_map(*set), vec![element]));
        }
        for (set, dispatch) in &self.unused {
            let chain = rules::dispatch_chain(*set, *dispatch);
            batch.push(Operation::DeleteChain(table(), chain));
        }
        for seconds in timeouts(&self.unused).difference(&timeouts(&self.content.chains())) {
            batch.push(Operation::DeleteSet(table(), affinity_map(*seconds)));
        }
    }
}

/// A family as netfilter calls it.
pub(crate) fn netfilter_family(family: model::Family) -> Family {
    match family {
        model::Family::V4 => Family::Ipv4,
        model::Family::V6 => Family::Ipv6,
    }
}

pub(super) fn table_id(family: Family, role: &Role) -> nftables::Table {
    nftables::Table { family, name: role.table().into() }
}

fn push_rules(batch: &mut Batch, table: &nftables::Table, chain: RuleChain) {
    for expressions in chain.rules {
        let rule = Rule { comment: comment(&expressions), expressions };
        batch.push(Operation::AddRule(table.clone(), chain.name.clone(), rule));
    }
}

/// A rule's comment: a hash of its expressions, so that a rule of another version is noticed.
pub(super) fn comment(rule: &[nftables::Expression]) -> String {
    let mut hasher = DefaultHasher::new();
    rule.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(super) fn dispatch_element(set: SetName, dispatch: Dispatch) -> nftables::Element {
    let chain = rules::dispatch_chain(set, dispatch);
    // A chain that finds no backend comes back, and the maps are asked again.
    nftables::Element::verdict(dispatch.to_bytes(), Verdict::Jump(chain))
}

/// The hook of a chain; `None` if packets come from other chains only.
pub(super) fn base_chain(name: &str) -> Option<BaseChain> {
    let (chain_type, hook, priority) = match name {
        "prerouting" => (ChainType::Nat, Hook::Prerouting, -100),
        "output" => (ChainType::Nat, Hook::Output, -100),
        "postrouting" => (ChainType::Nat, Hook::Postrouting, 100),
        "filter-input" => (ChainType::Filter, Hook::Input, 0),
        // IPVS is at 99, and translates sources no longer: that is at 100.
        "filter-after-ipvs" => (ChainType::Filter, Hook::Input, 110),
        "filter-forward" => (ChainType::Filter, Hook::Forward, 0),
        "filter-output" => (ChainType::Filter, Hook::Output, 0),
        _ => return None,
    };
    Some(BaseChain { chain_type, hook, priority })
}

/// The affinity timeouts of chains, in seconds.
pub(super) fn timeouts(chains: &BTreeSet<(SetName, Dispatch)>) -> BTreeSet<u32> {
    chains.iter().map(|(_, dispatch)| dispatch.affinity).filter(|seconds| *seconds != 0).collect()
}

fn by_set(elements: &[Element]) -> BTreeMap<SetName, Vec<nftables::Element>> {
    let mut sets: BTreeMap<SetName, Vec<nftables::Element>> = BTreeMap::new();
    for element in elements {
        sets.entry(element.set).or_default().push(to_kernel(element));
    }
    sets
}
