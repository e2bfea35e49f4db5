//! The backend: what is done in which order, in the maps, with the programs and in the companion's table.
//!
//! A frontend leads to a set, a set to a list, a list to endpoints. What is led to is written first, and
//! removed last: a list only some time after the last program may have begun to look at it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernel::cgroup::Cgroup;
use kernel::netns::{self, Netns};
use kernel::route::Rtnetlink;
use model::Family;
use plan::{Group, GroupId, NodePlan};

use super::connected;
use super::content::{Changes, Content, Held};
use super::layout::{
    Accepts, Address, Endpoint, Families, Frontend, FrontendKey, List, Member, Node, Set, Slot,
    Wire,
};
use super::programs::{Generation, PRESENT, Programs, Tables};
use super::watch::ProgramWatcher;
use crate::backend::{Backend, Delta, Watcher};
use crate::nftables::{Nftables, Role};
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
    programs: Arc<Programs>,
    /// Whether programs ought to be attached.
    is_expected: Arc<AtomicBool>,
    companion: Nftables,
    /// `None` until something was programmed.
    generation: Option<Generation>,
    content: Content,
    host: Host,
    /// Lists that no set has any more, and since when.
    left: Vec<(Instant, List)>,
    /// Endpoints that do not serve any more and whose sockets were not looked for yet.
    lost: HashSet<SocketAddr>,
    retiring_since: Option<Instant>,
}

/// What is told of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Host {
    node: Node,
    /// Its addresses that accept node ports.
    addresses: HashMap<Address, Accepts>,
}

impl Ebpf {
    /// Opens it for the calling thread's network namespace, and for the sockets of all processes in a
    /// cgroup, which are taken to be those of this node. Changes nothing.
    pub fn open(cgroup: Cgroup) -> Result<Self> {
        Ok(Self {
            netns: Netns::current()?,
            rtnetlink: Rtnetlink::open()?,
            programs: Arc::new(Programs::of(cgroup)?),
            is_expected: Arc::default(),
            companion: Nftables::for_role(Role::Complete)?,
            generation: None,
            content: Content::default(),
            host: Host::default(),
            left: Vec::new(),
            lost: HashSet::new(),
            retiring_since: None,
        })
    }

