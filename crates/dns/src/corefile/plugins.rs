//! What the lines of a block mean.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::lines::{Directive, Refusal};
use super::{Corefile, ForwardTo, HostsOf, To};
use crate::cache::Limits;
use crate::forward::{Address, CONCURRENT, Policy, TlsOptions};
use crate::hosts::TTL as TTL_OF_HOSTS;
use crate::rewrite::{Pattern, Rewrite};
use crate::wire::Name;

/// What is accepted, for messages.
const ACCEPTED: &str = "autopath, bind, cache, errors, forward, health, hosts, kubernetes, loadbalance, log, loop, prometheus, ready, \
                        reload, rewrite";
/// Where CoreDNS tells health, readiness and metrics if nothing is said.
const HEALTH: u16 = 8080;
const READY: u16 = 8181;
const PROMETHEUS: u16 = 9153;
/// How often CoreDNS looks at its file.
const RELOAD: Duration = Duration::from_secs(30);

/// What was read, and what was not accepted.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) corefile: Corefile,
    pub(super) refused: Vec<Refusal>,
}

/// Why a line is not accepted.
pub(super) type Reason = String;

impl Reader {
    /// All of it, or what is not accepted.
    pub(super) fn finish(mut self) -> Result<Corefile, Vec<Refusal>> {
        match self.refused.is_empty() {
            true => Ok(self.corefile),
            false => {
                self.refused.sort_by_key(|refusal| refusal.line);
                Err(self.refused)
            }
        }
    }

    /// Reads a line of a block for these zones.
    pub(super) fn read(&mut self, zones: &[Name], directive: &Directive) {
        let outcome = match directive.name() {
            "kubernetes" => self.kubernetes(zones, directive),
            "forward" => self.forward(zones, directive),
            "cache" => self.cache(directive),
            "health" => self.health(directive),
            "ready" => self.ready(directive),
            "prometheus" => self.prometheus(directive),
            "reload" => self.reload(directive),
            "bind" => self.bind(directive),
            "log" => self.log(directive),
            // Errors are told, addresses take turns and nobody is asked about himself in any case.
            "errors" | "loadbalance" | "loop" => Ok(()),
            "hosts" => self.hosts(zones, directive),
            "autopath" => self.autopath(directive),
            "rewrite" => self.rewrite(zones, directive),
            "template" => Err(format!("template is not done yet: accepted are {ACCEPTED}")),
            "import" => {
                Err("snippets and import are not known here: write it where it is used".to_owned())
            }
            other => Err(format!("{other} is not known here: accepted are {ACCEPTED}")),
        };
        if let Err(reason) = outcome {
            self.refused.push(directive.refused(reason));
        }
    }

    /// Reads the lines of a directive's block, each by itself.
    pub(super) fn each(
        &mut self,
        directive: &Directive,
        mut read: impl FnMut(&Directive) -> Result<(), Reason>,
    ) {
        for inner in directive.inner() {
            if let Err(reason) = read(inner) {
                self.refused.push(inner.refused(reason));
            }
        }
    }

    fn autopath(&mut self, directive: &Directive) -> Result<(), Reason> {
        // Of a file it would be the same for all clients, whatever their namespace is.
        if directive.arguments().last().map(String::as_str) != Some("@kubernetes") {
            return Err("accepted is autopath [ZONE...] @kubernetes".to_owned());
        }
        self.corefile.autopath = true;
        Ok(())
    }

