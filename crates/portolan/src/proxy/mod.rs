//! The service proxy of one node: what it watches becomes a World, the World becomes a plan, the plan
//! goes to the data plane. The node agent has one; `portolan proxy` is one and nothing else.

pub(crate) mod config;
pub(crate) mod dataplane;
mod describe;
mod emptied;
mod health;
pub(crate) mod host;
mod listeners;
mod metrics;
mod planner;
mod report;
mod run;
pub(crate) mod takeover;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::dataplane::{Sync, Update};
use anyhow::Context;
use ipnet::IpNet;
use model::{Kind, Touched, World};
use plan::{Group, GroupId, LocalDetector, NodeFacts, NodePlan, NodeSettings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{self, Client, Recorder};
use crate::control;
use crate::errors::sentence;
use dataplane::{Choice, InForce};
pub(crate) use describe::describe;
use health::Health;
use health::node_port::HealthCheckPorts;
use listeners::NodePorts;
use metrics::Metrics;
use planner::Planner;
use report::Reporter;
pub(crate) use report::{NOT_PROGRAMMED, PROGRAMMED};
pub(crate) use run::{Settings, run};

/// Watch events that may wait to be taken in. A full channel slows the watches down, nothing is lost.
pub(crate) const BACKLOG: usize = 1024;

/// The proxy of a node. Dropping it leaves packets flowing.
pub(crate) struct Proxy {
    client: Client,
    settings: NodeSettings,
    /// `None` until enough is known.
    programmed: Option<Programmed>,
    health: Health,
    metrics: Metrics,
    choice: Choice,
    in_force: InForce,
    takes_over: bool,
    annotates: bool,
    /// Where it can be asked; `None` for nowhere.
    socket: Option<PathBuf>,
    tasks: JoinSet<()>,
}

/// The data plane and who plans for it.
struct Programmed {
    planner: Planner,
    sync: Sync,
    followers: Followers,
    /// Others' changes are noticed for as long as this is held.
    _running: dataplane::Running,
}

/// Who else follows the plans of Services.
struct Followers {
    health_checks: HealthCheckPorts,
    node_ports: NodePorts,
    reporter: Reporter,
    metrics: Metrics,
}

impl Followers {
    /// A Service is planned anew; `None` if it is no more.
    fn follow(&mut self, world: &World, id: &GroupId, group: Option<&Group>) {
        self.reporter.follow(world, id, group);
        self.health_checks.follow(id, group.and_then(|group| group.health_check.as_ref()));
        self.node_ports.follow(id, group);
        self.metrics.planned(id, group);
    }

    fn set_node(&self, node: &NodeFacts) {
        self.health_checks.set_node(node.clone());
        self.node_ports.set_node(node.clone());
    }
}

impl Proxy {
    /// A proxy that has programmed nothing yet.
    pub(crate) fn new(client: Client, settings: NodeSettings, choice: Choice) -> Self {
        let in_force = InForce::new(choice.mode);
        Self {
            client,
            settings,
            choice,
            metrics: Metrics::new(in_force.clone()),
            in_force,
            programmed: None,
            health: Health::default(),
            takes_over: false,
            annotates: false,
            socket: None,
            tasks: JoinSet::new(),
        }
    }

    /// Says on each Service, if `wanted`, whether this node has programmed it.
    pub(crate) fn annotating(self, wanted: bool) -> Self {
        Self { annotates: wanted, ..self }
    }

    /// Answers questions there, once something is planned.
    pub(crate) fn answering(self, socket: Option<PathBuf>) -> Self {
        Self { socket, ..self }
    }

    /// Removes what a kube-proxy has left on this node, as soon as its Services are programmed here.
    fn taking_over(self) -> Self {
        Self { takes_over: true, ..self }
    }

    /// Tells pods by these ranges, from the first plan on.
    fn detect_by(&mut self, ranges: Vec<IpNet>) {
        self.settings.local_detector = LocalDetector::Sources(ranges);
    }

    /// How well it is, now and later.
    fn health(&self) -> Health {
        self.health.clone()
    }

    /// The data plane that programs, now and later.
    fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    /// What is counted and measured of it.
    fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Plans what was touched and hands it to the data plane; the first time, as soon as everything
    /// is listed, all there is. Has to be called on a thread of the node's network namespace.
    pub(crate) fn follow(
        &mut self,
        world: &World,
        touched: &BTreeSet<Touched>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        self.health.follow(world, &self.settings.node_name);
        if let Some(Programmed { planner, sync, followers, .. }) = &mut self.programmed {
            let updates = planner.updates(world, touched);
            if !updates.is_empty() {
                self.metrics.queued();
                tracing::debug!(updates = updates.len(), took = ?start.elapsed(), "planned");
            }
            for update in updates {
                match &update {
                    Update::Group(id, group) => followers.follow(world, id, group.as_ref()),
                    Update::Node(node, _) => followers.set_node(node),
                    Update::Host | Update::Tampered(_) => {}
                }
                let id = match &update {
                    Update::Group(id, Some(_)) => Some(id.clone()),
                    _ => None,
                };
                sync.update(update);
                if let Some(id) = id {
                    followers.reporter.announced(&id);
                }
            }
            return Ok(());
        }
        if !is_complete(world) {
            return Ok(());
        }
        let planner = Planner::new(self.settings.clone(), world);
        let whole = planner.whole(world);
        tracing::info!(services = whole.len(), took = ?start.elapsed(), "planned everything");
        let node = self.settings.node_name.clone();
        let recorder = Recorder::new(self.client.clone(), "portolan-proxy", Some(node));
        let mut reporter = Reporter::new(recorder, &self.settings.node_name);
        let mut to_annotate = None;
        if self.annotates {
            let (annotating, ids) = reporter.annotating();
            (reporter, to_annotate) = (annotating, Some(ids));
        }
        let mut followers = Followers {
            health_checks: HealthCheckPorts::new(
                whole.node.clone(),
                self.health.clone(),
                Some(reporter.clone()),
            ),
            node_ports: NodePorts::new(whole.node.clone()),
            reporter: reporter.clone(),
            metrics: self.metrics.clone(),
        };
        for group in whole.groups() {
            followers.follow(world, &group.id, Some(group));
        }
        self.metrics.queued();
        let observer = Box::new(self.metrics.clone());
        let directory = self.socket.as_deref().map(control::runtime_directory).map(Path::to_owned);
        let (sync, running) = dataplane::start(
            self.choice.options.clone(),
            directory,
            self.in_force(),
            whole,
            observer,
        )?;
        self.tasks.spawn(reporter.clone().quarantine(sync.status()));
        if let Some(ids) = to_annotate {
            for (name, _) in world.services() {
                reporter.announced(&plan::service::group_id(name));
            }
            let client = self.client.clone();
            let annotate = reporter.clone().annotate(client, ids, sync.updates(), sync.status());
            self.tasks.spawn(annotate);
        }
        match followers.node_ports.watch(reporter) {
            Ok(watch) => _ = self.tasks.spawn(watch),
            Err(error) => tracing::warn!(%error, "listeners at node ports are not noticed"),
        }
        self.health.watch(sync.status());
        if self.takes_over {
            // Metrics are served by a proxy of its own only.
            let metrics = self.metrics.clone();
            let asked = metrics.read();
            let note = move |counts| metrics.connected(counts);
            let options = running.options();
            self.tasks.spawn(control::connections::watch(options, sync.updates(), asked, note)?);
        }
        if let Some(path) = &self.socket {
            match control::serve(path, sync.updates(), running.clone()) {
                Ok(serve) => _ = self.tasks.spawn(serve),
                Err(error) => tracing::warn!("it can't be asked: {}", sentence(&error)),
            }
        }
        let mut status = sync.status();
        let retire_others = running.clone().retire_others(self.choice.clone());
        let takes_over = self.takes_over;
        self.tasks.spawn(async move {
            if status.wait_for(|status| status.generation > 0).await.is_ok() {
                if takes_over {
                    // It runs programs and waits for them. A panic of it has been printed.
                    let _ = tokio::task::spawn_blocking(takeover::take_over).await;
                }
                retire_others.await;
            }
        });
        self.programmed = Some(Programmed { planner, sync, followers, _running: running });
        Ok(())
    }
}

/// Whether enough is known to plan: before, a rule that is there could be taken for one too many.
fn is_complete(world: &World) -> bool {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
    kinds.into_iter().all(|kind| world.is_listed(kind))
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
    Ok(plan_for(&world, settings))
}

/// The plan of a node in a World that is complete.
pub(crate) fn plan_for(world: &World, settings: NodeSettings) -> NodePlan {
    Planner::new(settings, world).whole(world)
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

#[cfg(test)]
mod tests {
    use model::Event;

    use super::*;

    #[test]
    fn nothing_is_programmed_before_everything_is_listed() {
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
        for missing in kinds {
            let mut world = World::new();
            for kind in kinds.into_iter().filter(|kind| *kind != missing) {
                world.apply(Event::listed(kind, Vec::new()));
            }
            assert!(!is_complete(&world), "without {missing:?}");
            world.apply(Event::listed(missing, Vec::new()));
            assert!(is_complete(&world));
        }
    }
}
