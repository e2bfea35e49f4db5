//! The older `v1` Endpoints object of a Service, which clients from before EndpointSlices read.
//!
//! Same pods, but one family only, no terminating pods, and readiness by position in a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::desired::{hostname, ports};
use super::{Pod, Port, Service};
use crate::{Family, ObjectName, Protocol};

/// Most addresses one Endpoints object may hold.
const CAPACITY: usize = 1000;

/// One subset: every address serves every port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Addresses that may take new connections.
    pub addresses: Vec<SubsetAddress>,
    /// Addresses whose pods are not ready.
    pub not_ready: Vec<SubsetAddress>,
    /// Ports.
    pub ports: Vec<SubsetPort>,
}

/// An address with the pod behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubsetAddress {
    /// The address.
    pub ip: IpAddr,
    /// Name under the Service's.
    pub hostname: Option<Arc<str>>,
    /// Node.
    pub node: Option<Arc<str>>,
    /// Pod behind it.
    pub pod: ObjectName,
    /// That pod's identity.
    pub uid: Arc<str>,
}

/// A port of a subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetPort {
    /// Name of the Service port.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number on the pod.
    pub number: u16,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

/// The subsets of `service`, and whether addresses had to be left out because there are too many.
pub fn subsets(service: &Service, pods: &[Pod]) -> (Vec<Subset>, bool) {
    let Some(&family) = service.families.first() else { return (Vec::new(), false) };
    // Ready addresses sort first, so that what is cut off is what is least missed.
    let mut addresses: BTreeMap<(bool, SubsetAddress), Vec<Port>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.terminal) {
        if pod.deleting && !service.publish_not_ready {
            continue;
        }
        let Some(&ip) = pod.ips.iter().find(|ip| Family::of(**ip) == family) else { continue };
        let address = SubsetAddress {
            ip,
            hostname: hostname(service, pod),
            node: pod.node.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        };
        let not_ready = !(pod.ready || service.publish_not_ready);
        addresses.insert((not_ready, address), ports(service, pod));
    }
    let truncated = addresses.len() > CAPACITY;

    // Ports with exactly the same addresses share a subset. A pod without any port (a headless
    // Service may have none) is listed under no port at all.
    let mut by_port: BTreeMap<Option<Port>, BTreeSet<(bool, SubsetAddress)>> = BTreeMap::new();
    for (address, ports) in addresses.into_iter().take(CAPACITY) {
        if ports.is_empty() && service.ports.is_empty() {
            by_port.entry(None).or_default().insert(address.clone());
        }
        for port in ports {
            by_port.entry(Some(port)).or_default().insert(address.clone());
        }
    }
    let mut by_addresses: BTreeMap<BTreeSet<(bool, SubsetAddress)>, Vec<Port>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    let subset = |(addresses, ports): (BTreeSet<(bool, SubsetAddress)>, Vec<Port>)| {
        let (not_ready, ready): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|(not_ready, _)| *not_ready);
        let strip = |list: Vec<(bool, SubsetAddress)>| list.into_iter().map(|(_, a)| a).collect();
        Subset {
            addresses: strip(ready),
            not_ready: strip(not_ready),
            ports: ports
                .into_iter()
                .map(|port| SubsetPort {
                    name: port.name,
                    protocol: port.protocol,
                    number: port.number,
                    app_protocol: port.app_protocol,
                })
                .collect(),
        }
    };
    (by_addresses.into_iter().map(subset).collect(), truncated)
}
