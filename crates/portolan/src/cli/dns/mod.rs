//! `portolan dns`.

mod exposed;
mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use dns::answer::Pods;
use dns::cache::Limits;
use dns::forward::{Address, BadAddress, CONCURRENT, NameServer, PeerName, Policy, TlsOptions};
use dns::resolv_conf::search_domains;
use dns::wire::Name;
use dns::{Forward, Zone};

use super::place::Place;
use crate::client::Access;
use crate::nameserver::{self, Answers, NoChanges, Settings, servers_of};
use crate::proxy::config::GoDuration;
use crate::runtime;
use exposed::Exposed;
use file::{From, Reloading};

/// Where a machine says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long CoreDNS waits for the cluster if nothing is said.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Answer cluster DNS, in the place of CoreDNS.
///
/// Names of Services, endpoints and pods are answered from what the API server tells, also while it is away; those of
/// others are asked of others, and kept. Health, readiness and metrics are served at the ports that CoreDNS has in
/// clusters, under its names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    portolan dns --kubeconfig /etc/kubernetes/dns.conf --listen 10.96.0.10:53 --stub-domain corp.example=192.0.2.53")]
pub(crate) struct Args {
    /// How to reach the API server [default: the service account of the pod this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A Corefile, as CoreDNS has it. It takes the place of all flags but --kubeconfig, --readers and
    /// --startup-timeout.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster_domain", "listen", "ttl", "pods", "forward",
        "autopath", "resolv_conf", "stub_domain", "tls_server_name", "tls_ca", "policy", "max_concurrent", "cache_size",
        "cache_ttl", "serve_stale", "log_one_of", "health_address", "ready_address", "metrics_address", "lameduck",
        "namespaces", "namespace_labels", "labels", "endpoint_pod_names", "no_endpoints", "ignore_empty_services"])]
    conf: Option<PathBuf>,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Where questions are taken, by UDP and TCP.
    #[arg(
        long,
        value_name = "IP:PORT,...",
        value_delimiter = ',',
        default_value = "0.0.0.0:53,[::]:53"
    )]
    listen: Vec<SocketAddr>,
    /// How long clients may keep answers about the cluster, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(0..=3600))]
    ttl: u32,
    /// Whether pods have names by their addresses: disabled, insecure for every address, or verified for those of pods,
    /// which are all watched then.
    #[arg(long, value_name = "MODE", default_value = "insecure")]
    pods: Pods,
    #[command(flatten)]
    exposed: Exposed,
    /// Answer pods at once with what their resolvers would find at the end of their search path. All pods are watched
    /// for it. The nodes' own domains are those that --resolv-conf has.
    #[arg(long)]
    autopath: bool,
    /// Who is asked about names that are not the cluster's, by TLS with tls:// [default: the servers of --resolv-conf].
    #[arg(long, value_name = "[tls://]IP[:PORT],...", value_delimiter = ',')]
    forward: Vec<Address>,
    /// The resolv.conf(5) whose servers are asked about names that are not the cluster's; "" to refuse those.
    #[arg(long, value_name = "FILE", default_value = RESOLV_CONF)]
    resolv_conf: String,
    /// Who is asked about a domain; the longest one that a name is below counts.
    #[arg(long, value_name = "DOMAIN=[tls://]IP[:PORT],...", value_parser = stub_domain)]
    stub_domain: Vec<(Name, Vec<Address>)>,
    /// What the certificates of tls:// servers are for [default: their addresses].
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<PeerName>,
    /// The authorities that sign those, in PEM [default: those of the machine].
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Which of several servers is asked first: random, round_robin or sequential.
    #[arg(long, value_name = "POLICY", default_value = "random")]
    policy: Policy,
    /// Questions that may wait for others at the same time; more are refused.
    #[arg(long, value_name = "NUMBER", default_value_t = CONCURRENT)]
    max_concurrent: usize,
    /// How many answers of others are kept; 0 for none.
    #[arg(long, value_name = "NUMBER", default_value = "10000")]
    cache_size: usize,
    /// How long at most an answer of others is kept.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = GoDuration::parse)]
    cache_ttl: GoDuration,
    /// How long after its time an answer is given while those who are asked do not answer.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = GoDuration::parse)]
    serve_stale: GoDuration,
    /// Write one of so many questions to the log; 0 for none.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    log_one_of: u32,
    /// Threads that read datagrams [default: one for each processor].
    #[arg(long, value_name = "NUMBER")]
    readers: Option<usize>,
    /// Where /health is served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    health_address: Place,
    /// Where /ready is served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8181")]
    ready_address: Place,
    /// Where /metrics is served; "" for nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:9153")]
    metrics_address: Place,
    /// How long to wait for the cluster to be known before answering, which until then is SERVFAIL
    /// [default: what the Corefile says, or 5s].
    #[arg(long, value_name = "DURATION", value_parser = GoDuration::parse)]
    startup_timeout: Option<GoDuration>,
    /// How long to answer on after SIGTERM, while /health says that it is over.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = GoDuration::parse)]
    lameduck: GoDuration,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let Some(file) = args.conf.clone() else {
        return runtime::run(nameserver::run(of_flags(args)?, NoChanges));
    };
    let from = From { readers: args.readers };
    let (corefile, changes) = Reloading::open(file, from)?;
    let startup_timeout = args.startup_timeout.as_ref().map(duration);
    let settings = from.settings(&corefile, args.kubeconfig, startup_timeout)?;
    runtime::run(nameserver::run(settings, changes))
}

