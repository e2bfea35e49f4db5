//! The seam between Kubernetes and the kernel: frontends with one action for each origin.
//!
//! Nothing here names a Kubernetes kind. A data plane that can print these types carries every
//! policy of a service proxy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use model::{Family, Protocol};

/// Identifies what is planned, changed and quarantined together. Opaque to data planes.
pub type GroupId = Arc<str>;

/// Everything that one planned object contributes on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Identity, stable over time.
    pub id: GroupId,
    /// Where connections are accepted.
    pub frontends: Vec<Frontend>,
    /// Endpoint sets that the frontends' actions refer to by index.
    pub sets: Vec<EndpointSet>,
    /// Virtual addresses that belong to this group alone: a connection to them that matches no
    /// frontend is refused.
    pub cluster_ips: Vec<IpAddr>,
    /// The health-check port to answer on, if any.
    pub health_check: Option<HealthCheck>,
    /// UDP ports, whose connection-tracking entries have to follow the endpoints.
    pub udp_ports: Vec<UdpPort>,
    /// Endpoints that take no traffic here, and why.
    pub left_out: Vec<LeftOut>,
    /// External addresses that the Service asks for and this node does not serve.
    pub refused_external_ips: Vec<IpAddr>,
}

/// One address and port that this node accepts connections on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What packets must carry to meet this frontend.
    pub key: FrontendKey,
    /// The port it belongs to; frontends of one port share affinity.
    pub port: PortId,
    /// The rule that made it.
    pub rule: Rule,
    /// What happens to connections from pods.
    pub pod: Action,
    /// What happens to connections from this node itself.
    pub node: Action,
    /// What happens to all other connections.
    pub outside: Action,
    /// Sources that may connect at all, `None` for everybody; others are dropped before anything else.
    pub allowed_sources: Option<Vec<IpNet>>,
    /// Stickiness of clients.
    pub affinity: Option<Affinity>,
}

/// Destination of a packet that meets a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Address.
    pub address: FrontendAddress,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: NonZeroU16,
}

/// An address, or all those of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// This address.
    Ip(IpAddr),
    /// Any address of this node of the family that accepts node ports
    /// ([`NodeFacts::accepts_node_ports`](crate::NodeFacts::accepts_node_ports)). Consulted only if
    /// no frontend has the address itself.
    AnyOfNode(Family),
}

/// Where a connection starts, as far as policies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A pod, as the local detector recognises it.
    Pod,
    /// An address of this node, loopback included.
    Node,
    /// Anywhere else.
    Outside,
}

/// The treatment of a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send it to a member of the set, chosen evenly.
    Forward {
        /// Index into [`Group::sets`]; that set is not empty.
        set: usize,
        /// Whether its source becomes this node's address. A connection from an endpoint that is
        /// sent back to itself is masqueraded whatever this says.
        masquerade: bool,
    },
    /// Refuse it with ICMP port unreachable.
    Reject(Refusal),
    /// Let it vanish.
    Drop(Refusal),
}

/// Why a connection is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No endpoint anywhere can take it.
    NoEndpoints,
    /// A policy asks for endpoints on this node, and there are only others.
    NoLocalEndpoints,
}

/// The rule that a frontend exists by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

/// A port of a group in one address family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// The group.
    pub group: GroupId,
    /// Name of the port, may be empty.
    pub name: Arc<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address family.
    pub family: Family,
}

/// Which endpoints of a port a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those that may serve connections of the whole cluster.
    Cluster,
    /// Those on this node.
    Local,
}

/// Stable identity of an endpoint set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    /// The port whose endpoints these are.
    pub port: PortId,
    /// Which of them.
    pub scope: Scope,
}

/// An ordered, never empty list of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    /// Identity.
    pub id: SetId,
    /// Members, ordered by address, without repetition.
    pub backends: Vec<Backend>,
}

/// A member of an endpoint set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address and port that connections are sent to.
    pub address: SocketAddr,
    /// It runs on this node.
    pub local: bool,
}

/// Stickiness: a client address keeps its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// How long a client may be silent before it is forgotten.
    pub timeout: Duration,
}

/// A port that tells a load balancer whether this node has endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// TCP port to listen on.
    pub port: NonZeroU16,
    /// Number of distinct addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// What connection tracking of a UDP port may point at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpPort {
    /// The port.
    pub port: PortId,
    /// Endpoints that answer, whether or not they take new connections. If empty, entries are left
    /// to age.
    pub serving: Vec<SocketAddr>,
}

