//! Flags of those who plan for nodes.

use ipnet::IpNet;
use plan::{LocalDetector, NodePortAddresses, NodeSettings};

/// How the proxies of a cluster are configured, as far as it changes plans.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Planning {
    /// Ranges of all pods, at most one a family: what comes from them is a pod's.
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_delimiter = ',')]
    pub(super) cluster_cidr: Vec<IpNet>,
    /// Ranges that Services may have their externalIPs in; 0.0.0.0/0,::/0 for any, as kube-proxy.
    #[arg(long = "allow-external-ips", value_name = "CIDR,...", value_delimiter = ',')]
    pub(super) allow_external_ips: Vec<IpNet>,
}

impl Planning {
    /// What the plan has to know about a node that is not in its Node object.
    pub(super) fn settings(&self, node_name: &str) -> NodeSettings {
        NodeSettings {
            node_name: node_name.into(),
            local_detector: LocalDetector::Sources(self.cluster_cidr.clone()),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: self.allow_external_ips.clone(),
            primary_address: None,
        }
    }
}
