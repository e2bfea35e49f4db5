//! What is programmed into IPVS, and the operations that lead from one content to the next.
//!
//! Pure. What the kernel holds of ours is mirrored here, with what goes and is not gone yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kernel::ipvs::{Destination, Operation, Transport, VirtualServer, VirtualServerKey};
use model::Protocol;
use plan::{Group, GroupId};

use super::servers::{Rendered, Server, Surroundings, render_group};

/// Weight of a destination that takes connections. They are all alike.
pub const TAKES: u32 = 1;
/// Weight of one that takes no new ones.
pub const DRAINS: u32 = 0;

/// A virtual server as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// It; `None` if others have made it in a way that is none of ours.
    pub server: Option<VirtualServer>,
    /// Its destinations with their weights.
    pub destinations: BTreeMap<SocketAddr, u32>,
    /// It is UDP's.
    pub is_udp: bool,
    /// Some group asks for it.
    pub is_wanted: bool,
}

impl Held {
    /// Whether it goes, or some of its destinations.
    fn goes(&self) -> bool {
        !self.is_wanted || self.destinations.values().any(|weight| *weight == DRAINS)
    }
}

/// What is programmed.
#[derive(Debug, Clone)]
pub struct Content {
    around: Surroundings,
    groups: HashMap<GroupId, Arc<Group>>,
    /// How many groups have a virtual address.
    addresses: BTreeMap<IpAddr, usize>,
    /// What the kernel holds of ours.
    held: BTreeMap<VirtualServerKey, Held>,
    /// Those of them that go, or that have destinations that do: a change looks at these alone, not at all
    /// that is held.
    going: BTreeSet<VirtualServerKey>,
    /// Another data plane leads to the same endpoints.
    retires: bool,
}

/// Operations in the order in which they are to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transition {
    /// What is added or changed: before packets are led there.
    pub gains: Vec<Operation>,
    /// What goes: after packets are not led there any more.
    pub losses: Vec<Operation>,
    /// Virtual addresses that begin.
    pub came: BTreeSet<IpAddr>,
    /// Virtual addresses that nobody has any more, though connections may.
    pub left: BTreeSet<IpAddr>,
    /// Who asks for a virtual server.
    pub owners: BTreeMap<VirtualServerKey, GroupId>,
    /// Who asks for a virtual address; one of those that do.
    pub address_owners: BTreeMap<IpAddr, GroupId>,
}

impl Content {
    /// Nothing, on a host of which the kernel holds this.
    pub fn new(around: Surroundings, held: BTreeMap<VirtualServerKey, Held>) -> Self {
        let going = held.iter().filter(|(_, held)| held.goes()).map(|(key, _)| *key).collect();
        Self {
            around,
            groups: HashMap::new(),
            addresses: BTreeMap::new(),
            held,
            going,
            retires: false,
        }
    }

    /// What virtual servers depend on besides groups.
    pub fn surroundings(&self) -> &Surroundings {
        &self.around
    }

