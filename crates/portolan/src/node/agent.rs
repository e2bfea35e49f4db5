//! The agent's loop: an event changes the World, what it touched is planned, what was planned is
//! programmed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use dataplane::nftables::{self, Nftables};
use dataplane::{Status, Sync};
use ipnet::IpNet;
use kernel::route::Rtnetlink;
use model::{Event, Kind, Touched, World};
use plan::{LocalDetector, NodePortAddresses, NodeSettings};
use pod::runner::{self, Runner};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::planner::Planner;
use super::registration::Readiness;
use super::routes::Routes;
use super::{Settings, SharedWorld, pods};
use crate::client::{Client, Recorder, Severity};

/// Pause before routes that were refused are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Wait before the second restart of a container.
const RESTART_BACKOFF: Duration = Duration::from_secs(10);

/// What an agent holds while it runs.
pub(super) struct Agent {
    client: Client,
    settings: Settings,
    world: SharedWorld,
    routes: Routes,
    routes_ok: bool,
    readiness: watch::Sender<Readiness>,
    /// Number of the last batch of events; it ties log lines together.
    generation: u64,
    data_plane: Option<DataPlane>,
    tasks: JoinSet<()>,
    runs_pods: bool,
}

/// The data plane and who plans for it, from the moment on that everything is known.
struct DataPlane {
    planner: Planner,
    sync: Sync,
}

impl Agent {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        world: SharedWorld,
        kernel: Rtnetlink,
        readiness: watch::Sender<Readiness>,
    ) -> Self {
        Self {
            routes: Routes::new(kernel, settings.name.clone()),
            client,
            settings,
            world,
            routes_ok: true,
            readiness,
            generation: 0,
            data_plane: None,
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
                    self.routes_ok = self.routes.sync(&self.world.read());
                }
            }
        }
    }

    /// Takes in an event and all that wait behind it.
    fn watched(&mut self, event: Event, events: &mut mpsc::Receiver<Event>) -> BTreeSet<Touched> {
        self.generation += 1;
        let _span = tracing::debug_span!("watch", generation = self.generation).entered();
        let mut world = self.world.write();
        let mut touched = world.apply(event);
        while let Ok(event) = events.try_recv() {
            touched.extend(world.apply(event));
        }
        tracing::debug!(?touched, "changed");
        touched
    }

    fn react(&mut self, touched: &BTreeSet<Touched>) -> anyhow::Result<()> {
        let world = self.world.clone();
        let world = world.read();
        if touched.iter().any(|touched| matches!(touched, Touched::Node(_))) {
            self.routes_ok = self.routes.sync(&world);
        }
        self.plan(&world, touched)?;
        self.start_pods(&world)
    }

    /// Plans what was touched and hands it to the data plane; the first time, everything.
    fn plan(&mut self, world: &World, touched: &BTreeSet<Touched>) -> anyhow::Result<()> {
        let span = tracing::debug_span!("plan", generation = self.generation);
        let _entered = span.enter();
        let start = Instant::now();
        if let Some(DataPlane { planner, sync }) = &mut self.data_plane {
            let updates = planner.updates(world, touched);
            if !updates.is_empty() {
                tracing::debug!(updates = updates.len(), took = ?start.elapsed(), "planned");
            }
            for update in updates {
                sync.update(update);
            }
            return Ok(());
        }
        let own = world.node(&self.settings.name).filter(|node| !node.addresses.is_empty());
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
        if own.is_none() || !kinds.into_iter().all(|kind| world.is_listed(kind)) {
            return Ok(());
        }
        let planner =
            Planner::new(node_settings(&self.settings.name, &self.settings.cluster_cidrs), world);
        let whole = planner.whole(world);
        tracing::info!(services = whole.len(), took = ?start.elapsed(), "planned everything");
        let backend = Nftables::open().context("open nftables")?;
        let own_port = backend.port();
        let sync = Sync::start(Box::new(backend), whole).context("start the data plane")?;
        let watch = nftables::watch(own_port, sync.updates()).context("watch nftables")?;
        self.tasks.spawn(watch);
        let recorder =
            Recorder::new(self.client.clone(), "portolan-node", Some(self.settings.name.clone()));
        self.tasks.spawn(report_quarantine(recorder, sync.status()));
        self.data_plane = Some(DataPlane { planner, sync });
        Ok(())
    }

    /// Starts the runner as soon as the node has ranges to give addresses from.
    fn start_pods(&mut self, world: &World) -> anyhow::Result<()> {
        let Some(node) = world.node(&self.settings.name).filter(|n| !n.pod_cidrs.is_empty()) else {
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
            ..runner::Config::new(&self.settings.name, self.settings.data_dir.join("pods"))
        };
        let (runner, updates) = Runner::start(config).context("start the pod runner")?;
        let (client, name) = (self.client.clone(), self.settings.name.clone());
        self.tasks.spawn(pods::keep(client, name, runner, updates));
        let _waiting = self.readiness.send_replace(Ok(()));
        self.runs_pods = true;
        Ok(())
    }
}

/// What the plan has to know about a node that is not in its Node object.
pub(super) fn node_settings(name: &str, cluster_cidrs: &[IpNet]) -> NodeSettings {
    NodeSettings {
        node_name: name.into(),
        local_detector: LocalDetector::Sources(cluster_cidrs.to_vec()),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::Primary,
    }
}

/// The kinds that this API server has of those that a node watches.
pub(super) async fn watched_kinds(client: &Client) -> Vec<Kind> {
    let mut kinds = vec![Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::Namespace];
    if serves_service_cidrs(client).await {
        kinds.push(Kind::ServiceCidr);
    }
    kinds
}

/// Whether the API server has ServiceCIDR objects (Kubernetes 1.33 and later).
async fn serves_service_cidrs(client: &Client) -> bool {
    let resources = client.list_api_group_resources("networking.k8s.io/v1").await;
    resources.is_ok_and(|list| list.resources.iter().any(|r| r.name == "servicecidrs"))
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

/// Says on each Service that the kernel refuses why it does.
async fn report_quarantine(recorder: Recorder, mut status: watch::Receiver<Status>) {
    let mut reported = BTreeSet::new();
    while status.changed().await.is_ok() {
        let refused = status.borrow_and_update().quarantined.clone();
        reported.retain(|id| refused.contains_key(id));
        for (id, reason) in refused {
            if !reported.insert(id.clone()) {
                continue;
            }
            let Some((namespace, name)) = id.split_once('/') else { continue };
            let about = k8s_openapi::api::core::v1::ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                ..Default::default()
            };
            recorder.record(&about, Severity::Warning, "NotProgrammed", reason).await;
        }
    }
}
