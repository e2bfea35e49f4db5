//! From plan to virtual servers.
//!
//! Pure. An address and port is one virtual server, a node port one for each address of the node that
//! accepts it. Connections from outside that a frontend treats by themselves get a mark from the
//! companion, and the mark is a virtual server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kernel::ipvs::{Hashing, Scheduler, Transport, VirtualServer, VirtualServerKey};
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey, Group, NodePlan};

use crate::nftables::layout::{Dispatch, Entry, SetName, frontend_key};
use crate::nftables::netfilter_family;
use crate::nftables::render;
use crate::nftables::role::{Host, mark, virtual_addresses};
use crate::number::set_number;

/// What virtual servers depend on besides groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// How destinations are chosen.
    pub scheduler: Scheduler,
    /// The host.
    pub host: Arc<Host>,
    /// Its addresses that accept node ports.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The source of what the host itself sends to a virtual address, one a family at most.
    pub sources: Vec<IpAddr>,
}

impl Surroundings {
    /// Those of a plan on a host with these addresses.
    pub fn of(plan: &NodePlan, scheduler: Scheduler, own: BTreeSet<IpAddr>) -> Self {
        let accepts = |ip: &&IpAddr| plan.node.accepts_node_ports(**ip);
        let node_addresses = own.iter().filter(accepts).copied().collect();
        let sources = plan.node.addresses.iter().filter(|ip| own.contains(*ip)).copied().collect();
        Self { scheduler, host: Arc::new(Host::of(plan, own)), node_addresses, sources }
    }
}

/// A virtual server with its destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// It.
    pub server: VirtualServer,
    /// Its protocol, which a server by mark does not tell.
    pub protocol: Protocol,
    /// Where it sends connections.
    pub destinations: BTreeSet<SocketAddr>,
}

/// What a group asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Virtual servers.
    pub servers: BTreeMap<VirtualServerKey, Server>,
    /// Virtual addresses, which other groups may have as well.
    pub addresses: BTreeSet<IpAddr>,
}

/// Renders a group, for both families.
pub fn render_group(group: &Group, around: &Surroundings) -> Rendered {
    let mut out = Rendered::default();
    for family in Family::ALL {
        for element in render::render_group(group, family).elements {
            let Some((key, entry)) = frontend_key(element.set, family, &element.key)
                .zip(Entry::from_bytes(&element.data))
                .filter(|(_, entry)| entry.dispatch != Dispatch::NONE)
            else {
                continue;
            };
            let is_it = |set: &&plan::EndpointSet| {
                set.id.port.family == family && set_number(&set.id) == entry.set
            };
            let Some(set) = group.sets.iter().find(is_it) else { continue };
            let destinations: BTreeSet<SocketAddr> =
                set.backends.iter().map(|backend| backend.address).collect();
            let timeout = Some(entry.dispatch.affinity).filter(|seconds| *seconds > 0);
            for server in server_keys(element.set, &key, entry, around) {
                let server = Server {
                    server: virtual_server(server, timeout, around.scheduler),
                    protocol: key.protocol,
                    destinations: destinations.clone(),
                };
                out.servers.insert(server.server.key, server);
            }
        }
    }
    out.addresses = virtual_addresses(group, &around.host);
    out
}

/// The virtual servers that take the connections of an entry.
fn server_keys(
    set: SetName,
    key: &FrontendKey,
    entry: Entry,
    around: &Surroundings,
) -> Vec<VirtualServerKey> {
    let transport = match key.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    };
    let at =
        |ip| VirtualServerKey::Address { transport, address: SocketAddr::new(ip, key.port.get()) };
    let family = key.family();
    match (set, key.address) {
        (SetName::OutsideFrontends | SetName::OutsideNodePorts, _) => {
            let family = netfilter_family(family);
            vec![VirtualServerKey::Mark { family, mark: mark(entry.set) }]
        }
        (_, FrontendAddress::Ip(ip)) => vec![at(ip)],
        (_, FrontendAddress::AnyOfNode(_)) => {
            let of_family = around.node_addresses.iter().filter(|ip| Family::of(**ip) == family);
            of_family.map(|ip| at(*ip)).collect()
        }
    }
}

/// A server whose clients keep their destination for so many seconds, if any.
fn virtual_server(
    key: VirtualServerKey,
    timeout: Option<u32>,
    scheduler: Scheduler,
) -> VirtualServer {
    let (scheduler, persistence) = match (timeout, key) {
        (None, _) => (scheduler, None),
        // A persistent server by mark loses the destination's port, so clients are told apart by
        // hashing instead: they keep their destination for as long as it is there.
        (Some(_), VirtualServerKey::Mark { .. }) => (Scheduler::MaglevHashing, None),
        (Some(seconds), VirtualServerKey::Address { .. }) => {
            (scheduler, Some(Duration::from_secs(seconds.into())))
        }
    };
    // A client whose hash is that of a destination that drains would otherwise be refused.
    let with_fallback = matches!(scheduler, Scheduler::SourceHashing | Scheduler::MaglevHashing);
    let hashing = Hashing { with_fallback, ..Hashing::default() };
    VirtualServer { persistence, hashing, ..VirtualServer::new(key, scheduler) }
}
