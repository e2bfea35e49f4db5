//! `portolan proxy`: a proxy by itself, in the place of kube-proxy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ObjectReference;
use model::{Event, Touched, World};
use plan::NodeSettings;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dataplane::Choice;

use super::{BACKLOG, Proxy, watched_kinds};
use crate::client::{self, Recorder, Severity};
use crate::probes::{Answer, serve};
use crate::runtime;

/// How a proxy is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How to reach the API server.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the API server is, if not where the kubeconfig says.
    pub(crate) master: Option<http::Uri>,
    /// The data plane.
    pub(crate) choice: Choice,
    /// What plans depend on.
    pub(crate) node: NodeSettings,
    /// Where health is told; `None` for nowhere.
    pub(crate) healthz: Option<SocketAddr>,
    /// Where metrics, mode and configuration are told; `None` for nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// The configuration in force, for those who ask.
    pub(crate) config: Value,
    /// Tell pods by the ranges of this Node (`detectLocalMode: NodeCIDR`).
    pub(crate) detect_by_node: bool,
    /// The configuration file, whose change ends the process.
    pub(crate) file: Option<PathBuf>,
    /// Say on each Service whether this node has programmed it.
    pub(crate) annotate: bool,
    /// Where it can be asked; `None` for nowhere.
    pub(crate) socket: Option<PathBuf>,
    /// End if these can't be bound, instead of trying again.
    pub(crate) bind_hard_fail: bool,
}

/// Runs until the process is asked to end, which changes nothing in the kernel.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let client =
        client::connect_to(settings.kubeconfig.as_deref(), settings.master.as_ref()).await?;
    let proxy = Proxy::new(client.clone(), settings.node.clone(), settings.choice.clone())
        .annotating(settings.annotate)
        .answering(settings.socket.clone())
        .taking_over();
    let (health, metrics, in_force) = (proxy.health(), proxy.metrics(), proxy.in_force());
    let (counted, config) = (metrics.clone(), settings.config);
    let answer_probe = move |path: &str| {
        let answer = health.answer(path);
        counted.probed(path, answer.code);
        answer
    };
    let answer_metrics = move |path: &str| match path {
        "/metrics" => metrics.answer(),
        "/proxyMode" => Answer::text(in_force.get().as_str()),
        "/healthz" => Answer::text("ok"),
        "/configz" => Answer::json(StatusCode::OK, &config),
        _ => Answer::not_found("/metrics, /proxyMode, /healthz, /configz"),
    };
    let hard_fail = settings.bind_hard_fail;
    let serve_health = serve_if(settings.healthz, "healthzBindAddress", hard_fail, answer_probe);
    let serve_metrics = serve_if(settings.metrics, "metricsBindAddress", hard_fail, answer_metrics);
    let follow = async {
        client::wait_for(&client).await;
        say_starting(&client, &settings.node.node_name).await;
        let mut feeds = JoinSet::new();
        let (events, incoming) = mpsc::channel(BACKLOG);
        for kind in watched_kinds(&client).await {
            feeds.spawn(client::feed(client.clone(), kind, None, events.clone()));
        }
        drop(events);
        let node = settings.detect_by_node.then_some(&*settings.node.node_name);
        follow(proxy, incoming, node).await
    };
    tokio::select! {
        result = follow => result,
        result = serve_health => result,
        result = serve_metrics => result,
        result = changed(settings.file) => result,
        result = runtime::asked_to_end() => result,
    }
}

/// Records the Event on the Node that a kube-proxy records when it starts.
async fn say_starting(client: &client::Client, node: &Arc<str>) {
    let recorder = Recorder::new(client.clone(), "portolan-proxy", Some(node.clone()));
    let about = ObjectReference {
        kind: Some("Node".into()),
        name: Some(node.to_string()),
        // Nodes are looked for by their name there, as their kubelets say it.
        uid: Some(node.to_string()),
        ..ObjectReference::default()
    };
    recorder.record(&about, Severity::Normal, "Starting", "").await;
}

/// How long a Node may be without ranges, as kube-proxy has it.
const RANGES_LIMIT: Duration = Duration::from_secs(300);

/// Ends with an error when the file has other content: a process with the new one is to follow.
async fn changed(file: Option<PathBuf>) -> anyhow::Result<()> {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let Some(file) = file else { return std::future::pending().await };
    let read = || std::fs::read(&file).ok();
    let before = read();
    // The directory: files are replaced by renaming, and ConfigMaps by a link beside them.
    let directory = match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let watching = || format!("watch {}", directory.display());
    let inotify =
        Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).with_context(watching)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(directory, changes).with_context(watching)?;
    #[expect(deprecated, reason = "its successor is unsafe; a watch keeps its descriptor for life")]
    let inotify = AsyncFd::new(OwnedFd::from(inotify)).with_context(watching)?;
    loop {
        let mut ready = inotify.readable().await.with_context(watching)?;
        let mut buffer = [0; 4096];
        // What has happened is seen in the file; here it is only taken out of the queue.
        while nix::unistd::read(inotify.get_ref(), &mut buffer).is_ok_and(|length| length > 0) {}
        ready.clear_ready();
        let now = read();
        anyhow::ensure!(
            now.is_none() || now == before,
            "{} has changed, start again with the new configuration",
            file.display()
        );
    }
}

/// Serves `address`, which `field` of the configuration names. Ends only with an error.
async fn serve_if(
    address: Option<SocketAddr>,
    field: &str,
    hard_fail: bool,
    answer: impl Fn(&str) -> Answer + Send + std::marker::Sync + 'static,
) -> anyhow::Result<()> {
    match address {
        Some(address) => Err(serve(address, hard_fail, answer).await)
            .with_context(|| format!("listen on {address} ({field})")),
        None => std::future::pending().await,
    }
}

/// Follows the watches. `by_node` is the name of this Node if its ranges tell pods.
async fn follow(
    mut proxy: Proxy,
    mut events: mpsc::Receiver<Event>,
    by_node: Option<&str>,
) -> anyhow::Result<()> {
    let mut world = World::new();
    let mut ranges: Vec<IpNet> = Vec::new();
    let given_up = tokio::time::Instant::now() + RANGES_LIMIT;
    loop {
        let event = match by_node {
            Some(node) if ranges.is_empty() => {
                tokio::time::timeout_at(given_up, events.recv()).await.with_context(|| {
                    format!("detectLocalMode: NodeCIDR: Node {node} has no podCIDRs")
                })?
            }
            _ => events.recv().await,
        };
        let event = event.context("the watches ended")?;
        proxy.metrics.note(&event);
        let mut touched: BTreeSet<Touched> = world.apply(event);
        while let Ok(event) = events.try_recv() {
            proxy.metrics.note(&event);
            touched.extend(world.apply(event));
        }
        if let Some(node) = by_node.and_then(|name| world.node(name)) {
            if ranges.is_empty() {
                ranges.clone_from(&node.pod_cidrs);
                proxy.detect_by(ranges.clone());
            }
            // Everything depends on them; a new process begins with the new ones.
            anyhow::ensure!(
                ranges == node.pod_cidrs,
                "the podCIDRs of Node {} have changed, start again",
                node.meta.name
            );
        }
        if by_node.is_none() || !ranges.is_empty() {
            proxy.follow(&world, &touched)?;
        }
    }
}
