//! `portolan proxy`: a proxy by itself, in the place of kube-proxy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use model::{Event, Touched, World};
use plan::NodeSettings;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::health::Health;
use super::serve::serve;
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
    /// End if that can't be bound, instead of trying again.
    pub(crate) bind_hard_fail: bool,
}

/// Runs until the process is asked to end, which changes nothing in the kernel.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let client = client::connect(settings.kubeconfig.as_deref()).await?;
    let health = Health::default();
    let told = health.clone();
    let serve_health = async {
        match settings.healthz {
            Some(address) => {
                let answer = move |path: &str| told.answer(path);
                let error = serve(address, settings.bind_hard_fail, answer).await;
                Err(error).with_context(|| format!("listen on {address} (healthzBindAddress)"))
            }
            None => std::future::pending().await,
        }
    };
    let follow = async {
        client::wait_for(&client).await;
        let mut feeds = JoinSet::new();
        let (events, incoming) = mpsc::channel(BACKLOG);
        for kind in watched_kinds(&client).await {
            feeds.spawn(client::feed(client.clone(), kind, None, events.clone()));
        }
        drop(events);
        let proxy = Proxy::new(client.clone(), settings.node.clone());
        follow(proxy, &settings.node.node_name, incoming, &health).await
    };
    tokio::select! {
        result = follow => result,
        result = serve_health => result,
        result = runtime::asked_to_end() => result,
    }
}

async fn follow(
    mut proxy: Proxy,
    node: &str,
    mut events: mpsc::Receiver<Event>,
    health: &Health,
) -> anyhow::Result<()> {
    let mut world = World::new();
    loop {
        let event = events.recv().await.context("the watches ended")?;
        let mut touched: BTreeSet<Touched> = world.apply(event);
        while let Ok(event) = events.try_recv() {
            touched.extend(world.apply(event));
        }
        proxy.follow(&world, &touched)?;
        health.follow(&world, node);
        if let Some(status) = proxy.status() {
            health.watch(status);
        }
    }
}