    fn rewrite(&mut self, zones: &[Name], directive: &Directive) -> Result<(), Reason> {
        const FORMS: &str = "accepted are rewrite [stop] name [exact] FROM TO [answer auto] and rewrite [stop] name suffix .FROM .TO [answer auto], which make the name an alias";
        let words: Vec<&str> = directive.arguments().iter().map(String::as_str).collect();
        let words = words.strip_prefix(&["stop"]).unwrap_or(&words);
        let words = words.strip_suffix(&["answer", "auto"]).unwrap_or(words);
        if !directive.inner().is_empty() {
            return Err(format!("rules about answers are not known here: {FORMS}"));
        }
        // What an end begins with shows that it is of whole labels.
        let end = |text: &str| match text.strip_prefix('.') {
            Some(text) => name(text),
            None => Err(format!("{text} may end within a label: {FORMS}")),
        };
        let (from, to) = match *words {
            ["name", "suffix", from, to] => (Pattern::Suffix(end(from)?), end(to)?),
            ["name", "exact", from, to] => (Pattern::Exact(name(from)?), name(to)?),
            ["name", "prefix" | "substring" | "regex", ..] => return Err(FORMS.to_owned()),
            ["name", from, to] => (Pattern::Exact(name(from)?), name(to)?),
            _ => return Err(FORMS.to_owned()),
        };
        self.corefile.rewrites.push(Rewrite { zones: zones.to_vec(), from, to });
        Ok(())
    }

    fn forward(&mut self, zones: &[Name], directive: &Directive) -> Result<(), Reason> {
        let [from, to @ ..] = directive.arguments() else {
            return Err(
                "accepted is forward FROM TO..., such as forward . /etc/resolv.conf".to_owned()
            );
        };
        if to.is_empty() {
            return Err("it is not said who is asked: accepted are addresses and files such as /etc/resolv.conf".to_owned());
        }
        let from = name(from)?;
        let to: Result<Vec<To>, Reason> = to.iter().map(|word| server(word)).collect();
        let to = to?;
        let (mut policy, mut max_concurrent) = (Policy::default(), CONCURRENT);
        let mut tls = TlsOptions::default();
        let has_tls = to.iter().any(|to| matches!(to, To::Server(Address::Tls(_))));
        self.each(directive, |inner| {
            let arguments = inner.arguments();
            match inner.name() {
                "policy" => policy = only(arguments)?.parse().map_err(text_of)?,
                "max_concurrent" => {
                    max_concurrent = match number(only(arguments)?)? {
                        0 => usize::MAX,
                        most => most as usize,
                    };
                }
                "tls" | "tls_servername" if !has_tls => {
                    return Err("nobody here is asked by TLS: accepted is it with servers such as tls://192.0.2.1".to_owned());
                }
                "tls" => (tls.identity, tls.authorities) = tls_files(arguments)?,
                "tls_servername" => {
                    tls.server_name = Some(only(arguments)?.parse().map_err(text_of)?);
                }
                // How others are asked is known from how we were, and whether they are there from asking.
                "prefer_udp" | "expire" | "max_fails" | "health_check" | "max_connect_attempts" => {}
                other => {
                    return Err(format!("{other} is not done yet: accepted are policy, max_concurrent, tls, tls_servername, prefer_udp, expire, max_fails, max_connect_attempts, health_check"));
                }
            }
            Ok(())
        });
        // What is asked of a block is below its zones, and below what is said here.
        for zone in zones {
            let domain = if from.below(zone).is_some() {
                from.clone()
            } else if zone.below(&from).is_some() {
                zone.clone()
            } else {
                continue;
            };
            if self.corefile.forwards.iter().any(|other| other.domain == domain) {
                return Err(format!("it is said twice who is asked about {domain}"));
            }
            let (to, tls) = (to.clone(), tls.clone());
            self.corefile.forwards.push(ForwardTo { domain, to, policy, max_concurrent, tls });
        }
        Ok(())
    }