    /// Detaches and forgets the programs, and leaves the companion's table. That there are none is no error.
    pub fn detach(&mut self) -> Result<()> {
        self.is_expected.store(false, Ordering::Release);
        self.generation = None;
        self.content = Content::default();
        self.left.clear();
        self.programs.remove()
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

    /// What a plan and this host tell of the node.
    fn host_of(&mut self, plan: &NodePlan) -> Result<Host> {
        let netns = self.netns.within(netns::cookie)??;
        let addresses = self.rtnetlink.addresses()?.into_iter().map(|address| address.net.addr());
        let accepts = |ip: IpAddr| {
            // Sockets of the node reach a node port by loopback where it is not said which addresses have it.
            let on_all = || plan.node.node_port_ranges(Family::of(ip)).is_none();
            match ip.is_loopback() {
                true => on_all().then_some(Accepts::Node),
                false => plan.node.accepts_node_ports(ip).then_some(Accepts::All),
            }
        };
        let pods = Families::of(|family| plan.node.detects_pods(family));
        Ok(Host {
            node: Node { netns, pods, zero: 0 },
            addresses: addresses.filter_map(|ip| Some((ip.into(), accepts(ip)?))).collect(),
        })
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
        let groups = groups_of(whole);
        if let Some(generation) = self.at_work()? {
            let held = read(&generation.tables)?;
            let (content, changes) = Content::restored(groups.clone(), &held);
            if generation.tables.have_room_for(content.counts()) {
                self.content = content;
                // A list may have been left a moment ago, by whom is not known.
                self.left.clear();
                let of_host = write_host(&generation.tables, &self.host)?;
                let written = self.apply(&generation.tables, &changes);
                self.generation = Some(generation);
                match written {
                    Err(error) if is_full(&error) => {}
                    written => {
                        self.is_expected.store(true, Ordering::Release);
                        return written.map(|()| changes.operations() + of_host);
                    }
                }
            }
        }
        self.begin_anew(groups)
    }

    fn update_some(&mut self, change: &Delta<'_>) -> Result<usize> {
        let host = change.node.map(|plan| self.host_of(plan)).transpose()?;
        let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
        let changes = self.content.set_groups(groups);
        let Some(generation) = self.generation.take() else {
            return Err(failure("nothing was programmed yet"));
        };
        if !generation.tables.have_room_for(self.content.counts()) {
            self.host = host.unwrap_or_else(|| self.host.clone());
            self.lost.extend(changes.lost());
            return self.begin_anew(self.content.groups().clone());
        }
        let mut operations = changes.operations();
        if let Some(host) = host.filter(|host| *host != self.host) {
            operations += write_host(&generation.tables, &host)?;
            self.host = host;
        }
        let written = self.apply(&generation.tables, &changes);
        self.generation = Some(generation);
        match written {
            Err(error) if is_full(&error) => self.begin_anew(self.content.groups().clone()),
            written => written.map(|()| operations),
        }
    }

    /// Makes and fills another generation, and puts it to work.
    fn begin_anew(&mut self, groups: HashMap<GroupId, Arc<Group>>) -> Result<usize> {
        let (content, changes) = Content::restored(groups, &Held::default());
        let mut generation = self.programs.make(content.counts())?;
        tracing::debug!(counts = ?content.counts(), "maps are made anew");
        let of_host = write_host(&generation.tables, &self.host)?;
        self.left.clear();
        self.content = content;
        self.apply(&generation.tables, &changes)?;
        self.programs.put_to_work(&mut generation)?;
        self.is_expected.store(true, Ordering::Release);
        self.generation = Some(generation);
        Ok(changes.operations() + of_host)
    }

    /// Writes changes, each map in its turn.
    fn apply(&mut self, tables: &Tables, changes: &Changes) -> Result<()> {
        let (slots, endpoints) = elements(changes.endpoints.iter().copied());
        tables.endpoints.put_all(&slots, &endpoints)?;
        let members = keys(&changes.members);
        tables.members.put_all(&members, &vec![PRESENT; members.len()])?;
        let (numbers, sets) = elements(changes.sets.iter().map(|set| (set.number, *set)));
        tables.sets.put_all(&numbers, &sets)?;
        let (of_frontends, frontends) = elements(changes.frontends.iter().copied());
        tables.frontends.put_all(&of_frontends, &frontends)?;
        tables.frontends.delete_all(&keys(&changes.gone_frontends))?;
        tables.sets.delete_all(&keys(&changes.gone_sets))?;
        tables.members.delete_all(&keys(&changes.gone_members))?;
        self.lost.extend(changes.lost());
        let now = Instant::now();
        self.left.extend(changes.left.iter().map(|list| (now, *list)));
        Ok(())
    }

    /// Removes lists that nobody looks at any more. Answers whether none is left.
    fn let_go(&mut self) -> Result<bool> {
        let Some(generation) = &self.generation else { return Ok(true) };
        let is_over = |(since, _): &(Instant, List)| since.elapsed() >= LIST_REST;
        let over = self.left.iter().filter(|left| is_over(left));
        let slots: Vec<Slot> = over.flat_map(|(_, list)| list.slots()).collect();
        generation.tables.endpoints.delete_all(&keys(&slots))?;
        self.left.retain(|left| !is_over(left));
        Ok(self.left.is_empty())
    }
}

impl Backend for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let of_companion = self.companion.restore(whole)?;
        Ok(of_companion + self.restore_all(whole)?)
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        let of_companion = self.companion.update(change)?;
        Ok(of_companion + self.update_some(change)?)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let Some(plan) = whole.node else { return Ok(Vec::new()) };
        let mut differences = self.companion.verify(whole)?;
        let adopted = match &self.generation {
            Some(_) => None,
            None => self.programs.adopt()?,
        };
        let Some(generation) = self.generation.as_ref().or(adopted.as_ref()) else {
            differences.push("ebpf: no programs of this version are attached".to_owned());
            return Ok(differences);
        };
        if !self.programs.works(generation)? {
            differences.push("ebpf: a program is not attached".to_owned());
        }
        let held = read(&generation.tables)?;
        let (_, changes) = Content::restored(groups_of(whole), &held);
        differences.extend(changes.describe());
        let node = generation.tables.node.get(&FIRST)?.map(|value| Node::get(&value));
        let there = (node, node_addresses(&generation.tables)?);
        let host = self.host_of(plan)?;
        let is_same = there == (Some(host.node), host.addresses);
        if !is_same {
            differences.push("ebpf: the node's namespace or addresses are others".to_owned());
        }
        Ok(differences)
    }

    fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize> {
        let lost = std::mem::take(&mut self.lost);
        let led_on = match &self.generation {
            Some(generation) if !lost.is_empty() => {
                connected::lead_on(self.programs.cgroup(), &generation.tables.peers, &lost)?
            }
            _ => 0,
        };
        Ok(led_on + self.companion.forget_stale(groups)?)
    }

    fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        let companion = self.companion.watcher()?;
        let (programs, is_expected) = (self.programs.clone(), self.is_expected.clone());
        Ok(Box::new(ProgramWatcher::new(programs, is_expected, companion)))
    }

    fn forget_connections(&mut self) -> Result<usize> {
        // Connections of sockets are with endpoints as such, and nobody translates them.
        self.companion.forget_connections()
    }

    fn cleanup(&mut self) -> Result<()> {
        self.is_expected.store(false, Ordering::Release);
        self.companion.cleanup()?;
        match self.is_of_other_node()? {
            true => Ok(()),
            false => self.detach(),
        }
    }

    fn settle(&mut self) -> Result<bool> {
        self.let_go()
    }

    fn retire(&mut self) -> Result<bool> {
        self.is_expected.store(false, Ordering::Release);
        let Some(since) = self.retiring_since else {
            self.companion.cleanup()?;
            if self.is_of_other_node()? {
                return Ok(true);
            }
            if let Some(generation) = self.at_work()? {
                let frontends = generation.tables.frontends.entries()?;
                let keys: Vec<_> = frontends.into_iter().map(|(key, _)| key).collect();
                generation.tables.frontends.delete_all(&keys)?;
                self.generation = Some(generation);
            }
            self.retiring_since = Some(Instant::now());
            return Ok(false);
        };
        if since.elapsed() < RETIREMENT {
            return Ok(false);
        }
        self.cleanup().map(|()| true)
    }
}

