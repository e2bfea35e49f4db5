//! A data plane in memory: commits elements as the kernel does and executes them for a packet.
//!
//! It is the second reading of [`nftables::layout`](crate::nftables::layout): what the kernel's rules
//! do with the elements is written here in Rust. Tests hold it to `plan::trace`, and the rules to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Family, Protocol};
use plan::{Group, LocalDetector};

use crate::backend::{Backend, Delta, Watcher, Watching};
use crate::nftables::layout::{Bytes, Dispatch, Element, Entry, Fields, SetName, flag};
use crate::nftables::table::{Changes, Content, Table};
use crate::sync::Updates;
use crate::{Error, Result};

/// The in-memory data plane.
#[derive(Debug, Default)]
pub struct Fake {
    detector: Option<LocalDetector>,
    families: BTreeMap<Family, (Option<Table>, Kernel)>,
}

/// The first packet of a connection.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol and destination port, `None` for what has no ports.
    pub port: Option<(Protocol, NonZeroU16)>,
    /// The source is an address of this node.
    pub source_is_local: bool,
    /// The destination is an address of this node.
    pub destination_is_local: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Sent to one of these; those in the second set see the node's address as source.
    Forwarded {
        /// Everything that may be chosen.
        backends: BTreeSet<SocketAddr>,
        /// Those that the source is rewritten for.
        masqueraded: BTreeSet<SocketAddr>,
    },
    /// Refused.
    Rejected,
    /// Vanished.
    Dropped,
    /// Not touched.
    Untouched,
}

impl Fake {
    /// Nothing programmed.
    pub fn new() -> Self {
        Self::default()
    }

    /// What stands in the table of a family.
    pub fn content(&self, family: Family) -> Content {
        let Some((_, kernel)) = self.families.get(&family) else { return Content::default() };
        let element = |(key, data): (&Key, &Bytes)| Element {
            set: key.0,
            key: key.1.clone(),
            key_end: key.2.clone(),
            data: data.clone(),
        };
        Content {
            elements: kernel.elements.iter().map(element).collect(),
            chains: kernel.chains.clone(),
        }
    }

    /// Executes the table for a packet.
    pub fn decide(&self, packet: &Packet) -> Outcome {
        let from_pod = match &self.detector {
            Some(LocalDetector::Sources(ranges)) => {
                ranges.iter().any(|range| range.contains(&packet.source))
            }
            // Packets here arrive on no interface.
            _ => false,
        };
        match self.families.get(&Family::of(packet.destination)) {
            Some((_, kernel)) => kernel.decide(packet, from_pod),
            None => Outcome::Untouched,
        }
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let mut operations = 0;
        self.detector = whole.node.map(|plan| plan.node.settings.local_detector.clone());
        for family in Family::ALL {
            let held = self.content(family);
            let mut table = Table::new(family);
            if let Some(plan) = whole.node {
                table.set_node(plan);
            }
            table.set_groups(whole.groups.iter().map(|(id, group)| (id, group.as_ref())));
            let (slot, kernel) = self.families.entry(family).or_default();
            operations += kernel.commit(&held.changes_to(&table.content()))?;
            *slot = Some(table);
        }
        Ok(operations)
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        let mut operations = 0;
        if let Some(plan) = change.node {
            self.detector = Some(plan.node.settings.local_detector.clone());
        }
        for (slot, kernel) in self.families.values_mut() {
            let table = slot.as_mut().expect("restore comes before update");
            let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
            let mut changes = table.set_groups(groups);
            if let Some(plan) = change.node {
                changes.merge(table.set_node(plan));
            }
            operations += kernel.commit(&changes)?;
        }
        Ok(operations)
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let plan = whole.node.expect("a whole has its node");
        let mut differences = Vec::new();
        for family in Family::ALL {
            let mut table = Table::new(family);
            table.set_node(plan);
            table.set_groups(whole.groups.iter().map(|(id, group)| (id, group.as_ref())));
            let changes = self.content(family).changes_to(&table.content());
            if !changes.is_empty() {
                differences.push(format!("{family}: {changes:?}"));
            }
        }
        Ok(differences)
    }

    fn forget_stale(&mut self, _: &[Arc<Group>]) -> Result<usize> {
        // It remembers no connections.
        Ok(0)
    }

    fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        // Nobody else has it.
        Ok(Box::new(Nobody))
    }

    fn forget_connections(&mut self) -> Result<usize> {
        Ok(0)
    }

    fn cleanup(&mut self) -> Result<()> {
        self.families.clear();
        Ok(())
    }
}

/// Notices nothing, because there is nothing to notice.
struct Nobody;

impl Watcher for Nobody {
    fn run(self: Box<Self>, _: Updates) -> Watching {
        Box::pin(std::future::pending())
    }
}

type Key = (SetName, Bytes, Option<Bytes>);

/// Elements and chains with the kernel's strictness about what is there and what is not.
#[derive(Debug, Default, Clone)]
struct Kernel {
    elements: BTreeMap<Key, Bytes>,
    chains: BTreeSet<(SetName, Dispatch)>,
}

