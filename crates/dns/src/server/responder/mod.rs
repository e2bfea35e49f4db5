//! From a message to the answer's bytes.

mod aliases;
mod copied;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::log::QueryLog;
use crate::answer::{Outcome, Zone, answer, deny_reverse, is_reverse, next_names};
use crate::directory::Directory;
use crate::hosts::Hosts;
use crate::resolver::Resolver;
use crate::rewrite::Rewrite;
use crate::tally::{self, Area};
use crate::wire::{Code, Name, NotAnswered, Query, Response, Transport, Wire};

/// What a server answers from.
#[derive(Debug)]
pub struct Responder {
    /// The cluster, as it is now.
    directory: Arc<Directory>,
    /// The cluster's part of the name space.
    zone: Zone,
    /// Who knows the rest.
    resolver: Arc<Resolver>,
    /// Names that come before all others.
    hosts: Option<Hosts>,
    /// Names that stand for others.
    rewrites: Vec<Rewrite>,
    /// What is written down of all this.
    pub(super) log: QueryLog,
}

/// What was seen of a message, and what is to be done about it.
pub(super) type Seen = (Option<tally::Seen>, Reply);

/// What is to be done about a message.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nobody waits for an answer.
    None,
    /// The answer is written, of so many bytes.
    Written(usize),
    /// It is, and others have to be asked again for the next one.
    WrittenOnce(usize, Open),
    /// Others have to be asked.
    Open(Open),
}

/// Whose names a question is about, and what is to be done about it.
enum Found {
    Own(Reply),
    /// The cluster's, and a pod looks for something by it.
    Searched(Reply),
    Foreign(Reply),
}

/// A question that others have to be asked about.
#[derive(Debug)]
pub(super) struct Open {
    /// Its bytes.
    pub(super) message: Box<[u8]>,
    transport: Transport,
    about: About,
}

/// Which names others are asked about.
#[derive(Debug)]
enum About {
    /// The question's.
    Question,
    /// The one that an alias of ours leads to.
    Target(Box<[u8]>),
    /// Those that the client's resolver will ask for, up to one that exists.
    Next(Vec<Wire>),
    /// The one that the question's stands for.
    InPlace(Box<[u8]>),
}

impl Responder {
    /// One that answers from these.
    pub fn new(directory: Arc<Directory>, zone: Zone, resolver: Arc<Resolver>) -> Self {
        let (hosts, rewrites, log) = (None, Vec::new(), QueryLog::default());
        Self { directory, zone, resolver, hosts, rewrites, log }
    }

    /// Names of a file come before all others.
    #[must_use]
    pub fn with_hosts(self, hosts: Option<Hosts>) -> Self {
        Self { hosts, ..self }
    }

    /// Some names stand for others; the first rule that knows one counts.
    #[must_use]
    pub fn rewriting(self, rewrites: Vec<Rewrite>) -> Self {
        Self { rewrites, ..self }
    }

    /// Some questions are written down.
    #[must_use]
    pub fn logging(self, log: QueryLog) -> Self {
        Self { log, ..self }
    }

    /// Answers a message into `buffer`, which has room for 512 bytes at least, if that is possible at once. `turn`
    /// counts answers, so that addresses take turns in being the first. `client` is who asks, if that is known.
    pub(super) fn reply(
        &self,
        message: &[u8],
        transport: Transport,
        client: Option<IpAddr>,
        buffer: &mut [u8],
        turn: usize,
        now: Instant,
    ) -> Seen {
        let query = match Query::read(message, transport) {
            Ok(query) => query,
            Err(NotAnswered::Ignored) => return (None, Reply::None),
            Err(NotAnswered::Unread(code)) => {
                return (None, Reply::Written(Response::unread(message, code, buffer)));
            }
            Err(NotAnswered::Refused(query, code)) => {
                return (None, Reply::Written(Response::to(&query, buffer).finish(code)));
            }
        };
        let (area, is_searched, reply) = match self.find(&query, client, buffer, turn, now) {
            Found::Own(reply) => (Area::Cluster, false, reply),
            Found::Searched(reply) => (Area::Cluster, true, reply),
            Found::Foreign(reply) => (Area::Foreign, false, reply),
        };
        let is_dnssec_ok = query.edns.is_some_and(|edns| edns.is_dnssec_ok);
        (Some(tally::Seen { area, kind: query.kind, is_dnssec_ok, is_searched }), reply)
    }

