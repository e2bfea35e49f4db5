//! `v1` Pod, as far as the service network looks at it.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::meta::Meta;
use crate::address::parse_ip;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Metadata.
    pub meta: Meta,
    /// The node it was bound to.
    pub node_name: Option<Arc<str>>,
    /// Shares the node's network.
    pub host_network: bool,
    /// Phase.
    pub phase: PodPhase,
    /// Its addresses, at most one a family; empty until the sandbox runs.
    pub ips: Vec<IpAddr>,
    /// Conditions.
    pub conditions: Vec<PodCondition>,
    /// The names of its containers' ports, those of init containers that stay among them.
    pub port_names: Vec<Arc<str>>,
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PodPhase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well and won't restart.
    Succeeded,
    /// All containers ended and one failed.
    Failed,
    /// The node can't be asked.
    Unknown,
}

/// One of `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PodCondition {
    /// Type, for example `Ready`.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Arc<str>,
}

impl Pod {
    /// Condition `Ready` is `True`.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|c| &*c.kind == "Ready" && &*c.status == "True")
    }

    /// Succeeded or Failed: its address may already be another pod's.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Pod::deserialize(deserializer).map(Self::from)
    }
}

mod wire {
    use super::*;

    #[derive(Deserialize)]
    pub(super) struct Pod {
        pub metadata: Meta,
        #[serde(default)]
        pub spec: Spec,
        #[serde(default)]
        pub status: Status,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Spec {
        pub node_name: Option<Arc<str>>,
        pub host_network: bool,
        pub containers: Option<Vec<Container>>,
        pub init_containers: Option<Vec<Container>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Container {
        pub ports: Option<Vec<ContainerPort>>,
        pub restart_policy: Option<String>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct ContainerPort {
        pub name: Option<Arc<str>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Status {
        pub phase: PodPhase,
        #[serde(rename = "podIP")]
        pub pod_ip: Option<String>,
        #[serde(rename = "podIPs")]
        pub pod_ips: Option<Vec<PodIp>>,
        pub conditions: Option<Vec<PodCondition>>,
    }

    #[derive(Deserialize)]
    pub(super) struct PodIp {
        #[serde(default)]
        pub ip: String,
    }
}

impl From<wire::Pod> for Pod {
    fn from(wire: wire::Pod) -> Self {
        let wire::Pod { metadata: meta, spec, status } = wire;
        let mut ips: Vec<IpAddr> =
            status.pod_ips.unwrap_or_default().iter().filter_map(|p| parse_ip(&p.ip)).collect();
        if ips.is_empty() {
            ips.extend(status.pod_ip.as_deref().and_then(parse_ip));
        }
        let sidecars = spec
            .init_containers
            .into_iter()
            .flatten()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let port_names = spec
            .containers
            .into_iter()
            .flatten()
            .chain(sidecars)
            .flat_map(|container| container.ports.unwrap_or_default())
            .filter_map(|port| port.name)
            .collect();
        Pod {
            port_names,
            meta,
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            host_network: spec.host_network,
            phase: status.phase,
            ips,
            conditions: status.conditions.unwrap_or_default(),
        }
    }
}
