//! `v1` Node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::meta::Meta;
use crate::Family;
use crate::address::{parse_ip, parse_net};

/// The label that names a node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Metadata.
    pub meta: Meta,
    /// Ranges its pods get addresses from, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether new pods are kept away.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Its addresses, in the order it reports them.
    pub addresses: Vec<NodeAddress>,
    /// Condition `Ready` is `True`.
    pub ready: bool,
}

/// One entry of `status.addresses` that is an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// `InternalIP`, not `ExternalIP`.
    pub internal: bool,
    /// The address.
    pub address: IpAddr,
}

/// A taint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: Arc<str>,
    /// Effect: `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    #[serde(default)]
    pub effect: Arc<str>,
}

impl Node {
    /// The zone label, if it is not empty.
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.meta.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty())
    }

    /// The node's address in `family`: internal addresses before external ones.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let of_family = |a: &&NodeAddress| Family::of(a.address) == family;
        self.addresses
            .iter()
            .filter(of_family)
            .find(|a| a.internal)
            .or_else(|| self.addresses.iter().find(of_family))
            .map(|a| a.address)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Node::deserialize(deserializer).map(Self::from)
    }
}

mod wire {
    use super::*;

    #[derive(Deserialize)]
    pub(super) struct Node {
        pub metadata: Meta,
        #[serde(default)]
        pub spec: Spec,
        #[serde(default)]
        pub status: Status,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Spec {
        #[serde(rename = "podCIDR")]
        pub pod_cidr: Option<String>,
        #[serde(rename = "podCIDRs")]
        pub pod_cidrs: Option<Vec<String>>,
        pub unschedulable: bool,
        pub taints: Option<Vec<Taint>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct Status {
        pub addresses: Option<Vec<Address>>,
        pub conditions: Option<Vec<Condition>>,
    }

    #[derive(Deserialize)]
    pub(super) struct Address {
        #[serde(rename = "type")]
        pub kind: String,
        pub address: String,
    }

    #[derive(Deserialize)]
    pub(super) struct Condition {
        #[serde(rename = "type")]
        pub kind: String,
        pub status: String,
    }
}

impl From<wire::Node> for Node {
    fn from(wire: wire::Node) -> Self {
        let wire::Node { metadata: meta, spec, status } = wire;
        let mut pod_cidrs: Vec<IpNet> =
            spec.pod_cidrs.unwrap_or_default().iter().filter_map(|c| parse_net(c)).collect();
        if pod_cidrs.is_empty() {
            pod_cidrs.extend(spec.pod_cidr.as_deref().and_then(parse_net));
        }
        let address = |a: wire::Address| {
            let internal = match a.kind.as_str() {
                "InternalIP" => true,
                "ExternalIP" => false,
                _ => return None,
            };
            Some(NodeAddress { internal, address: parse_ip(&a.address)? })
        };
        Node {
            meta,
            pod_cidrs,
            unschedulable: spec.unschedulable,
            taints: spec.taints.unwrap_or_default(),
            addresses: status
                .addresses
                .unwrap_or_default()
                .into_iter()
                .filter_map(address)
                .collect(),
            ready: status
                .conditions
                .unwrap_or_default()
                .iter()
                .any(|c| c.kind == "Ready" && c.status == "True"),
        }
    }
}
