//! Our table of one family in the kernel: how it is made, read and changed, as operations for a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use kernel::netlink::Socket;
use kernel::nftables::{
    self, BaseChain, Batch, Chain, ChainType, Family, Hook, Name, Operation, Rule, Verdict,
};
use plan::{FrontendKey, LocalDetector};

use super::layout::{Dispatch, Element, SetName, frontend_key};
use super::rules::{self, REFUSALS, RuleChain, Rules, SOURCES, affinity_map, dispatch_map};
use super::sets::{ENTRY_MAPS, affinity_set, constant_sets, from_kernel, to_kernel};
use super::table::{Changes, Content, Table};

/// Name of our table in each family.
pub const TABLE: &str = "portolan";

/// Name of the table that does the work of [`TABLE`] while that is made anew.
///
/// A packet sees the tables' chains one after the other, and each as of the moment at which it gets
/// there. So when a table is replaced in one transaction, a packet can pass the new one a moment
/// before it begins and the old one a moment after it ended. This one is there before and after.
pub(super) const HANDOVER: &str = "portolan-handover";

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

/// What the kernel holds of a table.
pub(super) enum Held {
    /// There is none.
    Nothing,
    /// One that we would make otherwise: another version's, or changed by others.
    Other,
    /// One that differs from ours in its content at most.
    Ours(Content),
}

impl FamilyTable {
    pub(super) fn family(&self) -> Family {
        self.id.family
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules::new(self.family(), &self.detector)
    }

    /// The frontends that elements are for.
    pub(super) fn frontends(&self, elements: &[Element]) -> impl Iterator<Item = FrontendKey> {
        let family = self.content.family();
        let entries = elements.iter().filter(|element| ENTRY_MAPS.contains(&element.set));
        entries.filter_map(move |element| frontend_key(element.set, family, &element.key))
    }

    /// The same under another name, for the time that this one is replaced.
    pub(super) fn handover(&self) -> Self {
        let id = nftables::Table { family: self.family(), name: HANDOVER.into() };
        Self { id, ..self.clone() }
    }

    /// The hook of one of our chains; `None` if packets come from other chains only.
    pub(super) fn base_chain(&self, name: &str) -> Option<BaseChain> {
        let mut base = base_chain(name)?;
        // Affinity is remembered where packets come first.
        base.priority += i32::from(&*self.id.name == HANDOVER);
        Some(base)
    }

