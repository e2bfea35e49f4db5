//! What others know: from the cache, or by asking them, once for all who want to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::timeout;

use crate::cache::{self, Cache, Counts, Hit, Key, Limits, Sense, Stored};
use crate::forward::{NoAnswer, Upstreams};
use crate::wire::{Code, LARGEST, Name, Query, Response, Transport};

/// How long others are waited for where something is known that was right not long ago.
const MOMENT: Duration = Duration::from_millis(200);

/// Who knows what is not the cluster's.
#[derive(Debug)]
pub struct Resolver {
    upstreams: Upstreams,
    cache: Option<Cache>,
    /// What is being asked.
    flights: Mutex<HashMap<(Key, bool), Flight>>,
}

/// A question that is on its way, for all who wait for the answer.
type Flight = Shared<BoxFuture<'static, Result<Answered, NoAnswer>>>;

/// What others have answered.
#[derive(Debug, Clone)]
enum Answered {
    /// Something that is understood.
    Stored(Arc<Stored>),
    /// Something else, which is passed on as it is.
    Raw(Arc<[u8]>),
}

impl Resolver {
    /// One that asks these, and keeps what they say within limits, if there are any.
    pub fn new(upstreams: Upstreams, limits: Option<Limits>) -> Self {
        Self { upstreams, cache: limits.map(Cache::new), flights: Mutex::new(HashMap::new()) }
    }

    /// Whether there is anybody to ask about anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// Whether there is anybody to ask about a name.
    pub(crate) fn knows(&self, name: &Name) -> bool {
        self.upstreams.knows(name)
    }

    /// Those who are asked.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Finds out who brings back what he is asked, and asks him no more.
    pub async fn look_for_loops(&self) {
        self.upstreams.look_for_loops().await;
    }

    /// What the cache has done, if there is one.
    pub fn cache_counts(&self) -> Option<&Counts> {
        self.cache.as_ref().map(Cache::counts)
    }

    /// Writes an answer that is known.
    pub(crate) fn known(&self, query: &Query<'_>, now: Instant, buffer: &mut [u8]) -> Option<Hit> {
        let cache = self.cache.as_ref().filter(|_| !query.has_options())?;
        cache.answer(query, &cache::key(query), now, buffer)
    }

    /// Asks others again about what will soon be over.
    pub(crate) fn ask_again(self: &Arc<Self>, query: &Query<'_>) {
        tokio::spawn(self.flight(query));
    }

    /// What is known, or else what others answer, as bytes for who has asked.
    pub(crate) async fn answer(self: &Arc<Self>, query: &Query<'_>) -> Vec<u8> {
        match self.known_bytes(query) {
            Some(answer) => answer,
            None => self.ask(query).await,
        }
    }

    /// The bytes of an answer that is known.
    fn known_bytes(self: &Arc<Self>, query: &Query<'_>) -> Option<Vec<u8>> {
        let mut buffer = vec![0; query.limit().max(LARGEST)];
        let hit = self.known(query, Instant::now(), &mut buffer)?;
        buffer.truncate(hit.length);
        if hit.is_due {
            self.ask_again(query);
        }
        Some(buffer)
    }

    /// Asks others about what is not known, and answers the bytes for who has asked.
    pub(crate) async fn ask(self: &Arc<Self>, query: &Query<'_>) -> Vec<u8> {
        let found = self.find(query).await;
        // Many may be waited for, and none of them takes room for its answer meanwhile.
        let mut buffer = vec![0; query.limit().max(LARGEST)];
        let length = match found {
            Ok((Answered::Stored(stored), most)) => {
                stored.answer(query, Duration::ZERO, most, &mut buffer)
            }
            Ok((Answered::Raw(raw), _)) => match buffer.get_mut(..raw.len()) {
                Some(to) if raw.len() <= query.limit() => {
                    to.copy_from_slice(&raw);
                    to[..2].copy_from_slice(&query.message[..2]);
                    raw.len()
                }
                _ => {
                    let mut response = Response::to(query, &mut buffer);
                    response.set_truncated();
                    response.finish(Code::NO_ERROR)
                }
            },
            Err(NoAnswer::Refused) => fail(query, Code::REFUSED, &mut buffer),
            Err(NoAnswer::Failed) => fail(query, Code::SERVER_FAILURE, &mut buffer),
        };
        buffer.truncate(length);
        buffer
    }

    /// Finds out, and how long what was found may be kept.
    async fn find(self: &Arc<Self>, query: &Query<'_>) -> Result<(Answered, Duration), NoAnswer> {
        if query.has_options() {
            let raw = self.upstreams.ask(&query.name, &query.onward(), query.transport).await?;
            return Ok((Answered::Raw(raw.into()), Duration::MAX));
        }
        let stale = self.cache.as_ref().and_then(|cache| {
            let stale = cache.stale(&cache::key(query), Instant::now())?;
            Some((cache, stale))
        });
        let flight = self.flight(query);
        // Whoever waits may give up, and others want to know.
        let flight = async { tokio::spawn(flight).await.unwrap_or(Err(NoAnswer::Failed)) };
        let Some((cache, stale)) = stale else {
            return flight.await.map(|answered| (answered, Duration::MAX));
        };
        match timeout(MOMENT, flight).await {
            Ok(Ok(answered)) if !answered.is_failure() => Ok((answered, Duration::MAX)),
            _ => {
                cache.count_stale();
                Ok((Answered::Stored(stale), cache::STALE))
            }
        }
    }

    /// A question on its way; one that is already is joined.
    fn flight(self: &Arc<Self>, query: &Query<'_>) -> Flight {
        let key = cache::key(query);
        // What comes in a stream may be longer.
        let place = (key.clone(), query.transport == Transport::Tcp);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&place) {
            return flight.clone();
        }
        let (resolver, name, sent, transport) =
            (self.clone(), query.name.clone(), query.onward(), query.transport);
        let of_flight = place.clone();
        let asked = async move {
            let answered = resolver.upstreams.ask(&name, &sent, transport).await;
            let answered = answered.map(|bytes| resolver.keep(&key, &bytes));
            if let (Err(_), Some(cache)) = (&answered, &resolver.cache) {
                cache.ask_again(&key);
            }
            let mut flights = resolver.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.remove(&of_flight);
            answered
        };
        let flight = asked.boxed().shared();
        flights.insert(place, flight.clone());
        flight
    }

    fn keep(&self, key: &Key, bytes: &[u8]) -> Answered {
        let Some(stored) = Stored::of(bytes).map(Arc::new) else {
            return Answered::Raw(bytes.into());
        };
        if let Some(cache) = &self.cache {
            cache.put(key, &stored, Instant::now());
        }
        Answered::Stored(stored)
    }
}

impl Answered {
    fn is_failure(&self) -> bool {
        matches!(self, Answered::Stored(stored) if stored.sense() == Sense::Failure)
    }
}

fn fail(query: &Query<'_>, code: Code, buffer: &mut [u8]) -> usize {
    let mut response = Response::to(query, buffer);
    response.set_recursion_available();
    response.finish(code)
}
