//! Asking a running proxy: a Unix socket, a line of JSON each way.
//!
//! What is answered comes from the plan that is programmed and from the kernel, not from the API.

mod client;
pub(crate) mod connections;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;

use ipnet::IpNet;
use model::Protocol;
use plan::trace::{Fate, Packet, Trace};
use plan::{LocalDetector, NodePortAddresses, NodeSettings};
use serde::{Deserialize, Serialize};

pub(crate) use client::Agent;
pub(crate) use server::serve;

/// Where the proxy of a host answers.
pub(crate) const SOCKET: &str = "/run/portolan/portolan.sock";

/// The directory of a socket, where other things of the running process are. One that is not wanted
/// ("") is where others are.
pub(crate) fn runtime_directory(socket: &Path) -> &Path {
    let directory = socket.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.or(Path::new(SOCKET).parent()).unwrap_or(Path::new("/"))
}

/// Removes the socket of a process that was killed; one that ends by itself leaves none.
pub(crate) fn remove_socket(socket: &Path) {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(socket = %socket.display(), %error, "it is left");
        }
        _ => {}
    }
}

/// Name of the socket in the directory of a lab's node.
pub(crate) const SOCKET_NAME: &str = "portolan.sock";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    /// How far it is.
    Status {
        /// Also count the connections that are tracked.
        connections: bool,
    },
    /// What it does to a packet.
    Trace(Question),
    /// Whether the kernel holds what it should.
    Verify,
    /// Have another data plane take over.
    SwitchDataPlane {
        /// Which.
        mode: String,
    },
}

/// A packet that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Question {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: String,
    pub(crate) port: NonZeroU16,
    /// The interface it comes by; `None` if the node itself sends it.
    pub(crate) interface: Option<String>,
}

/// What it does to a packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TraceAnswer {
    /// Number of the transaction whose outcome this is.
    pub(crate) generation: u64,
    pub(crate) fate: FateAnswer,
    /// Why the kernel refuses the Service that is met.
    pub(crate) quarantined: Option<String>,
    /// For how many seconds a change has been waiting to be programmed.
    pub(crate) pending_seconds: Option<f64>,
    /// Why the last transaction failed.
    pub(crate) failure: Option<String>,
}

/// The outcome for a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FateAnswer {
    Forward { backends: Vec<SocketAddr>, masquerade: bool },
    Reject,
    Drop,
    Untouched,
}

/// How far a proxy is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusAnswer {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) node: String,
    pub(crate) data_plane: String,
    /// Whether that looks at sockets.
    #[serde(default)]
    pub(crate) asks_sockets: bool,
    pub(crate) settings: PlanSettings,
    /// Transactions that succeeded; 0 if nothing is programmed yet.
    pub(crate) generation: u64,
    pub(crate) programmed_seconds_ago: Option<f64>,
    pub(crate) pending_seconds: Option<f64>,
    pub(crate) failure: Option<String>,
    /// How often others' changes were put right.
    pub(crate) repairs: u64,
    pub(crate) services: usize,
    pub(crate) frontends: usize,
    pub(crate) endpoints: usize,
    pub(crate) quarantined: BTreeMap<String, String>,
    /// Frontends that several Services ask for, with those; the first one has it.
    pub(crate) contested: BTreeMap<String, Vec<String>>,
    /// Translated connections of each Service that has some, if they were asked for.
    pub(crate) connections: Option<BTreeMap<String, u64>>,
}

/// What plans depend on besides the API, in words of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanSettings {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pod_ranges: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_interface_prefix: Option<String>,
    masquerade_all: bool,
    /// `None` for the node's primary addresses.
    node_port_addresses: Option<Vec<IpNet>>,
    #[serde(rename = "allowedExternalIPs")]
    allowed_external_ips: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    primary_address: Option<IpAddr>,
}

