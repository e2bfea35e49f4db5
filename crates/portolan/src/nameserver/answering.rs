//! Servers at the addresses that are asked, with one way to answer.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use dns::{QueryLog, Resolver, Responder, Server, Upstreams};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::{Answers, State};
use crate::probes::is_without_ipv6;

/// Servers that answer.
pub(super) struct Answering {
    servers: JoinSet<()>,
    ending: watch::Sender<bool>,
}

impl Answering {
    /// Begins to answer; whoever answered at the same addresses until now may go on for a while.
    pub(super) fn begin(
        state: &State,
        cluster: &Cluster,
        answers: &Answers,
    ) -> anyhow::Result<Self> {
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
            let (tallies, ending) = (state.tallies(), ending.subscribe());
            servers.spawn(server.run(responder.clone(), tallies, ending));
        }
        state.answer_from(cluster.directory().clone());
        state.begin(domain, resolver);
        Ok(Self { servers, ending })
    }

    /// Takes no more questions, and waits until those that have come are answered.
    pub(super) async fn end(mut self) {
        self.ending.send_replace(true);
        while self.servers.join_next().await.is_some() {}
    }
}

/// Addresses that this server is reached at, for the name of name servers: where it listens, or those of its links.
fn own_addresses(listen: &[SocketAddr]) -> anyhow::Result<Vec<IpAddr>> {
    let given = listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let given: Vec<_> = given.collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let is_usable = |ip: &IpAddr| {
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        !ip.is_loopback() && !is_link_local
    };
    let addresses = kernel::route::Rtnetlink::open()?.addresses()?;
    Ok(addresses.iter().map(|address| address.net.addr()).filter(is_usable).collect())
}
