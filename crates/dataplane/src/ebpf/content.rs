//! What the maps hold, and the changes that lead from one content to the next.
//!
//! Pure. Endpoints are not mirrored here: a group that was programmed is rendered again when it changes.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Add, Sub};
use std::sync::Arc;

use model::Protocol;
use plan::{Group, GroupId, PortId};

use super::layout::{Block, Endpoint, Frontend, FrontendKey, List, Member, Set, Slot, SourceRange};
use super::maglev;
use super::render::{Rendered, render_group};
use super::wire::Wire;
use crate::number::hash;

/// What was read from the maps.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Elements of `frontends`.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// Values of `sets`, by their keys.
    pub sets: HashMap<u64, Set>,
    /// Endpoints of lists, by their places.
    pub lists: HashMap<u32, BTreeMap<u32, Endpoint>>,
    /// Blocks of lists' tables, by their places.
    pub tables: HashMap<u32, BTreeMap<u32, Block>>,
    /// Keys of `members`.
    pub members: HashSet<Member>,
    /// Keys of `sources`.
    pub sources: HashSet<SourceRange>,
}

/// What has been programmed.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// The node's own addresses.
    own: Vec<IpAddr>,
    groups: HashMap<GroupId, Arc<Group>>,
    lists: HashMap<u64, List>,
    /// The number that the last new list was given.
    last: u32,
    counts: Counts,
}

/// What is to be done to the maps, in this order: what others are led to comes before those who lead to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Elements of `endpoints` to add.
    pub endpoints: Vec<(Slot, Endpoint)>,
    /// Elements of `tables` to add.
    pub tables: Vec<(Slot, Block)>,
    /// Keys of `members` to add.
    pub members: Vec<Member>,
    /// Keys of `sources` to add.
    pub sources: Vec<SourceRange>,
    /// Values of `sets` to write.
    pub sets: Vec<Set>,
    /// Elements of `frontends` to write.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Keys of `frontends` to remove.
    pub gone_frontends: Vec<FrontendKey>,
    /// Keys of `sets` to remove.
    pub gone_sets: Vec<u64>,
    /// Keys of `members` to remove.
    pub gone_members: Vec<Member>,
    /// Keys of `sources` to remove.
    pub gone_sources: Vec<SourceRange>,
    /// Lists that no set has any more. They may be looked at for a moment.
    pub left: Vec<List>,
    /// Keys of their tables.
    pub left_tables: Vec<Slot>,
}

/// How many elements maps have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of `frontends`.
    pub frontends: usize,
    /// Of `sets`.
    pub sets: usize,
    /// Of `endpoints`.
    pub endpoints: usize,
    /// Of `tables`.
    pub tables: usize,
    /// Of `members`.
    pub members: usize,
    /// Of `sources`.
    pub sources: usize,
}

impl Content {
    /// What groups ask for on a node with these addresses, and what leads there from what is held.
    pub fn restored(
        groups: HashMap<GroupId, Arc<Group>>,
        own: Vec<IpAddr>,
        held: &Held,
    ) -> (Self, Changes) {
        let mut changes = Changes::default();
        let mut content = Self { own, ..Self::default() };
        let (mut frontends, mut members) = (HashMap::new(), HashSet::new());
        let mut sources = HashSet::new();
        let held_lists = held.lists.keys().chain(held.tables.keys());
        content.last = held_lists.max().copied().unwrap_or_default();
        for group in groups.values() {
            let rendered = render_group(group, &content.own);
            content.counts = content.counts + rendered.counts();
            frontends.extend(rendered.frontends);
            members.extend(rendered.members);
            sources.extend(rendered.sources);
            for (number, endpoints) in rendered.sets {
                let is_by_client = rendered.by_client.contains(&number);
                let list = match held.list_of(number, &endpoints, is_by_client) {
                    Some(list) => list,
                    None => content.new_list(number, &endpoints, is_by_client, &mut changes),
                };
                content.lists.insert(number, list);
            }
        }
        content.groups = groups;
        for (key, value) in &frontends {
            if held.frontends.get(key) != Some(value) {
                changes.frontends.push((*key, *value));
            }
        }
        changes.members.extend(members.difference(&held.members));
        let gone = held.frontends.keys().filter(|key| !frontends.contains_key(*key));
        changes.gone_frontends.extend(gone);
        changes.gone_members.extend(held.members.difference(&members));
        changes.sources.extend(sources.difference(&held.sources));
        changes.gone_sources.extend(held.sources.difference(&sources));
        let gone = held.sets.keys().filter(|number| !content.lists.contains_key(number));
        changes.gone_sets.extend(gone);
        let used: HashSet<u32> = content.lists.values().map(|list| list.number).collect();
        for (number, list) in held.lists.iter().filter(|(number, _)| !used.contains(number)) {
            // Places that are missing are no matter: what is not there goes as well.
            let count = list.last_key_value().map_or(0, |(last, _)| last + 1);
            changes.left.push(List { number: *number, count });
        }
        for (list, blocks) in held.tables.iter().filter(|(list, _)| !used.contains(list)) {
            changes
                .left_tables
                .extend(blocks.keys().map(|index| Slot { list: *list, index: *index }));
        }
        (content, changes)
    }

