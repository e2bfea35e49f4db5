//! The backend: reads the tables, finds the difference, and programs it.
//!
//! What connections see changes in one transaction. Chains that it needs are made in one before.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{
    self, BaseChain, Batch, Chain, ChainType, Family, Hook, Name, Operation, Refused, Rule, Verdict,
};
use plan::{FrontendKey, Group, GroupId, LocalDetector};

use super::layout::{Dispatch, Element, SetName, frontend_key};
use super::rules::{self, REFUSALS, RuleChain, Rules, SOURCES, affinity_map, dispatch_map};
use super::sets::{ENTRY_MAPS, affinity_set, constant_sets, from_kernel, to_kernel};
use super::table::{Changes, Content, Table};
use crate::backend::{Backend, Delta};
use crate::{Error, Result, conntrack};

/// Name of our table in each family.
pub const TABLE: &str = "portolan";

/// Name of the table that does the work of [`TABLE`] while that is made anew.
///
/// A packet sees the tables' chains one after the other, and each as of the moment at which it gets
/// there. So when a table is replaced in one transaction, a packet can pass the new one a moment
/// before it begins and the old one a moment after it ended. This one is there before and after.
const HANDOVER: &str = "portolan-handover";

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

/// Our table in one family, and what it holds after the last successful transaction.
#[derive(Debug, Clone)]
struct FamilyTable {
    id: nftables::Table,
    content: Table,
    detector: LocalDetector,
    /// Chains that are there and that no entry leads to at the moment: numbers of backends come back.
    unused: BTreeSet<(SetName, Dispatch)>,
}

/// Clients with affinity and their endpoints, by timeout in seconds.
type Remembered = BTreeMap<u32, Vec<nftables::Element>>;

/// What the kernel holds of a table.
enum Held {
    /// There is none.
    Nothing,
    /// One that we would make otherwise: another version's, or changed by others.
    Other,
    /// One that differs from ours in its content at most.
    Ours(Content),
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

impl FamilyTable {
    fn family(&self) -> Family {
        self.id.family
    }

    fn rules(&self) -> Rules<'_> {
        Rules::new(self.family(), &self.detector)
    }

    /// The frontends that elements are for.
    fn frontends(&self, elements: &[Element]) -> impl Iterator<Item = FrontendKey> {
        let family = self.content.family();
        let entries = elements.iter().filter(|element| ENTRY_MAPS.contains(&element.set));
        entries.filter_map(move |element| frontend_key(element.set, family, &element.key))
    }

    /// The same under another name, for the time that this one is replaced.
    fn handover(&self) -> Self {
        let id = nftables::Table { family: self.family(), name: HANDOVER.into() };
        Self { id, ..self.clone() }
    }

    /// The hook of one of our chains; `None` if packets come from other chains only.
    fn base_chain(&self, name: &str) -> Option<BaseChain> {
        let mut base = base_chain(name)?;
        // Affinity is remembered where packets come first.
        base.priority += i32::from(&*self.id.name == HANDOVER);
        Some(base)
    }

    /// Appends the making of the table with all that is always in it, in the place of what is there.
    fn append_constant(&self, batch: &mut Batch) {
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
    fn append_whole(&mut self, batch: &mut Batch, remembered: &Remembered) {
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
    fn remembered(&self, socket: &mut Socket) -> Result<Remembered, kernel::Error> {
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
    fn append_chains(
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

    fn append_elements(&self, batch: &mut Batch, changes: &Changes) {
        let table = || self.id.clone();
        for (set, elements) in by_set(&changes.removed) {
            batch.push(Operation::DeleteElements(table(), set.as_str().into(), elements));
        }
        for (set, elements) in by_set(&changes.added) {
            batch.push(Operation::AddElements(table(), set.as_str().into(), elements));
        }
    }

    fn append_removal_of_unused(&self, batch: &mut Batch) {
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
    fn read(&self, socket: &mut Socket) -> Result<Held, kernel::Error> {
        if !nftables::table_exists(socket, &self.id)? {
            return Ok(Held::Nothing);
        }
        Ok(self.read_content(socket)?.map_or(Held::Other, Held::Ours))
    }

    /// What the table holds; `None` if its constant part is not ours.
    fn read_content(&self, socket: &mut Socket) -> Result<Option<Content>, kernel::Error> {
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
    fn is_intact(
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

pub(super) fn table_id(family: Family) -> nftables::Table {
    nftables::Table { family, name: TABLE.into() }
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

fn failure(refused: Refused) -> Error {
    match refused {
        Refused::Failed(error) => Error::Kernel(error),
        other => Error::Kernel(kernel::Error::os(
            other.to_string(),
            std::io::Error::from(std::io::ErrorKind::ResourceBusy),
        )),
    }
}
