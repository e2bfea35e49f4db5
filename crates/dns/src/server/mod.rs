//! Answering over UDP and TCP.

mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use model::World;
use tokio::net::{TcpListener, UdpSocket};

use crate::answer::{Answer, Reply, Zone, answer};
use crate::forward::{NoAnswer, Upstreams};
use crate::message::{Incoming, Request, Transport};

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

    /// What we know of a question.
    fn know(&self, request: &Request) -> Known {
        let reply = {
            let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
            answer(&world, &self.zone, request.question())
        };
        match reply {
            Reply::Answer(answer) => match answer.leads_to.clone() {
                Some(target) if !self.upstreams.is_empty() => {
                    Known::Alias(Box::new((answer, target)))
                }
                _ => Known::All(self.encode(request, answer)),
            },
            Reply::Forward if !self.upstreams.is_empty() => Known::Nothing,
            // An address of nobody we know is a definite answer, and resolvers wait for one.
            Reply::Forward if is_reverse(request) => {
                Known::All(request.fail(ResponseCode::NXDomain))
            }
            Reply::Forward => Known::All(request.fail(ResponseCode::Refused)),
        }
    }

    /// Asks others about what is not known.
    async fn ask(&self, open: Open) -> Vec<u8> {
        let Open { request, query, alias } = open;
        let how = request.transport();
        let Some((mut own, target)) = alias.map(|alias| *alias) else {
            return match self.upstreams.ask(&query, how).await {
                Ok(response) => response,
                Err(NoAnswer::Refused) => request.fail(ResponseCode::Refused),
                Err(NoAnswer::Failed) => request.fail(ResponseCode::ServFail),
            };
        };
        let asked = self.upstreams.ask(&request.about(target), how).await;
        if let Some(response) = asked.ok().and_then(|bytes| Message::from_vec(&bytes).ok()) {
            own.records.extend(response.answers);
        }
        self.encode(&request, own)
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

/// How much of an answer we know.
enum Known {
    /// All of it: its bytes.
    All(Vec<u8>),
    /// An alias, and not what is at the name that it leads to.
    Alias(Box<(Answer, Name)>),
    Nothing,
}

/// A question that others have to be asked about.
struct Open {
    request: Box<Request>,
    /// Its bytes.
    query: Vec<u8>,
    /// The part that is known, and the name to ask about.
    alias: Option<Box<(Answer, Name)>>,
}

/// Answers a message at once if that is possible; `None` if nobody waits for an answer.
fn at_once(
    knowledge: &Knowledge,
    query: &[u8],
    transport: Transport,
) -> Result<Option<Vec<u8>>, Open> {
    let request = match Incoming::read(query, transport) {
        Incoming::Ignored => return Ok(None),
        Incoming::Refused(bytes) => return Ok(Some(bytes)),
        Incoming::Question(request) => request,
    };
    let alias = match knowledge.know(&request) {
        Known::All(bytes) => return Ok(Some(bytes)),
        Known::Alias(alias) => Some(alias),
        Known::Nothing => None,
    };
    Err(Open { request, query: query.to_vec(), alias })
}
