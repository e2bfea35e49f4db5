//! What the kernel holds of our table, and what leads from there to what is wanted.
//!
//! Only the endpoints are many. They are not listed, which takes time proportional to the square of
//! their number: the entries of the frontends tell which there must be, and these are asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernel::netlink::Socket;
use kernel::nftables::{self, BaseChain, Name, SetState};

use super::family_table::{FamilyTable, base_chain, comment, dispatch_element, timeouts};
use super::layout::{Dispatch, Element, Entry, Fields, SetName};
use super::rules::{self, REFUSALS, SOURCES, affinity_map, dispatch_map};
use super::sets::{ENTRY_MAPS, constant_sets, from_kernel};
use super::table::{Changes, difference};
use crate::Result;

/// Endpoints that are asked for at once.
const ASKED_AT_ONCE: usize = 500;

/// What the kernel holds of a table.
pub(super) enum Held {
    /// There is none, or one that packets do not meet.
    Nothing,
    /// One that we would make otherwise: another version's, or changed by others.
    Other,
    /// One that differs from ours in its content at most.
    Ours(Changes),
}

impl FamilyTable {
    /// Reads what the kernel holds and compares it with what is wanted.
    pub(super) fn held(&self, socket: &mut Socket) -> Result<Held, kernel::Error> {
        if !nftables::table_exists(socket, &self.id)? {
            return Ok(Held::Nothing);
        }
        if nftables::chains(socket, &self.id)?.iter().all(|chain| chain.base.is_none()) {
            return Ok(Held::Nothing);
        }
        let mut sets = nftables::sets(socket, &self.id)?;
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        let is_there = |name: &Name| sets.iter().any(|set| set.name == *name);
        if !constant_sets(self.family()).iter().all(|set| is_there(&set.name)) {
            return Ok(Held::Other);
        }
        let Some(chains) = self.held_chains(socket)? else { return Ok(Held::Other) };
        if !self.is_intact(socket, &sets, &chains)? {
            return Ok(Held::Other);
        }
        Ok(self.compare(socket, &sets, &chains)?.map_or(Held::Other, Held::Ours))
    }