impl PlanSettings {
    pub(crate) fn of(settings: &NodeSettings) -> Self {
        let mut words = Self {
            pod_ranges: Vec::new(),
            pod_interface: None,
            pod_interface_prefix: None,
            masquerade_all: settings.masquerade_all,
            node_port_addresses: match &settings.node_port_addresses {
                NodePortAddresses::Primary => None,
                NodePortAddresses::Ranges(ranges) => Some(ranges.clone()),
            },
            allowed_external_ips: settings.allowed_external_ips.clone(),
            primary_address: settings.primary_address,
        };
        match &settings.local_detector {
            LocalDetector::None => {}
            LocalDetector::Sources(ranges) => words.pod_ranges.clone_from(ranges),
            LocalDetector::Interface(name) => words.pod_interface = Some(name.clone()),
            LocalDetector::InterfacePrefix(name) => words.pod_interface_prefix = Some(name.clone()),
        }
        words
    }

    /// The same for the node of a name.
    pub(crate) fn settings(&self, node_name: &str) -> NodeSettings {
        let local_detector = match (&self.pod_interface, &self.pod_interface_prefix) {
            (Some(name), _) => LocalDetector::Interface(name.clone()),
            (None, Some(prefix)) => LocalDetector::InterfacePrefix(prefix.clone()),
            (None, None) if self.pod_ranges.is_empty() => LocalDetector::None,
            (None, None) => LocalDetector::Sources(self.pod_ranges.clone()),
        };
        NodeSettings {
            node_name: node_name.into(),
            local_detector,
            masquerade_all: self.masquerade_all,
            node_port_addresses: match &self.node_port_addresses {
                None => NodePortAddresses::Primary,
                Some(ranges) => NodePortAddresses::Ranges(ranges.clone()),
            },
            allowed_external_ips: self.allowed_external_ips.clone(),
            primary_address: self.primary_address,
        }
    }
}

impl Question {
    /// The question about a packet; `None` if it has no port.
    pub(crate) fn about(packet: &Packet) -> Option<Self> {
        let (protocol, port) = packet.port?;
        Some(Self {
            source: packet.source,
            destination: packet.destination,
            protocol: protocol.to_string(),
            port,
            interface: packet.interface.clone(),
        })
    }

    fn packet(&self, asks_sockets: bool) -> Option<Packet> {
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = known.into_iter().find(|known| known.to_string() == self.protocol)?;
        Some(Packet {
            source: self.source,
            destination: self.destination,
            port: Some((protocol, self.port)),
            interface: self.interface.clone(),
            asks_sockets,
        })
    }
}

impl FateAnswer {
    /// What a trace says, without the reasons.
    pub(crate) fn of(trace: &Trace) -> Self {
        match &trace.fate {
            Fate::Forward { backends, masquerade } => {
                let mut backends = backends.clone();
                backends.sort();
                FateAnswer::Forward { backends, masquerade: *masquerade }
            }
            Fate::Reject(_) => FateAnswer::Reject,
            Fate::Drop(_) => FateAnswer::Drop,
            Fate::Untouched => FateAnswer::Untouched,
        }
    }
}

impl std::fmt::Display for FateAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FateAnswer::Forward { backends, masquerade } => {
                let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
                write!(f, "leads to {}", backends.join(", "))?;
                f.write_str(if *masquerade { ", masqueraded" } else { "" })
            }
            FateAnswer::Reject => f.write_str("refuses it"),
            FateAnswer::Drop => f.write_str("drops it"),
            FateAnswer::Untouched => f.write_str("leaves it alone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_words() {
        let all = || vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for local_detector in [
            LocalDetector::None,
            LocalDetector::Sources(all()),
            LocalDetector::Interface("cni0".into()),
            LocalDetector::InterfacePrefix("veth".into()),
        ] {
            for node_port_addresses in
                [NodePortAddresses::Primary, NodePortAddresses::Ranges(all())]
            {
                let settings = NodeSettings {
                    node_name: "n1".into(),
                    local_detector: local_detector.clone(),
                    masquerade_all: true,
                    node_port_addresses,
                    allowed_external_ips: all(),
                    primary_address: Some("192.0.2.1".parse().unwrap()),
                };
                let text = serde_json::to_string(&PlanSettings::of(&settings)).unwrap();
                let words: PlanSettings = serde_json::from_str(&text).unwrap();
                assert_eq!(words.settings("n1"), settings);
            }
        }
    }
}
