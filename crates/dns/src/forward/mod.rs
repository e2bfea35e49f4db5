//! Asking others what is not the cluster's.
//!
//! A name is asked of the servers of the longest domain that it is below. One that does not answer in a moment is not
//! waited for: the next one is asked beside it, and who answers first is taken.

mod address;
mod exchange;
mod pipeline;
mod probe;
mod server;
mod tls;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use crate::wire::{Code, Name, Transport};
pub use address::{Address, BadAddress, NameServer};
use probe::Probe;
use server::Upstream;
pub use tls::{BadPeerName, PeerName, Tls, TlsError, TlsOptions};

/// How long one server is waited for before another one is asked too.
const MOMENT: Duration = Duration::from_millis(300);
/// How long a question may take: clients ask again after that (`timeout`, resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a question is sent at most.
const ATTEMPTS: usize = 4;
/// Questions that may wait for others at the same time, if nothing is said.
pub const CONCURRENT: usize = 1000;

/// Which of several servers is asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// Each in its turn.
    RoundRobin,
    /// The first one that answers, in the order in which they are given.
    Sequential,
}

/// A name that is none of a policy's.
#[derive(Debug, thiserror::Error)]
#[error("there is no policy {0:?}: accepted are random, round_robin, sequential")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "random" => Ok(Policy::Random),
            "round_robin" => Ok(Policy::RoundRobin),
            "sequential" => Ok(Policy::Sequential),
            _ => Err(UnknownPolicy(text.to_owned())),
        }
    }
}

/// Who is asked about a domain.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The domain; the root for everything.
    pub domain: Name,
    /// The servers; none to refuse.
    pub servers: Vec<NameServer>,
    /// Which of them is asked first.
    pub policy: Policy,
    /// Questions that may wait at the same time; more are refused.
    pub max_concurrent: usize,
}

impl Forward {
    /// Everything is asked of these.
    pub fn everything(servers: Vec<impl Into<NameServer>>) -> Self {
        let servers = servers.into_iter().map(Into::into).collect();
        let policy = Policy::default();
        Self { domain: Name::root(), servers, policy, max_concurrent: CONCURRENT }
    }
}

/// Servers that know the rest of the world.
#[derive(Debug)]
pub struct Upstreams {
    /// Those with the longest domain first.
    groups: Vec<Group>,
    probe: Probe,
}

impl Default for Upstreams {
    /// Nobody.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// The servers of a domain.
#[derive(Debug)]
struct Group {
    domain: Name,
    servers: Vec<Arc<Upstream>>,
    policy: Policy,
    turn: AtomicUsize,
    places: Semaphore,
    rejected: AtomicU64,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// There is nobody to ask, or too many ask.
    Refused,
    /// Nobody answered.
    Failed,
}

/// What was asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The server.
    pub server: SocketAddr,
    /// It is asked by TLS.
    pub is_tls: bool,
    /// How many questions.
    pub questions: u64,
    /// How many of them it did not answer.
    pub failures: u64,
    /// It does not answer at the moment.
    pub is_down: bool,
}