    /// Replaces some groups; `None` removes one. All in one step, so that a frontend can pass from one
    /// group to another.
    pub fn set_groups<'g>(
        &mut self,
        groups: impl IntoIterator<Item = (&'g GroupId, Option<&'g Arc<Group>>)>,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut frontends: BTreeMap<_, Option<_>> = BTreeMap::new();
        for (id, group) in groups {
            let held = match group {
                Some(group) => self.groups.insert(id.clone(), group.clone()),
                None => self.groups.remove(id),
            };
            let old = held.map(|held| render_group(&held, &self.own)).unwrap_or_default();
            let new = group.map(|group| render_group(group, &self.own)).unwrap_or_default();
            self.counts = self.counts + new.counts() - old.counts();
            for key in old.frontends.keys() {
                // Another group may have said already that it has it now.
                frontends.entry(*key).or_insert(None);
            }
            for (key, value) in &new.frontends {
                match old.frontends.get(key) == Some(value) {
                    true => _ = frontends.remove(key),
                    false => _ = frontends.insert(*key, Some(*value)),
                }
            }
            self.replace(&old, new, &mut changes);
        }
        for (key, value) in frontends {
            match value {
                Some(value) => changes.frontends.push((key, value)),
                None => changes.gone_frontends.push(key),
            }
        }
        // With a frontend, those who may connect to it pass from one group to another.
        let (come, gone): (HashSet<_>, HashSet<_>) = (
            changes.sources.iter().copied().collect(),
            changes.gone_sources.iter().copied().collect(),
        );
        changes.sources.retain(|range| !gone.contains(range));
        changes.gone_sources.retain(|range| !come.contains(range));
        changes
    }

    /// Replaces the sets and members of one group.
    fn replace(&mut self, old: &Rendered, new: Rendered, changes: &mut Changes) {
        for (number, endpoints) in &new.sets {
            let is_by_client = new.by_client.contains(number);
            let was_by_client = old.by_client.contains(number);
            if old.sets.get(number) == Some(endpoints) && was_by_client == is_by_client {
                continue;
            }
            let list = self.new_list(*number, endpoints, is_by_client, changes);
            let left = self.lists.insert(*number, list);
            changes.leave(left, was_by_client);
        }
        for number in old.sets.keys().filter(|number| !new.sets.contains_key(number)) {
            changes.gone_sets.push(*number);
            changes.leave(self.lists.remove(number), old.by_client.contains(number));
        }
        let (before, now): (BTreeSet<_>, BTreeSet<_>) =
            (old.members.iter().copied().collect(), new.members.into_iter().collect());
        changes.members.extend(now.difference(&before));
        changes.gone_members.extend(before.difference(&now));
        let (before, now): (BTreeSet<_>, BTreeSet<_>) =
            (old.sources.iter().copied().collect(), new.sources.into_iter().collect());
        changes.sources.extend(now.difference(&before));
        changes.gone_sources.extend(before.difference(&now));
    }

    /// The node's addresses that this is for.
    pub fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// Makes a list for a set.
    fn new_list(
        &mut self,
        set: u64,
        endpoints: &[SocketAddr],
        is_by_client: bool,
        changes: &mut Changes,
    ) -> List {
        self.last = self.last.wrapping_add(1);
        let count = u32::try_from(endpoints.len()).expect("a set has not that many endpoints");
        let list = List { number: self.last, count };
        if is_by_client {
            changes.tables.extend(table_slots(list).zip(maglev::table(endpoints)));
        }
        let endpoints = endpoints.iter().map(|at| Endpoint::from(*at));
        changes.endpoints.extend(list.slots().zip(endpoints));
        changes.sets.push(Set { number: set, list });
        list
    }

    /// The groups.
    pub fn groups(&self) -> &HashMap<GroupId, Arc<Group>> {
        &self.groups
    }

    /// Who answers whether a frontend of TCP has an endpoint, ready or not; what no group has had any frontend for
    /// is taken to have it: a Service that is removed leaves connections alone.
    pub fn who_has(&self) -> impl Fn(SocketAddr, SocketAddr) -> bool {
        let groups = OnceCell::new();
        move |asked: SocketAddr, endpoint: SocketAddr| {
            let groups = groups.get_or_init(|| self.by_frontend());
            let tcp = Protocol::Tcp.number();
            let at = [FrontendKey::at(asked, tcp), FrontendKey::at_any(asked, tcp)];
            let Some((group, port)) = at.iter().find_map(|key| groups.get(key)) else {
                return true;
            };
            group.endpoints_of(port).any(|has| has == endpoint)
        }
    }

    /// The group and port of each frontend of TCP.
    fn by_frontend(&self) -> HashMap<FrontendKey, (&Group, &PortId)> {
        let groups = self.groups.values();
        let all = groups.flat_map(|group| group.frontends.iter().map(move |f| (group, f)));
        let of_tcp = all.filter(|(_, frontend)| frontend.key.protocol == Protocol::Tcp);
        of_tcp.map(|(group, f)| (FrontendKey::from(&f.key), (&**group, &f.port))).collect()
    }

    /// How many elements this takes.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// Where the table of a list is.
