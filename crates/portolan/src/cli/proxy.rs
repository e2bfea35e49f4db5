//! `portolan proxy`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use dataplane::Backend;
use dataplane::nftables::Nftables;
use ipnet::IpNet;
use plan::NodeSettings;

use crate::control::SOCKET;
use crate::errors::sentence;
use crate::proxy::config::{self, GoDuration, KubeProxyConfiguration};
use crate::proxy::{self, Settings, host, takeover};
use crate::runtime;

/// Program Services on a node of any Kubernetes cluster, in the place of kube-proxy.
///
/// Flags and configuration file are those of kube-proxy. The data plane is nftables. SIGTERM ends the
/// process and leaves packets flowing; the next start takes over what is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    portolan proxy --kubeconfig /var/lib/kube-proxy/kubeconfig.conf --cluster-cidr 10.244.0.0/16")]
pub(crate) struct Args {
    /// A KubeProxyConfiguration file; of the other flags, only --hostname-override,
    /// --allow-external-ips and --socket then count.
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
    /// How pods' packets are told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.
    #[arg(long, value_name = "MODE")]
    detect_local_mode: Option<String>,
    /// Interface of the pods' bridge, for BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// What pods' interfaces begin with, for InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Ranges that Services may have their externalIPs in [default: none; 0.0.0.0/0,::/0 for any, as
    /// kube-proxy].
    ///
    /// Whoever may write a Service could otherwise take any address over (CVE-2020-8554).
    #[arg(long = "allow-external-ips", value_name = "CIDR,...", value_delimiter = ',')]
    allow_external_ips: Vec<IpNet>,
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
    /// Where `portolan status` and `explain` ask; "" for nowhere.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
    /// End if these can't listen, instead of trying again.
    #[arg(long)]
    bind_address_hard_fail: bool,
    /// The data plane: nftables.
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<String>,
    /// This process's oom_score_adj.
    #[arg(long, value_name = "-1000..1000", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    #[command(flatten)]
    conntrack: Conntrack,
    /// Remove the rules of this proxy and of kube-proxy in every mode, and end.
    #[arg(long)]
    cleanup: bool,
    /// With --cleanup: remove only what is this proxy's.
    #[arg(long, requires = "cleanup")]
    keep_kube_proxy: bool,
    /// Set what needs privileges beyond programming rules (connection tracking), and end.
    #[arg(long)]
    init_only: bool,
    #[command(flatten)]
    without_meaning: WithoutMeaning,
}

/// Limits and timeouts of connection tracking.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection tracking")]
struct Conntrack {
    /// Connections to track for each core, 0 to leave the limit as it is [default: 32768].
    #[arg(long, value_name = "NUMBER")]
    conntrack_max_per_core: Option<i64>,
    /// Connections to track at least [default: 131072].
    #[arg(long, value_name = "NUMBER")]
    conntrack_min: Option<i64>,
    /// Timeout of idle TCP connections, 0s to leave it [default: 24h0m0s].
    #[arg(long, value_name = "DURATION", value_parser = GoDuration::parse)]
    conntrack_tcp_timeout_established: Option<GoDuration>,
    /// Timeout of TCP connections in CLOSE_WAIT, 0s to leave it [default: 1h0m0s].
    #[arg(long, value_name = "DURATION", value_parser = GoDuration::parse)]
    conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Take TCP segments outside of the window for valid.
    #[arg(long)]
    conntrack_tcp_be_liberal: bool,
    /// Timeout of unanswered UDP, 0s to leave it.
    #[arg(long, value_name = "DURATION", value_parser = GoDuration::parse)]
    conntrack_udp_timeout: Option<GoDuration>,
    /// Timeout of answered UDP, 0s to leave it.
    #[arg(long, value_name = "DURATION", value_parser = GoDuration::parse)]
    conntrack_udp_timeout_stream: Option<GoDuration>,
}

/// Flags of kube-proxy that mean nothing here: accepted, so that its command line still works.
#[derive(Debug, clap::Args)]
struct WithoutMeaning {
    #[arg(long, hide = true)]
    bind_address: Option<String>,
    #[arg(long, hide = true)]
    config_sync_period: Option<String>,
    #[arg(long, hide = true)]
    feature_gates: Option<String>,
    #[arg(long, hide = true)]
    iptables_localhost_nodeports: Option<String>,
    #[arg(long, hide = true)]
    iptables_masquerade_bit: Option<String>,
    #[arg(long, hide = true)]
    iptables_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    iptables_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_exclude_cidrs: Option<String>,
    #[arg(long, hide = true)]
    ipvs_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_scheduler: Option<String>,
    #[arg(long, hide = true)]
    ipvs_strict_arp: bool,
    #[arg(long, hide = true)]
    ipvs_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_tcp_timeout: Option<String>,
    #[arg(long, hide = true)]
    ipvs_tcpfin_timeout: Option<String>,
    #[arg(long, hide = true)]
    ipvs_udp_timeout: Option<String>,
    #[arg(long, hide = true)]
    kube_api_burst: Option<String>,
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    kube_api_qps: Option<String>,
    #[arg(long, hide = true)]
    profiling: bool,
    #[arg(long, hide = true)]
    show_hidden_metrics_for_version: Option<String>,
    /// klog's verbosity.
    #[arg(short = 'v', long = "v", hide = true)]
    verbosity: Option<String>,
}