impl Kernel {
    /// Commits all changes or none.
    fn commit(&mut self, changes: &Changes) -> Result<usize> {
        let mut next = self.clone();
        let key = |e: &Element| (e.set, e.key.clone(), e.key_end.clone());
        let refused = |what: &str, item: &dyn std::fmt::Debug, errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            Err(Error::Kernel(kernel::Error::os(format!("{what} {item:?}"), source)))
        };
        const ENOENT: i32 = 2;
        const EEXIST: i32 = 17;
        for chain in &changes.new_chains {
            if !next.chains.insert(*chain) {
                return refused("add chain", chain, EEXIST);
            }
        }
        for element in &changes.removed {
            if next.elements.remove(&key(element)).is_none() {
                return refused("delete element", element, ENOENT);
            }
        }
        for element in &changes.added {
            if next.elements.insert(key(element), element.data.clone()).is_some() {
                return refused("add element", element, EEXIST);
            }
        }
        for chain in &changes.old_chains {
            if !next.chains.remove(chain) {
                return refused("delete chain", chain, ENOENT);
            }
        }
        *self = next;
        Ok(changes.new_chains.len()
            + changes.removed.len()
            + changes.added.len()
            + changes.old_chains.len())
    }

    fn decide(&self, packet: &Packet, from_pod: bool) -> Outcome {
        let address = || Fields::new().ip(packet.destination);
        let from_outside = !from_pod && !packet.source_is_local;
        if let Some((protocol, port)) = packet.port {
            let tail =
                |fields: Fields| fields.bytes(&[protocol.number()]).port(port.get()).finish();
            let exact = tail(address());
            if self.has(SetName::Guarded, &exact) && !self.is_allowed(&exact, packet.source) {
                return Outcome::Dropped;
            }
            let any = tail(Fields::new());
            let accepts_node_ports = packet.destination_is_local
                && !packet.destination.is_loopback()
                && self.is_in_range(SetName::NodeAddresses, packet.destination);
            let maps = [
                (from_outside, SetName::OutsideFrontends, &exact),
                (true, SetName::Frontends, &exact),
                (from_outside && accepts_node_ports, SetName::OutsideNodePorts, &any),
                (accepts_node_ports, SetName::NodePorts, &any),
            ];
            for (_, set, key) in maps.into_iter().filter(|(consulted, ..)| *consulted) {
                if let Some(entry) = self.entry(set, key) {
                    let masquerade = match (from_pod, from_outside) {
                        (true, _) => flag::MASQUERADE_POD,
                        (false, true) => flag::MASQUERADE_OUTSIDE,
                        (false, false) => flag::MASQUERADE_NODE,
                    };
                    return self.outcome(set, entry, packet.source, entry.flags & masquerade != 0);
                }
            }
        }
        if packet.destination_is_local {
            Outcome::Untouched
        } else if self.has(SetName::ClusterIps, &address().finish()) {
            Outcome::Rejected
        } else if self.is_in_range(SetName::ServiceRanges, packet.destination) {
            Outcome::Dropped
        } else {
            Outcome::Untouched
        }
    }

    fn outcome(&self, set: SetName, entry: Entry, source: IpAddr, masquerade: bool) -> Outcome {
        if entry.flags & flag::REJECT != 0 {
            return Outcome::Rejected;
        }
        if entry.flags & flag::DROP != 0 {
            return Outcome::Dropped;
        }
        assert!(
            self.chains.contains(&(set, entry.dispatch)),
            "an entry leads to a chain that is there"
        );
        let backend = |index: u32| {
            let key = Fields::new().bytes(&entry.set.to_ne_bytes()).bytes(&index.to_ne_bytes());
            let data = self.elements.get(&(SetName::Endpoints, key.finish(), None));
            socket(data.expect("a set has as many members as its entries say"))
        };
        let backends: BTreeSet<SocketAddr> = (0..entry.dispatch.backends).map(backend).collect();
        let is_masqueraded = |backend: &&SocketAddr| {
            let hairpin = Fields::new().ip(source).ip(backend.ip()).finish();
            masquerade || self.has(SetName::Hairpins, &hairpin)
        };
        let masqueraded = backends.iter().filter(is_masqueraded).copied().collect();
        Outcome::Forwarded { backends, masqueraded }
    }

    fn entry(&self, set: SetName, key: &Bytes) -> Option<Entry> {
        Entry::from_bytes(self.elements.get(&(set, key.clone(), None))?)
    }

    fn has(&self, set: SetName, key: &Bytes) -> bool {
        self.elements.contains_key(&(set, key.clone(), None))
    }

    fn is_in_range(&self, set: SetName, ip: IpAddr) -> bool {
        let ip = Fields::new().ip(ip).bytes(&[6]).finish();
        self.ranges(set).any(|(first, last)| *first <= *ip && *ip <= *last)
    }

    fn is_allowed(&self, frontend: &[u8], source: IpAddr) -> bool {
        let source = Fields::new().ip(source).finish();
        self.ranges(SetName::AllowedSources).any(|(first, last)| {
            let (Some(first), Some(last)) =
                (first.strip_prefix(frontend), last.strip_prefix(frontend))
            else {
                return false;
            };
            *first <= *source && *source <= *last
        })
    }

    fn ranges(&self, set: SetName) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.elements
            .keys()
            .filter(move |key| key.0 == set)
            .filter_map(|key| Some((&*key.1, key.2.as_deref()?)))
    }
}

/// Address and port of an element's data.
fn socket(data: &[u8]) -> SocketAddr {
    let (address, port) = data.split_at(data.len() - 4);
    let port = u16::from_be_bytes([port[0], port[1]]);
    match <[u8; 4]>::try_from(address) {
        Ok(v4) => SocketAddr::new(Ipv4Addr::from(v4).into(), port),
        Err(_) => {
            let v6 = <[u8; 16]>::try_from(address).expect("an address has 4 or 16 bytes");
            SocketAddr::new(Ipv6Addr::from(v6).into(), port)
        }
    }
}