fn table_slots(list: List) -> impl Iterator<Item = Slot> {
    let blocks = u32::try_from(maglev::blocks(list.count as usize)).unwrap_or_default();
    (0..blocks).map(move |index| Slot { list: list.number, index })
}

/// What tells a table from another one.
fn hash_of<'b>(blocks: impl Iterator<Item = &'b Block>) -> u64 {
    let bytes: Vec<[u8; Block::SIZE]> = blocks.map(Wire::to_bytes).collect();
    let parts: Vec<&[u8]> = bytes.iter().map(<[u8; Block::SIZE]>::as_slice).collect();
    hash(&parts)
}

impl Rendered {
    fn counts(&self) -> Counts {
        Counts {
            frontends: self.frontends.len(),
            sets: self.sets.len(),
            endpoints: self.sets.values().map(Vec::len).sum(),
            tables: self.by_client.iter().map(|set| maglev::blocks(self.sets[set].len())).sum(),
            members: self.members.len(),
            sources: self.sources.len(),
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            frontends: self.frontends + other.frontends,
            sets: self.sets + other.sets,
            endpoints: self.endpoints + other.endpoints,
            tables: self.tables + other.tables,
            members: self.members + other.members,
            sources: self.sources + other.sources,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            frontends: self.frontends - other.frontends,
            sets: self.sets - other.sets,
            endpoints: self.endpoints - other.endpoints,
            tables: self.tables - other.tables,
            members: self.members - other.members,
            sources: self.sources - other.sources,
        }
    }
}

impl Held {
    /// Every element in a line, in an order that depends on them alone. The numbers of lists, which do not
    /// matter, are left out.
    pub fn describe(&self) -> String {
        let frontends = self.frontends.iter().map(|(key, value)| format!("{key:?} {value:?}"));
        let members = self.members.iter().map(|member| format!("{member:?}"));
        let sources = self.sources.iter().map(|range| format!("{range:?}"));
        let sets = self.sets.iter().map(|(number, set)| {
            let endpoints = self.lists.get(&set.list.number);
            let endpoints: Vec<_> = endpoints.into_iter().flat_map(BTreeMap::values).collect();
            let table = match self.tables.get(&set.list.number) {
                Some(blocks) => format!(", {:016x}", hash_of(blocks.values())),
                None => String::new(),
            };
            format!("set {number:016x} of {}: {endpoints:?}{table}", set.list.count)
        });
        let mut lines: Vec<String> = frontends.chain(members).chain(sources).chain(sets).collect();
        lines.sort();
        lines.join("\n")
    }