impl Upstreams {
    /// Asks these about their domains.
    pub fn new(forwards: Vec<Forward>) -> Self {
        let group = |forward: Forward| Group {
            domain: forward.domain,
            servers: forward.servers.into_iter().map(|it| Arc::new(Upstream::new(it))).collect(),
            policy: forward.policy,
            turn: AtomicUsize::new(0),
            places: Semaphore::new(forward.max_concurrent.min(Semaphore::MAX_PERMITS)),
            rejected: AtomicU64::new(0),
        };
        let mut groups: Vec<Group> = forwards.into_iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.domain.labels()));
        let servers = groups.iter().map(|group| group.servers.len()).sum();
        Self { groups, probe: Probe::new(servers) }
    }

    /// Finds out which servers bring back what they are asked, and asks them no more. Ends when it is known of all.
    pub(crate) async fn look_for_loops(&self) {
        let servers = self.groups.iter().flat_map(|group| &group.servers);
        let looking: FuturesUnordered<_> = servers
            .enumerate()
            .map(|(number, server)| server.look_for_loop(&self.probe, number))
            .collect();
        looking.collect::<()>().await;
    }

    /// Notes that a name was asked for here; answers whether that is of no use to anybody else.
    pub(crate) fn note(&self, name: &Name) -> bool {
        self.probe.note(name)
    }

    /// Whether there is anybody to ask about anything.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.servers.is_empty())
    }

    /// Whether there is anybody to ask about a name.
    pub(crate) fn knows(&self, name: &Name) -> bool {
        self.group(name).is_some_and(|group| !group.servers.is_empty())
    }

    /// What was asked of each server.
    pub fn asked(&self) -> Vec<Asked> {
        let servers = self.groups.iter().flat_map(|group| &group.servers);
        let asked = servers.map(|server| {
            let (questions, failures) = server.counts();
            let (is_tls, is_down) = (server.is_tls(), server.is_down());
            Asked { server: server.address, is_tls, questions, failures, is_down }
        });
        asked.collect()
    }

    /// How many questions were refused since too many waited.
    pub fn rejected(&self) -> u64 {
        self.groups.iter().map(|group| group.rejected.load(Ordering::Relaxed)).sum()
    }

    fn group(&self, name: &Name) -> Option<&Group> {
        self.groups.iter().find(|group| name.below(&group.domain).is_some())
    }

    /// Passes a query about a name on and brings the response, with the query's id.
    pub(crate) async fn ask(
        &self,
        name: &Name,
        query: &[u8],
        how: Transport,
    ) -> Result<Vec<u8>, NoAnswer> {
        let group = self.group(name).filter(|group| !group.servers.is_empty());
        let group = group.ok_or(NoAnswer::Refused)?;
        let Ok(_place) = group.places.try_acquire() else {
            group.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(NoAnswer::Refused);
        };
        let asked = group.ask(query.into(), how);
        timeout(PATIENCE, asked).await.unwrap_or(Err(NoAnswer::Failed))
    }
}

impl Group {
    /// The servers in the order in which they are asked: those that answer first.
    fn order(&self) -> Vec<&Arc<Upstream>> {
        let start = match self.policy {
            Policy::Sequential => 0,
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
            Policy::Random => RandomState::new().build_hasher().finish() as usize,
        };
        let mut order: Vec<&Arc<Upstream>> =
            self.servers.iter().filter(|server| !server.is_self()).collect();
        let count = order.len().max(1);
        order.rotate_left(start % count);
        // One of those that are down is asked if there is no other.
        order.sort_by_key(|server| server.is_down());
        order
    }

    async fn ask(&self, query: Arc<[u8]>, how: Transport) -> Result<Vec<u8>, NoAnswer> {
        let order = self.order();
        if order.is_empty() {
            return Err(NoAnswer::Failed);
        }
        // A datagram may be lost: where there is only one server it is asked again. What is asked by TLS is not.
        let again = order.iter().filter(|server| !server.is_tls()).cycle();
        let mut next = order.iter().chain(again).copied().take(ATTEMPTS.max(order.len()));
        let mut waiting = FuturesUnordered::new();
        let mut refusals: Vec<Vec<u8>> = Vec::new();
        let mut patience = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(answer) = waiting.next() => {
                    let answer: Result<io::Result<Vec<u8>>, JoinError> = answer;
                    if let Ok(Ok(answer)) = answer {
                        if !is_failure(&answer) {
                            return Ok(answer);
                        }
                        // Another one may know more, if there is one.
                        refusals.push(answer);
                        if refusals.len() >= order.len() {
                            return Ok(refusals.swap_remove(0));
                        }
                    }
                    patience = Instant::now();
                }
                () = sleep_until(patience) => match next.next() {
                    Some(server) => {
                        // That it does not answer is to be known, also if another one does.
                        waiting.push(tokio::spawn(server.clone().ask(query.clone(), how)));
                        patience = Instant::now() + MOMENT;
                    }
                    None if waiting.is_empty() => return refusals.pop().ok_or(NoAnswer::Failed),
                    None => patience = Instant::now() + PATIENCE,
                },
            }
        }
    }
}

/// Whether a server says that it could not find out.
fn is_failure(response: &[u8]) -> bool {
    let code = response.get(3).map_or(0, |byte| byte & 0xf);
    code == Code::SERVER_FAILURE.0 || code == Code::REFUSED.0
}
