//! `v1` Service.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::meta::Meta;
use crate::address::{parse_ip, parse_net};
use crate::{Family, ObjectName, Protocol};

/// A Service carrying this label, with any value, belongs to another proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Metadata.
    pub meta: Meta,
    /// How the Service is exposed.
    pub service_type: ServiceType,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Cluster addresses, at most one a family, primary first; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Families in order of preference.
    pub ip_families: Vec<Family>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Pod labels to select; empty means that endpoints are managed by somebody else.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    /// Addresses outside the cluster's care that nodes shall accept.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that nodes shall accept or leave alone.
    pub load_balancer: Vec<(IpAddr, IpMode)>,
    /// Sources allowed to use load-balancer addresses; empty means all.
    pub source_ranges: Vec<IpNet>,
    /// Policy for traffic to NodePort, load-balancer and external addresses.
    pub external_traffic_policy: TrafficPolicy,
    /// Policy for traffic to the cluster address.
    pub internal_traffic_policy: TrafficPolicy,
    /// Port of the load balancer's health check, if any.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Stickiness of clients.
    pub session_affinity: SessionAffinity,
    /// DNS name that an ExternalName Service stands for.
    pub external_name: Option<Arc<str>>,
    /// Whether endpoints count as ready before their pod is.
    pub publish_not_ready_addresses: bool,
}

/// `spec.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    /// Reachable in the cluster only.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on addresses that a load balancer gives.
    LoadBalancer,
    /// A DNS alias, nothing for the proxy.
    ExternalName,
}

/// `externalTrafficPolicy` and `internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// `sessionAffinity` with its timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionAffinity {
    /// Each connection chooses anew.
    #[default]
    None,
    /// A client address stays with its endpoint until it has been silent for this long.
    ClientIp(Duration),
}

/// How a load balancer delivers: with the load-balancer address still as destination, or already
/// rewritten (KEP-1860).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum IpMode {
    /// Packets arrive with the load-balancer address: nodes accept it.
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// Packets must go out to the load balancer: nodes leave it alone.
    Proxy,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for an unnamed single port.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the Service's addresses.
    pub port: NonZeroU16,
    /// Port on the pod.
    pub target_port: TargetPort,
    /// Port on every node, if allocated.
    pub node_port: Option<NonZeroU16>,
}

/// `targetPort`: a number, or the name of a container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The number itself.
    Number(u16),
    /// Looked up in each pod's containers.
    Name(Arc<str>),
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetPort::Number(number) => number.fmt(f),
            TargetPort::Name(name) => name.fmt(f),
        }
    }
}

impl Service {
    /// Namespace and name.
    pub fn name(&self) -> ObjectName {
        self.meta.object_name()
    }

    /// The cluster address of `family`.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// Whether a proxy programs this Service at all: it has a cluster address, is no alias, and is
    /// not claimed by another proxy.
    pub fn is_proxied(&self) -> bool {
        self.service_type != ServiceType::ExternalName
            && !self.cluster_ips.is_empty()
            && !self.meta.labels.contains_key(PROXY_NAME_LABEL)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Service::deserialize(deserializer).map(Self::from)
    }
}

/// The shape on the wire, before defaults and lenient reading are applied.
mod wire {
    use super::*;

    #[derive(Deserialize)]
    pub(super) struct Service {
        pub metadata: Meta,
        #[serde(default)]
        pub spec: Spec,
        #[serde(default)]
        pub status: Status,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Spec {
        #[serde(rename = "type")]
        pub service_type: ServiceType,
        #[serde(rename = "clusterIP")]
        pub cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        pub ip_families: Vec<Family>,
        pub ports: Vec<Port>,
        pub selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
        #[serde(rename = "externalIPs")]
        pub external_ips: Vec<String>,
        pub load_balancer_source_ranges: Vec<String>,
        pub external_traffic_policy: Option<TrafficPolicy>,
        pub internal_traffic_policy: Option<TrafficPolicy>,
        pub health_check_node_port: u16,
        pub session_affinity: Option<String>,
        pub session_affinity_config: Option<AffinityConfig>,
        pub external_name: Option<Arc<str>>,
        pub publish_not_ready_addresses: bool,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Port {
        #[serde(default)]
        pub name: Option<Arc<str>>,
        #[serde(default)]
        pub protocol: Protocol,
        pub port: u16,
        pub target_port: Option<IntOrString>,
        #[serde(default)]
        pub node_port: u16,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum IntOrString {
        Int(u16),
        String(Arc<str>),
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct AffinityConfig {
        #[serde(rename = "clientIP")]
        pub client_ip: Option<ClientIpConfig>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct ClientIpConfig {
        pub timeout_seconds: Option<u32>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Status {
        pub load_balancer: LoadBalancer,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct LoadBalancer {
        pub ingress: Vec<Ingress>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Ingress {
        pub ip: Option<String>,
        pub ip_mode: Option<IpMode>,
    }
}

impl From<wire::Service> for Service {
    fn from(wire: wire::Service) -> Self {
        let wire::Service { metadata: meta, spec, status } = wire;
        let headless = spec.cluster_ip.as_deref() == Some("None")
            || spec.cluster_ips.first().is_some_and(|ip| ip == "None");
        let mut cluster_ips: Vec<IpAddr> =
            spec.cluster_ips.iter().filter_map(|ip| parse_ip(ip)).collect();
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.as_deref().and_then(parse_ip));
        }
        let session_affinity = match spec.session_affinity.as_deref() {
            Some("ClientIP") => SessionAffinity::ClientIp(
                spec.session_affinity_config
                    .and_then(|config| config.client_ip?.timeout_seconds)
                    .map_or(DEFAULT_AFFINITY, |seconds| Duration::from_secs(seconds.into())),
            ),
            _ => SessionAffinity::None,
        };
        let ports = spec.ports.into_iter().filter_map(port).collect();
        Service {
            meta,
            service_type: spec.service_type,
            headless,
            cluster_ips,
            ip_families: spec.ip_families,
            ports,
            selector: spec.selector.unwrap_or_default(),
            external_ips: spec.external_ips.iter().filter_map(|ip| parse_ip(ip)).collect(),
            load_balancer: status
                .load_balancer
                .ingress
                .iter()
                .filter_map(|i| Some((parse_ip(i.ip.as_deref()?)?, i.ip_mode.unwrap_or_default())))
                .collect(),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .filter_map(|range| parse_net(range))
                .collect(),
            external_traffic_policy: spec.external_traffic_policy.unwrap_or_default(),
            internal_traffic_policy: spec.internal_traffic_policy.unwrap_or_default(),
            health_check_node_port: NonZeroU16::new(spec.health_check_node_port),
            session_affinity,
            external_name: spec.external_name,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
        }
    }
}

/// A port 0 can't be programmed and is dropped; an absent target is the port itself.
fn port(wire: wire::Port) -> Option<ServicePort> {
    let port = NonZeroU16::new(wire.port)?;
    let target_port = match wire.target_port {
        Some(wire::IntOrString::Int(number)) if number != 0 => TargetPort::Number(number),
        Some(wire::IntOrString::String(name)) if !name.is_empty() => TargetPort::Name(name),
        _ => TargetPort::Number(port.get()),
    };
    Some(ServicePort {
        name: wire.name.unwrap_or_default(),
        protocol: wire.protocol,
        port,
        target_port,
        node_port: NonZeroU16::new(wire.node_port),
    })
}