    fn cache(&mut self, directive: &Directive) -> Result<(), Reason> {
        // What is asked for again beforehand, and given after its time, is so here in any case.
        let mut limits = Limits::default();
        match directive.arguments() {
            [] => {}
            [ttl] => {
                let ttl = seconds(ttl)?;
                (limits.success, limits.denial) = (ttl, ttl);
            }
            _ => return Err("accepted is cache [TTL], for all zones".to_owned()),
        }
        self.each(directive, |inner| {
            let arguments = inner.arguments();
            match (inner.name(), arguments) {
                ("success" | "denial", [capacity, rest @ ..]) if rest.len() <= 2 => {
                    let capacity = number(capacity)? as usize;
                    limits.entries = limits.entries.max(capacity);
                    if let Some(ttl) = rest.first() {
                        let ttl = seconds(ttl)?;
                        match inner.name() {
                            "success" => limits.success = ttl,
                            _ => limits.denial = ttl,
                        }
                    }
                    if let Some(least) = rest.get(1) {
                        limits.least = seconds(least)?;
                    }
                }
                ("success" | "denial", _) => {
                    return Err("accepted is CAPACITY [TTL] [MINTTL]".to_owned());
                }
                ("prefetch", [amount, ..]) => limits.prefetch = number(amount)?,
                ("serve_stale", []) => {}
                ("serve_stale", [most, ..]) => limits.stale = duration(most)?,
                (other, _) => {
                    return Err(format!(
                        "{other} is not done yet: accepted are success, denial, prefetch, serve_stale"
                    ));
                }
            }
            Ok(())
        });
        // Blocks share it: what is kept longest counts.
        let cache = self.corefile.cache.get_or_insert_with(|| limits.clone());
        cache.entries = cache.entries.max(limits.entries);
        cache.success = cache.success.max(limits.success);
        cache.denial = cache.denial.max(limits.denial);
        cache.stale = cache.stale.max(limits.stale);
        Ok(())
    }

    fn hosts(&mut self, zones: &[Name], directive: &Directive) -> Result<(), Reason> {
        if self.corefile.hosts.is_some() {
            return Err("hosts comes once".to_owned());
        }
        if !zones.contains(&Name::root()) {
            return Err("accepted is hosts in a block for all names (.)".to_owned());
        }
        let mut hosts = HostsOf {
            file: None,
            lines: String::new(),
            ttl: TTL_OF_HOSTS,
            falls_through: Vec::new(),
        };
        match directive.arguments() {
            [] => {}
            [file] => hosts.file = Some(file.into()),
            _ => return Err("accepted is hosts [FILE], for all zones".to_owned()),
        }
        self.each(directive, |inner| {
            let arguments = inner.arguments();
            match inner.name() {
                "fallthrough" => {
                    let zones: Result<Vec<Name>, Reason> =
                        arguments.iter().map(|word| name(word)).collect();
                    hosts.falls_through = zones?;
                    if arguments.is_empty() {
                        hosts.falls_through.push(Name::root());
                    }
                }
                "ttl" => hosts.ttl = number(only(arguments)?)?,
                // A file that changes is read again in any case.
                "reload" => _ = duration(only(arguments)?)?,
                address if address.parse::<IpAddr>().is_ok() && !arguments.is_empty() => {
                    hosts.lines += &inner.words.join(" ");
                    hosts.lines.push('\n');
                }
                other => {
                    return Err(format!(
                        "{other} is not known here: accepted are ADDRESS NAME..., fallthrough, ttl, reload"
                    ));
                }
            }
            Ok(())
        });
        self.corefile.hosts = Some(hosts);
        Ok(())
    }

    fn health(&mut self, directive: &Directive) -> Result<(), Reason> {
        self.corefile.health = Some(place(directive.arguments(), HEALTH)?);
        let mut lameduck = Duration::ZERO;
        self.each(directive, |inner| match inner.name() {
            "lameduck" => {
                lameduck = duration(only(inner.arguments())?)?;
                Ok(())
            }
            other => Err(format!("{other} is not known here: accepted is lameduck DURATION")),
        });
        self.corefile.lameduck = lameduck;
        Ok(())
    }

    fn ready(&mut self, directive: &Directive) -> Result<(), Reason> {
        self.corefile.ready = Some(place(directive.arguments(), READY)?);
        Ok(())
    }

