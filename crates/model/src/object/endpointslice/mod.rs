//! `discovery.k8s.io/v1` EndpointSlice.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::wire;
use crate::address::parse_ip;
use crate::intern::shared;
use crate::spelling::dns_label;
use crate::{Family, ObjectName, Protocol};

/// The label that joins a slice to its Service; owner references play no part.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Slices of headless Services carry this label; the proxy leaves them alone, DNS reads them.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The annotation that says when what led to a slice's last change happened.
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Some endpoints of a Service, in one address family.
///
/// There may be hundreds of thousands of endpoints: what no reader needs is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice itself.
    pub name: ObjectName,
    /// Name of the Service it belongs to, if it says so; of the same namespace.
    pub service: Option<Arc<str>>,
    /// Whether it is marked as a headless Service's.
    pub is_headless: bool,
    /// When what led to its last change happened, as its writer says (RFC 3339).
    pub triggered: Option<Arc<str>>,
    /// What the addresses are.
    pub address_type: AddressType,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// The ports that every endpoint of this slice serves.
    pub ports: Box<[EndpointPort]>,
}

/// `addressType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    /// IPv4 addresses.
    IPv4,
    /// IPv6 addresses.
    IPv6,
    /// DNS names; nothing here uses them.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint: normally a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address of the list, the only one that counts.
    pub address: IpAddr,
    /// Readiness and termination.
    pub conditions: EndpointConditions,
    /// The node that runs it.
    pub node_name: Option<Arc<str>>,
    /// What few endpoints have.
    rare: Option<Box<Rare>>,
}

/// What few endpoints have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rare {
    hostname: Option<Arc<str>>,
    for_zones: Box<[Arc<str>]>,
    for_nodes: Box<[Arc<str>]>,
}

/// `conditions`, with nil already read as the API documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointConditions {
    /// May take new connections.
    pub ready: bool,
    /// Answers, whether or not it is about to end.
    pub serving: bool,
    /// Is about to end.
    pub terminating: bool,
}

/// A port of a slice: the match is by name and protocol, the number is where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name, equal to the Service port's.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number on the endpoint.
    pub port: NonZeroU16,
}

/// A slice whose endpoints are called like their pods if they have no hostname, as `endpoint_pod_names` of CoreDNS has
/// it. A type of its own, because whoever does not ask for it shall not keep a name for each endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceWithPodNames(pub EndpointSlice);

impl EndpointSlice {
    /// The Service this slice belongs to, if it says so.
    pub fn service(&self) -> Option<ObjectName> {
        let name = self.service.clone()?;
        Some(ObjectName { namespace: self.name.namespace.clone(), name })
    }

    /// Whether the slice is of `family`.
    pub fn is_of(&self, family: Family) -> bool {
        matches!(
            (self.address_type, family),
            (AddressType::IPv4, Family::V4) | (AddressType::IPv6, Family::V6)
        )
    }
}

impl Endpoint {
    /// Name under the Service's DNS name: the hostname, or that of the pod if so read.
    pub fn hostname(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.hostname.as_ref()
    }

    /// Zones that should use this endpoint, of its topology hints.
    pub fn for_zones(&self) -> &[Arc<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.for_zones)
    }

    /// Nodes that should use this endpoint, of its topology hints.
    pub fn for_nodes(&self) -> &[Arc<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.for_nodes)
    }
}

impl<'de> Deserialize<'de> for EndpointSlice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = on_wire::EndpointSlice::deserialize(deserializer)?;
        Ok(Self::of(&wire, |endpoint| endpoint.hostname()))
    }
}

impl<'de> Deserialize<'de> for SliceWithPodNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = on_wire::EndpointSlice::deserialize(deserializer)?;
        Ok(Self(EndpointSlice::of(&wire, |it| it.hostname().or_else(|| it.pod_name()))))
    }
}

