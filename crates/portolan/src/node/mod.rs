//! The node agent: a service proxy, and beside it the pods bound to the node, routes to those of other
//! nodes, and DNS.
//!
//! It asks nothing of an API server that a real one does not have, and decides nothing that `plan`
//! could decide. It ends without touching what runs; the next one takes it over.

mod agent;
mod cleanup;
mod dns;
mod pod_events;
mod pods;
mod registration;
mod routes;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::dns::Directory;
use anyhow::Context;
use kernel::route::Rtnetlink;
use plan::NodeSettings;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client;
use crate::control;
use crate::errors::sentence;
use crate::proxy::dataplane::Choice;
use crate::proxy::{self, BACKLOG};
use crate::runtime;
use agent::Agent;
pub(crate) use cleanup::clean_up;
use registration::Registration;
pub(crate) use registration::own_addresses;

/// How an agent is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The data plane.
    pub(crate) choice: Choice,
    /// What plans depend on, with the name of the Node.
    pub(crate) planning: NodeSettings,
    /// Addresses of the node; empty to find them out.
    pub(crate) addresses: Vec<IpAddr>,
    /// How to reach the API server.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where leases and pods are remembered.
    pub(crate) data_dir: PathBuf,
    /// Address of the cluster's DNS Service.
    pub(crate) cluster_dns: IpAddr,
    /// DNS domain of the cluster.
    pub(crate) cluster_domain: String,
    /// The resolv.conf(5) that names servers for what is not the cluster's; `None` to ask nobody.
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Where DNS tells how it is, and what it has counted; `None` for nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Control group of the pods, below the root.
    pub(crate) pod_cgroup: PathBuf,
    /// Where the proxy can be asked; `None` for nowhere.
    pub(crate) socket: Option<PathBuf>,
    /// Remove everything at the end.
    pub(crate) cleanup_on_exit: bool,
}

impl Settings {
    fn runtime_directory(&self) -> &Path {
        control::runtime_directory(self.socket.as_deref().unwrap_or(Path::new("")))
    }

    /// Name of the Node.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.planning.node_name
    }
}

/// Runs the agent until the process is asked to end.
pub(crate) async fn run(mut settings: Settings) -> anyhow::Result<()> {
    let client = client::connect(settings.kubeconfig.as_deref()).await?;
    if settings.addresses.is_empty() {
        settings.addresses = own_addresses()?;
    }
    client::wait_for(&client).await;
    let has_ipv6 = settings.addresses.iter().any(IpAddr::is_ipv6);
    let mut kernel = Rtnetlink::open()?;
    pod::wiring::prepare_node(&mut kernel, has_ipv6).context("prepare this node's network")?;
    if let Err(error) = proxy::host::reserve_node_ports(settings.runtime_directory()) {
        tracing::warn!("{}", sentence(&error));
    }

    let mut tasks = JoinSet::new();
    let (readiness, ready) = watch::channel(Err("waiting for a pod range (spec.podCIDRs)"));
    let registration =
        Registration { name: settings.name().clone(), addresses: settings.addresses.clone() };
    tasks.spawn(registration.keep(client.clone(), ready));

    let directory = Arc::new(Directory::new());
    let (events, incoming) = mpsc::channel(BACKLOG);
    for kind in agent::watched_kinds(&client).await {
        tasks.spawn(client::feed(client.clone(), kind, None, events.clone()));
    }
    let dns = dns::serve(client.clone(), directory.clone(), settings.clone())?;
    tasks.spawn(dns);

    let agent = Agent::new(client, settings.clone(), directory, kernel, readiness);
    tokio::select! {
        result = agent.run(incoming) => result?,
        result = runtime::asked_to_end() => result?,
    }
    tasks.shutdown().await;
    if settings.cleanup_on_exit {
        clean_up(
            settings.name(),
            &settings.data_dir,
            &settings.pod_cgroup,
            settings.choice.options.cgroup.as_deref(),
            settings.runtime_directory(),
        )?;
    }
    Ok(())
}
