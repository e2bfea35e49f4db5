//! What a Corefile says, and what it says when it has changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use dns::corefile::{ApiServer, Corefile, HostsOf, To};
use dns::forward::NameServer;
use dns::hosts::Hosts;
use dns::{Forward, Zone};

use super::{RESOLV_CONF, STARTUP_TIMEOUT, by_kubeconfig, clear, domains_of};
use crate::client::Access;
use crate::errors::sentence;
use crate::nameserver::{Answers, Changes, Settings, servers_of};

/// What a Corefile does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct From {
    pub(super) readers: Option<usize>,
}

impl From {
    pub(super) fn settings(
        self,
        corefile: &Corefile,
        kubeconfig: Option<PathBuf>,
        startup_timeout: Option<Duration>,
    ) -> anyhow::Result<Settings> {
        let kubernetes = corefile.kubernetes.as_ref();
        let of_file = kubernetes.and_then(|it| it.startup_timeout);
        Ok(Settings {
            access: kubeconfig
                .map(by_kubeconfig)
                .or(kubernetes.and_then(|it| it.api_server.clone()).map(access)),
            answers: self.answers(corefile)?,
            health: corefile.health,
            ready: corefile.ready,
            metrics: corefile.prometheus,
            startup_timeout: startup_timeout.or(of_file).unwrap_or(STARTUP_TIMEOUT),
            lameduck: corefile.lameduck,
        })
    }

    fn answers(self, corefile: &Corefile) -> anyhow::Result<Answers> {
        let kubernetes = corefile.kubernetes.as_ref();
        let kubernetes =
            kubernetes.context("there is no kubernetes in it, and so no names of a cluster")?;
        let mut zone = Zone::new(&kubernetes.domain)?;
        zone.ttl = kubernetes.ttl;
        zone.pods = kubernetes.pods;
        zone.reverse_falls_through = kubernetes.reverse_falls_through;
        if corefile.autopath {
            zone.search = Some(domains_of(Path::new(RESOLV_CONF), &zone)?);
        }
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let bind: &[IpAddr] = if corefile.bind.is_empty() { &any } else { &corefile.bind };
        let listen: Vec<_> = bind.iter().map(|ip| SocketAddr::new(*ip, corefile.port)).collect();
        let mut forwards = Vec::new();
        for to in &corefile.forwards {
            let mut servers = Vec::new();
            for to in &to.to {
                match to {
                    To::Server(address) => servers.push(*address),
                    To::File(path) => servers.extend(clear(servers_of(path, &listen)?)),
                }
            }
            forwards.push(Forward {
                domain: to.domain.clone(),
                servers: NameServer::all(&servers, &to.tls)?,
                policy: to.policy,
                max_concurrent: to.max_concurrent,
            });
        }
        let (cache, readers) = (corefile.cache.clone(), self.readers);
        let (hosts, log) = (corefile.hosts.as_ref().map(hosts).transpose()?, corefile.log.into());
        let rewrites = corefile.rewrites.clone();
        let exposure = kubernetes.exposure.clone();
        Ok(Answers { zone, exposure, listen, forwards, cache, readers, hosts, rewrites, log })
    }
}

/// How a Corefile has the API server reached.
fn access(said: ApiServer) -> Access {
    match said {
        ApiServer::Kubeconfig { file, context } => Access::Kubeconfig { file, context },
        ApiServer::Endpoint { url, tls } => {
            let tls = tls.map(|files| [files.certificate, files.key, files.authorities]);
            Access::Server { url, tls }
        }
    }
}

/// The names of a Corefile, and of a file that it names.
fn hosts(of: &HostsOf) -> anyhow::Result<Hosts> {
    let mut hosts = Hosts::default();
    hosts.ttl = of.ttl;
    hosts.falls_through.clone_from(&of.falls_through);
    if let Some(file) = &of.file {
        let text = std::fs::read_to_string(file);
        hosts.add(&text.with_context(|| format!("read {}", file.display()))?);
    }
    hosts.add(&of.lines);
    Ok(hosts)
}

/// Reads a Corefile; what is not accepted is told, each line.
fn read(file: &Path, text: &str) -> anyhow::Result<Corefile> {
    Corefile::parse(text, |name| std::env::var(name).ok()).map_err(|refusals| {
        let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{} is not accepted:\n  {}", file.display(), lines.join("\n  "))
    })
}

/// How often to look at files: a file of hosts as often as CoreDNS does.
fn every(corefile: &Corefile) -> Option<Duration> {
    let of_hosts = corefile.hosts.as_ref().and_then(|hosts| hosts.file.as_ref());
    let of_hosts = of_hosts.map(|_| Duration::from_secs(5));
    corefile.reload.into_iter().chain(of_hosts).filter(|every| !every.is_zero()).min()
}

/// What a Corefile says, with what the files say that it names.
fn text_with(text: &str, corefile: &Corefile) -> String {
    let of_hosts = corefile.hosts.iter().filter_map(|hosts| hosts.file.as_deref());
    let of_tls = corefile.forwards.iter().flat_map(|forward| forward.tls.files());
    let more = of_hosts.chain(of_tls).filter_map(|file| std::fs::read_to_string(file).ok());
    std::iter::once(text.to_owned()).chain(more).collect::<Vec<_>>().join("\n")
}

/// A Corefile that is looked at again and again, if it says so.
pub(super) struct Reloading {
    file: PathBuf,
    /// What it said last, with what it names.
    text: String,
    every: Option<Duration>,
    from: From,
}

impl Reloading {
    /// Reads a file, and looks at it from then on.
    pub(super) fn open(file: PathBuf, from: From) -> anyhow::Result<(Corefile, Self)> {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let corefile = read(&file, &text)?;
        let (text, every) = (text_with(&text, &corefile), every(&corefile));
        Ok((corefile, Self { file, text, every, from }))
    }
}

impl Changes for Reloading {
    async fn next(&mut self) -> Answers {
        loop {
            match self.every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
            // It may be being replaced.
            let Ok(text) = std::fs::read_to_string(&self.file) else { continue };
            let corefile = read(&self.file, &text);
            let text = corefile.as_ref().map_or(text.clone(), |it| text_with(&text, it));
            if text == self.text {
                continue;
            }
            self.text = text;
            let answers = corefile.and_then(|it| Ok((every(&it), self.from.answers(&it)?)));
            match answers {
                Ok((every, answers)) => {
                    tracing::info!("{} has changed", self.file.display());
                    self.every = every.or(self.every);
                    return answers;
                }
                Err(error) => {
                    tracing::error!("what is answered stays as it is: {}", sentence(&error));
                }
            }
        }
    }
}