    fn find(
        &self,
        query: &Query<'_>,
        client: Option<IpAddr>,
        buffer: &mut [u8],
        turn: usize,
        now: Instant,
    ) -> Found {
        if let Some(target) = self.rewrites.iter().find_map(|rule| rule.target(&query.name)) {
            return self.find_in_place(query, target, buffer, turn);
        }
        let mut response = self.begin(query, buffer);
        let open = |about| Open::new(query, about);
        if let Some(code) = self.hosts.as_ref().and_then(|it| it.answer(query, &mut response)) {
            return Found::Foreign(Reply::Written(response.finish(code)));
        }
        match answer(&self.directory, &self.zone, query, &mut response, turn) {
            Outcome::Known(code) => {
                let length = response.finish(code);
                let next = client.filter(|_| code == Code::NO_NAME);
                let next = next.and_then(|it| next_names(&self.directory, &self.zone, query, it));
                match next {
                    Some(names) => Found::Searched(self.search(query, names, length, buffer, turn)),
                    None => Found::Own(Reply::Written(length)),
                }
            }
            Outcome::LeadsTo(target) if self.knows(&target) => {
                Found::Own(Reply::Open(open(About::Target(target))))
            }
            // The alias itself is ours.
            Outcome::LeadsTo(_) => Found::Own(Reply::Written(response.finish(Code::NO_ERROR))),
            // It has come back to us.
            Outcome::Foreign if self.resolver.upstreams().note(&query.name) => {
                Found::Foreign(Reply::Written(response.finish(Code::REFUSED)))
            }
            Outcome::Foreign if self.may_ask(&query.name) => {
                Found::Foreign(match self.resolver.known(query, now, buffer) {
                    Some(hit) if hit.is_due => {
                        Reply::WrittenOnce(hit.length, open(About::Question))
                    }
                    Some(hit) => Reply::Written(hit.length),
                    None => Reply::Open(open(About::Question)),
                })
            }
            // An address of nobody we know is a definite answer, and resolvers wait for one.
            Outcome::Foreign if is_reverse(&query.name) => {
                let code = deny_reverse(&self.directory, &self.zone, query, &mut response);
                Found::Foreign(Reply::Written(response.finish(code)))
            }
            Outcome::Foreign => Found::Foreign(Reply::Written(response.finish(Code::REFUSED))),
        }
    }

    /// Whether others are asked about a name.
    fn may_ask(&self, name: &Name) -> bool {
        let is_kept = || !self.zone.reverse_falls_through && is_reverse(name);
        self.resolver.knows(name) && !is_kept()
    }

    /// Whether there is anybody to ask about where an alias leads to.
    fn knows(&self, target: &[u8]) -> bool {
        Name::read(target, 0).is_some_and(|(name, _)| self.resolver.knows(&name))
    }

    fn begin<'b>(&self, query: &Query<'_>, buffer: &'b mut [u8]) -> Response<'b> {
        let mut response = Response::to(query, buffer);
        if !self.resolver.is_empty() {
            response.set_recursion_available();
        }
        response
    }

    /// Finds out who brings back what he is asked.
    pub(super) async fn look_for_loops(&self) {
        self.resolver.look_for_loops().await;
    }

    /// Asks others again for who comes next.
    pub(super) fn ask_again(&self, open: &Open) {
        if let Ok(query) = Query::read(&open.message, open.transport) {
            self.resolver.ask_again(&query);
        }
    }

    /// Asks others about what is not known, and answers the bytes.
    pub(super) async fn ask(&self, open: &Open) -> Vec<u8> {
        // It was read before.
        let Ok(query) = Query::read(&open.message, open.transport) else { return Vec::new() };
        let target = match &open.about {
            About::Question => return self.resolver.ask(&query).await,
            About::Next(names) => return self.ask_next(&query, names).await,
            About::InPlace(target) => return self.ask_in_place(&query, target).await,
            About::Target(target) => target,
        };
        self.follow(&query, target).await
    }
}

impl Open {
    fn new(query: &Query<'_>, about: About) -> Self {
        Self { message: query.message.into(), transport: query.transport, about }
    }
}
