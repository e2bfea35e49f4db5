//! `v1` Service.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::labels::Labels;
use super::meta::Meta;
use super::wire;
use crate::address::{parse_ip, parse_net};
use crate::intern::shared;
use crate::{Family, ObjectName, Protocol};

/// A Service carrying this label, with any value, belongs to another proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// What the keys of this project's annotations begin with.
pub const OWN_ANNOTATIONS: &str = "portolan.dev/";

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
    pub selector: Labels,
    /// Annotations of this project; what others annotate is not kept.
    pub annotations: Labels,
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
        on_wire::Service::deserialize(deserializer).map(Self::from)
    }
}

/// The shape on the wire, before defaults and lenient reading are applied.
mod on_wire {
    use std::borrow::Cow;

    use super::wire::{Meta, Pairs, Text};
    use super::*;

    #[derive(Deserialize)]
    pub(super) struct Service<'a> {
        #[serde(borrow)]
        pub metadata: Meta<'a>,
        #[serde(borrow, default)]
        pub spec: Spec<'a>,
        #[serde(borrow, default)]
        pub status: Status<'a>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Spec<'a> {
        #[serde(rename = "type")]
        pub service_type: ServiceType,
        #[serde(borrow, rename = "clusterIP")]
        pub cluster_ip: Option<Text<'a>>,
        #[serde(borrow, rename = "clusterIPs", deserialize_with = "wire::nullable")]
        pub cluster_ips: Vec<Text<'a>>,
        #[serde(deserialize_with = "wire::nullable")]
        pub ip_families: Vec<Family>,
        #[serde(borrow, deserialize_with = "wire::nullable")]
        pub ports: Vec<Port<'a>>,
        #[serde(borrow)]
        pub selector: Pairs<'a>,
        #[serde(borrow, rename = "externalIPs", deserialize_with = "wire::nullable")]
        pub external_ips: Vec<Text<'a>>,
        #[serde(borrow, deserialize_with = "wire::nullable")]
        pub load_balancer_source_ranges: Vec<Text<'a>>,
        pub external_traffic_policy: Option<TrafficPolicy>,
        pub internal_traffic_policy: Option<TrafficPolicy>,
        pub health_check_node_port: u16,
        #[serde(borrow)]
        pub session_affinity: Option<Text<'a>>,
        pub session_affinity_config: Option<AffinityConfig>,
        #[serde(borrow)]
        pub external_name: Option<Text<'a>>,
        pub publish_not_ready_addresses: bool,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Port<'a> {
        #[serde(borrow, default)]
        pub name: Option<Text<'a>>,
        #[serde(default)]
        pub protocol: Protocol,
        pub port: u16,
        #[serde(borrow)]
        pub target_port: Option<IntOrString<'a>>,
        #[serde(default)]
        pub node_port: u16,
    }

    pub(super) enum IntOrString<'a> {
        Int(u16),
        String(Cow<'a, str>),
    }

    impl<'de: 'a, 'a> Deserialize<'de> for IntOrString<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Reader;
            impl<'de> Visitor<'de> for Reader {
                type Value = IntOrString<'de>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a port number or name")
                }

                fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                    let number = u16::try_from(number);
                    number.map(IntOrString::Int).map_err(|_| E::custom("a port is below 65536"))
                }

                fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                    Ok(IntOrString::String(Cow::Borrowed(name)))
                }

                fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                    Ok(IntOrString::String(Cow::Owned(name.to_owned())))
                }
            }
            deserializer.deserialize_any(Reader)
        }
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
    pub(super) struct Status<'a> {
        #[serde(borrow)]
        pub load_balancer: LoadBalancer<'a>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct LoadBalancer<'a> {
        #[serde(borrow, deserialize_with = "wire::nullable")]
        pub ingress: Vec<Ingress<'a>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Ingress<'a> {
        #[serde(borrow)]
        pub ip: Option<Text<'a>>,
        pub ip_mode: Option<IpMode>,
    }
}

impl From<on_wire::Service<'_>> for Service {
    fn from(wire: on_wire::Service<'_>) -> Self {
        let on_wire::Service { metadata, spec, status } = wire;
        let headless = spec.cluster_ip.as_deref() == Some("None")
            || spec.cluster_ips.first().is_some_and(|ip| **ip == *"None");
        let mut cluster_ips = exact(spec.cluster_ips.iter().filter_map(|ip| parse_ip(ip)));
        if cluster_ips.is_empty() {
            cluster_ips = exact(spec.cluster_ip.as_deref().and_then(parse_ip));
        }
        let session_affinity = match spec.session_affinity.as_deref() {
            Some("ClientIP") => SessionAffinity::ClientIp(
                spec.session_affinity_config
                    .and_then(|config| config.client_ip?.timeout_seconds)
                    .map_or(DEFAULT_AFFINITY, |seconds| Duration::from_secs(seconds.into())),
            ),
            _ => SessionAffinity::None,
        };
        let ports = exact(spec.ports.iter().filter_map(port));
        Service {
            meta: Meta::of(&metadata, |key| key == PROXY_NAME_LABEL),
            annotations: Labels::of(&metadata.annotations, |key| key.starts_with(OWN_ANNOTATIONS)),
            service_type: spec.service_type,
            headless,
            cluster_ips,
            ip_families: exact(spec.ip_families),
            ports,
            selector: Labels::of(&spec.selector, |_| true),
            external_ips: exact(spec.external_ips.iter().filter_map(|ip| parse_ip(ip))),
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
            external_name: spec.external_name.as_deref().map(Arc::from),
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
        }
    }
}

/// A list without memory for more: Services are many, and stay as they are.
fn exact<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = items.into_iter().collect();
    list.shrink_to_fit();
    list
}

/// A port 0 can't be programmed and is dropped; an absent target is the port itself.
fn port(wire: &on_wire::Port<'_>) -> Option<ServicePort> {
    let port = NonZeroU16::new(wire.port)?;
    let target_port = match &wire.target_port {
        Some(on_wire::IntOrString::Int(number)) if *number != 0 => TargetPort::Number(*number),
        Some(on_wire::IntOrString::String(name)) if !name.is_empty() => {
            TargetPort::Name(shared(name))
        }
        _ => TargetPort::Number(port.get()),
    };
    Some(ServicePort {
        name: shared(wire.name.as_deref().unwrap_or_default()),
        protocol: wire.protocol,
        port,
        target_port,
        node_port: NonZeroU16::new(wire.node_port),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_an_empty_list() {
        let service = json!({
            "metadata": {"name": "out", "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": "example.com", "ports": null,
                     "clusterIPs": null, "ipFamilies": null, "externalIPs": null,
                     "loadBalancerSourceRanges": null, "selector": null},
            "status": {"loadBalancer": {"ingress": null}},
        });
        let service: Service = serde_json::from_value(service).unwrap();
        assert!(service.ports.is_empty() && service.cluster_ips.is_empty());
        assert_eq!(service.external_name.as_deref(), Some("example.com"));
    }
}