fn of_flags(args: Args) -> anyhow::Result<Settings> {
    let mut zone = Zone::new(&args.cluster_domain)?;
    zone.ttl = args.ttl;
    zone.pods = args.pods;
    if args.autopath {
        zone.search = Some(match args.resolv_conf.is_empty() {
            true => Vec::new(),
            false => domains_of(Path::new(&args.resolv_conf), &zone)?,
        });
    }
    let (policy, max_concurrent) = (args.policy, args.max_concurrent);
    let tls = TlsOptions {
        server_name: args.tls_server_name,
        authorities: args.tls_ca,
        ..TlsOptions::default()
    };
    let everything = match args.forward.is_empty() {
        false => args.forward,
        true if args.resolv_conf.is_empty() => Vec::new(),
        true => servers_of(Path::new(&args.resolv_conf), &args.listen)
            .map(clear)
            .context("--resolv-conf (\"\" is for none)")?,
    };
    let mut groups = args.stub_domain;
    groups.push((Name::root(), everything));
    let mut addresses = groups.iter().flat_map(|(_, servers)| servers);
    if tls != TlsOptions::default() && !addresses.any(|it| matches!(it, Address::Tls(_))) {
        bail!(
            "--tls-server-name and --tls-ca are nothing to servers in clear text: accepted are they with tls:// in --forward or --stub-domain"
        );
    }
    let mut forwards = Vec::new();
    for (domain, servers) in groups {
        let servers = NameServer::all(&servers, &tls)?;
        forwards.push(Forward { domain, servers, policy, max_concurrent });
    }
    let defaults = Limits::default();
    let limits = Limits {
        entries: args.cache_size,
        success: duration(&args.cache_ttl),
        denial: duration(&args.cache_ttl).min(defaults.denial),
        stale: duration(&args.serve_stale),
        ..defaults
    };
    Ok(Settings {
        access: args.kubeconfig.map(by_kubeconfig),
        answers: Answers {
            zone,
            exposure: args.exposed.exposure(),
            listen: args.listen,
            forwards,
            cache: (args.cache_size > 0).then_some(limits),
            readers: args.readers,
            hosts: None,
            rewrites: Vec::new(),
            log: args.log_one_of,
        },
        health: args.health_address.0,
        ready: args.ready_address.0,
        metrics: args.metrics_address.0,
        startup_timeout: args.startup_timeout.as_ref().map_or(STARTUP_TIMEOUT, duration),
        lameduck: duration(&args.lameduck),
    })
}

fn by_kubeconfig(file: PathBuf) -> Access {
    Access::Kubeconfig { file, context: None }
}

/// The domains of a resolv.conf(5) that are not the cluster's: those that pods have behind the cluster's.
fn domains_of(path: &Path, zone: &Zone) -> anyhow::Result<Vec<Name>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut domains = search_domains(&text);
    domains.retain(|domain| !zone.holds(domain));
    Ok(domains)
}

fn duration(given: &GoDuration) -> Duration {
    given.get().unwrap_or_default()
}

/// Servers that are asked in clear text.
fn clear(servers: Vec<SocketAddr>) -> Vec<Address> {
    servers.into_iter().map(Address::Clear).collect()
}

fn stub_domain(text: &str) -> Result<(Name, Vec<Address>), String> {
    let (domain, servers) = text
        .split_once('=')
        .ok_or_else(|| format!("{text} has no =: accepted is DOMAIN=[tls://]IP[:PORT],..."))?;
    let domain = Name::parse(domain).map_err(|why| format!("{domain}: {why}"))?;
    let servers: Result<_, _> = servers.split(',').map(str::parse).collect();
    Ok((domain, servers.map_err(|why: BadAddress| why.to_string())?))
}
