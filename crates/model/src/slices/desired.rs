//! Which endpoints a Service should have: eligibility, conditions, ports and hints of each pod.
//!
//! Knows nothing of slices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Distribution, Endpoint, Pod, PodRef, Port, Service, Zones};
use crate::Family;
use crate::object::TargetPort;

/// Endpoints by their (sorted) list of ports: pods whose ports differ can't share a slice.
pub(super) type Desired = BTreeMap<Vec<Port>, Vec<Endpoint>>;

/// The endpoints of `service` in `family`.
pub(super) fn endpoints(
    service: &Service,
    pods: &[Pod],
    zones: &Zones,
    family: Family,
    missing_nodes: &mut BTreeSet<Arc<str>>,
) -> Desired {
    let mut desired = Desired::new();
    for pod in pods.iter().filter(|pod| !pod.terminal) {
        let Some(&address) = pod.ips.iter().find(|ip| Family::of(**ip) == family) else {
            continue;
        };
        let zone = match pod.node.as_ref().map(|node| (node, zones.get(node))) {
            Some((node, None)) => {
                // Its zone is not known, so the endpoint would be hinted wrongly. Who publishes
                // pods before they are ready wants them all the same.
                missing_nodes.insert(node.clone());
                if !service.publish_not_ready {
                    continue;
                }
                None
            }
            Some((_, Some(zone))) => zone.clone(),
            None => None,
        };
        let endpoint = endpoint(service, pod, address, zone);
        desired.entry(ports(service, pod)).or_default().push(endpoint);
    }
    desired
}

fn endpoint(service: &Service, pod: &Pod, address: IpAddr, zone: Option<Arc<str>>) -> Endpoint {
    let serving = pod.ready;
    let terminating = pod.deleting;
    let ready = service.publish_not_ready || (serving && !terminating);
    let (for_zones, for_nodes) = hints(service.distribution, ready, &zone, &pod.node);
    Endpoint {
        address,
        ready,
        serving,
        terminating,
        hostname: hostname(service, pod),
        node: pod.node.clone(),
        zone,
        pod: Some(PodRef { name: pod.name.clone(), uid: pod.uid.clone() }),
        for_zones,
        for_nodes,
    }
}

/// The pod's hostname, if the pod says that this Service is the domain it lives in.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<Arc<str>> {
    let hostname = pod.hostname.as_ref().filter(|name| !name.is_empty())?;
    let here = pod.subdomain.as_ref() == Some(&service.name.name)
        && pod.name.namespace == service.name.namespace;
    here.then(|| hostname.clone())
}

/// The ports of `service` on `pod`, sorted; those that `pod` doesn't have are left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let resolve = |port: &super::ServicePort| {
        let number = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => {
                pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol)?.number
            }
        };
        Some(Port {
            name: port.name.clone(),
            protocol: port.protocol,
            number,
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports: Vec<Port> = service.ports.iter().filter_map(resolve).collect();
    ports.sort();
    ports
}

type Hints = (Vec<Arc<str>>, Vec<Arc<str>>);

fn hints(
    distribution: Distribution,
    ready: bool,
    zone: &Option<Arc<str>>,
    node: &Option<Arc<str>>,
) -> Hints {
    if !ready || distribution == Distribution::Anywhere {
        return Hints::default();
    }
    let for_nodes = match distribution {
        Distribution::SameNode => node.iter().cloned().collect(),
        Distribution::SameZone | Distribution::Anywhere => Vec::new(),
    };
    (zone.iter().cloned().collect(), for_nodes)
}
