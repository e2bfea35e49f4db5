//! The backend: what is done in which order, in the maps, with the programs and in the companion's table.
//!
//! A frontend leads to a set, a set to a list, a list to endpoints. What is led to is written first, and
//! removed last: a list only some time after the last program may have begun to look at it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::bpf::{PacketProgram, Table};
use kernel::cgroup::Cgroup;
use kernel::netns::{self, Netns};
use kernel::route::Rtnetlink;
use model::{Family, Protocol};
use plan::{Group, GroupId, NodePlan};

use super::companion::Companion;
use super::connected::{self, Gone, Looked};
use super::content::{Changes, Content, Held};
use super::flows;
use super::host::{Filters, Host};
use super::layout::{
    Block, Deed, Endpoint, Frontend, FrontendKey, Hook, List, Member, Node, Set, Slot, SourceRange,
    Translation, Tuple,
};
use super::marks;
use super::programs::{Generation, PRESENT, Programs, Tables};
use super::told;
use super::watch::{Expected, ProgramWatcher};
use super::wire::{Wire, elements, keys};
use crate::backend::{Backend, Delta, Watcher};
use crate::{Error, Result};

/// How long a list stays that no set has any more: no program looks at one for so long.
const LIST_REST: Duration = Duration::from_secs(1);

/// How long programs stay that give nobody an endpoint any more: answers that are on their way are shown
/// as coming from whom was asked.
const RETIREMENT: Duration = Duration::from_secs(5);

/// The eBPF data plane of a network namespace, and of the sockets of a cgroup.
#[derive(Debug)]
pub struct Ebpf {
    netns: Netns,
    rtnetlink: Rtnetlink,
    filters: Filters,
    programs: Arc<Programs>,
    /// What ought to be attached.
    expected: Expected,
    companion: Companion,
    /// `None` until something was programmed.
    generation: Option<Generation>,
    content: Content,
    host: Host,
    /// Lists that no set has any more, and since when.
    left: Vec<(Instant, List)>,
    /// Their tables, by keys.
    left_tables: Vec<(Instant, Slot)>,
    /// What has come and gone without its sockets being looked for yet.
    looked: Looked,
    /// TCP connections to endpoints that have gone are ended.
    ends_connections: bool,
    retiring_since: Option<Instant>,
    /// Connections that others have led until now may still be on their way to being tracked.
    is_taking_over: bool,
}

impl Ebpf {
    /// Opens it for the calling thread's network namespace, and for the sockets of all processes in a
    /// cgroup, which are taken to be those of this node. Changes nothing.
    pub fn open(cgroup: Cgroup) -> Result<Self> {
        Ok(Self {
            netns: Netns::current()?,
            rtnetlink: Rtnetlink::open()?,
            filters: Filters::default(),
            programs: Arc::new(Programs::of(cgroup)?),
            expected: Expected::default(),
            companion: Companion::open(!PacketProgram::is_possible())?,
            generation: None,
            content: Content::default(),
            host: Host::default(),
            left: Vec::new(),
            left_tables: Vec::new(),
            looked: Looked::default(),
            ends_connections: false,
            retiring_since: None,
            is_taking_over: false,
        })
    }

    /// With `ends`, TCP connections of sockets are ended whose endpoint has left its Service: the holder is told
    /// `ECONNABORTED`. That holds for those that connect from then on.
    #[must_use]
    pub fn ending_connections(self, ends: bool) -> Self {
        Self { ends_connections: ends, ..self }
    }

    /// Whether this machine can have all of it: programs at sockets of a control group, and at links. Changes
    /// nothing; the kernel looks at the programs.
    pub fn probe(cgroup: Cgroup) -> Result<()> {
        if !PacketProgram::is_possible() {
            return Err(failure("programs at links take Linux 6.6 or newer"));
        }
        let programs = Programs::of(cgroup)?;
        match programs.adopt()? {
            // They are at work, so they were looked at.
            Some(_) => Ok(()),
            None => programs.check(),
        }
    }

    /// Detaches and forgets the programs, and leaves the companion's table. That there are none is no error.
    pub fn detach(&mut self) -> Result<()> {
        self.expected.set(None);
        self.generation = None;
        self.content = Content::default();
        self.left.clear();
        self.left_tables.clear();
        self.programs.remove()
    }

