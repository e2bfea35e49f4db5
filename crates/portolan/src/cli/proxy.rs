//! `portolan proxy`.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::proxy::config::{self, KubeProxyConfiguration};
use crate::proxy::{self, Settings};
use crate::runtime;

/// Program Services on a node of any Kubernetes cluster, in the place of kube-proxy.
///
/// Flags and configuration file are those of kube-proxy. The data plane is nftables. SIGTERM ends the
/// process and leaves packets flowing; the next start takes over what is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    portolan proxy --kubeconfig /var/lib/kube-proxy/kubeconfig.conf --cluster-cidr 10.244.0.0/16")]
pub(crate) struct Args {
    /// A KubeProxyConfiguration file; other flags but --hostname-override are then ignored.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the configuration that is in force to this file, and end.
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    /// How to reach the API server [default: the service account of the pod this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Name of the Node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Ranges of all pods, one a family.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    cluster_cidr: Option<String>,
    /// How pods' packets are told: ClusterCIDR, BridgeInterface or InterfaceNamePrefix.
    #[arg(long, value_name = "MODE")]
    detect_local_mode: Option<String>,
    /// Interface of the pods' bridge, for BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// What pods' interfaces begin with, for InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Masquerade every connection to a ClusterIP.
    #[arg(long)]
    masquerade_all: bool,
    /// Addresses that accept node ports: ranges, or primary.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// Where /healthz and /livez are served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT")]
    healthz_bind_address: Option<String>,
    /// Where /metrics, /proxyMode and /configz are served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT")]
    metrics_bind_address: Option<String>,
    /// End if these can't listen, instead of trying again.
    #[arg(long)]
    bind_address_hard_fail: bool,
    /// The data plane: nftables.
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let config = configuration(args)?;
    if let Some(path) = &args.write_config_to {
        let text = config.to_yaml();
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    for sentence in config.without_meaning() {
        tracing::warn!("{sentence}");
    }
    let node_name = match config.hostname_override.trim() {
        "" => nix::unistd::gethostname()
            .context("read the host's name (or pass --hostname-override)")?
            .to_string_lossy()
            .into_owned(),
        name => name.to_owned(),
    }
    .to_lowercase();
    let kubeconfig = Some(config.client_connection.kubeconfig.as_str());
    runtime::run(proxy::run(Settings {
        kubeconfig: kubeconfig.filter(|path| !path.is_empty()).map(PathBuf::from),
        node: config.node_settings(&node_name),
        healthz: config.healthz_bind_address.parse().ok(),
        metrics: config.metrics_bind_address.parse().ok(),
        config: config.to_json(),
        bind_hard_fail: config.bind_address_hard_fail,
    }))
}

/// The configuration in force, valid.
fn configuration(args: &Args) -> anyhow::Result<KubeProxyConfiguration> {
    let mut config = match &args.config {
        Some(path) => from_file(path)?,
        None => from_flags(args),
    };
    if let Some(name) = &args.hostname_override {
        config.hostname_override.clone_from(name);
    }
    config.validate()?;
    anyhow::ensure!(
        config.detect_local_mode != "NodeCIDR",
        "detectLocalMode: NodeCIDR is not there yet: accepted are ClusterCIDR, BridgeInterface and InterfaceNamePrefix"
    );
    match config.mode.as_str() {
        "" | "nftables" => Ok(config),
        mode => anyhow::bail!("mode: {mode} is not there yet: accepted is nftables"),
    }
}

fn from_file(path: &Path) -> anyhow::Result<KubeProxyConfiguration> {
    let (config, warnings) = config::read(path)?;
    for warning in warnings {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    Ok(config)
}

fn from_flags(args: &Args) -> KubeProxyConfiguration {
    let mut config = KubeProxyConfiguration::default();
    let set = |field: &mut String, flag: &Option<String>| {
        if let Some(value) = flag {
            field.clone_from(value);
        }
    };
    set(&mut config.client_connection.kubeconfig, &args.kubeconfig);
    set(&mut config.cluster_cidr, &args.cluster_cidr);
    set(&mut config.detect_local_mode, &args.detect_local_mode);
    set(&mut config.detect_local.bridge_interface, &args.pod_bridge_interface);
    set(&mut config.detect_local.interface_name_prefix, &args.pod_interface_name_prefix);
    set(&mut config.mode, &args.proxy_mode);
    set(&mut config.healthz_bind_address, &args.healthz_bind_address);
    set(&mut config.metrics_bind_address, &args.metrics_bind_address);
    config.bind_address_hard_fail = args.bind_address_hard_fail;
    config.nftables.masquerade_all = args.masquerade_all;
    config.node_port_addresses.clone_from(&args.nodeport_addresses);
    config
}