    fn prometheus(&mut self, directive: &Directive) -> Result<(), Reason> {
        self.corefile.prometheus = Some(place(directive.arguments(), PROMETHEUS)?);
        Ok(())
    }

    fn reload(&mut self, directive: &Directive) -> Result<(), Reason> {
        let interval = directive.arguments().first();
        self.corefile.reload = Some(interval.map_or(Ok(RELOAD), |text| duration(text))?);
        Ok(())
    }

    fn bind(&mut self, directive: &Directive) -> Result<(), Reason> {
        for word in directive.arguments() {
            let address = word
                .parse()
                .map_err(|_| format!("{word} is no address: names of links are not accepted"))?;
            if !self.corefile.bind.contains(&address) {
                self.corefile.bind.push(address);
            }
        }
        Ok(())
    }

    fn log(&mut self, directive: &Directive) -> Result<(), Reason> {
        if !directive.arguments().is_empty() || !directive.inner().is_empty() {
            return Err(
                "accepted is log, which writes all questions in the common format".to_owned()
            );
        }
        self.corefile.log = true;
        Ok(())
    }
}

pub(super) fn only(arguments: &[String]) -> Result<&str, Reason> {
    match arguments {
        [one] => Ok(one),
        _ => Err(format!("accepted is one value, not {}", arguments.len())),
    }
}

pub(super) fn text_of(error: impl std::fmt::Display) -> Reason {
    error.to_string()
}

pub(super) fn name(text: &str) -> Result<Name, Reason> {
    Name::parse(text).map_err(|why| format!("{text}: {why}"))
}

pub(super) fn number(text: &str) -> Result<u32, Reason> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// A number of seconds, or a duration.
fn seconds(text: &str) -> Result<Duration, Reason> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => duration(text),
    }
}

/// A duration as Go has them: `1h2m3.5s`.
pub(super) fn duration(text: &str) -> Result<Duration, Reason> {
    let refused = || format!("{text} is no duration: accepted are such as 500ms, 5s, 1m30s, 1h");
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refused())?;
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let found = units.into_iter().find(|(unit, _)| rest[digits..].starts_with(unit));
        let (unit, length) = found.ok_or_else(refused)?;
        sum += number * length;
        rest = &rest[digits + unit.len()..];
    }
    if text.is_empty() {
        return Err(refused());
    }
    Duration::try_from_secs_f64(sum).map_err(|_| refused())
}

/// `[IP]:PORT`; all addresses if there is none.
fn place(arguments: &[String], port: u16) -> Result<SocketAddr, Reason> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let text = match arguments {
        [] => return Ok(SocketAddr::new(any, port)),
        [text] => text,
        _ => return Err("accepted is one [IP]:PORT".to_owned()),
    };
    let refused = || format!("{text} is not [IP]:PORT");
    match text.strip_prefix(':') {
        Some(port) => Ok(SocketAddr::new(any, port.parse().map_err(|_| refused())?)),
        None => text.parse().map_err(|_| refused()),
    }
}

/// Who is asked.
fn server(text: &str) -> Result<To, Reason> {
    if text.starts_with('/') {
        return Ok(To::File(text.into()));
    }
    text.parse()
        .map(To::Server)
        .map_err(|why| format!("{why}; and paths of files such as /etc/resolv.conf"))
}

/// The files of a certificate and its key, and the one of authorities.
type TlsFiles = (Option<(PathBuf, PathBuf)>, Option<PathBuf>);

/// `tls [CERT KEY] [CA]`.
fn tls_files(arguments: &[String]) -> Result<TlsFiles, Reason> {
    match arguments {
        [] => Ok((None, None)),
        [ca] => Ok((None, Some(ca.into()))),
        [certificate, key] => Ok((Some((certificate.into(), key.into())), None)),
        [certificate, key, ca] => Ok((Some((certificate.into(), key.into())), Some(ca.into()))),
        _ => Err("accepted are tls, tls CA, tls CERT KEY and tls CERT KEY CA".to_owned()),
    }
}
