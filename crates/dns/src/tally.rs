//! What is counted of questions and answers, each reader for itself, so that none waits for another.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::wire::{Code, Kind, Transport};

/// Types that are counted by themselves, with their names; all others together.
pub const KINDS: [(Kind, &str); 15] = [
    (Kind::A, "A"),
    (Kind::AAAA, "AAAA"),
    (Kind::SRV, "SRV"),
    (Kind::PTR, "PTR"),
    (Kind::CNAME, "CNAME"),
    (Kind::NS, "NS"),
    (Kind::SOA, "SOA"),
    (Kind(15), "MX"),
    (Kind::TXT, "TXT"),
    (Kind(43), "DS"),
    (Kind(48), "DNSKEY"),
    (Kind(64), "SVCB"),
    (Kind(65), "HTTPS"),
    (Kind::ANY, "ANY"),
    (Kind(0), "other"),
];

/// Codes with names; the others are counted together.
pub const CODES: [(Code, &str); 7] = [
    (Code::NO_ERROR, "NOERROR"),
    (Code::FORMAT, "FORMERR"),
    (Code::SERVER_FAILURE, "SERVFAIL"),
    (Code::NO_NAME, "NXDOMAIN"),
    (Code::NOT_IMPLEMENTED, "NOTIMP"),
    (Code::REFUSED, "REFUSED"),
    (Code(u8::MAX), "other"),
];

/// Upper bounds of durations in microseconds: 250, and twice as much again and again, as CoreDNS has them.
pub const DURATIONS: [u64; 16] = {
    let mut bounds = [250; 16];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
};

/// Upper bounds of lengths in bytes, as CoreDNS has them.
pub const SIZES: [u64; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// Whose names a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The cluster's.
    Cluster = 0,
    /// Those of others.
    Foreign = 1,
}

/// What is seen of a question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) area: Area,
    pub(crate) kind: Kind,
    pub(crate) is_dnssec_ok: bool,
    /// It is the first one of a search, which is done here to its end.
    pub(crate) is_searched: bool,
}

/// Values by how large they are.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// How many were not larger than each bound, nor smaller than the one before; the last ones were larger.
    pub buckets: [AtomicU64; N],
    /// How many there were beyond all bounds.
    pub beyond: AtomicU64,
    /// Their sum.
    pub sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn count(&self, bounds: &[u64; N], value: u64) {
        let place = bounds.iter().position(|bound| value <= *bound);
        let bucket = place.map_or(&self.beyond, |place| &self.buckets[place]);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }
}

/// What one reader has counted about names of an area.
#[derive(Debug, Default)]
pub struct Counted {
    /// Questions, by type as in [`KINDS`].
    pub requests: [AtomicU64; KINDS.len()],
    /// Answers, by code as in [`CODES`].
    pub responses: [AtomicU64; CODES.len()],
    /// Questions of clients that take signatures.
    pub dnssec_ok: AtomicU64,
    /// How long answers took, in microseconds.
    pub durations: Histogram<{ DURATIONS.len() }>,
    /// How long questions are, in bytes.
    pub request_sizes: Histogram<{ SIZES.len() }>,
    /// How long answers are, in bytes.
    pub response_sizes: Histogram<{ SIZES.len() }>,
}

/// What one reader has counted.
#[derive(Debug)]
pub struct Tally {
    /// How questions come to it.
    pub transport: Transport,
    /// Whether that is by IPv4.
    pub is_v4: bool,
    /// First questions of pods' searches that were answered with what is found at the end.
    pub found_for_pods: AtomicU64,
    /// By the area, as a number.
    pub areas: [Counted; 2],
}

impl Tally {
    /// Counts an answer to a question. What could not be read is counted as something else about others' names.
    pub(crate) fn count(
        &self,
        seen: Option<Seen>,
        question: usize,
        answer: &[u8],
        duration: Duration,
    ) {
        let area = seen.map_or(Area::Foreign, |seen| seen.area);
        let counted = &self.areas[area as usize];
        let add = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        let kind = seen.and_then(|seen| KINDS.iter().position(|(kind, _)| *kind == seen.kind));
        add(&counted.requests[kind.unwrap_or(KINDS.len() - 1)]);
        let code = Code::of(answer).unwrap_or(Code::NO_ERROR);
        let place = CODES.iter().position(|(known, _)| *known == code);
        add(&counted.responses[place.unwrap_or(CODES.len() - 1)]);
        if seen.is_some_and(|seen| seen.is_dnssec_ok) {
            add(&counted.dnssec_ok);
        }
        if code == Code::NO_ERROR && seen.is_some_and(|seen| seen.is_searched) {
            add(&self.found_for_pods);
        }
        let duration = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        counted.durations.count(&DURATIONS, duration);
        counted.request_sizes.count(&SIZES, question as u64);
        counted.response_sizes.count(&SIZES, answer.len() as u64);
    }
}

/// What all readers have counted.
#[derive(Debug, Clone, Default)]
pub struct Tallies(Arc<Mutex<Vec<Arc<Tally>>>>);

impl Tallies {
    /// For one more reader at an address.
    pub(crate) fn add(&self, transport: Transport, at: IpAddr) -> Arc<Tally> {
        let (areas, found_for_pods) = Default::default();
        let tally = Arc::new(Tally { transport, is_v4: at.is_ipv4(), found_for_pods, areas });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tally.clone());
        tally
    }

    /// Those of each reader.
    pub fn all(&self) -> Vec<Arc<Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
