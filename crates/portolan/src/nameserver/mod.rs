//! `portolan dns`: cluster DNS by itself, in the place of CoreDNS.

mod cluster;
mod metrics;
pub(crate) mod pods;
mod state;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use dns::cache::Limits;
use dns::hosts::Hosts;
use dns::resolv_conf::name_servers;
use dns::rewrite::Rewrite;
use dns::{Exposure, Forward, QueryLog, Resolver, Responder, Server, Upstreams, Zone};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{self, Access, Client};
use crate::errors::sentence;
use crate::probes::{Answer, is_without_ipv6, serve};
use crate::runtime;
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
    let shared = Shared::default();
    let _probes = shared.tell(&settings);
    let client = client::connect_by(settings.access.as_ref()).await?;
    answer(&settings, client, shared, changes).await
}

/// What stays while what is answered changes.
#[derive(Default)]
struct Shared {
    state: State,
}

impl Shared {
    /// Serves health, readiness and metrics, until the answer is dropped.
    fn tell(&self, settings: &Settings) -> JoinSet<()> {
        let mut probes = JoinSet::new();
        let mut tell = |at: Option<SocketAddr>, answer: fn(&State, &str) -> Answer| {
            let (Some(address), state) = (at, self.state.clone()) else { return };
            let answer = move |path: &str| answer(&state, path);
            probes.spawn(async move { drop(serve(address, false, answer).await) });
        };
        tell(settings.health, State::health);
        tell(settings.ready, State::ready);
        tell(settings.metrics, State::metrics);
        probes
    }

    /// Begins to answer; whoever answered at the same addresses until now may go on for a while.
    fn begin(&self, cluster: &Cluster, answers: &Answers) -> anyhow::Result<Answering> {
        let mut zone = answers.zone.clone();
        zone.epoch = u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        zone.addresses = own_addresses(&answers.listen)?;
        let upstreams = Upstreams::new(answers.forwards.clone());
        let resolver = Arc::new(Resolver::new(upstreams, answers.cache.clone()));
        let domain = zone.to_string();
        let responder = Responder::new(cluster.directory().clone(), zone, resolver.clone());
        let responder = Arc::new(
            responder
                .with_hosts(answers.hosts.clone())
                .rewriting(answers.rewrites.clone())
                .logging(QueryLog::one_of(answers.log)),
        );
        let all = || thread::available_parallelism().map_or(1, NonZero::get);
        let readers = answers.readers.unwrap_or_else(all);
        let mut bound = Vec::new();
        for address in &answers.listen {
            match Server::bind(*address, readers) {
                Err(error) if answers.listen.len() > 1 && is_without_ipv6(*address, &error) => {
                    tracing::info!("this machine has no IPv6: {address} is left out");
                }
                server => {
                    bound.push(server.with_context(|| format!("listen for DNS on {address}"))?);
                }
            }
        }
        tracing::info!(listen = ?answers.listen, "names below {domain} are answered");
        for asked in resolver.upstreams().asked() {
            let how = if asked.is_tls { " by TLS" } else { "" };
            tracing::info!("names of others are asked of {}{how}", asked.server);
        }
        let ending = watch::Sender::new(false);
        let mut servers = JoinSet::new();
        for server in bound {
            let (tallies, ending) = (self.state.tallies(), ending.subscribe());
            servers.spawn(server.run(responder.clone(), tallies, ending));
        }
        self.state.answer_from(cluster.directory().clone());
        self.state.begin(domain, resolver);
        Ok(Answering { servers, ending })
    }
}

/// Servers that answer.
struct Answering {
    servers: JoinSet<()>,
    ending: watch::Sender<bool>,
}

impl Answering {
    /// Takes no more questions, and waits until those that have come are answered.
    async fn end(mut self) {
        self.ending.send_replace(true);
        while self.servers.join_next().await.is_some() {}
    }
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
    shared: Shared,
    mut changes: impl Changes,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::follow(&client, &settings.answers);
    shared.state.answer_from(cluster.directory().clone());
    // One for all: a signal that comes while nobody listens is lost.
    let mut end = pin!(runtime::asked_to_end());
    // Another server at this address may know it: whoever asks should not have to ask again.
    tokio::select! {
        result = &mut end => return result,
        () = cluster.known() => {}
        () = tokio::time::sleep(settings.startup_timeout) => {}
    }
    let mut answering = shared.begin(&cluster, &settings.answers)?;
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
        match shared.begin(other.as_ref().unwrap_or(&cluster), &answers) {
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
    shared.state.end();
    // Others are told of it meanwhile, and whoever asks is answered.
    tokio::time::sleep(settings.lameduck).await;
    answering.end().await;
    Ok(())
}

/// Addresses that this server is reached at, for the name of name servers: where it listens, or those of its links.
fn own_addresses(listen: &[SocketAddr]) -> anyhow::Result<Vec<std::net::IpAddr>> {
    let given = listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let given: Vec<_> = given.collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let is_usable = |ip: &std::net::IpAddr| {
        let is_link_local = matches!(ip, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
        !ip.is_loopback() && !is_link_local
    };
    let addresses = kernel::route::Rtnetlink::open()?.addresses()?;
    Ok(addresses.iter().map(|address| address.net.addr()).filter(is_usable).collect())
}