    /// The chains that choose a backend; `None` if they are not reached as ours are.
    fn held_chains(
        &self,
        socket: &mut Socket,
    ) -> Result<Option<BTreeSet<(SetName, Dispatch)>>, kernel::Error> {
        let mut chains = BTreeSet::new();
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
                    chains.insert((set, dispatch));
                }
            }
        }
        Ok(Some(chains))
    }

    /// What leads to the wanted content; `None` if there are elements that are none of ours.
    fn compare(
        &self,
        socket: &mut Socket,
        sets: &[SetState],
        chains: &BTreeSet<(SetName, Dispatch)>,
    ) -> Result<Option<Changes>, kernel::Error> {
        let mut held = Vec::new();
        for set in SetName::ALL.into_iter().filter(|set| *set != SetName::Endpoints) {
            let Some(elements) = self.held_elements(socket, set)? else { return Ok(None) };
            held.extend(elements);
        }
        let mut changes = Changes::default();
        let mut endpoints = Endpoints::led_to_by(&held);
        let count = sets.iter().find(|set| *set.name == *SetName::Endpoints.as_str());
        let is_as_told = count.and_then(|set| set.elements).is_none_or(|n| n == endpoints.count());
        let mut wanted = Vec::new();
        let all_found = is_as_told
            && self.content.try_for_each(|element| {
                if element.set != SetName::Endpoints {
                    wanted.push(element);
                    return Ok(true);
                }
                endpoints.want(self, socket, element, &mut changes)
            })?
            && endpoints.finish(self, socket, &mut changes)?;
        if !all_found {
            // Somebody has changed what entries lead to: only a list tells what is there.
            let Some(elements) = self.held_elements(socket, SetName::Endpoints)? else {
                return Ok(None);
            };
            held.extend(elements);
            changes = Changes::default();
            wanted.clear();
            self.content.try_for_each(|element| {
                wanted.push(element);
                Ok::<_, kernel::Error>(true)
            })?;
        }
        held.sort_unstable();
        wanted.sort_unstable();
        difference(&held, &wanted, &mut changes);
        let wanted_chains = self.content.chains();
        changes.new_chains = wanted_chains.difference(chains).copied().collect();
        changes.old_chains = chains.difference(&wanted_chains).copied().collect();
        Ok(Some(changes))
    }

    /// The elements of a set as the kernel has them; `None` if some are none of ours.
    fn held_elements(
        &self,
        socket: &mut Socket,
        set: SetName,
    ) -> Result<Option<Vec<Element>>, kernel::Error> {
        let elements = nftables::elements(socket, &self.id, set.as_str())?;
        Ok(elements.iter().map(|element| from_kernel(set, element)).collect())
    }

    /// Whether sets, constant verdicts, chains and rules are those that we make.
    fn is_intact(
        &self,
        socket: &mut Socket,
        held_sets: &[SetState],
        choosing: &BTreeSet<(SetName, Dispatch)>,
    ) -> Result<bool, kernel::Error> {
        let mut chains = self.rules().constant_chains();
        chains.extend(choosing.iter().map(|(set, d)| self.rules().choosing_chain(*set, *d)));

        let mut sets: BTreeSet<Name> =
            constant_sets(self.family()).into_iter().map(|set| set.name).collect();
        sets.extend(timeouts(choosing).into_iter().map(affinity_map));
        if held_sets.iter().map(|set| &set.name).ne(&sets) {
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

/// The endpoints that the entries in the kernel lead to, compared with those that are wanted as these
/// come by.
struct Endpoints {
    /// Number of members of each set that has not come by yet, by the set's number.
    sizes: HashMap<u64, u32>,
    /// The set that comes by: its number, members held, and members wanted so far.
    current: Option<(u64, u32, u32)>,
    /// Wanted members to be asked for.
    asked: Vec<Element>,
}

impl Endpoints {
    fn led_to_by(held: &[Element]) -> Self {
        let entries = held.iter().filter(|element| ENTRY_MAPS.contains(&element.set));
        let entries = entries.filter_map(|element| Entry::from_bytes(&element.data));
        let leading = entries.filter(|entry| entry.dispatch.backends > 0);
        let sizes = leading.map(|entry| (entry.set, entry.dispatch.backends)).collect();
        Self { sizes, current: None, asked: Vec::new() }
    }

    /// How many there are.
    fn count(&self) -> u32 {
        self.sizes.values().sum()
    }

    /// Takes the next wanted one; those of a set come one after the other. Answers whether what was
    /// asked for is there.
    fn want(
        &mut self,
        table: &FamilyTable,
        socket: &mut Socket,
        element: Element,
        changes: &mut Changes,
    ) -> Result<bool, kernel::Error> {
        let number = element.key.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        if self.current.is_none_or(|(current, ..)| current != number) {
            self.end_set(changes);
            self.current = Some((number, self.sizes.remove(&number).unwrap_or(0), 0));
        }
        let Some((_, held, wanted)) = &mut self.current else { return Ok(true) };
        *wanted += 1;
        if *wanted > *held {
            changes.added.push(element);
            return Ok(true);
        }
        self.asked.push(element);
        match self.asked.len() < ASKED_AT_ONCE {
            true => Ok(true),
            false => self.ask(table, socket, changes),
        }
    }

    /// All wanted ones have come by.
    fn finish(
        &mut self,
        table: &FamilyTable,
        socket: &mut Socket,
        changes: &mut Changes,
    ) -> Result<bool, kernel::Error> {
        self.end_set(changes);
        for (number, held) in self.sizes.drain() {
            changes.removed.extend((0..held).map(|index| member(number, index)));
        }
        self.ask(table, socket, changes)
    }

    /// Members of the current set beyond those that are wanted go.
    fn end_set(&mut self, changes: &mut Changes) {
        if let Some((number, held, wanted)) = self.current.take() {
            changes.removed.extend((wanted..held).map(|index| member(number, index)));
        }
    }

    /// Asks for those that wait; answers whether all are there.
    fn ask(
        &mut self,
        table: &FamilyTable,
        socket: &mut Socket,
        changes: &mut Changes,
    ) -> Result<bool, kernel::Error> {
        if self.asked.is_empty() {
            return Ok(true);
        }
        let set = SetName::Endpoints;
        let keys = self.asked.iter().map(|element| &*element.key);
        let held = nftables::elements_with_keys(socket, &table.id, set.as_str(), keys)?;
        let Some(held) = held.filter(|held| held.len() == self.asked.len()) else {
            return Ok(false);
        };
        for (wanted, held) in self.asked.drain(..).zip(&held) {
            match from_kernel(set, held) {
                Some(held) if held == wanted => {}
                Some(held) => {
                    changes.removed.push(held);
                    changes.added.push(wanted);
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// An endpoint of which only the key is known, which is enough to delete it.
fn member(set: u64, index: u32) -> Element {
    let key = Fields::new().bytes(&set.to_ne_bytes()).bytes(&index.to_ne_bytes()).finish();
    Element { set: SetName::Endpoints, key, key_end: None, data: Default::default() }
}