    /// The groups that ask for something.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Arc<Group>)> {
        self.groups.iter()
    }

    /// Virtual addresses that some group has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    /// Replaces some groups; `None` removes one.
    pub fn set_groups<'g>(
        &mut self,
        groups: impl IntoIterator<Item = (&'g GroupId, Option<&'g Arc<Group>>)>,
    ) -> Transition {
        let mut transition = Transition::default();
        let mut touched: BTreeMap<VirtualServerKey, Option<Server>> = BTreeMap::new();
        let mut serving: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut counts: BTreeMap<IpAddr, isize> = BTreeMap::new();
        for (id, group) in groups {
            let new = group.map(|group| render_group(group, &self.around)).unwrap_or_default();
            let is_empty = new == Rendered::default();
            let old = match group.filter(|_| !is_empty) {
                Some(group) => self.groups.insert(id.clone(), group.clone()),
                None => self.groups.remove(id),
            };
            let old = old.map(|old| render_group(&old, &self.around)).unwrap_or_default();
            for key in old.servers.into_keys() {
                // Another group may have said already that it has it now.
                touched.entry(key).or_insert(None);
            }
            for (key, server) in new.servers {
                transition.owners.insert(key, id.clone());
                touched.insert(key, Some(server));
            }
            for address in old.addresses {
                *counts.entry(address).or_default() -= 1;
            }
            for address in new.addresses {
                transition.address_owners.insert(address, id.clone());
                *counts.entry(address).or_default() += 1;
            }
            let udp = group.iter().flat_map(|group| &group.udp_ports);
            serving.extend(udp.flat_map(|port| &port.serving));
        }
        for (key, wanted) in touched {
            self.change(key, wanted.as_ref(), &serving, &mut transition);
        }
        self.count(counts, &mut transition);
        transition
    }

    /// Lets go what the kernel holds of ours and nobody asks for.
    pub fn drain_rest(&mut self, transition: &mut Transition) {
        for key in self.unwanted() {
            self.change(key, None, &BTreeSet::new(), transition);
        }
    }

    /// Lets everything go because another data plane leads to the same endpoints now: clients of UDP stay
    /// where they are as well, until they are silent.
    pub fn retire(&mut self) -> Transition {
        let mut transition = Transition::default();
        self.retires = true;
        self.groups.clear();
        self.addresses.clear();
        let keys: Vec<VirtualServerKey> = self.held.keys().copied().collect();
        for key in keys {
            let serving = self.held[&key].destinations.keys().copied().collect();
            self.change(key, None, &serving, &mut transition);
        }
        transition
    }

    /// Whether all connections of a virtual server count that IPVS remembers, and not only established ones.
    /// So it is if it takes new ones, and for UDP, of which none counts as established, while this retires.
    pub fn keeps_all(&self, key: &VirtualServerKey) -> bool {
        self.held.get(key).is_some_and(|held| held.is_wanted || self.retires && held.is_udp)
    }

    /// Virtual servers that nobody asks for any more.
    pub fn unwanted(&self) -> Vec<VirtualServerKey> {
        let is_unwanted =
            |key: &&VirtualServerKey| self.held.get(key).is_some_and(|h| !h.is_wanted);
        self.going.iter().filter(is_unwanted).copied().collect()
    }

    /// Virtual servers that have destinations on their way out, or that are so themselves.
    pub fn draining(&self) -> Vec<VirtualServerKey> {
        self.going.iter().copied().collect()
    }

    /// Takes away those destinations of a virtual server that go and that have no connection any more,
    /// and the server after its last.
    pub fn finish(
        &mut self,
        key: VirtualServerKey,
        is_used: impl Fn(SocketAddr) -> bool,
        losses: &mut Vec<Operation>,
    ) {
        let Some(held) = self.held.get_mut(&key) else { return };
        held.destinations.retain(|address, weight| {
            let stays = *weight != DRAINS || is_used(*address);
            if !stays {
                losses.push(Operation::DeleteDestination(key, *address));
            }
            stays
        });
        if held.destinations.is_empty() && !held.is_wanted {
            losses.push(Operation::DeleteServer(key));
            self.held.remove(&key);
        }
        self.note_going(key);
    }

    /// Whether some group has a virtual address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Whether a virtual address can go: no virtual server stands at it.
    pub fn is_free(&self, address: IpAddr) -> bool {
        let at = |transport, port| VirtualServerKey::Address {
            transport,
            address: SocketAddr::new(address, port),
        };
        let is_held = |transport| {
            let ports = at(transport, u16::MIN)..=at(transport, u16::MAX);
            self.held.range(ports).next().is_some()
        };
        !self.has_address(address)
            && ![Transport::Tcp, Transport::Udp, Transport::Sctp].into_iter().any(is_held)
    }

    /// Keeps in mind whether a virtual server goes, or some of its destinations.
    fn note_going(&mut self, key: VirtualServerKey) {
        match self.held.get(&key).is_some_and(Held::goes) {
            true => self.going.insert(key),
            false => self.going.remove(&key),
        };
    }

    /// Makes a virtual server what is wanted.
    fn change(
        &mut self,
        key: VirtualServerKey,
        wanted: Option<&Server>,
        serving: &BTreeSet<SocketAddr>,
        transition: &mut Transition,
    ) {
        let held = match (self.held.get_mut(&key), wanted) {
            (Some(held), _) => held,
            (None, None) => return,
            (None, Some(server)) => {
                transition.gains.push(Operation::AddServer(server.server));
                self.held.entry(key).or_insert(Held {
                    server: Some(server.server),
                    destinations: BTreeMap::new(),
                    is_udp: false,
                    is_wanted: true,
                })
            }
        };
        held.is_wanted = wanted.is_some();
        let none = BTreeSet::new();
        if let Some(server) = wanted {
            held.is_udp = server.protocol == Protocol::Udp;
            if held.server != Some(server.server) {
                transition.gains.push(Operation::ChangeServer(server.server));
                held.server = Some(server.server);
            }
        }
        let destinations = wanted.map_or(&none, |server| &server.destinations);
        for address in destinations {
            let destination = Destination { address: *address, weight: TAKES };
            match held.destinations.insert(*address, TAKES) {
                Some(TAKES) => {}
                Some(_) => {
                    transition.gains.push(Operation::ChangeDestination(key, destination));
                }
                None => transition.gains.push(Operation::AddDestination(key, destination)),
            }
        }
        let is_udp = held.is_udp;
        held.destinations.retain(|address, weight| {
            if destinations.contains(address) {
                return true;
            }
            // A UDP client has no connection to lose, and as long as it sends it would stay.
            if is_udp && !serving.contains(address) {
                transition.losses.push(Operation::DeleteDestination(key, *address));
                return false;
            }
            if *weight != DRAINS {
                *weight = DRAINS;
                let destination = Destination { address: *address, weight: DRAINS };
                transition.losses.push(Operation::ChangeDestination(key, destination));
            }
            true
        });
        if held.destinations.is_empty() && !held.is_wanted {
            transition.losses.push(Operation::DeleteServer(key));
            self.held.remove(&key);
        }
        self.note_going(key);
    }

    fn count(&mut self, counts: BTreeMap<IpAddr, isize>, transition: &mut Transition) {
        for (address, by) in counts {
            let before = self.addresses.get(&address).copied().unwrap_or(0);
            match before.saturating_add_signed(by) {
                0 => {
                    if self.addresses.remove(&address).is_some() {
                        transition.left.insert(address);
                    }
                }
                now => {
                    if self.addresses.insert(address, now).is_none() {
                        transition.came.insert(address);
                    }
                }
            }
        }
    }
}