    /// The list that a set has, if it has these endpoints, and with `is_by_client` their table.
    fn list_of(&self, set: u64, endpoints: &[SocketAddr], is_by_client: bool) -> Option<List> {
        let held = self.sets.get(&set).filter(|held| held.number == set)?;
        let list = self.lists.get(&held.list.number)?;
        let is_equal = held.list.count as usize == endpoints.len()
            && list.len() == endpoints.len()
            && (0..).zip(endpoints).all(|(index, at)| list.get(&index) == Some(&(*at).into()));
        let table = if is_by_client { maglev::table(endpoints) } else { Vec::new() };
        let blocks = self.tables.get(&held.list.number);
        let has_table = blocks.map_or(0, BTreeMap::len) == table.len()
            && (0..)
                .zip(&table)
                .all(|(index, block)| blocks.and_then(|b| b.get(&index)) == Some(block));
        (is_equal && has_table).then_some(held.list)
    }
}

impl Changes {
    /// The number of elements that are touched, but for lists that are left.
    pub fn operations(&self) -> usize {
        self.endpoints.len()
            + self.tables.len()
            + self.members.len()
            + self.sets.len()
            + self.frontends.len()
            + self.gone_frontends.len()
            + self.gone_sets.len()
            + self.gone_members.len()
            + self.sources.len()
            + self.gone_sources.len()
    }

    /// A set has a list no more.
    fn leave(&mut self, list: Option<List>, has_table: bool) {
        self.left.extend(list);
        if has_table {
            self.left_tables.extend(list.into_iter().flat_map(table_slots));
        }
    }

