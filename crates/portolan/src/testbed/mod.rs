//! A whole cluster on one machine: the hosts of a [`lab`], an API server on one of them, a node
//! agent on others, and one host outside of the cluster.
//!
//! Every part is this same program, started as a user would start it. Here is only who runs where.

mod exec;
mod status;
mod up;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use lab::{Directory, HostAddress, Record, Underlay};

pub(crate) use exec::{Place, Target};
pub(crate) use status::{Resident, resident, status};
pub(crate) use up::up;

/// The host that the API server runs on.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// The host that is not part of the cluster.
pub(crate) const OUTSIDE: &str = "outside";
/// Most nodes that the underlay has addresses for.
pub(crate) const MAX_NODES: u8 = 100;

/// Last octets of the hosts' addresses; nodes count up from theirs.
const GATEWAY_OCTET: u8 = 1;
const CONTROL_PLANE_OCTET: u8 = 2;
const FIRST_NODE_OCTET: u8 = 11;
const OUTSIDE_OCTET: u8 = 200;

/// Where the lab notes the path of its kubeconfig.
const KUBECONFIG_NOTE: &str = "kubeconfig";
/// Where it notes the URL of its API server.
const API_NOTE: &str = "api";

/// What cluster to bring up.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Name of the lab.
    pub(crate) name: String,
    /// Number of nodes.
    pub(crate) nodes: u8,
    /// Ranges of pods.
    pub(crate) cluster_cidr: IpNet,
    /// What chooses the data plane of its nodes, as arguments of their agents.
    pub(crate) data_plane: Vec<String>,
    /// Range of Services.
    pub(crate) service_cidr: IpNet,
    /// Port of the API on the machine's loopback: `None` is 6443 or the next free one, 0 any.
    pub(crate) api_port: Option<u16>,
    /// Manifests to apply.
    pub(crate) manifests: Vec<PathBuf>,
    /// Check everything and print what was seen.
    pub(crate) tour: bool,
    /// Log level of the parts.
    pub(crate) log_level: String,
}

/// Name of a node, counted from 1.
pub(crate) fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// Names of all nodes of a lab.
pub(crate) fn nodes(underlay: &Underlay) -> impl Iterator<Item = &HostAddress> {
    underlay.hosts.iter().filter(|host| host.name != CONTROL_PLANE && host.name != OUTSIDE)
}

fn underlay(nodes: u8) -> Underlay {
    let address = |last: u8| IpAddr::V4(Ipv4Addr::new(172, 31, 0, last));
    let host = |name: &str, last| HostAddress { name: name.to_owned(), address: address(last) };
    let mut hosts = vec![host(CONTROL_PLANE, CONTROL_PLANE_OCTET)];
    hosts.extend((1..=nodes).map(|n| host(&node_name(n), FIRST_NODE_OCTET + n - 1)));
    hosts.push(host(OUTSIDE, OUTSIDE_OCTET));
    let network = IpNet::new(address(0), 24).expect("24 is a prefix length of IPv4");
    Underlay { network, gateway: Some(address(GATEWAY_OCTET)), hosts }
}

/// The path of a running lab's kubeconfig.
pub(crate) fn kubeconfig(name: &str) -> anyhow::Result<PathBuf> {
    let record = Record::of_running(&Directory::of(name)?)?;
    match record.note(KUBECONFIG_NOTE) {
        Some(path) => Ok(path.into()),
        None => anyhow::bail!("lab {name} is only starting: try again when it says it is ready"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hosts_have_distinct_addresses_up_to_the_most_nodes() {
        let underlay = underlay(MAX_NODES);
        let addresses: HashSet<IpAddr> = underlay.hosts.iter().map(|host| host.address).collect();
        assert_eq!(addresses.len(), usize::from(MAX_NODES) + 2);
        assert!(addresses.iter().all(|address| underlay.network.contains(address)));
        assert_eq!(nodes(&underlay).count(), usize::from(MAX_NODES));
    }
}
