//! `discovery.k8s.io/v1` EndpointSlice.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::meta::Meta;
use crate::address::parse_ip;
use crate::{Family, ObjectName, Protocol};

/// The label that joins a slice to its Service; owner references play no part.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Slices of headless Services carry this label; the proxy leaves them alone, DNS reads them.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Some endpoints of a Service, in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Metadata.
    pub meta: Meta,
    /// What the addresses are.
    pub address_type: AddressType,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The ports that every endpoint of this slice serves.
    pub ports: Vec<EndpointPort>,
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
    /// Name under the Service's DNS name.
    pub hostname: Option<Arc<str>>,
    /// The node that runs it.
    pub node_name: Option<Arc<str>>,
    /// The zone of that node.
    pub zone: Option<Arc<str>>,
    /// The object behind it.
    pub target_ref: Option<TargetRef>,
    /// Which zones and nodes should prefer it.
    pub hints: Hints,
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

/// Reference to the pod behind an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Kind, normally `Pod`.
    pub kind: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Default for TargetRef {
    fn default() -> Self {
        Self { kind: "".into(), namespace: "".into(), name: "".into() }
    }
}

/// Topology hints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones that should use this endpoint.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes that should use this endpoint.
    pub for_nodes: Vec<Arc<str>>,
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

impl EndpointSlice {
    /// Namespace and name of the slice itself.
    pub fn name(&self) -> ObjectName {
        self.meta.object_name()
    }

    /// The Service this slice belongs to, if it says so.
    pub fn service(&self) -> Option<ObjectName> {
        let service = self.meta.labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
        Some(ObjectName { namespace: self.meta.namespace.clone(), name: service.clone() })
    }

    /// Whether the slice is of `family`.
    pub fn is_of(&self, family: Family) -> bool {
        matches!(
            (self.address_type, family),
            (AddressType::IPv4, Family::V4) | (AddressType::IPv6, Family::V6)
        )
    }

    /// Whether the slice is marked as a headless Service's.
    pub fn is_headless(&self) -> bool {
        self.meta.labels.contains_key(HEADLESS_LABEL)
    }
}

impl<'de> Deserialize<'de> for EndpointSlice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::EndpointSlice::deserialize(deserializer).map(Self::from)
    }
}

mod wire {
    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct EndpointSlice {
        pub metadata: Meta,
        pub address_type: AddressType,
        #[serde(default)]
        pub endpoints: Option<Vec<Endpoint>>,
        #[serde(default)]
        pub ports: Option<Vec<Port>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Endpoint {
        pub addresses: Vec<String>,
        pub conditions: Conditions,
        pub hostname: Option<Arc<str>>,
        pub node_name: Option<Arc<str>>,
        pub zone: Option<Arc<str>>,
        pub target_ref: Option<TargetRef>,
        pub hints: Option<Hints>,
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
    pub(super) struct Hints {
        pub for_zones: Option<Vec<Named>>,
        pub for_nodes: Option<Vec<Named>>,
    }

    #[derive(Deserialize)]
    pub(super) struct Named {
        pub name: Arc<str>,
    }

    #[derive(Deserialize)]
    pub(super) struct Port {
        #[serde(default)]
        pub name: Option<Arc<str>>,
        #[serde(default)]
        pub protocol: Option<Protocol>,
        #[serde(default)]
        pub port: Option<u16>,
    }
}

impl From<wire::EndpointSlice> for EndpointSlice {
    fn from(wire: wire::EndpointSlice) -> Self {
        let names = |list: Option<Vec<wire::Named>>| {
            list.unwrap_or_default().into_iter().map(|named| named.name).collect()
        };
        let endpoint = |e: wire::Endpoint| {
            let hints = e.hints.unwrap_or_default();
            Some(Endpoint {
                address: parse_ip(e.addresses.first()?)?,
                conditions: EndpointConditions {
                    ready: e.conditions.ready.unwrap_or(true),
                    serving: e.conditions.serving.unwrap_or(true),
                    terminating: e.conditions.terminating.unwrap_or(false),
                },
                hostname: e.hostname.filter(|hostname| !hostname.is_empty()),
                node_name: e.node_name,
                zone: e.zone,
                target_ref: e.target_ref,
                hints: Hints {
                    for_zones: names(hints.for_zones),
                    for_nodes: names(hints.for_nodes),
                },
            })
        };
        // A port without a name or number can't be matched or reached.
        let port = |p: wire::Port| {
            Some(EndpointPort {
                name: p.name?,
                protocol: p.protocol.unwrap_or_default(),
                port: NonZeroU16::new(p.port?)?,
            })
        };
        EndpointSlice {
            meta: wire.metadata,
            address_type: wire.address_type,
            endpoints: wire
                .endpoints
                .unwrap_or_default()
                .into_iter()
                .filter_map(endpoint)
                .collect(),
            ports: wire.ports.unwrap_or_default().into_iter().filter_map(port).collect(),
        }
    }
}