    /// Each kind of change in words, as of something that differs from what was wanted.
    pub fn describe(&self) -> impl Iterator<Item = String> {
        [
            (self.frontends.len(), "frontends are missing or do something else"),
            (self.gone_frontends.len(), "frontends are too much"),
            (self.sets.len(), "sets are missing or have other endpoints"),
            (self.gone_sets.len(), "sets are too much"),
            (self.members.len(), "members are missing"),
            (self.gone_members.len(), "members are too much"),
            (self.sources.len(), "ranges of sources are missing"),
            (self.gone_sources.len(), "ranges of sources are too much"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("ebpf: {count} {what}"))
    }

    /// Endpoints that do not serve any more.
    pub fn lost(&self) -> impl Iterator<Item = SocketAddr> {
        self.gone_members.iter().map(|member| member.endpoint.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use model::{Family, Protocol};
    use plan::{
        Action, Affinity, Backend, EndpointSet, FrontendAddress, PortId, Refusal, Rule, Scope,
        SetId, UdpPort,
    };

    use super::*;

    /// The maps, as changes leave them.
    #[derive(Debug, Clone, Default)]
    struct Maps(Held);

    impl Maps {
        fn apply(&mut self, changes: &Changes) {
            let held = &mut self.0;
            for (slot, endpoint) in &changes.endpoints {
                let places = held.lists.entry(slot.list).or_default();
                let before = places.insert(slot.index, *endpoint);
                assert_eq!(before, None, "a list that is there is not written");
            }
            for (slot, block) in &changes.tables {
                let before = held.tables.entry(slot.list).or_default().insert(slot.index, *block);
                assert_eq!(before, None, "a table that is there is not written");
            }
            held.members.extend(&changes.members);
            held.sources.extend(&changes.sources);
            held.sets.extend(changes.sets.iter().map(|set| (set.number, *set)));
            held.frontends.extend(changes.frontends.iter().copied());
            for key in &changes.gone_frontends {
                assert!(held.frontends.remove(key).is_some(), "what goes was there");
            }
            for number in &changes.gone_sets {
                assert!(held.sets.remove(number).is_some(), "what goes was there");
            }
            for key in &changes.gone_members {
                assert!(held.members.remove(key), "what goes was there");
            }
            for key in &changes.gone_sources {
                assert!(held.sources.remove(key), "what goes was there");
            }
            for list in &changes.left {
                assert!(held.lists.remove(&list.number).is_some(), "what is left was there");
            }
            for Slot { list, index } in &changes.left_tables {
                let table = held.tables.get_mut(list).expect("what is left was there");
                assert!(table.remove(index).is_some(), "what is left was there");
                if table.is_empty() {
                    held.tables.remove(list);
                }
            }
        }

        fn counts(&self) -> Counts {
            Counts {
                frontends: self.0.frontends.len(),
                sets: self.0.sets.len(),
                endpoints: self.0.lists.values().map(BTreeMap::len).sum(),
                tables: self.0.tables.values().map(BTreeMap::len).sum(),
                members: self.0.members.len(),
                sources: self.0.sources.len(),
            }
        }
    }

    /// A group of one UDP port, at its own address and at one that another may have as well.
    fn group(id: &GroupId, endpoints: &BTreeSet<u8>, is_sticky: bool, shares: bool) -> Group {
        let mut group = Group::empty(id.clone());
        let port = PortId {
            group: id.clone(),
            name: "".into(),
            protocol: Protocol::Udp,
            family: Family::V4,
        };
        let at = |last: &u8| SocketAddr::from(([10, 244, 0, *last], 8080));
        let backends: Vec<_> =
            endpoints.iter().map(|e| Backend { address: at(e), local: true }).collect();
        let action = match backends.is_empty() {
            true => Action::Reject(Refusal::NoEndpoints),
            false => Action::Forward { set: 0, masquerade: false },
        };
        if !backends.is_empty() {
            let id = SetId { port: port.clone(), scope: Scope::Cluster };
            group.sets.push(EndpointSet { id, backends });
        }
        let own = [10, 96, 0, id.len() as u8].into();
        for ip in [own].into_iter().chain(shares.then_some([10, 96, 1, 1].into())) {
            group.frontends.push(plan::Frontend {
                key: plan::FrontendKey {
                    address: FrontendAddress::Ip(ip),
                    protocol: Protocol::Udp,
                    port: 80.try_into().unwrap(),
                },
                port: port.clone(),
                rule: Rule::ClusterIp,
                pod: action.clone(),
                node: action.clone(),
                outside: action.clone(),
                allowed_sources: is_sticky.then(|| vec!["192.0.2.0/24".parse().unwrap()]),
                affinity: is_sticky.then_some(Affinity { timeout: std::time::Duration::MAX }),
            });
        }
        group.cluster_ips.push(own);
        group.udp_ports.push(UdpPort { port, serving: endpoints.iter().map(at).collect() });
        group
    }

    /// Of each of three groups its endpoints, if it is there, and whether it is sticky; and which of them
    /// has the shared address.
    type Cluster = ([Option<(BTreeSet<u8>, bool)>; 3], usize);

    fn clusters() -> impl Strategy<Value = Vec<Cluster>> {
        let group = || {
            let endpoints = proptest::collection::btree_set(0..6_u8, 0..5);
            proptest::option::weighted(0.8, (endpoints, any::<bool>()))
        };
        proptest::collection::vec(([group(), group(), group()], 0..3_usize), 1..12)
    }

    fn groups(cluster: &Cluster) -> HashMap<GroupId, Option<Arc<Group>>> {
        let ids = ["a", "bb", "ccc"].map(GroupId::from);
        let of = |(index, id): (usize, &GroupId)| {
            let wanted = cluster.0[index].as_ref();
            let made = wanted.map(|(endpoints, is_sticky)| {
                Arc::new(group(id, endpoints, *is_sticky, cluster.1 == index))
            });
            (id.clone(), made)
        };
        ids.iter().enumerate().map(of).collect()
    }

    proptest! {
        #[test]
        fn changes_lead_to_what_a_new_start_would_make(history in clusters()) {
            let mut maps = Maps::default();
            let mut content = Content::default();
            for cluster in &history {
                let groups = groups(cluster);
                let replaced = groups.iter().map(|(id, group)| (id, group.as_ref()));
                maps.apply(&content.set_groups(replaced));
                prop_assert_eq!(maps.counts(), content.counts());

                let wanted: HashMap<_, _> =
                    groups.into_iter().filter_map(|(id, group)| Some((id, group?))).collect();
                let (_, changes) = Content::restored(wanted.clone(), Vec::new(), &maps.0);
                prop_assert_eq!(changes, Changes::default(), "nothing is to be done");
                // From whatever was there.
                let mut other = Maps::default();
                let first = groups_of(&history[0]);
                other.apply(&Content::restored(first, Vec::new(), &Held::default()).1);
                let (restored, changes) = Content::restored(wanted.clone(), Vec::new(), &other.0);
                other.apply(&changes);
                prop_assert_eq!(other.counts(), restored.counts());
                prop_assert_eq!(&other.0.frontends, &maps.0.frontends);
                prop_assert_eq!(&other.0.members, &maps.0.members);
                prop_assert_eq!(&other.0.sources, &maps.0.sources);
                prop_assert_eq!(Content::restored(wanted, Vec::new(), &other.0).1, Changes::default());
            }
        }
    }

    fn groups_of(cluster: &Cluster) -> HashMap<GroupId, Arc<Group>> {
        groups(cluster).into_iter().filter_map(|(id, group)| Some((id, group?))).collect()
    }
}
