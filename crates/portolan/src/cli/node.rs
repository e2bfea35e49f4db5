//! `portolan node`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;

use super::dataplane::DataPlane;
use super::place::Place;
use super::planning::Planning;
use crate::control::SOCKET;
use crate::node::{self, Settings};
use crate::runtime;

/// Run the agent of one node: pods, routes, Services and DNS.
///
/// It registers the Node, waits for its pod range, runs the pods bound to it, programs Services
/// into the kernel, keeps routes to the pods of other nodes, and answers cluster DNS. SIGTERM ends the
/// agent and leaves pods and packets as they are; the next start takes them over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  portolan node --kubeconfig /etc/portolan/node.kubeconfig")]
pub(crate) struct Args {
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Name of the Node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Addresses of the node, at most one a family [default: those of its links].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Where leases and pods are remembered.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/node")]
    data_dir: PathBuf,
    /// Address of the cluster's DNS Service, for the pods' resolv.conf.
    #[arg(long, value_name = "IP", default_value = "10.96.0.10")]
    cluster_dns: IpAddr,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// The resolv.conf(5) whose servers are asked about names that are not the cluster's; "" to
    /// refuse those.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: OsString,
    /// Where DNS of this node tells /metrics, /ready and /health; "" for nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9153")]
    metrics_address: Place,
    #[command(flatten)]
    planning: Planning,
    #[command(flatten)]
    data_plane: DataPlane,
    /// Control group of the pods, below the root of the hierarchy.
    #[arg(long, value_name = "PATH", default_value = "portolan/pods")]
    pod_cgroup: PathBuf,
    /// Where `portolan status` and `explain` ask; "" for nowhere.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
    /// At the end, also stop the pods and remove what was programmed.
    #[arg(long)]
    cleanup_on_exit: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let name = match args.node_name {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .context("read the host's name (or pass --node-name)")?
            .to_string_lossy()
            .to_lowercase(),
    };
    let settings = Settings {
        planning: args.planning.settings(&name),
        choice: args.data_plane.choice(),
        addresses: args.node_ip,
        kubeconfig: args.kubeconfig,
        data_dir: args.data_dir,
        cluster_dns: args.cluster_dns,
        cluster_domain: args.cluster_domain,
        resolv_conf: Some(args.resolv_conf).filter(|path| !path.is_empty()).map(PathBuf::from),
        metrics: args.metrics_address.0,
        pod_cgroup: args.pod_cgroup,
        socket: Some(args.socket).filter(|path| !path.as_os_str().is_empty()),
        cleanup_on_exit: args.cleanup_on_exit,
    };
    runtime::run(node::run(settings))
}
