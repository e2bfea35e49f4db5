//! Answering over UDP and TCP.

mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use model::World;
use tokio::net::{TcpListener, UdpSocket};

use crate::answer::{Answer, Reply, Zone, answer};
use crate::forward::{NoAnswer, Upstreams};
use crate::message::{Incoming, Request};

/// What a server answers from.
#[derive(Debug)]
pub struct Knowledge {
    /// The cluster, as it is now.
    pub world: Arc<RwLock<World>>,
    /// The cluster's part of the name space.
    pub zone: Zone,
    /// Whom to ask about the rest.
    pub upstreams: Upstreams,
    /// Counts answers, so that addresses take turns in being the first.
    pub turn: AtomicUsize,
}

/// Sockets that wait for questions.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Binds both transports to one address.
    ///
    /// # Errors
    ///
    /// One of them can't be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        // With port 0, both get the same.
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self { udp, tcp })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn run(self, knowledge: Arc<Knowledge>) {
        tokio::join!(udp::serve(self.udp, knowledge.clone()), tcp::serve(self.tcp, knowledge));
    }
}

impl Knowledge {
    /// Knowledge of a World.
    pub fn new(world: Arc<RwLock<World>>, zone: Zone, upstreams: Upstreams) -> Self {
        Self { world, zone, upstreams, turn: AtomicUsize::new(0) }
    }

    /// What can be answered without asking anybody; `None` if others have to be asked.
    fn know(&self, request: &Request) -> Option<Vec<u8>> {
        let reply = {
            let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
            answer(&world, &self.zone, request.question())
        };
        match reply {
            Reply::Answer(answer) if answer.leads_to.is_none() || self.upstreams.is_empty() => {
                Some(self.encode(request, answer))
            }
            Reply::Forward if self.upstreams.is_empty() => Some(match is_reverse(request) {
                // An address of nobody we know is a definite answer, and resolvers wait for one.
                true => request.fail(ResponseCode::NXDomain),
                false => request.fail(ResponseCode::Refused),
            }),
            _ => None,
        }
    }

    /// Asks others, `query` being the bytes of the request.
    async fn ask(&self, request: &Request, query: &[u8]) -> Vec<u8> {
        let reply = {
            let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
            answer(&world, &self.zone, request.question())
        };
        let (mut own, target) = match reply {
            Reply::Forward => {
                return match self.upstreams.ask(query, request.transport()).await {
                    Ok(response) => response,
                    Err(NoAnswer::Refused) => request.fail(ResponseCode::Refused),
                    Err(NoAnswer::Failed) => request.fail(ResponseCode::ServFail),
                };
            }
            Reply::Answer(answer) => match answer.leads_to.clone() {
                Some(target) => (answer, target),
                // What was not known a moment ago is known now.
                None => return self.encode(request, answer),
            },
        };
        let asked = self.upstreams.ask(&request.about(target), request.transport()).await;
        if let Some(response) = asked.ok().and_then(|bytes| Message::from_vec(&bytes).ok()) {
            own.records.extend(response.answers);
        }
        self.encode(request, own)
    }

    fn encode(&self, request: &Request, mut answer: Answer) -> Vec<u8> {
        // Aliases stay before what they lead to.
        let is_address = |kind| matches!(kind, RecordType::A | RecordType::AAAA);
        let first = answer.records.iter().position(|record| is_address(record.record_type()));
        if let Some(addresses) = first.map(|first| &mut answer.records[first..]) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            addresses.rotate_left(turn % addresses.len());
        }
        request.answer(answer, !self.upstreams.is_empty())
    }
}

fn is_reverse(request: &Request) -> bool {
    request.question().name().parse_arpa_name().is_ok()
}

/// Answers at once if that is possible.
fn at_once(knowledge: &Knowledge, incoming: Incoming) -> Result<Option<Vec<u8>>, Box<Request>> {
    match incoming {
        Incoming::Ignored => Ok(None),
        Incoming::Refused(bytes) => Ok(Some(bytes)),
        Incoming::Question(request) => match knowledge.know(&request) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(request),
        },
    }
}
