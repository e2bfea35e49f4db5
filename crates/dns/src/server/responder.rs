//! From a message to the answer's bytes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::QueryLog;
use crate::answer::{Outcome, Zone, answer, deny_reverse, is_reverse, next_names};
use crate::directory::Directory;
use crate::hosts::Hosts;
use crate::resolver::Resolver;
use crate::rewrite::Rewrite;
use crate::tally::{self, Area};
use crate::wire::{
    Code, HEADER, Kind, LARGEST, Name, NotAnswered, Owner, Query, Record, Response, Section,
    TRUNCATED, Transport, Wire, records,
};

/// How long others are asked about what a client will ask for at the end of its search. After that it has to search by
/// itself, and others are still asked.
const SEARCH: Duration = Duration::from_secs(1);

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
        let mut seen = tally::Seen {
            area: Area::Cluster,
            kind: query.kind,
            is_dnssec_ok: query.edns.is_some_and(|edns| edns.is_dnssec_ok),
        };
        let reply = self.find(&query, client, buffer, turn, now);
        if matches!(&reply, Found::Foreign(_)) {
            seen.area = Area::Foreign;
        }
        let (Found::Own(reply) | Found::Foreign(reply)) = reply;
        (Some(seen), reply)
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
                Found::Own(match next {
                    Some(names) => self.search(query, names, length, buffer, turn),
                    None => Reply::Written(length),
                })
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

    /// Answers a question whose name stands for another: as an alias of that one.
    fn find_in_place(
        &self,
        query: &Query<'_>,
        target: Wire,
        buffer: &mut [u8],
        turn: usize,
    ) -> Found {
        let next = about(query, &target);
        let Ok(next) = Query::read(&next, query.transport) else {
            return Found::Own(Reply::Written(
                self.begin(query, buffer).finish(Code::SERVER_FAILURE),
            ));
        };
        match self.at_once(&next, turn) {
            Some(told) => Found::Own(Reply::Written(self.led(query, &target, &told, buffer))),
            None => {
                Found::Foreign(Reply::Open(Open::new(query, About::InPlace(target[..].into()))))
            }
        }
    }

    /// What is known of a name without asking others.
    fn at_once(&self, query: &Query<'_>, turn: usize) -> Option<Vec<u8>> {
        let mut told = vec![0; LARGEST];
        let mut response = self.begin(query, &mut told);
        let of_file = self.hosts.as_ref().and_then(|hosts| hosts.answer(query, &mut response));
        let code = match of_file {
            Some(code) => code,
            None => match answer(&self.directory, &self.zone, query, &mut response, turn) {
                Outcome::Known(code) => code,
                Outcome::LeadsTo(target) if self.knows(&target) => return None,
                Outcome::Foreign if self.may_ask(&query.name) => return None,
                Outcome::LeadsTo(_) => Code::NO_ERROR,
                Outcome::Foreign => Code::REFUSED,
            },
        };
        let length = response.finish(code);
        told.truncate(length);
        Some(told)
    }

    /// Looks for the first of the names that exists. In `buffer` is the answer that the question's does not, of so many
    /// bytes, which is right as well where nothing better is known.
    fn search(
        &self,
        query: &Query<'_>,
        mut names: Vec<Wire>,
        length: usize,
        buffer: &mut [u8],
        turn: usize,
    ) -> Reply {
        for place in 0..names.len() {
            let next = about(query, &names[place]);
            let Ok(next) = Query::read(&next, query.transport) else { break };
            if !self.zone.holds(&next.name) {
                if !self.may_ask(&next.name) {
                    break;
                }
                return Reply::Open(Open::new(query, About::Next(names.split_off(place))));
            }
            let told = self.own(&next, turn);
            match Code::of(&told) {
                Some(Code::NO_NAME) => {}
                Some(Code::NO_ERROR) => {
                    return Reply::Written(self.led(query, &names[place], &told, buffer));
                }
                _ => break,
            }
        }
        Reply::Written(length)
    }

    /// What the cluster knows of a name; a failure where that is for others to say.
    fn own(&self, query: &Query<'_>, turn: usize) -> Vec<u8> {
        let mut told = vec![0; LARGEST];
        let mut response = self.begin(query, &mut told);
        let code = match answer(&self.directory, &self.zone, query, &mut response, turn) {
            Outcome::Known(code) => code,
            Outcome::LeadsTo(_) | Outcome::Foreign => Code::SERVER_FAILURE,
        };
        let length = response.finish(code);
        told.truncate(length);
        told
    }

    /// Asks others about the names up to one that exists. That none does is said if all of them say so, and also where one
    /// of them does not answer: then the client goes on by itself, and gets to know it.
    async fn ask_next(&self, query: &Query<'_>, names: &[Wire]) -> Vec<u8> {
        let mut buffer = vec![0; query.limit()];
        for name in names {
            let next = about(query, name);
            let Ok(next) = Query::read(&next, query.transport) else { break };
            let told = match self.zone.holds(&next.name) {
                true => self.own(&next, 0),
                false => {
                    let told = tokio::time::timeout(SEARCH, self.resolver.answer(&next)).await;
                    told.unwrap_or_default()
                }
            };
            match Code::of(&told) {
                Some(Code::NO_NAME) => {}
                Some(Code::NO_ERROR) => {
                    let length = self.led(query, name, &told, &mut buffer);
                    buffer.truncate(length);
                    return buffer;
                }
                _ => break,
            }
        }
        // If it exists by now and leads to somewhere, whoever asks again finds out.
        self.own(query, 0)
    }

    /// Writes that the question's name is an alias of another, of which `told` is known, its code too.
    fn led(&self, query: &Query<'_>, name: &[u8], told: &[u8], buffer: &mut [u8]) -> usize {
        let mut response = self.begin(query, buffer);
        response.record(Section::Answer, Owner::QUESTION, Kind::CNAME, self.zone.ttl, |data| {
            data.bytes(name);
        });
        copy_answer(told, &mut response);
        response.finish(Code::of(told).unwrap_or(Code::SERVER_FAILURE))
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

    /// An answer of ours with what others know of the name that it leads to.
    async fn follow(&self, query: &Query<'_>, target: &[u8]) -> Vec<u8> {
        let about = about(query, target);
        let told = match Query::read(&about, query.transport) {
            Ok(query) => self.resolver.answer(&query).await,
            Err(_) => Vec::new(),
        };
        self.with(query, &told)
    }

    /// Asks others about the name that the question's stands for.
    async fn ask_in_place(&self, query: &Query<'_>, target: &[u8]) -> Vec<u8> {
        let next = about(query, target);
        let mut buffer = vec![0; query.limit()];
        let told = match Query::read(&next, query.transport) {
            Err(_) => Vec::new(),
            Ok(next) => {
                let mut scratch = vec![0; LARGEST];
                let mut response = self.begin(&next, &mut scratch);
                match answer(&self.directory, &self.zone, &next, &mut response, 0) {
                    Outcome::Foreign => self.resolver.answer(&next).await,
                    Outcome::LeadsTo(further) => self.follow(&next, &further).await,
                    Outcome::Known(_) => self.own(&next, 0),
                }
            }
        };
        let length = self.led(query, target, &told, &mut buffer);
        buffer.truncate(length);
        buffer
    }

    /// An answer of ours with what others know of the name that it leads to. What comes of that comes of all (RFC 6604,
    /// 3).
    fn with(&self, query: &Query<'_>, told: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; query.limit()];
        let mut response = self.begin(query, &mut buffer);
        let code = match answer(&self.directory, &self.zone, query, &mut response, 0) {
            // It may lead to what is ours by now.
            Outcome::Known(code) => code,
            Outcome::Foreign => Code::SERVER_FAILURE,
            Outcome::LeadsTo(_) => {
                copy_answer(told, &mut response);
                Code::of(told).unwrap_or(Code::SERVER_FAILURE)
            }
        };
        let length = response.finish(code);
        buffer.truncate(length);
        buffer
    }
}

