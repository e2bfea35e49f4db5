//! `portolan dns`: cluster DNS by itself, in the place of CoreDNS.

mod metrics;
pub(crate) mod pods;
mod state;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use dns::answer::Pods;
use dns::cache::Limits;
use dns::hosts::Hosts;
use dns::resolv_conf::name_servers;
use dns::rewrite::Rewrite;
use dns::{Directory, Forward, QueryLog, Resolver, Responder, Server, Upstreams, Zone};
use futures_util::future::BoxFuture;
use model::{Event, Kind, Touched, World};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client;
use crate::errors::sentence;
use crate::probes::{Answer, is_without_ipv6, serve};
use crate::proxy::BACKLOG;
use crate::runtime;
use pods::Followed;
pub(crate) use state::State;

/// How a name server is to run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How to reach the API server.
    pub(crate) kubeconfig: Option<PathBuf>,
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

/// What DNS is made of.
pub(crate) const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];

/// How often is looked whether the cluster is known.
const GLANCE: Duration = Duration::from_millis(10);

/// Answers until the process is asked to end. `changes` has what is answered from now on, as it changes.
pub(crate) async fn run(settings: Settings, changes: impl Changes) -> anyhow::Result<()> {
    let directory = Arc::new(Directory::new());
    let shared = Shared {
        directory: directory.clone(),
        follows_pods: settings.answers.zone.needs_pods(),
        state: State::new(directory.clone()),
    };
    let _probes = shared.tell(&settings);
    let client = client::connect(settings.kubeconfig.as_deref()).await?;
    let (known, is_known) = watch::channel(false);
    let pods: BoxFuture<'static, ()> = match shared.follows_pods {
        true => {
            // Without them pods search by themselves, and are answered all the same.
            let is_waited_for = settings.answers.zone.pods == Pods::Verified;
            let all = Followed::All { is_waited_for };
            Box::pin(pods::follow(client.clone(), directory.clone(), all))
        }
        false => Box::pin(std::future::pending()),
    };
    let follow = follow(client, &directory);
    let answer = answer(&settings, shared, is_known, changes);
    tokio::select! {
        result = follow => result,
        () = pods => Ok(()),
        never = notice(&directory, &known) => match never {},
        result = answer => result,
    }
}

/// What stays while what is answered changes.
struct Shared {
    directory: Arc<Directory>,
    follows_pods: bool,
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
    fn begin(&self, answers: &Answers) -> anyhow::Result<Answering> {
        if answers.zone.needs_pods() && !self.follows_pods {
            bail!(
                "verified names of pods and autopath take pods, which are not watched: restart it"
            );
        }
        let mut zone = answers.zone.clone();
        zone.epoch = u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        zone.addresses = own_addresses(&answers.listen)?;
        let upstreams = Upstreams::new(answers.forwards.clone());
        let resolver = Arc::new(Resolver::new(upstreams, answers.cache.clone()));
        let domain = zone.to_string();
        let responder = Responder::new(self.directory.clone(), zone, resolver.clone());
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
    shared: Shared,
    mut is_known: watch::Receiver<bool>,
    mut changes: impl Changes,
) -> anyhow::Result<()> {
    // Another server at this address may know it: whoever asks should not have to ask again.
    let known = is_known.wait_for(|is_known| *is_known);
    // One for all: a signal that comes while nobody listens is lost.
    let mut end = pin!(runtime::asked_to_end());
    tokio::select! {
        result = &mut end => return result,
        _ = tokio::time::timeout(settings.startup_timeout, known) => {}
    }
    let mut answering = shared.begin(&settings.answers)?;
    loop {
        tokio::select! {
            result = &mut end => {
                result?;
                break;
            }
            answers = changes.next() => match shared.begin(&answers) {
                Ok(next) => std::mem::replace(&mut answering, next).end().await,
                Err(error) => tracing::error!("what is answered stays as it is: {}", sentence(&error)),
            }
        }
    }
    shared.state.end();
    // Others are told of it meanwhile, and whoever asks is answered.
    tokio::time::sleep(settings.lameduck).await;
    answering.end().await;
    Ok(())
}

/// Says when the cluster is known.
async fn notice(directory: &Directory, known: &watch::Sender<bool>) -> Infallible {
    while !directory.is_synced() {
        tokio::time::sleep(GLANCE).await;
    }
    // Lists as they come are larger than what is kept of them.
    kernel::machine::trim_memory();
    tracing::info!("the cluster is known");
    known.send_replace(true);
    std::future::pending().await
}

/// Follows what the API server tells.
async fn follow(client: client::Client, directory: &Directory) -> anyhow::Result<()> {
    client::wait_for(&client).await;
    let mut feeds = JoinSet::new();
    let (events, mut incoming) = mpsc::channel::<Event>(BACKLOG);
    for kind in KINDS {
        feeds.spawn(client::feed(client.clone(), kind, None, events.clone()));
    }
    drop(events);
    let mut world = World::new();
    loop {
        let event = incoming.recv().await.context("the watches ended")?;
        let mut touched: BTreeSet<Touched> = world.apply(event);
        while let Ok(event) = incoming.try_recv() {
            touched.extend(world.apply(event));
        }
        directory.update(&world, &touched);
    }
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
