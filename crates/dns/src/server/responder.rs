//! From a message to the answer's bytes.

use std::sync::Arc;

use crate::answer::{Outcome, Zone, answer, is_reverse};
use crate::directory::Directory;
use crate::forward::{NoAnswer, Upstreams};
use crate::wire::{Code, Kind, NotAnswered, Query, Response, Section, Transport, records};

/// What a server answers from.
#[derive(Debug)]
pub struct Responder {
    /// The cluster, as it is now.
    directory: Arc<Directory>,
    /// The cluster's part of the name space.
    zone: Zone,
    /// Whom to ask about the rest.
    upstreams: Upstreams,
}

/// What is to be done about a message.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nobody waits for an answer.
    None,
    /// The answer is written, of so many bytes.
    Written(usize),
    /// Others have to be asked.
    Open(Open),
}

/// A question that others have to be asked about.
#[derive(Debug)]
pub(super) struct Open {
    /// Its bytes.
    message: Box<[u8]>,
    transport: Transport,
    /// The name that an alias of ours leads to, which is to be asked about instead.
    target: Option<Box<[u8]>>,
}

impl Responder {
    /// One that answers from these.
    pub fn new(directory: Arc<Directory>, zone: Zone, upstreams: Upstreams) -> Self {
        Self { directory, zone, upstreams }
    }

    /// Answers a message into `buffer`, which has room for 512 bytes at least, if that is possible at once. `turn`
    /// counts answers, so that addresses take turns in being the first.
    pub(super) fn reply(
        &self,
        message: &[u8],
        transport: Transport,
        buffer: &mut [u8],
        turn: usize,
    ) -> Reply {
        let query = match Query::read(message, transport) {
            Ok(query) => query,
            Err(NotAnswered::Ignored) => return Reply::None,
            Err(NotAnswered::Unread(code)) => {
                return Reply::Written(Response::unread(message, code, buffer));
            }
            Err(NotAnswered::Refused(query, code)) => {
                return Reply::Written(Response::to(&query, buffer).finish(code));
            }
        };
        let mut response = self.begin(&query, buffer);
        let open = |target| {
            Reply::Open(Open { message: message.into(), transport: query.transport, target })
        };
        match answer(&self.directory, &self.zone, &query, &mut response, turn) {
            Outcome::Known(code) => Reply::Written(response.finish(code)),
            Outcome::LeadsTo(_) if self.upstreams.is_empty() => {
                Reply::Written(response.finish(Code::NO_ERROR))
            }
            Outcome::LeadsTo(target) => open(Some(target)),
            Outcome::Foreign if !self.upstreams.is_empty() => open(None),
            // An address of nobody we know is a definite answer, and resolvers wait for one.
            Outcome::Foreign if is_reverse(&query.name) => {
                Reply::Written(response.finish(Code::NO_NAME))
            }
            Outcome::Foreign => Reply::Written(response.finish(Code::REFUSED)),
        }
    }

    fn begin<'b>(&self, query: &Query<'_>, buffer: &'b mut [u8]) -> Response<'b> {
        let mut response = Response::to(query, buffer);
        if !self.upstreams.is_empty() {
            response.set_recursion_available();
        }
        response
    }

    /// Asks others about what is not known, and answers the bytes.
    pub(super) async fn ask(&self, open: Open) -> Vec<u8> {
        match &open.target {
            None => match self.upstreams.ask(&open.message, open.transport).await {
                Ok(response) => response,
                Err(NoAnswer::Refused) => fail(&open, Code::REFUSED),
                Err(NoAnswer::Failed) => fail(&open, Code::SERVER_FAILURE),
            },
            Some(target) => {
                let asked = about(&open.message, target);
                let told = self.upstreams.ask(&asked, open.transport).await.ok();
                self.with(&open, &told.unwrap_or_default())
            }
        }
    }

    /// An answer of ours with what others know of the name that it leads to.
    fn with(&self, open: &Open, told: &[u8]) -> Vec<u8> {
        let Ok(query) = Query::read(&open.message, open.transport) else { return Vec::new() };
        let mut buffer = vec![0; query.limit()];
        let mut response = self.begin(&query, &mut buffer);
        // It may lead to what is ours by now.
        let code = match answer(&self.directory, &self.zone, &query, &mut response, 0) {
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
fn copy(record: &crate::wire::Record<'_>, response: &mut Response<'_>) {
    let Some(owner) = record.owner() else { return };
    let data = match record.kind {
        Kind::A | Kind::AAAA => None,
        Kind::CNAME => match record.target() {
            Some(target) => Some(target),
            None => return,
        },
        _ => return,
    };
    let data = data.as_deref().unwrap_or(record.data());
    response.named_record(Section::Answer, &owner, record.kind, record.ttl, data);
}

/// An answer without contents.
fn fail(open: &Open, code: Code) -> Vec<u8> {
    let mut buffer = vec![0; crate::wire::LARGEST];
    let length = match Query::read(&open.message, open.transport) {
        Ok(query) => Response::to(&query, &mut buffer).finish(code),
        Err(_) => 0,
    };
    buffer.truncate(length);
    buffer
}

/// The same question about another name.
fn about(message: &[u8], name: &[u8]) -> Vec<u8> {
    let Ok(query) = Query::read(message, Transport::Udp) else { return Vec::new() };
    let (head, rest) = (&message[..crate::wire::HEADER], &message[query.end - 4..]);
    [head, name, rest].concat()
}
