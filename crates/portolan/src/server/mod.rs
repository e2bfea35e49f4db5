//! The embedded control plane: certificates, the API server of crate `api`, the objects that every
//! cluster has, and the controllers, which speak to the server as any client does.

pub(crate) mod bootstrap;
mod listen;
pub(crate) mod pki;
mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::ApiServer;
use ipnet::IpNet;
use model::alloc::pod_cidr::PodCidrs;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::kubeconfig::Kubeconfig;
use crate::{client, controllers, runtime};
use pki::Authority;

/// How long requests may take to be answered once the server is to end.
const GRACE: Duration = Duration::from_secs(1);

/// How a server is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where objects and certificates are kept.
    pub(crate) data_dir: PathBuf,
    /// Address to listen on.
    pub(crate) bind_address: IpAddr,
    /// Port to listen on.
    pub(crate) port: u16,
    /// Address that others reach this server by.
    pub(crate) advertise_address: Option<IpAddr>,
    /// Ranges of ClusterIPs, the first one is that of the API and of DNS.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Ranges of pods.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 block.
    pub(crate) node_mask_v4: u8,
    /// Prefix length of a node's IPv6 block.
    pub(crate) node_mask_v6: u8,
    /// Ports of NodePorts.
    pub(crate) node_ports: RangeInclusive<u16>,
    /// DNS domain of the cluster.
    pub(crate) cluster_domain: String,
    /// Where to write an administrator's kubeconfig.
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl Settings {
    /// The ranges of pods, cut into blocks for nodes.
    fn pod_cidrs(&self) -> anyhow::Result<Vec<PodCidrs>> {
        let cut = |cidr: &IpNet| {
            let mask = if cidr.addr().is_ipv4() { self.node_mask_v4 } else { self.node_mask_v6 };
            PodCidrs::new(*cidr, mask)
        };
        let ranges: Result<_, _> = self.cluster_cidrs.iter().map(cut).collect();
        ranges.context("--cluster-cidr with --node-cidr-mask-size")
    }
}

/// Where the certificates of a data directory are.
pub(crate) fn pki_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("pki")
}

/// Endpoints an EndpointSlice may hold, as kube-controller-manager has it.
const ENDPOINTS_PER_SLICE: usize = 100;

/// Serves until the process is asked to end.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let pod_cidrs = settings.pod_cidrs()?;
    let own = SocketAddr::new(settings.bind_address, settings.port);
    let listeners = listen::listeners(own).await?;
    let address = listen::advertised(&settings)?;
    let authority = Authority::open(&pki_directory(&settings.data_dir))?;
    let tls = Arc::new(tls::config(&authority, listen::names(&settings, address))?);

    let store = settings.data_dir.join("objects.redb");
    let api = ApiServer::open(&store, &settings.service_cidrs, settings.node_ports.clone())
        .await
        .with_context(|| format!("open {}", store.display()))?;
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let (api, tls, stopped) = (api.clone(), tls.clone(), stopped.clone());
        servers.spawn(async move { api.serve(listener, tls, stopped).await });
    }
    tracing::info!(%own, "serving");

    if let Some(path) = &settings.kubeconfig {
        write_kubeconfig(path, &authority, "kubernetes-admin", (address, settings.port))?;
    }
    let controllers = run_controllers(&settings, &authority, address, pod_cidrs);
    let result = tokio::select! {
        result = controllers => result,
        result = runtime::asked_to_end() => result,
        Some(ended) = servers.join_next() => {
            ended.context("the API server").and_then(|served| served.context("accept connections"))
        }
    };
    // Watches never end by themselves.
    stop.send_replace(true);
    let _ =
        tokio::time::timeout(GRACE, async { while servers.join_next().await.is_some() {} }).await;
    result
}

/// Makes what every cluster has, then runs the controllers, over the wire like any client.
async fn run_controllers(
    settings: &Settings,
    authority: &Authority,
    address: IpAddr,
    pod_cidrs: Vec<PodCidrs>,
) -> anyhow::Result<()> {
    let here = match settings.bind_address {
        ip if ip.is_unspecified() && ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let path = settings.data_dir.join("controllers.kubeconfig");
    write_kubeconfig(&path, authority, "system:kube-controller-manager", (here, settings.port))?;
    let client = client::connect(Some(&path)).await?;
    bootstrap::ensure(&client, &settings.service_cidrs, (address, settings.port)).await?;
    let config = controllers::Config {
        pod_cidrs,
        service_cidrs: settings.service_cidrs.clone(),
        endpoints_per_slice: ENDPOINTS_PER_SLICE,
    };
    controllers::run(client, config).await.context("the controllers")
}

fn write_kubeconfig(
    path: &Path,
    authority: &Authority,
    user: &str,
    (ip, port): (IpAddr, u16),
) -> anyhow::Result<()> {
    let kubeconfig = Kubeconfig {
        cluster: "portolan",
        server: &format!("https://{}", SocketAddr::new(ip, port)),
        authority: authority.certificate(),
        user,
        identity: &authority.client(user, "system:masters")?,
    };
    kubeconfig.write(path).with_context(|| format!("write {}", path.display()))
}
