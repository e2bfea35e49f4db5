//! Decides which EndpointSlices a Service should have, and with how few writes to get there.
//!
//! [`decide`] is a pure function of a Service, the pods it selects, the zones of the nodes and the
//! slices that exist. It knows no clock and no API client: times are inputs, names of new slices
//! are the API server's to choose. Behaviour follows kube-controller-manager's EndpointSlice
//! controller (KEP-752), traffic distribution KEP-4444 and KEP-3015.
//!
//! The types here are richer than [`crate::object`]: a controller needs owners and container ports,
//! which an agent that watches 50,000 Services should not keep.

mod desired;
mod legacy;
mod pack;
#[cfg(test)]
mod tests;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use legacy::{Subset, SubsetAddress, SubsetPort, subsets};
pub use trigger::Triggers;

use crate::object::{HEADLESS_LABEL, SERVICE_NAME_LABEL, TargetPort};
use crate::{Family, ObjectName, Protocol};

/// The label that says who writes a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// Its value on the slices that are decided here.
pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// When the change that led to a write happened; proxies measure their latency by it.
pub const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Labels or annotations.
pub type Map = BTreeMap<Arc<str>, Arc<str>>;

/// A Service with a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Identity; slices of an older Service of the same name are not its own.
    pub uid: Arc<str>,
    /// Labels, copied to the slices.
    pub labels: Map,
    /// Deletion has begun: nothing new is made for it.
    pub deleting: bool,
    /// It has no cluster address.
    pub headless: bool,
    /// Families to write slices for.
    pub families: Vec<Family>,
    /// Ports in the order of the Service.
    pub ports: Vec<ServicePort>,
    /// Endpoints are ready whatever their pods say.
    pub publish_not_ready: bool,
    /// Which endpoints clients should prefer.
    pub distribution: Distribution,
}

/// One port of a Service, as endpoints need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty if unnamed.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Where it leads on a pod.
    pub target: TargetPort,
    /// `appProtocol`, passed on.
    pub app_protocol: Option<Arc<str>>,
}

/// `spec.trafficDistribution`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Unset or unknown: no hints.
    #[default]
    Anywhere,
    /// `PreferSameZone`, or its older name `PreferClose`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

/// A pod that the Service's selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// Identity.
    pub uid: Arc<str>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Phase Succeeded or Failed.
    pub terminal: bool,
    /// Deletion has begun.
    pub deleting: bool,
    /// Condition Ready is True.
    pub ready: bool,
    /// Node it is bound to.
    pub node: Option<Arc<str>>,
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`.
    pub subdomain: Option<Arc<str>>,
    /// Named ports: of containers first, then of restartable init containers.
    pub ports: Vec<ContainerPort>,
}

/// A named port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Name.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub number: u16,
}

/// Zone of every node that exists, `None` for a node without one.
pub type Zones = BTreeMap<Arc<str>, Option<Arc<str>>>;

/// A slice, read from the API or to be written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Name; `None` lets the API server choose one that begins with the Service's.
    pub name: Option<Arc<str>>,
    /// Version that an update replaces.
    pub version: Arc<str>,
    /// Uids of the owners.
    pub owners: Vec<Arc<str>>,
    /// Labels.
    pub labels: Map,
    /// Annotations.
    pub annotations: Map,
    /// Address family.
    pub family: Family,
    /// Ports of every endpoint.
    pub ports: Vec<Port>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Holds something that was never written by [`decide`] and can't be represented here (a name
    /// for an address, several addresses in one endpoint): the slice has to be written again.
    pub damaged: bool,
}

/// A resolved port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Name of the Service port.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number on the pod.
    pub number: u16,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

/// An endpoint: one address of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// May take new connections.
    pub ready: bool,
    /// Its pod is ready, whether or not it is about to end.
    pub serving: bool,
    /// Its pod is about to end.
    pub terminating: bool,
    /// Name under the Service's.
    pub hostname: Option<Arc<str>>,
    /// Node it runs on.
    pub node: Option<Arc<str>>,
    /// Zone of that node.
    pub zone: Option<Arc<str>>,
    /// The pod behind it.
    pub pod: Option<PodRef>,
    /// Zones that should prefer it.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes that should prefer it.
    pub for_nodes: Vec<Arc<str>>,
}

/// `targetRef`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace and name.
    pub name: ObjectName,
    /// Identity.
    pub uid: Arc<str>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A new slice.
    Create(Slice),
    /// A slice to replace, by its name and version.
    Update(Slice),
    /// A slice to delete, by its name.
    Delete(Arc<str>),
}

/// What has to be written, in this order, and what stood in the way.
///
/// Creates come first and deletes last, so that an endpoint that moves between slices may be in two
/// of them for a moment but is never in none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The writes.
    pub writes: Vec<Write>,
    /// Nodes that pods are bound to but that don't exist (yet): these pods were left out, and the
    /// Service has to be looked at again.
    pub missing_nodes: BTreeSet<Arc<str>>,
}

/// Decides the writes that make the slices of `service` hold exactly the endpoints of `pods`.
///
/// `existing` are the slices that carry the Service's name and [`MANAGED_BY`]; `trigger` is the
/// RFC 3339 time of the change that led here, if one is known; `capacity` is the number of
/// endpoints a slice may hold (the API allows 1 to 1000, the usual value is 100).
pub fn decide(
    service: &Service,
    pods: &[Pod],
    zones: &Zones,
    existing: &[Slice],
    trigger: Option<&str>,
    capacity: usize,
) -> Decision {
    let (mut owned, foreign): (Vec<&Slice>, Vec<&Slice>) =
        existing.iter().partition(|slice| slice.owners.contains(&service.uid));
    let mut deletes: Vec<Arc<str>> =
        foreign.iter().filter_map(|slice| slice.name.clone()).collect();
    owned.retain(|slice| {
        let wanted = service.families.contains(&slice.family);
        if !wanted {
            deletes.extend(slice.name.clone());
        }
        wanted
    });

    let labels = labels(service);
    let mut missing_nodes = BTreeSet::new();
    let (mut creates, mut updates) = (Vec::new(), Vec::new());
    for &family in &service.families {
        let desired = desired::endpoints(service, pods, zones, family, &mut missing_nodes);
        let of_family: Vec<&Slice> =
            owned.iter().copied().filter(|slice| slice.family == family).collect();
        let packed = pack::pack(service, &labels, family, desired, &of_family, capacity.max(1));
        creates.extend(packed.creates);
        updates.extend(packed.updates);
        deletes.extend(packed.deletes);
    }
    if service.deleting {
        creates.clear();
    }
    for slice in creates.iter_mut().chain(&mut updates) {
        match trigger {
            Some(time) => slice.annotations.insert(TRIGGER_TIME_ANNOTATION.into(), time.into()),
            None => slice.annotations.remove(TRIGGER_TIME_ANNOTATION),
        };
    }
    let writes = creates
        .into_iter()
        .map(Write::Create)
        .chain(updates.into_iter().map(Write::Update))
        .chain(deletes.into_iter().map(Write::Delete))
        .collect();
    Decision { writes, missing_nodes }
}

/// The Service's own labels without those reserved for the controller, and the controller's.
fn labels(service: &Service) -> Map {
    const RESERVED: [&str; 3] = [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL];
    let mut labels = service.labels.clone();
    labels.retain(|key, _| !RESERVED.contains(&&**key));
    labels.insert(SERVICE_NAME_LABEL.into(), service.name.name.clone());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    if service.headless {
        labels.insert(HEADLESS_LABEL.into(), "".into());
    }
    labels
}
