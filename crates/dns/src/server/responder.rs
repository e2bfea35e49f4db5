//! From a message to the answer's bytes.

use std::sync::Arc;
use std::time::Instant;

use super::log::QueryLog;
use crate::answer::{Outcome, Zone, answer, is_reverse};
use crate::directory::Directory;
use crate::hosts::Hosts;
use crate::resolver::Resolver;
use crate::tally::{self, Area};
use crate::wire::{
    Code, HEADER, Kind, Name, NotAnswered, Query, Record, Response, Section, Transport, records,
};

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
    Foreign(Reply),
}

/// A question that others have to be asked about.
#[derive(Debug)]
pub(super) struct Open {
    /// Its bytes.
    pub(super) message: Box<[u8]>,
    transport: Transport,
    /// The name that an alias of ours leads to, which is to be asked about instead.
    target: Option<Box<[u8]>>,
}

impl Responder {
    /// One that answers from these.
    pub fn new(directory: Arc<Directory>, zone: Zone, resolver: Arc<Resolver>) -> Self {
        Self { directory, zone, resolver, hosts: None, log: QueryLog::default() }
    }

    /// Names of a file come before all others.
    #[must_use]
    pub fn with_hosts(self, hosts: Option<Hosts>) -> Self {
        Self { hosts, ..self }
    }

    /// Some questions are written down.
    #[must_use]
    pub fn logging(self, log: QueryLog) -> Self {
        Self { log, ..self }
    }

    /// Answers a message into `buffer`, which has room for 512 bytes at least, if that is possible at once. `turn`
    /// counts answers, so that addresses take turns in being the first.
    pub(super) fn reply(
        &self,
        message: &[u8],
        transport: Transport,
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
        let mut seen = tally::Seen {
            area: Area::Cluster,
            kind: query.kind,
            is_dnssec_ok: query.edns.is_some_and(|edns| edns.is_dnssec_ok),
        };
        let reply = self.find(&query, buffer, turn, now);
        if matches!(&reply, Found::Foreign(_)) {
            seen.area = Area::Foreign;
        }
        let (Found::Own(reply) | Found::Foreign(reply)) = reply;
        (Some(seen), reply)
    }

    fn find(&self, query: &Query<'_>, buffer: &mut [u8], turn: usize, now: Instant) -> Found {
        let mut response = self.begin(query, buffer);
        let open =
            |target| Open { message: query.message.into(), transport: query.transport, target };
        if let Some(code) = self.hosts.as_ref().and_then(|it| it.answer(query, &mut response)) {
            return Found::Foreign(Reply::Written(response.finish(code)));
        }
        match answer(&self.directory, &self.zone, query, &mut response, turn) {
            Outcome::Known(code) => Found::Own(Reply::Written(response.finish(code))),
            Outcome::LeadsTo(_) if self.resolver.is_empty() => {
                Found::Own(Reply::Written(response.finish(Code::NO_ERROR)))
            }
            Outcome::LeadsTo(target) => Found::Own(Reply::Open(open(Some(target)))),
            // It has come back to us.
            Outcome::Foreign if self.resolver.upstreams().note(&query.name) => {
                Found::Foreign(Reply::Written(response.finish(Code::REFUSED)))
            }
            Outcome::Foreign if self.may_ask(&query.name) => {
                Found::Foreign(match self.resolver.known(query, now, buffer) {
                    Some(hit) if hit.is_due => Reply::WrittenOnce(hit.length, open(None)),
                    Some(hit) => Reply::Written(hit.length),
                    None => Reply::Open(open(None)),
                })
            }
            // An address of nobody we know is a definite answer, and resolvers wait for one.
            Outcome::Foreign if is_reverse(&query.name) => {
                Found::Foreign(Reply::Written(response.finish(Code::NO_NAME)))
            }
            Outcome::Foreign => Found::Foreign(Reply::Written(response.finish(Code::REFUSED))),
        }
    }

    /// Whether others are asked about a name.
    fn may_ask(&self, name: &Name) -> bool {
        let is_kept = || !self.zone.reverse_falls_through && is_reverse(name);
        self.resolver.knows(name) && !is_kept()
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
        let Some(target) = &open.target else { return self.resolver.ask(&query).await };
        let about = about(&query, target);
        let told = match Query::read(&about, open.transport) {
            Ok(query) => self.resolver.answer(&query).await,
            Err(_) => Vec::new(),
        };
        self.with(&query, &told)
    }

    /// An answer of ours with what others know of the name that it leads to.
    fn with(&self, query: &Query<'_>, told: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; query.limit()];
        let mut response = self.begin(query, &mut buffer);
        let code = match answer(&self.directory, &self.zone, query, &mut response, 0) {
            // It may lead to what is ours by now.
            Outcome::Known(code) => code,
            Outcome::Foreign => Code::SERVER_FAILURE,
            Outcome::LeadsTo(_) => {
                let of_answer = records(told).map_while(|record| record);
                for record in of_answer.take_while(|record| record.section == 0) {
                    copy(&record, &mut response);
                }
                Code::NO_ERROR
            }
        };
        let length = response.finish(code);
        buffer.truncate(length);
        buffer
    }
}

/// Copies an address, or an alias, of another message. Names are written out.
fn copy(record: &Record<'_>, response: &mut Response<'_>) {
    let Some(owner) = record.owner() else { return };
    let target = match record.kind {
        Kind::A | Kind::AAAA => None,
        Kind::CNAME => match record.target() {
            Some(target) => Some(target),
            None => return,
        },
        _ => return,
    };
    let data = target.as_deref().unwrap_or(record.data());
    response.named_record(Section::Answer, &owner, record.kind, record.ttl, data);
}

/// The same question about another name.
fn about(query: &Query<'_>, name: &[u8]) -> Vec<u8> {
    let (head, rest) = (&query.message[..HEADER], &query.message[query.end - 4..]);
    [head, name, rest].concat()
}