impl Open {
    fn new(query: &Query<'_>, about: About) -> Self {
        Self { message: query.message.into(), transport: query.transport, about }
    }
}

/// Copies what another message answers, also that this is not all.
fn copy_answer(told: &[u8], response: &mut Response<'_>) {
    if told.get(2).is_some_and(|flags| flags & TRUNCATED != 0) {
        response.set_truncated();
    }
    let of_answer = records(told).map_while(|record| record);
    for record in of_answer.take_while(|record| record.section == 0) {
        copy(&record, response);
    }
}

/// Copies a record of another message, of the types that are asked for at names of Services. Names are written out.
fn copy(record: &Record<'_>, response: &mut Response<'_>) {
    // What is before a name in the data; of others there is none in it.
    let before = match record.kind {
        Kind::A | Kind::AAAA | Kind::TXT => None,
        Kind::CNAME | Kind::PTR | Kind::NS => Some(0),
        Kind::SRV => Some(6),
        _ => return,
    };
    let whole = match before {
        None => Some(record.data().to_vec()),
        Some(before) => record
            .data()
            .get(..before)
            .zip(record.name_behind(before))
            .map(|(fixed, name)| [fixed, &name].concat()),
    };
    let (Some(owner), Some(data)) = (record.owner(), whole) else { return };
    response.named_record(Section::Answer, &owner, record.kind, record.ttl, &data);
}

/// The same question about another name.
fn about(query: &Query<'_>, name: &[u8]) -> Vec<u8> {
    let (head, rest) = (&query.message[..HEADER], &query.message[query.end - 4..]);
    [head, name, rest].concat()
}
