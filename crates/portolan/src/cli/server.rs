//! `portolan server`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::runtime;
use crate::server::{self, Settings};

/// Run the embedded API server and the controllers.
///
/// Speaks the Kubernetes API over HTTPS for the kinds that a service network needs. Everything is
/// kept in the data directory, the certificate authority too. A listening socket as standard input
/// (inetd, or systemd's StandardInput=socket) is served as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    portolan server --data-dir /var/lib/portolan/server --write-kubeconfig ~/.kube/config")]
pub(crate) struct Args {
    /// Where objects and certificates are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/server")]
    data_dir: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    secure_port: u16,
    /// Address that others reach this server by [default: the bind address, or that of the first
    /// link].
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Range of ClusterIPs.
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16", value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    /// Range that nodes get blocks of for their pods.
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Prefix length of a node's IPv4 block.
    #[arg(long, value_name = "LENGTH", default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// Prefix length of a node's IPv6 block.
    #[arg(long, value_name = "LENGTH", default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,
    /// Ports that NodePorts are taken from.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: RangeInclusive<u16>,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Write an administrator's kubeconfig to this file.
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').ok_or("use FIRST-LAST, for example 30000-32767")?;
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
    match (port(first)?, port(last)?) {
        (first, last) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(format!("{text} holds no port")),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let settings = Settings {
        data_dir: args.data_dir,
        bind_address: args.bind_address,
        port: args.secure_port,
        advertise_address: args.advertise_address,
        service_cidrs: args.service_cidr,
        cluster_cidrs: args.cluster_cidr,
        node_mask_v4: args.node_cidr_mask_size,
        node_mask_v6: args.node_cidr_mask_size_ipv6,
        node_ports: args.service_node_port_range,
        cluster_domain: args.cluster_domain,
        kubeconfig: args.write_kubeconfig,
    };
    runtime::run(server::run(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_read() {
        assert_eq!(port_range("30000-32767"), Ok(30000..=32767));
        for wrong in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(port_range(wrong).is_err(), "{wrong}");
        }
    }
}
