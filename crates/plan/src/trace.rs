//! What a plan does to a packet: the semantics that every data plane is held to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use model::{Family, Protocol};

use crate::frontend::{
    Action, Frontend, FrontendAddress, FrontendKey, GroupId, Origin, PortId, Refusal,
};
use crate::node_plan::NodePlan;

/// The first packet of a connection, as it reaches this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol and destination port; `None` for what has no ports, such as ping.
    pub port: Option<(Protocol, NonZeroU16)>,
    /// The interface it arrives on, `None` if it is made on this node.
    pub interface: Option<String>,
    /// The data plane looks at sockets, not at what they send, if they are of this node.
    pub asks_sockets: bool,
}

/// What becomes of the packet, and by what it was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Where the connection starts.
    pub origin: Origin,
    /// The frontend it meets, if any, and the port that it belongs to.
    pub frontend: Option<(FrontendKey, PortId)>,
    /// The outcome.
    pub fate: Fate,
}

/// The outcome for a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Sent to one of these, each as likely as the others (a client with affinity keeps its own).
    Forward {
        /// Candidates, never empty.
        backends: Vec<SocketAddr>,
        /// The source becomes this node's address. When it is false, a connection that is sent back
        /// to its own source is masqueraded all the same.
        masquerade: bool,
    },
    /// Refused with ICMP port unreachable.
    Reject(Cause),
    /// Vanishes.
    Drop(Cause),
    /// No business of the service network.
    Untouched,
}

/// Why a packet is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The frontend has nobody to serve it.
    Refusal(Refusal),
    /// The source is in none of the allowed ranges.
    SourceNotAllowed,
    /// The address is virtual and has no such port.
    NoSuchPort(GroupId),
    /// The address is in a service range and nobody has it.
    Unallocated,
}

/// Explains what `plan` does to `packet`. `is_local` says whether an address is one of this node's.
pub fn trace(plan: &NodePlan, packet: &Packet, is_local: impl Fn(IpAddr) -> bool) -> Trace {
    let origin = plan.node.origin(packet.source, packet.interface.as_deref(), &is_local);
    let destination_is_local = is_local(packet.destination);
    let met = packet.port.and_then(|(protocol, port)| {
        let key = |address| FrontendKey { address, protocol, port };
        let exact = key(FrontendAddress::Ip(packet.destination));
        let any = key(FrontendAddress::AnyOfNode(Family::of(packet.destination)));
        plan.frontend(&exact).or_else(|| {
            let accepts = match packet.asks_sockets && origin == Origin::Node {
                true => plan.node.accepts_node_ports_of_sockets(packet.destination),
                false => plan.node.accepts_node_ports(packet.destination),
            };
            (destination_is_local && accepts).then(|| plan.frontend(&any)).flatten()
        })
    });
    let Some((group, frontend)) = met else {
        let fate = virtual_address(plan, packet.destination, destination_is_local);
        return Trace { origin, frontend: None, fate };
    };
    let fate = if is_allowed(frontend, packet.source) {
        match frontend.action(origin) {
            Action::Forward { set, masquerade } => Fate::Forward {
                backends: group.sets[*set].backends.iter().map(|b| b.address).collect(),
                masquerade: *masquerade,
            },
            Action::Reject(refusal) => Fate::Reject(Cause::Refusal(*refusal)),
            Action::Drop(refusal) => Fate::Drop(Cause::Refusal(*refusal)),
        }
    } else {
        Fate::Drop(Cause::SourceNotAllowed)
    };
    Trace { origin, frontend: Some((frontend.key, frontend.port.clone())), fate }
}

fn is_allowed(frontend: &Frontend, source: IpAddr) -> bool {
    frontend
        .allowed_sources
        .as_ref()
        .is_none_or(|ranges| ranges.iter().any(|r| r.contains(&source)))
}

/// A virtual address without such a port: refused where it is somebody's, lost where it is nobody's.
fn virtual_address(plan: &NodePlan, destination: IpAddr, is_local: bool) -> Fate {
    if is_local {
        Fate::Untouched
    } else if let Some(owner) = plan.cluster_ip_owner(destination) {
        Fate::Reject(Cause::NoSuchPort(owner.clone()))
    } else if plan.service_ranges.iter().any(|range| range.contains(&destination)) {
        Fate::Drop(Cause::Unallocated)
    } else {
        Fate::Untouched
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Refusal(refusal) => refusal.fmt(f),
            Cause::SourceNotAllowed => {
                f.write_str("the source is in none of the loadBalancerSourceRanges")
            }
            Cause::NoSuchPort(group) => write!(f, "{group} has no such port"),
            Cause::Unallocated => f.write_str("no Service has this address"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Forward { backends, masquerade } => {
                f.write_str("forwarded to ")?;
                for (i, backend) in backends.iter().enumerate() {
                    write!(f, "{}{backend}", if i == 0 { "" } else { " or " })?;
                }
                f.write_str(if *masquerade {
                    ", source becomes this node's"
                } else {
                    ", source is kept"
                })
            }
            Fate::Reject(cause) => write!(f, "refused: {cause}"),
            Fate::Drop(cause) => write!(f, "dropped: {cause}"),
            Fate::Untouched => f.write_str("not touched"),
        }
    }
}