/// The shape on the wire, before defaults and lenient reading are applied.
mod on_wire {
    use super::wire::{Meta, Text};
    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct EndpointSlice<'a> {
        #[serde(borrow)]
        pub metadata: Meta<'a>,
        pub address_type: AddressType,
        #[serde(borrow, default)]
        pub endpoints: Option<Vec<Endpoint<'a>>>,
        #[serde(borrow, default)]
        pub ports: Option<Vec<Port<'a>>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Endpoint<'a> {
        #[serde(borrow)]
        pub addresses: Vec<Text<'a>>,
        pub conditions: Conditions,
        #[serde(borrow)]
        pub hostname: Option<Text<'a>>,
        #[serde(borrow)]
        pub node_name: Option<Text<'a>>,
        #[serde(borrow)]
        pub hints: Option<Hints<'a>>,
        #[serde(borrow)]
        pub target_ref: Option<TargetRef<'a>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct TargetRef<'a> {
        #[serde(borrow)]
        pub kind: Text<'a>,
        #[serde(borrow)]
        pub name: Text<'a>,
    }

    impl Endpoint<'_> {
        pub(super) fn hostname(&self) -> Option<&str> {
            self.hostname.as_deref().filter(|name| !name.is_empty())
        }

        /// The name of the pod that it is, if that can be a label of a name: those of pods may be longer, or have dots.
        pub(super) fn pod_name(&self) -> Option<&str> {
            let pod = self.target_ref.as_ref().filter(|target| *target.kind == *"Pod")?;
            Some(&*pod.name).filter(|name| dns_label(name).is_ok())
        }
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct Conditions {
        pub ready: Option<bool>,
        pub serving: Option<bool>,
        pub terminating: Option<bool>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Hints<'a> {
        #[serde(borrow)]
        pub for_zones: Option<Vec<Named<'a>>>,
        #[serde(borrow)]
        pub for_nodes: Option<Vec<Named<'a>>>,
    }

    #[derive(Deserialize)]
    pub(super) struct Named<'a> {
        #[serde(borrow)]
        pub name: Text<'a>,
    }

    #[derive(Deserialize)]
    pub(super) struct Port<'a> {
        #[serde(borrow, default)]
        pub name: Option<Text<'a>>,
        #[serde(default)]
        pub protocol: Option<Protocol>,
        #[serde(default)]
        pub port: Option<u16>,
    }
}

impl EndpointSlice {
    /// What is kept of it, its endpoints with a name.
    fn of<'w>(
        wire: &'w on_wire::EndpointSlice<'_>,
        name: impl Fn(&'w on_wire::Endpoint<'_>) -> Option<&'w str>,
    ) -> Self {
        let meta = &wire.metadata;
        let service = meta.labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty());
        EndpointSlice {
            name: ObjectName::new(shared(&meta.namespace), &*meta.name),
            service: service.map(Arc::from),
            is_headless: meta.labels.get(HEADLESS_LABEL).is_some(),
            triggered: meta.annotations.get(TRIGGER_TIME_ANNOTATION).map(Arc::from),
            address_type: wire.address_type,
            endpoints: wire
                .endpoints
                .iter()
                .flatten()
                .filter_map(|wire| endpoint(wire, name(wire)))
                .collect(),
            ports: wire.ports.iter().flatten().filter_map(port).collect(),
        }
    }
}

fn endpoint(wire: &on_wire::Endpoint<'_>, name: Option<&str>) -> Option<Endpoint> {
    let names = |list: Option<&Vec<on_wire::Named<'_>>>| -> Box<[Arc<str>]> {
        list.into_iter().flatten().map(|named| shared(&named.name)).collect()
    };
    let hints = wire.hints.as_ref();
    let rare = Rare {
        hostname: name.map(Arc::from),
        for_zones: names(hints.and_then(|hints| hints.for_zones.as_ref())),
        for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_ref())),
    };
    Some(Endpoint {
        address: parse_ip(wire.addresses.first()?)?,
        conditions: EndpointConditions {
            ready: wire.conditions.ready.unwrap_or(true),
            serving: wire.conditions.serving.unwrap_or(true),
            terminating: wire.conditions.terminating.unwrap_or(false),
        },
        node_name: wire.node_name.as_deref().map(shared),
        rare: (rare != Rare::default()).then(|| Box::new(rare)),
    })
}

/// A port without a name or number can't be matched or reached.
fn port(wire: &on_wire::Port<'_>) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: shared(wire.name.as_ref()?),
        protocol: wire.protocol.unwrap_or_default(),
        port: NonZeroU16::new(wire.port?)?,
    })
}