    /// The connections that programs masquerade: each client, and the source that its packets get.
    pub fn masqueraded(&self) -> Result<Vec<(SocketAddr, SocketAddr)>> {
        let Some(generation) = self.programs.adopt()? else { return Ok(Vec::new()) };
        let entries = generation.tables.translations.entries()?.into_iter();
        let known = entries.map(|(key, value)| (Tuple::get(&key), Translation::get(&value)));
        let is_masqueraded = |(key, value): &(Tuple, Translation)| {
            key.hook == Hook::Ingress
                && value.flags & Translation::IS_REQUEST != 0
                && value.source != key.source
        };
        let all = known.filter(is_masqueraded);
        Ok(all.map(|(key, value)| (key.source.into(), value.source.into())).collect())
    }

    /// How many connections programs translate at links, by what their clients have asked for.
    pub fn connections(&self) -> Result<HashMap<(Protocol, SocketAddr), u64>> {
        let mut counts = HashMap::new();
        if self.is_of_other_node()? {
            return Ok(counts);
        }
        let Some(generation) = self.programs.adopt()? else { return Ok(counts) };
        for (key, value) in generation.tables.translations.entries()? {
            let (key, value) = (Tuple::get(&key), Translation::get(&value));
            let is_request = value.flags & Translation::IS_REQUEST != 0;
            if key.hook == Hook::Ingress
                && is_request
                && let Some(protocol) = Protocol::of_number(key.protocol)
            {
                *counts.entry((protocol, key.destination.into())).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Whether the programs are for the node of another network namespace, which cleans up itself.
    fn is_of_other_node(&self) -> Result<bool> {
        let own = self.netns.within(netns::cookie)??;
        Ok(self.programs.netns()?.is_some_and(|netns| netns != own))
    }

    /// What the maps of the programs at work hold, a line each, in an order that depends on that alone.
    pub fn listing(&self) -> Result<String> {
        let Some(generation) = self.programs.adopt()? else { return Ok(String::new()) };
        Ok(read(&generation.tables)?.describe())
    }

    fn host_of(&mut self, plan: &NodePlan) -> Result<Host> {
        let mut host = Host::of(plan, &self.netns, &mut self.rtnetlink, &mut self.filters)?;
        if self.ends_connections {
            host.node.flags |= Node::KEEPS_TCP;
        }
        Ok(host)
    }

    /// The generation that is at work, if there is one of this version.
    fn at_work(&mut self) -> Result<Option<Generation>> {
        match self.generation.take() {
            Some(generation) if self.programs.works(&generation)? => Ok(Some(generation)),
            _ => self.programs.adopt(),
        }
    }

    fn restore_all(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let Some(plan) = whole.node else { return self.update_some(whole) };
        self.host = self.host_of(plan)?;
        self.retiring_since = None;
        if self.ends_connections {
            self.looked.gone = Gone::Unknown;
        }
        let groups = groups_of(whole);
        // Another process, or another data plane, may have led connections until now.
        let is_first = self.generation.is_none();
        let Some(generation) = self.at_work()? else { return self.begin(groups) };
        let held = read(&generation.tables)?;
        let (content, changes) = Content::restored(groups.clone(), self.host.own.clone(), &held);
        if !generation.tables.have_room_for(content.counts()) {
            return self.begin_anew(groups);
        }
        self.content = content;
        // A list may have been left a moment ago, by whom is not known.
        self.left.clear();
        self.left_tables.clear();
        marks::add_frontends(&generation.tables.marked, held.frontends.keys())?;
        let of_host = self.tell(&generation)?;
        let written = self.apply(&generation.tables, &changes);
        self.expected.set(Some(&generation.name));
        if is_first {
            self.take_over(&generation.tables, true)?;
            self.is_taking_over = true;
        }
        self.generation = Some(generation);
        match written {
            Err(error) if is_full(&error) => self.begin_anew(groups),
            written => written.map(|()| changes.operations() + of_host),
        }
    }

    fn update_some(&mut self, change: &Delta<'_>) -> Result<usize> {
        let host = change.node.map(|plan| self.host_of(plan)).transpose()?;
        let is_told = host.is_some();
        self.host = host.unwrap_or_else(|| self.host.clone());
        if self.ends_connections {
            let changed = change.groups.iter();
            let changed = changed.filter_map(|(id, new)| self.gone(id, new.as_deref()?));
            let gone: Vec<SocketAddr> = changed.flatten().collect();
            self.looked.gone.extend(gone);
        }
        let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
        let changes = self.content.set_groups(groups);
        let Some(generation) = self.generation.take() else {
            return Err(failure("nothing was programmed yet"));
        };
        if self.host.own != self.content.own()
            || !generation.tables.have_room_for(self.content.counts())
        {
            self.looked.lost.extend(changes.lost());
            return self.begin_anew(self.content.groups().clone());
        }
        let of_host = if is_told { self.tell(&generation)? } else { 0 };
        let written = self.apply(&generation.tables, &changes);
        self.looked.found.extend(found(&changes));
        self.generation = Some(generation);
        match written {
            Err(error) if is_full(&error) => self.begin_anew(self.content.groups().clone()),
            written => written.map(|()| changes.operations() + of_host),
        }
    }

    /// Endpoints that a group had until now.
    fn gone(&self, id: &GroupId, new: &Group) -> Option<Vec<SocketAddr>> {
        let had = self.content.groups().get(id)?.endpoints(Protocol::Tcp);
        let has: HashSet<SocketAddr> = new.endpoints(Protocol::Tcp).collect();
        Some(had.filter(|endpoint| !has.contains(endpoint)).collect())
    }

    /// Makes and fills a first generation. What was led by others goes on as it is.
    fn begin(&mut self, groups: HashMap<GroupId, Arc<Group>>) -> Result<usize> {
        // Before programs see packets, and once more for those that came until they did.
        let (operations, mut generation) = self.filled(groups)?;
        self.take_over(&generation.tables, false)?;
        self.put_to_work(&mut generation)?;
        let count = self.take_over(&generation.tables, true)?;
        tracing::debug!(count, "tracked connections go on");
        self.is_taking_over = true;
        self.generation = Some(generation);
        Ok(operations)
    }

    /// Makes and fills another generation in the place of the one at work.
    fn begin_anew(&mut self, groups: HashMap<GroupId, Arc<Group>>) -> Result<usize> {
        let (operations, mut generation) = self.filled(groups)?;
        self.put_to_work(&mut generation)?;
        self.generation = Some(generation);
        Ok(operations)
    }

    /// A generation that is not at work yet. Answers the number of operations too.
    fn filled(&mut self, groups: HashMap<GroupId, Arc<Group>>) -> Result<(usize, Generation)> {
        let (content, changes) = Content::restored(groups, self.host.own.clone(), &Held::default());
        let generation = self.programs.make(content.counts())?;
        tracing::debug!(counts = ?content.counts(), "maps are made anew");
        let of_host = told::write(&generation.tables, &self.host)?;
        self.left.clear();
        self.left_tables.clear();
        self.content = content;
        self.apply(&generation.tables, &changes)?;
        Ok((changes.operations() + of_host, generation))
    }

    fn put_to_work(&mut self, generation: &mut Generation) -> Result<()> {
        let (programs, places) = (&self.programs, &self.host.places);
        // What others have begun, also until the moment when they are detached.
        marks::add_connections(&generation.tables)?;
        self.netns.within(|| programs.put_to_work(generation, places))??;
        marks::add_connections(&generation.tables)?;
        self.expected.set_may_redirect(self.host.may_redirect());
        self.expected.set(Some(&generation.name));
        Ok(())
    }

    /// Forgets connections that are over. Another data plane may give one of its own the same port of the node.
    fn forget_ended(&self) -> Result<usize> {
        match &self.generation {
            Some(generation) => flows::forget_ended(&generation.tables.translations),
            None => Ok(0),
        }
    }

    /// Tells programs of the node, and attaches them to its links. Answers the number of operations.
    fn tell(&self, generation: &Generation) -> Result<usize> {
        let written = told::write(&generation.tables, &self.host)?;
        let (programs, places) = (&self.programs, &self.host.places);
        let attached = self.netns.within(|| programs.attach_to(generation, places))??;
        self.expected.set_may_redirect(self.host.may_redirect());
        self.expected.set(Some(&generation.name));
        Ok(written + attached)
    }

    /// Takes over what connection tracking translates to endpoints of frontends.
    fn take_over(&self, tables: &Tables, is_final: bool) -> Result<usize> {
        if !PacketProgram::is_possible() {
            return Ok(0);
        }
        flows::take_over(&self.netns, tables, is_final, |protocol, asked| {
            let exact = FrontendKey::at(asked, protocol);
            let any = FrontendKey::at_any(asked, protocol);
            for key in [exact, any] {
                if let Some(value) = tables.frontends.get(&key.to_bytes())? {
                    return Ok(Some(Frontend::get(&value).port));
                }
            }
            Ok(None)
        })
    }

    /// Writes changes, each map in its turn.
    fn apply(&mut self, tables: &Tables, changes: &Changes) -> Result<()> {
        let (slots, endpoints) = elements(changes.endpoints.iter().copied());
        tables.endpoints.put_all(&slots, &endpoints)?;
        let (slots, blocks) = elements(changes.tables.iter().copied());
        tables.tables.put_all(&slots, &blocks)?;
        let members = keys(&changes.members);
        tables.members.put_all(&members, &vec![PRESENT; members.len()])?;
        let sources = keys(&changes.sources);
        tables.sources.put_all(&sources, &vec![PRESENT; sources.len()])?;
        let (numbers, sets) = elements(changes.sets.iter().map(|set| (set.number, *set)));
        tables.sets.put_all(&numbers, &sets)?;
        marks::add_frontends(&tables.marked, changes.frontends.iter().map(|(key, _)| key))?;
        let (of_frontends, frontends) = elements(changes.frontends.iter().copied());
        tables.frontends.put_all(&of_frontends, &frontends)?;
        tables.frontends.delete_all(&keys(&changes.gone_frontends))?;
        tables.sets.delete_all(&keys(&changes.gone_sets))?;
        tables.members.delete_all(&keys(&changes.gone_members))?;
        tables.sources.delete_all(&keys(&changes.gone_sources))?;
        self.looked.lost.extend(changes.lost());
        let now = Instant::now();
        self.left.extend(changes.left.iter().map(|list| (now, *list)));
        self.left_tables.extend(changes.left_tables.iter().map(|slot| (now, *slot)));
        Ok(())
    }

    /// Removes lists that nobody looks at any more. Answers whether none is left.
    fn let_go(&mut self) -> Result<bool> {
        let Some(generation) = &self.generation else { return Ok(true) };
        let is_over = |since: &Instant| since.elapsed() >= LIST_REST;
        let over = self.left.iter().filter(|(since, _)| is_over(since));
        let slots: Vec<Slot> = over.flat_map(|(_, list)| list.slots()).collect();
        generation.tables.endpoints.delete_all(&keys(&slots))?;
        self.left.retain(|(since, _)| !is_over(since));
        let over = self.left_tables.iter().filter(|(since, _)| is_over(since));
        let slots: Vec<Slot> = over.map(|(_, slot)| *slot).collect();
        generation.tables.tables.delete_all(&keys(&slots))?;
        self.left_tables.retain(|(since, _)| !is_over(since));
        Ok(self.left.is_empty() && self.left_tables.is_empty())
    }
}

impl Backend for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn asks_sockets(&self) -> bool {
        true
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        check(whole)?;
        let of_companion = self.companion.restore(whole)?;
        Ok(of_companion + self.restore_all(whole)?)
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        check(change)?;
        let of_companion = self.companion.update(change, self.content.groups())?;
        Ok(of_companion + self.update_some(change)?)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let Some(plan) = whole.node else { return Ok(Vec::new()) };
        let mut differences = self.companion.verify(whole)?;
        let adopted = match &self.generation {
            Some(_) => None,
            None => self.programs.adopt()?,
        };
        let host = self.host_of(plan)?;
        let Some(generation) = self.generation.as_ref().or(adopted.as_ref()) else {
            differences.push("ebpf: no programs of this version are attached".to_owned());
            return Ok(differences);
        };
        if !self.programs.works(generation)? {
            differences.push("ebpf: a program is not attached".to_owned());
        }
        let held = read(&generation.tables)?;
        let (_, changes) = Content::restored(groups_of(whole), host.own.clone(), &held);
        differences.extend(changes.describe());
        if !told::is(&generation.tables, &host)? {
            differences
                .push("ebpf: what programs are told of the node is something else".to_owned());
        }
        Ok(differences)
    }

    fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize> {
        let looked = std::mem::take(&mut self.looked);
        let led_on = match &self.generation {
            Some(generation) if !looked.is_empty() => {
                let peers = &generation.tables.peers;
                let has = self.content.who_has();
                connected::lead_on(self.programs.cgroup(), peers, &looked, has)?
            }
            _ => 0,
        };
        Ok(led_on + self.companion.forget_stale(groups)?)
    }

    fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        let companion = self.companion.watcher()?;
        let (programs, expected) = (self.programs.clone(), self.expected.clone());
        Ok(Box::new(ProgramWatcher::new(programs, expected, companion)?))
    }

    fn forget_connections(&mut self) -> Result<usize> {
        // Connections of sockets are with endpoints as such, and nobody translates them.
        let adopted = match &self.generation {
            Some(_) => None,
            None if self.is_of_other_node()? => None,
            None => self.programs.adopt()?,
        };
        let of_programs = match self.generation.as_ref().or(adopted.as_ref()) {
            Some(generation) => flows::forget_all(&generation.tables.translations)?,
            None => 0,
        };
        Ok(of_programs + self.companion.forget_connections()?)
    }

    fn cleanup(&mut self) -> Result<()> {
        self.expected.set(None);
        self.companion.cleanup()?;
        match self.is_of_other_node()? {
            true => Ok(()),
            false => self.detach(),
        }
    }

    fn settle(&mut self) -> Result<bool> {
        // What was looked up before programs saw packets is tracked by now, and who leads it may be about to go.
        if std::mem::take(&mut self.is_taking_over)
            && let Some(generation) = &self.generation
        {
            self.take_over(&generation.tables, true)?;
        }
        self.let_go()
    }

    fn retire(&mut self) -> Result<bool> {
        self.expected.set(None);
        let Some(since) = self.retiring_since else {
            self.companion.cleanup()?;
            if self.is_of_other_node()? {
                return Ok(true);
            }
            if let Some(generation) = self.at_work()? {
                let tables = &generation.tables;
                clear(&tables.frontends)?;
                clear(&tables.virtual_ranges)?;
                self.generation = Some(generation);
            }
            self.forget_ended()?;
            self.retiring_since = Some(Instant::now());
            return Ok(false);
        };
        let is_needed = self.forget_ended()? > 0;
        if since.elapsed() < RETIREMENT || is_needed {
            return Ok(false);
        }
        self.cleanup().map(|()| true)
    }
}

/// Refuses what programs would take for something else: maps take everything.
fn check(change: &Delta<'_>) -> Result<()> {
    let reason = |group: &Group| {
        group.sets.iter().find_map(|set| {
            let family = set.id.port.family;
            let is_other = |address: &SocketAddr| Family::of(address.ip()) != family;
            let other = set.backends.iter().map(|backend| backend.address).find(is_other)?;
            Some(format!("endpoint {other} is no {family} address"))
        })
    };
    let groups = change.groups.iter().filter_map(|(id, group)| Some((id, group.as_ref()?)));
    let refused: Vec<(GroupId, String)> =
        groups.filter_map(|(id, group)| Some((id.clone(), reason(group)?))).collect();
    if refused.is_empty() { Ok(()) } else { Err(Error::Refused(refused)) }
}

/// UDP's number in IP headers.
const UDP: u8 = 17;

/// Reads what maps hold.
fn read(tables: &Tables) -> Result<Held> {
    let frontends = tables.frontends.entries()?.into_iter();
    let sets = tables.sets.entries()?.into_iter();
    let members = tables.members.entries()?.into_iter();
    let sources = tables.sources.entries()?.into_iter();
    let mut held = Held {
        frontends: frontends.map(|(k, v)| (FrontendKey::get(&k), Frontend::get(&v))).collect(),
        sets: sets.map(|(k, v)| (u64::get(&k), Set::get(&v))).collect(),
        members: members.map(|(k, _)| Member::get(&k)).collect(),
        sources: sources.map(|(k, _)| SourceRange::get(&k)).collect(),
        ..Held::default()
    };
    for (key, value) in tables.endpoints.entries()? {
        let Slot { list, index } = Slot::get(&key);
        held.lists.entry(list).or_default().insert(index, Endpoint::get(&value));
    }
    for (key, value) in tables.tables.entries()? {
        let Slot { list, index } = Slot::get(&key);
        held.tables.entry(list).or_default().insert(index, Block::get(&value));
    }
    Ok(held)
}

/// Empties a table.
fn clear<const K: usize, const V: usize>(table: &Table<K, V>) -> Result<()> {
    let keys: Vec<_> = table.entries()?.into_iter().map(|(key, _)| key).collect();
    Ok(table.delete_all(&keys)?)
}

/// Frontends of UDP at an address that lead somewhere now, whatever they did before.
fn found(changes: &Changes) -> impl Iterator<Item = SocketAddr> {
    let leads = |deed: &Deed| matches!(deed, Deed::Send(_));
    changes
        .frontends
        .iter()
        .filter(move |(key, value)| {
            key.protocol == UDP && (leads(&value.pod) || leads(&value.node))
        })
        .map(|(key, _)| key.endpoint())
}

fn groups_of(whole: &Delta<'_>) -> HashMap<GroupId, Arc<Group>> {
    let groups = whole.groups.iter();
    groups.filter_map(|(id, group)| Some((id.clone(), group.clone()?))).collect()
}

/// Whether a map has no room for more.
fn is_full(error: &Error) -> bool {
    matches!(error, Error::Kernel(error) if error.is_full())
}

fn failure(detail: &str) -> Error {
    Error::Kernel(kernel::Error::Malformed {
        operation: "program eBPF".to_owned(),
        detail: detail.to_owned(),
    })
}
