//! `portolan dns`: cluster DNS by itself, in the place of CoreDNS.

mod answering;
mod cluster;
mod metrics;
pub(crate) mod pods;
mod state;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use dns::cache::Limits;
use dns::hosts::Hosts;
use dns::resolv_conf::name_servers;
use dns::rewrite::Rewrite;
use dns::{Exposure, Forward, Zone};
use tokio::task::JoinSet;

use crate::client::{self, Access, Client};
use crate::errors::sentence;
use crate::probes::{Answer, serve};
use crate::runtime;
use answering::Answering;
use cluster::Cluster;
pub(crate) use state::State;

/// How a name server is to run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How to reach the API server; `None` for what every client finds.
    pub(crate) access: Option<Access>,
    /// What is answered, and how.
    pub(crate) answers: Answers,
    /// Where health is told; `None` for nowhere.
    pub(crate) health: Option<SocketAddr>,
    /// Where readiness is told; `None` for nowhere.
    pub(crate) ready: Option<SocketAddr>,
    /// Where metrics are told; `None` for nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// How long to wait for the cluster to be known before answering.
    pub(crate) startup_timeout: Duration,
    /// How long to answer on when asked to end.
    pub(crate) lameduck: Duration,
}

/// What is answered, and how: this can change while the process goes on.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// The cluster's part of the name space.
    pub(crate) zone: Zone,
    /// Which part of the cluster has names in it.
    pub(crate) exposure: Exposure,
    /// Where questions are taken.
    pub(crate) listen: Vec<SocketAddr>,
    /// Who is asked about what.
    pub(crate) forwards: Vec<Forward>,
    /// What is kept of their answers.
    pub(crate) cache: Option<Limits>,
    /// Threads that read datagrams; `None` for one a processor.
    pub(crate) readers: Option<usize>,
    /// Names that come before those of the cluster.
    pub(crate) hosts: Option<Hosts>,
    /// Names that stand for others.
    pub(crate) rewrites: Vec<Rewrite>,
    /// One of so many questions is written to the log; 0 for none.
    pub(crate) log: u32,
}

/// Answers until the process is asked to end. `changes` has what is answered from now on, as it changes.
pub(crate) async fn run(settings: Settings, changes: impl Changes) -> anyhow::Result<()> {
    let state = State::default();
    let _probes = tell(&state, &settings);
    let client = client::connect_by(settings.access.as_ref()).await?;
    answer(&settings, client, state, changes).await
}

/// Serves health, readiness and metrics, until the answer is dropped.
fn tell(state: &State, settings: &Settings) -> JoinSet<()> {
    let mut probes = JoinSet::new();
    let mut tell = |at: Option<SocketAddr>, answer: fn(&State, &str) -> Answer| {
        let (Some(address), state) = (at, state.clone()) else { return };
        let answer = move |path: &str| answer(&state, path);
        probes.spawn(async move { drop(serve(address, false, answer).await) });
    };
    tell(settings.health, State::health);
    tell(settings.ready, State::ready);
    tell(settings.metrics, State::metrics);
    probes
}

/// The servers that a resolv.conf names, but for our own.
pub(crate) fn servers_of(path: &Path, own: &[SocketAddr]) -> anyhow::Result<Vec<SocketAddr>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(name_servers(&text, own))
}

/// Where from is known what is answered from now on.
pub(crate) trait Changes {
    /// Waits for a change.
    fn next(&mut self) -> impl Future<Output = Answers> + Send;
}

/// It stays as it is.
pub(crate) struct NoChanges;

impl Changes for NoChanges {
    async fn next(&mut self) -> Answers {
        std::future::pending().await
    }
}

/// Answers as soon as the cluster is known, or does not become known for some time, until the process is asked to end.
async fn answer(
    settings: &Settings,
    client: Client,
    state: State,
    mut changes: impl Changes,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::follow(&client, &settings.answers);
    state.answer_from(cluster.directory().clone());
    // One for all: a signal that comes while nobody listens is lost.
    let mut end = pin!(runtime::asked_to_end());
    // Another server at this address may know it: whoever asks should not have to ask again.
    tokio::select! {
        result = &mut end => return result,
        () = cluster.known() => {}
        () = tokio::time::sleep(settings.startup_timeout) => {}
    }
    let mut answering = Answering::begin(&state, &cluster, &settings.answers)?;
    // What is answered as soon as enough is known for it.
    let mut prepared: Option<(Cluster, Answers)> = None;
    loop {
        let is_prepared = async {
            match &prepared {
                Some((cluster, _)) => cluster.known().await,
                None => std::future::pending().await,
            }
        };
        let (other, answers) = tokio::select! {
            result = &mut end => {
                result?;
                break;
            }
            () = cluster.ended() => bail!("the cluster is followed no more"),
            answers = changes.next() => {
                prepared = None;
                if !cluster.is_for(&answers) {
                    tracing::info!("it is answered as before until the part of the cluster is known that has names now");
                    prepared = Some((Cluster::follow(&client, &answers), answers));
                    continue;
                }
                (None, answers)
            }
            () = is_prepared => match prepared.take() {
                Some((cluster, answers)) => (Some(cluster), answers),
                None => continue,
            },
        };
        match Answering::begin(&state, other.as_ref().unwrap_or(&cluster), &answers) {
            Ok(next) => {
                std::mem::replace(&mut answering, next).end().await;
                if let Some(other) = other {
                    std::mem::replace(&mut cluster, other).end().await;
                }
            }
            Err(error) => {
                tracing::error!("what is answered stays as it is: {}", sentence(&error));
            }
        }
    }
    state.end();
    // Others are told of it meanwhile, and whoever asks is answered.
    tokio::time::sleep(settings.lameduck).await;
    answering.end().await;
    Ok(())
}
