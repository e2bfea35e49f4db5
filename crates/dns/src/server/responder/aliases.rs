//! Answers about other names than the question's: the one that ours leads to, the one that it stands for, and those that
//! a pod would ask for next.

use std::time::Duration;

use tokio::time::timeout;

use super::copied::copy;
use super::{About, Found, Open, Reply, Responder};
use crate::answer::{Outcome, answer};
use crate::wire::{Code, HEADER, Kind, Owner, Query, Section, Wire};

/// How long others are asked about what a client will ask for at the end of its search. After that it has to search by
/// itself, and others are still asked.
const SEARCH: Duration = Duration::from_secs(1);

impl Responder {
    /// Answers a question whose name stands for another: as an alias of that one.
    pub(super) fn find_in_place(
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
        let mut told = vec![0; query.limit()];
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
    pub(super) fn search(
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
            let told = match self.at_once(&next, turn) {
                Some(told) => told,
                None if self.zone.holds(&next.name) => break,
                None => return Reply::Open(Open::new(query, About::Next(names.split_off(place)))),
            };
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

    /// The same, and a failure where others would have to be asked.
    fn without_others(&self, query: &Query<'_>) -> Vec<u8> {
        self.at_once(query, 0).unwrap_or_else(|| {
            let mut told = vec![0; query.limit()];
            let length = self.begin(query, &mut told).finish(Code::SERVER_FAILURE);
            told.truncate(length);
            told
        })
    }

    /// Asks others about the names up to one that exists. That none does is said if all of them say so, and also where one
    /// of them does not answer: then the client goes on by itself, and gets to know it.
    pub(super) async fn ask_next(&self, query: &Query<'_>, names: &[Wire]) -> Vec<u8> {
        for name in names {
            let next = about(query, name);
            let Ok(next) = Query::read(&next, query.transport) else { break };
            let told = match self.at_once(&next, 0) {
                Some(told) => told,
                None if self.zone.holds(&next.name) => break,
                None => timeout(SEARCH, self.resolver.answer(&next)).await.unwrap_or_default(),
            };
            match Code::of(&told) {
                Some(Code::NO_NAME) => {}
                Some(Code::NO_ERROR) => return self.led_whole(query, name, &told),
                _ => break,
            }
        }
        // If it exists by now and leads to somewhere, whoever asks again finds out.
        self.without_others(query)
    }

    /// Writes that the question's name is an alias of another, of which `told` is known, its code too.
    fn led(&self, query: &Query<'_>, name: &[u8], told: &[u8], buffer: &mut [u8]) -> usize {
        let mut response = self.begin(query, buffer);
        response.record(Section::Answer, Owner::QUESTION, Kind::CNAME, self.zone.ttl, |data| {
            data.bytes(name);
        });
        copy(told, &mut response);
        response.finish(Code::of(told).unwrap_or(Code::SERVER_FAILURE))
    }

    /// The same as bytes of its own.
    fn led_whole(&self, query: &Query<'_>, name: &[u8], told: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; query.limit()];
        let length = self.led(query, name, told, &mut buffer);
        buffer.truncate(length);
        buffer
    }

    /// An answer of ours with what others know of the name that it leads to.
    pub(super) async fn follow(&self, query: &Query<'_>, target: &[u8]) -> Vec<u8> {
        let about = about(query, target);
        let told = match Query::read(&about, query.transport) {
            Ok(query) => self.resolver.answer(&query).await,
            Err(_) => Vec::new(),
        };
        self.with(query, &told)
    }

    /// Asks others about the name that the question's stands for.
    pub(super) async fn ask_in_place(&self, query: &Query<'_>, target: &[u8]) -> Vec<u8> {
        let next = about(query, target);
        let told = match Query::read(&next, query.transport) {
            Err(_) => Vec::new(),
            Ok(next) => match self.outcome(&next) {
                Outcome::Foreign => self.resolver.answer(&next).await,
                Outcome::LeadsTo(further) => self.follow(&next, &further).await,
                Outcome::Known(_) => self.without_others(&next),
            },
        };
        self.led_whole(query, target, &told)
    }

    /// What a question comes to, as the cluster is now.
    fn outcome(&self, query: &Query<'_>) -> Outcome {
        let mut scratch = vec![0; query.limit()];
        answer(&self.directory, &self.zone, query, &mut self.begin(query, &mut scratch), 0)
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
                copy(told, &mut response);
                Code::of(told).unwrap_or(Code::SERVER_FAILURE)
            }
        };
        let length = response.finish(code);
        buffer.truncate(length);
        buffer
    }
}

/// The same question about another name.
fn about(query: &Query<'_>, name: &[u8]) -> Vec<u8> {
    let (head, rest) = (&query.message[..HEADER], &query.message[query.end - 4..]);
    [head, name, rest].concat()
}