/// The only key of `node`.
const FIRST: [u8; 4] = [0; 4];

/// Reads what maps hold.
fn read(tables: &Tables) -> Result<Held> {
    let frontends = tables.frontends.entries()?.into_iter();
    let sets = tables.sets.entries()?.into_iter();
    let members = tables.members.entries()?.into_iter();
    let mut held = Held {
        frontends: frontends.map(|(k, v)| (FrontendKey::get(&k), Frontend::get(&v))).collect(),
        sets: sets.map(|(k, v)| (u64::get(&k), Set::get(&v))).collect(),
        members: members.map(|(k, _)| Member::get(&k)).collect(),
        ..Held::default()
    };
    for (key, value) in tables.endpoints.entries()? {
        let Slot { list, index } = Slot::get(&key);
        held.lists.entry(list).or_default().insert(index, Endpoint::get(&value));
    }
    Ok(held)
}

fn node_addresses(tables: &Tables) -> Result<HashMap<Address, Accepts>> {
    let entries = tables.node_addresses.entries()?.into_iter();
    Ok(entries.map(|(key, value)| (Address::get(&key), Accepts::get(&value))).collect())
}

/// Writes what is told of the node, as far as it is not there. Answers the number of operations.
fn write_host(tables: &Tables, host: &Host) -> Result<usize> {
    let held = node_addresses(tables)?;
    let is_missing = |(ip, accepts): &(&Address, &Accepts)| held.get(*ip) != Some(accepts);
    let missing = host.addresses.iter().filter(is_missing).map(|(ip, accepts)| (*ip, *accepts));
    let surplus: Vec<Address> =
        held.keys().filter(|ip| !host.addresses.contains_key(*ip)).copied().collect();
    let (missing, accepts) = elements(missing);
    tables.node_addresses.put_all(&missing, &accepts)?;
    tables.node_addresses.delete_all(&keys(&surplus))?;
    let value = host.node.to_bytes();
    let is_same = tables.node.get(&FIRST)? == Some(value);
    if !is_same {
        tables.node.put(&FIRST, &value)?;
    }
    Ok(missing.len() + surplus.len() + usize::from(!is_same))
}

/// Keys as maps have them.
fn keys<const K: usize>(keys: &[impl Wire]) -> Vec<[u8; K]> {
    keys.iter().map(Wire::to_bytes).collect()
}

/// Keys and values as maps have them.
fn elements<const K: usize, const V: usize>(
    elements: impl Iterator<Item = (impl Wire, impl Wire)>,
) -> (Vec<[u8; K]>, Vec<[u8; V]>) {
    elements.map(|(key, value)| (key.to_bytes(), value.to_bytes())).unzip()
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