    /// Appends the making of the table with all that is always in it, in the place of what is there.
    pub(super) fn append_constant(&self, batch: &mut Batch) {
        let table = || self.id.clone();
        // A table has to exist to be deleted, and the deletion is part of the same transaction.
        batch.push(Operation::AddTable(table()));
        batch.push(Operation::DeleteTable(table()));
        batch.push(Operation::AddTable(table()));
        for set in constant_sets(self.family()) {
            batch.push(Operation::AddSet(table(), set));
        }
        let chains = self.rules().constant_chains();
        for chain in &chains {
            let base = self.base_chain(&chain.name);
            batch.push(Operation::AddChain(table(), Chain { name: chain.name.clone(), base }));
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
        for chain in chains {
            push_rules(batch, &self.id, chain);
        }
    }

    /// Appends the making of the table with its whole content, in the place of what is there, all in
    /// one transaction.
    pub(super) fn append_whole(&mut self, batch: &mut Batch, remembered: &Remembered) {
        self.unused.clear();
        self.append_constant(batch);
        let all = Content::default().changes_to(&self.content.content());
        self.append_chains(batch, &BTreeSet::new(), &all.new_chains);
        self.append_elements(batch, &all);
        for seconds in timeouts(&all.new_chains) {
            let clients = remembered.get(&seconds).cloned().unwrap_or_default();
            if !clients.is_empty() {
                let map = affinity_map(seconds);
                batch.push(Operation::AddElements(self.id.clone(), map, clients));
            }
        }
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
            if nftables::sets(socket, &self.id)?.contains(&map) {
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

    /// What the kernel holds.
    pub(super) fn read(&self, socket: &mut Socket) -> Result<Held, kernel::Error> {
        if !nftables::table_exists(socket, &self.id)? {
            return Ok(Held::Nothing);
        }
        Ok(self.read_content(socket)?.map_or(Held::Other, Held::Ours))
    }

    /// What the table holds; `None` if its constant part is not ours.
    pub(super) fn read_content(
        &self,
        socket: &mut Socket,
    ) -> Result<Option<Content>, kernel::Error> {
        let mut content = Content::default();
        for set in ENTRY_MAPS {
            for element in nftables::elements(socket, &self.id, &dispatch_map(set))? {
                let Some(dispatch) = element.key.as_ref().try_into().ok().map(Dispatch::from_bytes)
                else {
                    return Ok(None);
                };
                if dispatch != Dispatch::NONE {
                    if dispatch_element(set, dispatch) != element {
                        return Ok(None);
                    }
                    content.chains.insert((set, dispatch));
                }
            }
        }
        if !self.is_intact(socket, &content.chains)? {
            return Ok(None);
        }
        for set in SetName::ALL {
            for element in nftables::elements(socket, &self.id, set.as_str())? {
                let Some(element) = from_kernel(set, element) else { return Ok(None) };
                content.elements.insert(element);
            }
        }
        Ok(Some(content))
    }

    /// Whether sets, constant verdicts, chains and rules are those that we make.
    pub(super) fn is_intact(
        &self,
        socket: &mut Socket,
        choosing: &BTreeSet<(SetName, Dispatch)>,
    ) -> Result<bool, kernel::Error> {
        let mut chains = self.rules().constant_chains();
        chains.extend(choosing.iter().map(|(set, d)| self.rules().choosing_chain(*set, *d)));

        let mut sets: BTreeSet<Name> =
            constant_sets(self.family()).into_iter().map(|set| set.name).collect();
        sets.extend(timeouts(choosing).into_iter().map(affinity_map));
        let held: BTreeSet<Name> = nftables::sets(socket, &self.id)?.into_iter().collect();
        if held != sets {
            return Ok(false);
        }

        let wanted: BTreeMap<Name, Option<BaseChain>> =
            chains.iter().map(|chain| (chain.name.clone(), base_chain(&chain.name))).collect();
        let held = nftables::chains(socket, &self.id)?;
        if held.into_iter().map(|chain| (chain.name, chain.base)).collect::<BTreeMap<_, _>>()
            != wanted
        {
            return Ok(false);
        }

        for map in [REFUSALS, SOURCES] {
            let of_map = rules::constant_verdicts().into_iter().filter(|(name, ..)| *name == map);
            let wanted: BTreeSet<nftables::Element> = of_map
                .map(|(_, key, verdict)| nftables::Element::verdict(key.to_ne_bytes(), verdict))
                .collect();
            let held = nftables::elements(socket, &self.id, map)?;
            if held.into_iter().collect::<BTreeSet<_>>() != wanted {
                return Ok(false);
            }
        }

        // Rules are known by their comments, which carry a hash of what they do.
        let mut wanted: BTreeMap<Name, Vec<Option<String>>> = BTreeMap::new();
        for chain in &chains {
            let comments = chain.rules.iter().map(|rule| Some(comment(rule))).collect();
            wanted.insert(chain.name.clone(), comments);
        }
        let mut held: BTreeMap<Name, Vec<Option<String>>> =
            chains.into_iter().map(|chain| (chain.name, Vec::new())).collect();
        for rule in nftables::rules(socket, &self.id)? {
            held.entry(rule.chain).or_default().push(rule.comment);
        }
        Ok(held == wanted)
    }
}

pub(super) fn table_id(family: Family) -> nftables::Table {
    nftables::Table { family, name: TABLE.into() }
}

fn push_rules(batch: &mut Batch, table: &nftables::Table, chain: RuleChain) {
    for expressions in chain.rules {
        let rule = Rule { comment: comment(&expressions), expressions };
        batch.push(Operation::AddRule(table.clone(), chain.name.clone(), rule));
    }
}

/// A rule's comment: a hash of its expressions, so that a rule of another version is noticed.
fn comment(rule: &[nftables::Expression]) -> String {
    let mut hasher = DefaultHasher::new();
    rule.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn dispatch_element(set: SetName, dispatch: Dispatch) -> nftables::Element {
    let chain = rules::dispatch_chain(set, dispatch);
    // A chain that finds no backend comes back, and the maps are asked again.
    nftables::Element::verdict(dispatch.to_bytes(), Verdict::Jump(chain))
}

/// The hook of a chain; `None` if packets come from other chains only.
fn base_chain(name: &str) -> Option<BaseChain> {
    let (chain_type, hook, priority) = match name {
        "prerouting" => (ChainType::Nat, Hook::Prerouting, -100),
        "output" => (ChainType::Nat, Hook::Output, -100),
        "postrouting" => (ChainType::Nat, Hook::Postrouting, 100),
        "filter-input" => (ChainType::Filter, Hook::Input, 0),
        "filter-forward" => (ChainType::Filter, Hook::Forward, 0),
        "filter-output" => (ChainType::Filter, Hook::Output, 0),
        _ => return None,
    };
    Some(BaseChain { chain_type, hook, priority })
}

/// The affinity timeouts of chains, in seconds.
fn timeouts(chains: &BTreeSet<(SetName, Dispatch)>) -> BTreeSet<u32> {
    chains.iter().map(|(_, dispatch)| dispatch.affinity).filter(|seconds| *seconds != 0).collect()
}

fn by_set(elements: &[Element]) -> BTreeMap<SetName, Vec<nftables::Element>> {
    let mut sets: BTreeMap<SetName, Vec<nftables::Element>> = BTreeMap::new();
    for element in elements {
        sets.entry(element.set).or_default().push(to_kernel(element));
    }
    sets
}
