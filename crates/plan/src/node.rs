//! What a plan depends on besides Services: this node and how the proxy is configured.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Family, World};

use crate::frontend::Origin;

/// Configuration of the proxy that changes plans. Names follow KubeProxyConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name of this node, as in `Endpoint.nodeName`.
    pub node_name: Arc<str>,
    /// How connections from pods are told from others.
    pub local_detector: LocalDetector,
    /// Masquerade every connection to a ClusterIP.
    pub masquerade_all: bool,
    /// Which of the node's addresses accept node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Which `externalIPs` are served. Whoever may write a Service could otherwise take any address
    /// over, of this cluster or of the world (CVE-2020-8554).
    pub allowed_external_ips: Vec<IpNet>,
    /// The node's primary address of its family, whatever its Node object says.
    pub primary_address: Option<IpAddr>,
}

/// How a connection is recognised as coming from a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalDetector {
    /// It can't be: no connection counts as a pod's, and none to a ClusterIP is masqueraded.
    None,
    /// Its source is in one of these ranges. A family without a range has no detector.
    Sources(Vec<IpNet>),
    /// It arrives on this interface.
    Interface(String),
    /// It arrives on an interface whose name starts with this.
    InterfacePrefix(String),
}

/// `nodePortAddresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's primary address in each family.
    Primary,
    /// Addresses in these ranges; a family without a range accepts on all.
    Ranges(Vec<IpNet>),
}

/// This node, as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Settings.
    pub settings: NodeSettings,
    /// Its zone, if labelled.
    pub zone: Option<Arc<str>>,
    /// Its primary addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// The facts about the node named in `settings`; a node that the World does not know has no
    /// zone and no addresses.
    pub fn from_world(settings: NodeSettings, world: &World) -> Self {
        let node = world.node(&settings.node_name);
        let address = |family: &Family| {
            let given = settings.primary_address.filter(|ip| Family::of(*ip) == *family);
            given.or_else(|| node.and_then(|node| node.address(*family)))
        };
        Self {
            zone: node.and_then(|node| node.zone().cloned()),
            addresses: Family::ALL.iter().filter_map(address).collect(),
            settings,
        }
    }

    /// Whether pods of `family` can be recognised at all.
    pub fn detects_pods(&self, family: Family) -> bool {
        match &self.settings.local_detector {
            LocalDetector::None => false,
            LocalDetector::Sources(ranges) => ranges.iter().any(|r| Family::of(r.addr()) == family),
            LocalDetector::Interface(_) | LocalDetector::InterfacePrefix(_) => true,
        }
    }

    /// Where a connection with this source starts. `interface` is what it arrived on, `None` if it
    /// was made on this node; `is_local` says whether an address is one of this node's.
    pub fn origin(
        &self,
        source: IpAddr,
        interface: Option<&str>,
        is_local: impl FnOnce(IpAddr) -> bool,
    ) -> Origin {
        let from_pod = match &self.settings.local_detector {
            LocalDetector::None => false,
            LocalDetector::Sources(ranges) => ranges.iter().any(|r| r.contains(&source)),
            LocalDetector::Interface(name) => interface == Some(name),
            LocalDetector::InterfacePrefix(prefix) => {
                interface.is_some_and(|name| name.starts_with(prefix.as_str()))
            }
        };
        match from_pod {
            true => Origin::Pod,
            false if is_local(source) => Origin::Node,
            false => Origin::Outside,
        }
    }

    /// The addresses of `family` that node ports are accepted on, `None` for every local address
    /// (IPv4 loopback excepted, which never is).
    ///
    /// A setting that names nothing of a family accepts on all of that family's, as kube-proxy does.
    pub fn node_port_ranges(&self, family: Family) -> Option<Vec<IpNet>> {
        let ranges: Vec<IpNet> = match &self.settings.node_port_addresses {
            NodePortAddresses::Primary => {
                let is_usable = |ip: &&IpAddr| Family::of(**ip) == family && !ip.is_loopback();
                self.addresses.iter().filter(is_usable).map(|ip| IpNet::from(*ip)).collect()
            }
            NodePortAddresses::Ranges(ranges) => {
                ranges.iter().copied().filter(|r| Family::of(r.addr()) == family).collect()
            }
        };
        (!ranges.is_empty() && ranges.iter().all(|r| r.prefix_len() != 0)).then_some(ranges)
    }

    /// Whether a Service may have this address among its `externalIPs`.
    pub fn serves_external_ip(&self, address: IpAddr) -> bool {
        self.settings.allowed_external_ips.iter().any(|range| range.contains(&address))
    }

    /// Whether node ports are accepted on this address of the node.
    pub fn accepts_node_ports(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return false;
        }
        self.node_port_ranges(Family::of(address))
            .is_none_or(|ranges| ranges.iter().any(|range| range.contains(&address)))
    }

    /// The same for the node's own programs where their sockets are looked at and not what they send: loopback too, unless it
    /// is said which addresses it is.
    pub fn accepts_node_ports_of_sockets(&self, address: IpAddr) -> bool {
        match address.is_loopback() {
            true => self.node_port_ranges(Family::of(address)).is_none(),
            false => self.accepts_node_ports(address),
        }
    }
}