impl Transition {
    /// The number of operations.
    pub fn operations(&self) -> usize {
        self.gains.len() + self.losses.len() + self.came.len()
    }
}

#[cfg(test)]
mod tests {
    use kernel::ipvs::Scheduler;

    use super::*;

    fn key(address: &str) -> VirtualServerKey {
        VirtualServerKey::Address { transport: Transport::Tcp, address: address.parse().unwrap() }
    }

    fn held(is_wanted: bool, weights: &[u32]) -> Held {
        let address = |place| SocketAddr::from(([10, 244, 0, place as u8], 8080));
        let destinations = weights.iter().enumerate();
        Held {
            server: None,
            destinations: destinations.map(|(place, weight)| (address(place), *weight)).collect(),
            is_udp: false,
            is_wanted,
        }
    }

    fn content(servers: &[(&str, Held)]) -> Content {
        let around = Surroundings {
            scheduler: Scheduler::RoundRobin,
            host: Arc::default(),
            node_addresses: BTreeSet::new(),
            sources: Vec::new(),
        };
        Content::new(around, servers.iter().map(|(at, held)| (key(at), held.clone())).collect())
    }

    #[test]
    fn only_what_goes_is_looked_at() {
        let mut content = content(&[
            ("10.96.0.1:80", held(true, &[TAKES, TAKES])),
            ("10.96.0.2:80", held(true, &[TAKES, DRAINS])),
            ("10.96.0.3:80", held(false, &[DRAINS])),
        ]);
        let (draining, unwanted) = (key("10.96.0.2:80"), key("10.96.0.3:80"));
        assert_eq!(content.draining(), [draining, unwanted]);
        assert_eq!(content.unwanted(), [unwanted]);
        let mut losses = Vec::new();
        content.finish(unwanted, |_| true, &mut losses);
        assert_eq!((content.unwanted(), losses.len()), (vec![unwanted], 0));
        content.finish(unwanted, |_| false, &mut losses);
        assert_eq!(losses.last(), Some(&Operation::DeleteServer(unwanted)));
        assert_eq!(content.draining(), [draining]);
        content.finish(draining, |_| false, &mut losses);
        assert!(content.draining().is_empty() && content.held.contains_key(&draining));
    }

    #[test]
    fn an_address_is_free_when_no_port_of_it_has_a_server() {
        let content = content(&[
            ("10.96.0.1:65535", held(true, &[TAKES])),
            ("[fd00::1]:80", held(false, &[DRAINS])),
        ]);
        let is_free = |address: &str| content.is_free(address.parse().unwrap());
        assert!(!is_free("10.96.0.1") && !is_free("fd00::1"));
        assert!(is_free("10.96.0.0") && is_free("10.96.0.2") && is_free("fd00::"));
    }
}
