//! A Corefile, as CoreDNS is configured with, of the shape that clusters have: each line is accepted, or refused with a
//! reason. Nothing that changes answers is passed over in silence.

mod kubernetes;
mod lines;
mod plugins;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::Limits;
use crate::forward::{Address, Policy, TlsOptions};
use crate::rewrite::Rewrite;
use crate::wire::Name;
pub use kubernetes::{ApiServer, ClientFiles, Kubernetes};
use lines::Directive;
pub use lines::Refusal;
use plugins::Reader;

/// The port of DNS.
const PORT: u16 = 53;

/// What a Corefile asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corefile {
    /// Where questions are taken: addresses, none for all, and a port.
    pub bind: Vec<std::net::IpAddr>,
    /// See above.
    pub port: u16,
    /// The cluster's names; `None` to answer none.
    pub kubernetes: Option<Kubernetes>,
    /// Pods get at once what their resolvers would find at the end of their search path.
    pub autopath: bool,
    /// Names that stand for others.
    pub rewrites: Vec<Rewrite>,
    /// Names that come before those of the cluster.
    pub hosts: Option<HostsOf>,
    /// Who is asked about which domains.
    pub forwards: Vec<ForwardTo>,
    /// What is kept of others' answers; `None` for nothing.
    pub cache: Option<Limits>,
    /// Where health is told.
    pub health: Option<SocketAddr>,
    /// How long to answer on when asked to end.
    pub lameduck: Duration,
    /// Where readiness is told.
    pub ready: Option<SocketAddr>,
    /// Where metrics are told.
    pub prometheus: Option<SocketAddr>,
    /// Each question is written to the log.
    pub log: bool,
    /// How often to look whether the file has changed.
    pub reload: Option<Duration>,
}

/// `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsOf {
    /// The file, if one is named.
    pub file: Option<PathBuf>,
    /// Lines as in a file, one each.
    pub lines: String,
    /// How long clients may keep answers, in seconds.
    pub ttl: u32,
    /// Which other names are asked of others.
    pub falls_through: Vec<Name>,
}

/// `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardTo {
    /// What is asked.
    pub domain: Name,
    /// Who is asked: addresses, or files with their addresses.
    pub to: Vec<To>,
    /// Who is asked first.
    pub policy: Policy,
    /// Questions that may wait at the same time.
    pub max_concurrent: usize,
    /// What those have to show that are asked by TLS.
    pub tls: TlsOptions,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// A server.
    Server(Address),
    /// Those of a resolv.conf(5).
    File(PathBuf),
}

impl Default for Corefile {
    fn default() -> Self {
        Self {
            bind: Vec::new(),
            port: PORT,
            kubernetes: None,
            autopath: false,
            rewrites: Vec::new(),
            hosts: None,
            forwards: Vec::new(),
            cache: None,
            health: None,
            lameduck: Duration::ZERO,
            ready: None,
            prometheus: None,
            log: false,
            reload: None,
        }
    }
}

impl Corefile {
    /// Reads one. `variable` answers what `{$NAME}` stands for.
    ///
    /// # Errors
    /// Each line that is not accepted, with the reason.
    pub fn parse(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<Refusal>> {
        let blocks = lines::parse(text, variable).map_err(|refusal| vec![refusal])?;
        let mut reader = Reader::default();
        let mut ports = Vec::new();
        for block in &blocks {
            let keys = keys(block, &mut reader.refused);
            ports.extend(keys.iter().map(|(_, port)| (*port, block)));
            if block.block.is_none() {
                reader
                    .refused
                    .push(block.refused("this opens no block: accepted is ZONE[:PORT] {"));
            }
            let zones: Vec<Name> = keys.into_iter().map(|(zone, _)| zone).collect();
            for directive in block.inner() {
                reader.read(&zones, directive);
            }
        }
        if let Some((port, _)) = ports.first() {
            reader.corefile.port = *port;
        }
        let port = reader.corefile.port;
        for (other, block) in ports.iter().filter(|(other, _)| *other != port) {
            let reason = format!(
                "questions are taken at one port, which is {port} by the first block, and not at {other}"
            );
            reader.refused.push(block.refused(reason));
        }
        reader.finish()
    }
}

/// The zones and ports that a block is for.
fn keys(block: &Directive, refused: &mut Vec<Refusal>) -> Vec<(Name, u16)> {
    let mut keys = Vec::new();
    let words = block.words.iter().flat_map(|word| word.split(','));
    for word in words.filter(|word| !word.is_empty()) {
        match key(word) {
            Ok(key) => keys.push(key),
            Err(reason) => refused.push(block.refused(reason)),
        }
    }
    keys
}

fn key(word: &str) -> Result<(Name, u16), String> {
    if word.starts_with('(') {
        return Err("snippets and import are not known here: write it where it is used".to_owned());
    }
    let rest = match word.split_once("://") {
        None => word,
        Some(("dns", rest)) => rest,
        Some((other, _)) => {
            return Err(format!("questions are taken by dns:// alone, and not by {other}://"));
        }
    };
    let (zone, port) = match rest.rsplit_once(':') {
        None => (rest, PORT),
        Some((zone, port)) => {
            let port = port.parse().map_err(|_| format!("{port} is no port"))?;
            (zone, port)
        }
    };
    let zone = Name::parse(zone).map_err(|why| format!("{zone}: {why}"))?;
    Ok((zone, port))
}
