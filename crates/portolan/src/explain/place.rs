//! Who talks to whom: names of either side of a connection.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Family, ObjectName, Protocol, World};

/// The source of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// How it is called.
    pub(crate) name: String,
    /// Its addresses, at most one a family; empty for `outside`, which may have any.
    pub(crate) addresses: Vec<IpAddr>,
    /// The node it is on, if it is on one.
    pub(crate) node: Option<Arc<str>>,
    /// It is the node itself, or a pod in the node's network.
    pub(crate) is_node: bool,
}

/// What a connection is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Service(ObjectName),
    Pod(ObjectName),
    Node(Arc<str>),
    Address(IpAddr),
}

/// A destination with its port, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) destination: Destination,
    /// A number, or the name of a Service port; `None` for the only one there is.
    pub(crate) port: Option<String>,
    /// `None` takes the port's own, or TCP.
    pub(crate) protocol: Option<Protocol>,
}

/// An address for `outside`, which stands for any that is in no range of the cluster (RFC 5737, 3849).
pub(crate) fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => [198, 51, 100, 7].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(),
    }
}

const SOURCES: &str =
    "accepted are pod/NAMESPACE/NAME, NAMESPACE/NAME of a pod, node/NAME, an address, or outside";
const TARGETS: &str = "accepted are NAMESPACE/NAME or NAME.NAMESPACE of a Service, \
    pod/NAMESPACE/NAME, node/NAME or an address, with :PORT and /udp, for example shop/web:80";

impl Source {
    /// Finds who `text` names.
    pub(crate) fn find(world: &World, text: &str) -> Result<Self, String> {
        if text == "outside" {
            let (name, addresses) = (text.to_owned(), Vec::new());
            return Ok(Self { name, addresses, node: None, is_node: false });
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::of_address(world, address));
        }
        if let Some(name) = text.strip_prefix("node/") {
            let node = world.node(name).ok_or_else(|| no_node(world, name))?;
            let addresses = Family::ALL.iter().filter_map(|f| node.address(*f)).collect();
            return Ok(Self {
                name: format!("node {name}"),
                addresses,
                node: Some(node.meta.name.clone()),
                is_node: true,
            });
        }
        let name = text.strip_prefix("pod/").unwrap_or(text);
        let name = object_name(name).ok_or_else(|| format!("{text:?} is nobody: {SOURCES}"))?;
        let pod = world.pod(&name).ok_or_else(|| {
            let near: Vec<String> = world
                .pods()
                .filter(|(other, _)| other.namespace == name.namespace)
                .map(|(other, _)| other.name.to_string())
                .take(8)
                .collect();
            let others = if near.is_empty() {
                format!("namespace {} has no pods", name.namespace)
            } else {
                format!("there are {}", near.join(", "))
            };
            format!("there is no pod {name}: {others}")
        })?;
        if pod.ips.is_empty() {
            return Err(format!("pod {name} has no address yet: it is {:?}", pod.phase));
        }
        Ok(Self {
            name: format!("pod {name}"),
            addresses: pod.ips.clone(),
            node: pod.node_name.clone(),
            is_node: pod.host_network,
        })
    }

    fn of_address(world: &World, address: IpAddr) -> Self {
        let pod = world
            .pods()
            .find(|(_, pod)| pod.ips.contains(&address) && !pod.host_network && !pod.is_terminal());
        let node = world
            .nodes()
            .find(|node| node.addresses.iter().any(|own| own.address == address))
            .map(|node| node.meta.name.clone());
        let (name, on, is_node) = match (pod, node) {
            (Some((name, pod)), _) => (format!("pod {name}"), pod.node_name.clone(), false),
            (None, Some(node)) => (format!("node {node}"), Some(node), true),
            (None, None) => (address.to_string(), None, false),
        };
        Self { name, addresses: vec![address], node: on, is_node }
    }

    /// Its address of a family.
    pub(crate) fn address(&self, family: Family) -> Option<IpAddr> {
        match self.addresses.is_empty() {
            true => Some(outside(family)),
            false => self.addresses.iter().copied().find(|ip| Family::of(*ip) == family),
        }
    }
}

impl Target {
    /// Reads `text`. A name without a namespace is looked for in `namespace`.
    pub(crate) fn find(world: &World, text: &str, namespace: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, name)) if parse_protocol(name).is_some() => (rest, parse_protocol(name)),
            _ => (text, None),
        };
        let wrong = || format!("{text:?} is no destination: {TARGETS}");
        if let Ok(address) = rest.trim_matches(['[', ']']).parse() {
            return Ok(Self { destination: Destination::Address(address), port: None, protocol });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (rest, None),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if port.as_deref() == Some("0") || port.as_deref() == Some("") {
            return Err(format!("{text:?}: a port is a number from 1 to 65535, or its name"));
        }
        let destination = if let Ok(address) = host.parse() {
            Destination::Address(address)
        } else if let Some(name) = host.strip_prefix("node/") {
            world.node(name).ok_or_else(|| no_node(world, name))?;
            Destination::Node(name.into())
        } else if let Some(name) = host.strip_prefix("pod/") {
            let name = object_name(name).ok_or_else(wrong)?;
            world.pod(&name).ok_or_else(|| format!("there is no pod {name}"))?;
            Destination::Pod(name)
        } else if host.is_empty() {
            return Err(wrong());
        } else {
            Destination::Service(service_name(host, namespace))
        };
        Ok(Self { destination, port, protocol })
    }

    /// The port as a number, if it is one.
    pub(crate) fn number(&self) -> Option<NonZeroU16> {
        self.port.as_deref()?.parse().ok()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Service(name) => write!(f, "Service {name}"),
            Destination::Pod(name) => write!(f, "pod {name}"),
            Destination::Node(name) => write!(f, "node {name}"),
            Destination::Address(address) => address.fmt(f),
        }
    }
}

fn no_node(world: &World, name: &str) -> String {
    let names: Vec<&str> = world.nodes().map(|node| &*node.meta.name).collect();
    format!("there is no node {name}: there are {}", names.join(", "))
}

fn object_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let is_good = |part: &str| !part.is_empty() && !part.contains('/');
    (is_good(namespace) && is_good(name)).then(|| ObjectName::new(namespace, name))
}

/// `NAMESPACE/NAME`, or a DNS name: `NAME`, `NAME.NAMESPACE`, `NAME.NAMESPACE.svc.cluster.local`.
fn service_name(text: &str, namespace: &str) -> ObjectName {
    if let Some((namespace, name)) = text.split_once('/') {
        return ObjectName::new(namespace, name);
    }
    let mut labels = text.trim_end_matches('.').split('.');
    let name = labels.next().unwrap_or_default();
    ObjectName::new(labels.next().unwrap_or(namespace), name)
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}
