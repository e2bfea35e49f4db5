//! The flags: those of kube-proxy, and a few more.

use std::path::PathBuf;

use dataplane::Mode;
use ipnet::IpNet;

use crate::control::SOCKET;
use crate::proxy::config::{GoDuration, KubeProxyConfiguration};

/// Program Services on a node of any Kubernetes cluster, in the place of kube-proxy.
///
/// Flags and configuration file are those of kube-proxy, and so are the names of data planes, but what
/// is used unless another is asked for is nftables. SIGTERM ends the process and leaves packets flowing;
/// the next start takes over what is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    portolan proxy --kubeconfig /var/lib/kube-proxy/kubeconfig.conf --cluster-cidr 10.244.0.0/16")]
pub(crate) struct Args {
    /// A KubeProxyConfiguration file. It takes the place of kube-proxy's flags but --hostname-override;
    /// those that only Portolan has still count.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Write the configuration that is in force to this file, and end.
    #[arg(long, value_name = "FILE")]
    pub(super) write_config_to: Option<PathBuf>,
    /// How to reach the API server [default: the service account of the pod this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Name of the Node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub(super) hostname_override: Option<String>,
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
    pub(super) allow_external_ips: Vec<IpNet>,
    /// Masquerade every connection to a ClusterIP.
    #[arg(long)]
    masquerade_all: bool,
    /// Addresses that accept node ports: ranges, or primary.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// The node's primary address [default: that of its Node object].
    #[arg(long, value_name = "IP")]
    bind_address: Option<String>,
    /// URL of the API server, in the place of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    pub(super) master: Option<http::Uri>,
    /// Port of --healthz-bind-address, 0 for nowhere; deprecated.
    #[arg(long, hide = true, value_name = "PORT")]
    healthz_port: Option<u16>,
    /// Port of --metrics-bind-address, 0 for nowhere; deprecated.
    #[arg(long, hide = true, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Where /healthz and /livez are served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT")]
    healthz_bind_address: Option<String>,
    /// Where /metrics, /proxyMode and /configz are served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT")]
    metrics_bind_address: Option<String>,
    /// Keep an annotation portolan.dev/programmed.NODE on each Service: true, or why not.
    ///
    /// It costs a write for each Service and node, and the permission to patch Services.
    #[arg(long)]
    pub(super) programmed_annotation: bool,
    /// Where `portolan status` and `explain` ask; "" for nowhere.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    pub(super) socket: PathBuf,
    /// End if health or metrics can't be served at their addresses, instead of trying again.
    #[arg(long)]
    bind_address_hard_fail: bool,
    /// The data plane: nftables, iptables, ipvs, ebpf, or auto for ebpf where this machine can have it and nftables
    /// elsewhere [default: nftables].
    #[arg(long, visible_alias = "dataplane", value_name = "MODE")]
    proxy_mode: Option<String>,
    /// Directory of the control group whose sockets eBPF leads to endpoints [default: that of all processes].
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) cgroup: Option<PathBuf>,
    /// Have eBPF end TCP connections of sockets to endpoints that have left their Service, with ECONNABORTED.
    ///
    /// A client then notices at once that its pod has gone, and not when its packets time out. Connecting a
    /// TCP socket to a Service costs somewhat more.
    #[arg(long)]
    pub(super) end_lost_connections: bool,
    /// Which kernel interface iptables writes to, nft or legacy [default: what this machine uses].
    #[arg(long, value_name = "NAME")]
    pub(super) iptables_backend: Option<dataplane::iptables::Flavour>,
    /// Bit of packets' marks that iptables tells by whose source is rewritten [default: 14].
    #[arg(long, value_name = "0..31")]
    iptables_masquerade_bit: Option<i32>,
    /// This process's oom_score_adj.
    #[arg(long, value_name = "-1000..1000", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// How IPVS chooses an endpoint: rr, wrr, lc, wlc, sh, mh, sed or nq [default: rr].
    #[arg(long, value_name = "NAME")]
    ipvs_scheduler: Option<String>,
    #[command(flatten)]
    conntrack: Conntrack,
    /// Remove the rules of this proxy and of kube-proxy in every mode, and end.
    #[arg(long)]
    pub(super) cleanup: bool,
    /// With --cleanup: remove only what is this proxy's.
    #[arg(long, requires = "cleanup")]
    pub(super) keep_kube_proxy: bool,
    /// Set what needs privileges beyond programming rules (connection tracking), and end.
    #[arg(long)]
    pub(super) init_only: bool,
    #[command(flatten)]
    pub(super) without_meaning: WithoutMeaning,
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
pub(super) struct WithoutMeaning {
    #[arg(long, hide = true)]
    config_sync_period: Option<String>,
    #[arg(long, hide = true)]
    feature_gates: Option<String>,
    #[arg(long, hide = true)]
    iptables_localhost_nodeports: Option<String>,
    #[arg(long, hide = true)]
    iptables_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    iptables_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_exclude_cidrs: Option<String>,
    #[arg(long, hide = true)]
    ipvs_min_sync_period: Option<String>,
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
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--config-sync-period", self.config_sync_period.is_some()),
            ("--feature-gates", self.feature_gates.is_some()),
            ("--iptables-localhost-nodeports", self.iptables_localhost_nodeports.is_some()),
            ("--iptables-min-sync-period", self.iptables_min_sync_period.is_some()),
            ("--iptables-sync-period", self.iptables_sync_period.is_some()),
            ("--ipvs-exclude-cidrs", self.ipvs_exclude_cidrs.is_some()),
            ("--ipvs-min-sync-period", self.ipvs_min_sync_period.is_some()),
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

/// The configuration that the flags make, where there is no file.
pub(super) fn from_flags(args: &Args) -> KubeProxyConfiguration {
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
    set(&mut config.bind_address, &args.bind_address);
    set(&mut config.ipvs.scheduler, &args.ipvs_scheduler);
    for (address, port) in [
        (&mut config.healthz_bind_address, args.healthz_port),
        (&mut config.metrics_bind_address, args.metrics_port),
    ] {
        if let Some(port) = port {
            *address = with_port(address, port);
        }
    }
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
    match config.data_plane() {
        Some(Mode::Iptables | Mode::Ipvs) => config.iptables.masquerade_all = args.masquerade_all,
        _ => config.nftables.masquerade_all = args.masquerade_all,
    }
    config.iptables.masquerade_bit =
        args.iptables_masquerade_bit.or(config.iptables.masquerade_bit);
    config.node_port_addresses.clone_from(&args.nodeport_addresses);
    config
}

/// An address with another port; nowhere for port 0.
fn with_port(address: &str, port: u16) -> String {
    match (address.rsplit_once(':'), port) {
        (_, 0) => String::new(),
        (Some((host, _)), port) => format!("{host}:{port}"),
        (None, port) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(flags: &[&str]) -> KubeProxyConfiguration {
        let cli = Cli::try_parse_from(["portolan", "proxy"].iter().chain(flags)).unwrap();
        let Command::Proxy(args) = cli.command else { panic!("it is another command") };
        from_flags(&args)
    }

    #[test]
    fn flags_are_fields() {
        let defaults = config(&[]);
        assert_eq!(defaults, KubeProxyConfiguration::default());
        let set = config(&[
            "--bind-address=192.0.2.1",
            "--healthz-port=0",
            "--metrics-port=9999",
            "--conntrack-min=5",
            "--conntrack-udp-timeout=2m30s",
            "--oom-score-adj=-5",
            "--masquerade-all",
            "--nodeport-addresses=10.0.0.0/8,fd00::/8",
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=cni0",
        ]);
        assert_eq!(set.bind_address, "192.0.2.1");
        assert_eq!(set.healthz_bind_address, "");
        assert_eq!(set.metrics_bind_address, "127.0.0.1:9999");
        assert_eq!(set.conntrack.min, Some(5));
        assert_eq!(set.conntrack.udp_timeout, GoDuration::parse("2m30s").unwrap());
        assert_eq!(set.oom_score_adj, -5);
        assert_eq!(set.node_port_addresses.as_ref().unwrap().len(), 2);
        set.validate().unwrap();
        let settings = set.node_settings("n1");
        assert!(settings.masquerade_all);
        assert_eq!(settings.primary_address, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(defaults.node_settings("n1").primary_address, None, "0.0.0.0 is none");
        assert_eq!(with_port("[::1]:10256", 1), "[::1]:1");
    }

    #[test]
    fn flags_are_those_of_the_data_plane_that_is_chosen() {
        for mode in Mode::ALL {
            let flags = ["--masquerade-all", &format!("--proxy-mode={mode}")];
            let config = config(&flags);
            assert!(config.node_settings("n1").masquerade_all, "{mode}");
            assert!(config.without_meaning().is_empty(), "{mode}: {:?}", config.without_meaning());
        }
        let config = config(&["--dataplane=iptables", "--iptables-masquerade-bit=3"]);
        assert_eq!(config.options(None).masquerade_bit, 3);
        let config = super::tests::config(&["--proxy-mode=ipvs", "--ipvs-scheduler=lc"]);
        config.validate().unwrap();
        assert_eq!(config.options(None).scheduler.as_str(), "lc");
    }

    #[test]
    fn flags_without_meaning_are_taken_and_named() {
        let cli = Cli::try_parse_from([
            "portolan",
            "proxy",
            "--ipvs-strict-arp",
            "--feature-gates=A=true",
            "-v=2",
        ]);
        let Command::Proxy(args) = cli.unwrap().command else { panic!("it is another command") };
        assert_eq!(args.without_meaning.given(), ["--feature-gates", "--ipvs-strict-arp", "--v"]);
    }
}
