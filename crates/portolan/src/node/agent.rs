//! The agent's loop: an event changes the World, what it touched is planned, what was planned is
//! programmed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dns::Directory;
use kernel::route::Rtnetlink;
use model::{Event, Kind, Touched, World};
use pod::runner::{self, Runner};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::registration::Readiness;
use super::routes::Routes;
use super::{Settings, pods};
use crate::client::Client;
use crate::proxy::{self, Proxy};

/// Pause before routes that were refused are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Wait before the second restart of a container.
const RESTART_BACKOFF: Duration = Duration::from_secs(10);

/// What an agent holds while it runs.
pub(super) struct Agent {
    client: Client,
    settings: Settings,
    world: World,
    /// What DNS answers from.
    directory: Arc<Directory>,
    routes: Routes,
    routes_ok: bool,
    readiness: watch::Sender<Readiness>,
    /// Number of the last batch of events; it ties log lines together.
    generation: u64,
    proxy: Proxy,
    /// Whether this node has been seen with its addresses.
    is_known: bool,
    tasks: JoinSet<()>,
    runs_pods: bool,
}

impl Agent {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        directory: Arc<Directory>,
        kernel: Rtnetlink,
        readiness: watch::Sender<Readiness>,
    ) -> Self {
        Self {
            routes: Routes::new(kernel, settings.name().clone()),
            proxy: Proxy::new(client.clone(), settings.planning.clone(), settings.choice.clone())
                .answering(settings.socket.clone()),
            client,
            settings,
            world: World::new(),
            directory,
            routes_ok: true,
            readiness,
            generation: 0,
            is_known: false,
            tasks: JoinSet::new(),
            runs_pods: false,
        }
    }

    /// Follows the events until their senders are gone.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return Ok(()) };
                    let touched = self.watched(event, &mut events);
                    self.react(&touched)?;
                }
                () = tokio::time::sleep(RETRY), if !self.routes_ok => {
                    self.routes_ok = self.routes.sync(&self.world);
                }
            }
        }
    }

    /// Takes in an event and all that wait behind it.
    fn watched(&mut self, event: Event, events: &mut mpsc::Receiver<Event>) -> BTreeSet<Touched> {
        self.generation += 1;
        let _span = tracing::debug_span!("watch", generation = self.generation).entered();
        let mut touched = self.world.apply(event);
        while let Ok(event) = events.try_recv() {
            touched.extend(self.world.apply(event));
        }
        self.directory.update(&self.world, &touched);
        tracing::debug!(?touched, "changed");
        touched
    }

    fn react(&mut self, touched: &BTreeSet<Touched>) -> anyhow::Result<()> {
        if touched.iter().any(|touched| matches!(touched, Touched::Node(_))) {
            self.routes_ok = self.routes.sync(&self.world);
        }
        self.plan(touched)?;
        self.start_pods()
    }

    /// Lets the proxy follow once this node is known with its addresses, which node ports need.
    fn plan(&mut self, touched: &BTreeSet<Touched>) -> anyhow::Result<()> {
        let span = tracing::debug_span!("plan", generation = self.generation);
        let _entered = span.enter();
        let own = self.world.node(self.settings.name()).filter(|node| !node.addresses.is_empty());
        self.is_known |= own.is_some();
        match self.is_known {
            true => self.proxy.follow(&self.world, touched),
            false => Ok(()),
        }
    }

    /// Starts the runner as soon as the node has ranges to give addresses from.
    fn start_pods(&mut self) -> anyhow::Result<()> {
        let own = self.world.node(self.settings.name());
        let Some(node) = own.filter(|node| !node.pod_cidrs.is_empty()) else {
            return Ok(());
        };
        if self.runs_pods {
            return Ok(());
        }
        tracing::info!(ranges = ?node.pod_cidrs, "running pods");
        let config = runner::Config {
            node_addresses: self.settings.addresses.clone(),
            pod_ranges: node.pod_cidrs.clone(),
            cluster_dns: vec![self.settings.cluster_dns],
            cluster_domain: self.settings.cluster_domain.clone(),
            mtu: mtu(&self.settings),
            cgroup: self.settings.pod_cgroup.clone(),
            backoff_base: RESTART_BACKOFF,
            ..runner::Config::new(self.settings.name(), self.settings.data_dir.join("pods"))
        };
        let (runner, updates) = Runner::start(config).context("start the pod runner")?;
        let (client, name) = (self.client.clone(), self.settings.name().clone());
        self.tasks.spawn(pods::keep(client, name, runner, updates));
        let _waiting = self.readiness.send_replace(Ok(()));
        self.runs_pods = true;
        Ok(())
    }
}

/// The kinds that a node watches: those of its proxy, and what DNS needs beside them.
pub(super) async fn watched_kinds(client: &Client) -> Vec<Kind> {
    let mut kinds = proxy::watched_kinds(client).await;
    kinds.push(Kind::Namespace);
    kinds
}

/// MTU of the link that has the node's first address; Ethernet's if it can't be told.
fn mtu(settings: &Settings) -> u32 {
    let find = || -> kernel::Result<Option<u32>> {
        let mut kernel = Rtnetlink::open()?;
        let addresses = kernel.addresses()?;
        let own = addresses.iter().find(|a| settings.addresses.first() == Some(&a.net.addr()));
        let links = kernel.links()?;
        Ok(own.and_then(|own| links.iter().find(|l| l.index == own.index)).map(|link| link.mtu))
    };
    find().ok().flatten().unwrap_or(1500)
}