/// An endpoint that takes no traffic on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The port.
    pub port: PortId,
    /// The endpoint.
    pub address: SocketAddr,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why an endpoint takes no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutReason {
    /// Its address is loopback, link-local or multicast, which no endpoint may have.
    Forbidden,
    /// It is not ready.
    NotReady,
    /// It is terminating and others are ready.
    Terminating,
    /// Every endpoint is hinted and this one is for other nodes.
    OtherNode,
    /// Every endpoint is hinted and this one is for other zones.
    OtherZone,
    /// Only a `Local` policy applies and it runs elsewhere.
    NotLocal,
}

impl Group {
    /// A group that contributes nothing yet.
    pub fn empty(id: GroupId) -> Self {
        Self {
            id,
            frontends: Vec::new(),
            sets: Vec::new(),
            cluster_ips: Vec::new(),
            health_check: None,
            udp_ports: Vec::new(),
            left_out: Vec::new(),
            refused_external_ips: Vec::new(),
        }
    }

    /// The endpoints of a port, ready or not. One may come twice.
    pub fn endpoints_of(&self, port: &PortId) -> impl Iterator<Item = SocketAddr> {
        let sets = self.sets.iter().filter(|set| set.id.port == *port);
        let taking_part = sets.flat_map(|set| set.backends.iter().map(|backend| backend.address));
        let left_out = self.left_out.iter().filter(|left| left.port == *port);
        taking_part.chain(left_out.map(|left| left.address))
    }

    /// The endpoints of all ports of a protocol, ready or not. One may come several times.
    pub fn endpoints(&self, protocol: Protocol) -> impl Iterator<Item = SocketAddr> {
        let sets = self.sets.iter().filter(move |set| set.id.port.protocol == protocol);
        let taking_part = sets.flat_map(|set| set.backends.iter().map(|backend| backend.address));
        let left_out = self.left_out.iter().filter(move |left| left.port.protocol == protocol);
        taking_part.chain(left_out.map(|left| left.address))
    }

    /// Gives back memory that lists have for more: groups are many, and stay as they are.
    pub(crate) fn shrink(&mut self) {
        self.frontends.shrink_to_fit();
        self.sets.shrink_to_fit();
        self.cluster_ips.shrink_to_fit();
        self.udp_ports.shrink_to_fit();
        self.left_out.shrink_to_fit();
    }
}

impl Frontend {
    /// The action for connections from `origin`.
    pub fn action(&self, origin: Origin) -> &Action {
        match origin {
            Origin::Pod => &self.pod,
            Origin::Node => &self.node,
            Origin::Outside => &self.outside,
        }
    }
}

impl Frontend {
    /// Whether connections of some origin are sent to the set of this index.
    pub fn leads_to(&self, index: usize) -> bool {
        let leads =
            |action: &Action| matches!(action, Action::Forward { set, .. } if *set == index);
        [&self.pod, &self.node, &self.outside].into_iter().any(leads)
    }
}

impl FrontendKey {
    /// The address family of packets that meet it.
    pub fn family(&self) -> Family {
        match self.address {
            FrontendAddress::Ip(ip) => Family::of(ip),
            FrontendAddress::AnyOfNode(family) => family,
        }
    }
}

impl Origin {
    /// All of them.
    pub const ALL: [Origin; 3] = [Origin::Pod, Origin::Node, Origin::Outside];
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            FrontendAddress::Ip(ip) => SocketAddr::new(ip, self.port.get()).fmt(f)?,
            FrontendAddress::AnyOfNode(family) => write!(f, "{family} node:{}", self.port)?,
        }
        write!(f, "/{}", self.protocol)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.group)?;
        if !self.name.is_empty() {
            write!(f, ":{}", self.name)?;
        }
        write!(f, "/{} {}", self.protocol, self.family)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Pod => "pod",
            Origin::Node => "this node",
            Origin::Outside => "outside",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::ClusterIp => "ClusterIP",
            Rule::NodePort => "NodePort",
            Rule::LoadBalancer => "load balancer address",
            Rule::ExternalIp => "externalIP",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoEndpoints => "no endpoint is ready anywhere",
            Refusal::NoLocalEndpoints => {
                "the traffic policy is Local and no endpoint is on this node"
            }
        })
    }
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftOutReason::Forbidden => {
                "its address is loopback, link-local or multicast, which no endpoint may have"
            }
            LeftOutReason::NotReady => "not ready",
            LeftOutReason::Terminating => "terminating, and others are ready",
            LeftOutReason::OtherNode => "hinted for other nodes",
            LeftOutReason::OtherZone => "hinted for other zones",
            LeftOutReason::NotLocal => "on another node, and the traffic policy is Local",
        })
    }
}
