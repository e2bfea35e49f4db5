//! The service proxy of one node: what it watches becomes a World, the World becomes a plan, the plan
//! goes to the data plane. The node agent has one; `portolan proxy` is one and nothing else.

pub(crate) mod config;
mod describe;
mod health;
mod planner;
mod run;
mod serve;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use dataplane::nftables::{self, Nftables};
use dataplane::{Status, Sync};
use k8s_openapi::api::core::v1::ObjectReference;
use model::{Kind, Touched, World};
use plan::{NodePlan, NodeSettings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{self, Client, Recorder, Severity};
pub(crate) use describe::describe;
use planner::Planner;
pub(crate) use run::{Settings, run};

/// Watch events that may wait to be taken in. A full channel slows the watches down, nothing is lost.
pub(crate) const BACKLOG: usize = 1024;

/// The proxy of a node. Dropping it leaves packets flowing.
pub(crate) struct Proxy {
    client: Client,
    settings: NodeSettings,
    /// `None` until enough is known.
    programmed: Option<Programmed>,
    tasks: JoinSet<()>,
}

/// The data plane and who plans for it.
struct Programmed {
    planner: Planner,
    sync: Sync,
}

impl Proxy {
    /// A proxy that has programmed nothing yet.
    pub(crate) fn new(client: Client, settings: NodeSettings) -> Self {
        Self { client, settings, programmed: None, tasks: JoinSet::new() }
    }

    /// Plans what was touched and hands it to the data plane; the first time, as soon as everything
    /// is listed, all there is. Has to be called on a thread of the node's network namespace.
    pub(crate) fn follow(
        &mut self,
        world: &World,
        touched: &BTreeSet<Touched>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        if let Some(Programmed { planner, sync }) = &mut self.programmed {
            let updates = planner.updates(world, touched);
            if !updates.is_empty() {
                tracing::debug!(updates = updates.len(), took = ?start.elapsed(), "planned");
            }
            for update in updates {
                sync.update(update);
            }
            return Ok(());
        }
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
        if !kinds.into_iter().all(|kind| world.is_listed(kind)) {
            return Ok(());
        }
        let planner = Planner::new(self.settings.clone(), world);
        let whole = planner.whole(world);
        tracing::info!(services = whole.len(), took = ?start.elapsed(), "planned everything");
        let backend = Nftables::open().context("open nftables")?;
        let own_port = backend.port();
        let sync = Sync::start(Box::new(backend), whole).context("start the data plane")?;
        let watch = nftables::watch(own_port, sync.updates()).context("watch nftables")?;
        self.tasks.spawn(watch);
        let node = self.settings.node_name.clone();
        let recorder = Recorder::new(self.client.clone(), "portolan-proxy", Some(node));
        self.tasks.spawn(report_quarantine(recorder, sync.status()));
        self.programmed = Some(Programmed { planner, sync });
        Ok(())
    }

    /// How far the data plane is, once there is one.
    fn status(&self) -> Option<watch::Receiver<Status>> {
        self.programmed.as_ref().map(|programmed| programmed.sync.status())
    }
}

/// The plan of a node as of now. It is only computed.
pub(crate) async fn plan_once(
    kubeconfig: Option<&Path>,
    settings: NodeSettings,
) -> anyhow::Result<NodePlan> {
    let client = client::connect(kubeconfig).await?;
    client.apiserver_version().await.context("ask the API server")?;
    let (events, mut incoming) = mpsc::channel(BACKLOG);
    let mut feeds = JoinSet::new();
    let kinds = watched_kinds(&client).await;
    for kind in &kinds {
        feeds.spawn(client::feed(client.clone(), *kind, None, events.clone()));
    }
    let mut world = World::new();
    while !kinds.iter().all(|kind| world.is_listed(*kind)) {
        let event = incoming.recv().await.context("the watches ended")?;
        world.apply(event);
    }
    anyhow::ensure!(
        world.node(&settings.node_name).is_some(),
        "there is no node {}: it is one of {}",
        settings.node_name,
        world.nodes().map(|node| &*node.meta.name).collect::<Vec<_>>().join(", ")
    );
    Ok(Planner::new(settings, &world).whole(&world))
}

/// The kinds that a proxy watches, as far as this API server has them.
pub(crate) async fn watched_kinds(client: &Client) -> Vec<Kind> {
    let mut kinds = vec![Kind::Service, Kind::EndpointSlice, Kind::Node];
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
            let about = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                ..ObjectReference::default()
            };
            recorder.record(&about, Severity::Warning, "NotProgrammed", reason).await;
        }
    }
}