impl WithoutMeaning {
    /// Those that were given.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--bind-address", self.bind_address.is_some()),
            ("--config-sync-period", self.config_sync_period.is_some()),
            ("--feature-gates", self.feature_gates.is_some()),
            ("--iptables-localhost-nodeports", self.iptables_localhost_nodeports.is_some()),
            ("--iptables-masquerade-bit", self.iptables_masquerade_bit.is_some()),
            ("--iptables-min-sync-period", self.iptables_min_sync_period.is_some()),
            ("--iptables-sync-period", self.iptables_sync_period.is_some()),
            ("--ipvs-exclude-cidrs", self.ipvs_exclude_cidrs.is_some()),
            ("--ipvs-min-sync-period", self.ipvs_min_sync_period.is_some()),
            ("--ipvs-scheduler", self.ipvs_scheduler.is_some()),
            ("--ipvs-strict-arp", self.ipvs_strict_arp),
            ("--ipvs-sync-period", self.ipvs_sync_period.is_some()),
            ("--ipvs-tcp-timeout", self.ipvs_tcp_timeout.is_some()),
            ("--ipvs-tcpfin-timeout", self.ipvs_tcpfin_timeout.is_some()),
            ("--ipvs-udp-timeout", self.ipvs_udp_timeout.is_some()),
            ("--kube-api-burst", self.kube_api_burst.is_some()),
            ("--kube-api-content-type", self.kube_api_content_type.is_some()),
            ("--kube-api-qps", self.kube_api_qps.is_some()),
            ("--profiling", self.profiling),
            ("--show-hidden-metrics-for-version", self.show_hidden_metrics_for_version.is_some()),
            ("--v", self.verbosity.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.cleanup {
        return cleanup(args.keep_kube_proxy);
    }
    let config = configuration(args)?;
    if let Some(path) = &args.write_config_to {
        let text = config.to_yaml();
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    for sentence in config.without_meaning() {
        tracing::warn!("{sentence}");
    }
    let given = args.without_meaning.given();
    if !given.is_empty() {
        tracing::warn!("no effect here: {}", given.join(", "));
    }
    host::tune(&config.conntrack, config.oom_score_adj);
    if args.init_only {
        return Ok(());
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
        node: NodeSettings {
            allowed_external_ips: args.allow_external_ips.clone(),
            ..config.node_settings(&node_name)
        },
        healthz: config.healthz_bind_address.parse().ok(),
        metrics: config.metrics_bind_address.parse().ok(),
        config: config.to_json(),
        detect_by_node: config.detect_local_mode == "NodeCIDR",
        socket: Some(args.socket.clone()).filter(|path| !path.as_os_str().is_empty()),
        file: args.config.clone(),
        bind_hard_fail: config.bind_address_hard_fail,
    }))
}

/// Removes the rules of all proxies, or of this one alone, and what was set on the host.
fn cleanup(keep_kube_proxy: bool) -> anyhow::Result<()> {
    let (removed, mut failures) = match keep_kube_proxy {
        true => Default::default(),
        false => takeover::remove_kube_proxy(),
    };
    for line in removed {
        tracing::info!("removed {line}");
    }
    let own = || -> anyhow::Result<()> { Ok(Nftables::open()?.cleanup()?) };
    failures.extend([own(), host::restore()].into_iter().filter_map(Result::err));
    let all: Vec<String> = failures.iter().map(sentence).collect();
    anyhow::ensure!(all.is_empty(), "left behind: {}", all.join("; "));
    Ok(())
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
    let set = |field: &mut Option<GoDuration>, flag: &Option<GoDuration>| {
        if flag.is_some() {
            field.clone_from(flag);
        }
    };
    let (to, from) = (&mut config.conntrack, &args.conntrack);
    to.max_per_core = from.conntrack_max_per_core.or(to.max_per_core);
    to.min = from.conntrack_min.or(to.min);
    set(&mut to.tcp_established_timeout, &from.conntrack_tcp_timeout_established);
    set(&mut to.tcp_close_wait_timeout, &from.conntrack_tcp_timeout_close_wait);
    to.tcp_be_liberal = from.conntrack_tcp_be_liberal;
    for (field, flag) in [
        (&mut to.udp_timeout, &from.conntrack_udp_timeout),
        (&mut to.udp_stream_timeout, &from.conntrack_udp_timeout_stream),
    ] {
        if let Some(value) = flag {
            field.clone_from(value);
        }
    }
    config.oom_score_adj = args.oom_score_adj.unwrap_or(config.oom_score_adj);
    config.bind_address_hard_fail = args.bind_address_hard_fail;
    config.nftables.masquerade_all = args.masquerade_all;
    config.node_port_addresses.clone_from(&args.nodeport_addresses);
    config
}
