//! `portolan proxy`: a proxy by itself, in the place of kube-proxy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use http::StatusCode;
use model::{Event, Touched, World};
use plan::NodeSettings;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::serve::{Answer, serve};
use super::{BACKLOG, Proxy, watched_kinds};
use crate::client;
use crate::runtime;

/// How a proxy is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How to reach the API server.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// What plans depend on.
    pub(crate) node: NodeSettings,
    /// Where health is told; `None` for nowhere.
    pub(crate) healthz: Option<SocketAddr>,
    /// Where metrics, mode and configuration are told; `None` for nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// The configuration in force, for those who ask.
    pub(crate) config: Value,
    /// End if these can't be bound, instead of trying again.
    pub(crate) bind_hard_fail: bool,
}

/// Runs until the process is asked to end, which changes nothing in the kernel.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let client = client::connect(settings.kubeconfig.as_deref()).await?;
    let proxy = Proxy::new(client.clone(), settings.node.clone());
    let (health, metrics) = (proxy.health(), proxy.metrics());
    let (counted, config) = (metrics.clone(), settings.config);
    let answer_probe = move |path: &str| {
        let answer = health.answer(path);
        counted.probed(path, answer.code);
        answer
    };
    let answer_metrics = move |path: &str| match path {
        "/metrics" => metrics.answer(),
        "/proxyMode" => Answer::text("nftables"),
        "/healthz" => Answer::text("ok"),
        "/configz" => Answer::json(StatusCode::OK, &config),
        _ => Answer::not_found("/metrics, /proxyMode, /healthz, /configz"),
    };
    let hard_fail = settings.bind_hard_fail;
    let serve_health = serve_if(settings.healthz, "healthzBindAddress", hard_fail, answer_probe);
    let serve_metrics = serve_if(settings.metrics, "metricsBindAddress", hard_fail, answer_metrics);
    let follow = async {
        client::wait_for(&client).await;
        let mut feeds = JoinSet::new();
        let (events, incoming) = mpsc::channel(BACKLOG);
        for kind in watched_kinds(&client).await {
            feeds.spawn(client::feed(client.clone(), kind, None, events.clone()));
        }
        drop(events);
        follow(proxy, incoming).await
    };
    tokio::select! {
        result = follow => result,
        result = serve_health => result,
        result = serve_metrics => result,
        result = runtime::asked_to_end() => result,
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

async fn follow(mut proxy: Proxy, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
    let mut world = World::new();
    loop {
        let event = events.recv().await.context("the watches ended")?;
        proxy.metrics.note(&event);
        let mut touched: BTreeSet<Touched> = world.apply(event);
        while let Ok(event) = events.try_recv() {
            proxy.metrics.note(&event);
            touched.extend(world.apply(event));
        }
        proxy.follow(&world, &touched)?;
    }
}
