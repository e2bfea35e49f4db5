//! Messages by chance: right ones, and what becomes of them.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How long, if nothing is said.
const SECONDS: u64 = 5;
/// How long to go on.
pub(crate) fn time() -> Duration {
    let given = std::env::var("PORTOLAN_FUZZ_SECONDS").ok();
    Duration::from_secs(given.map_or(SECONDS, |text| text.parse().expect("a number of seconds")))
}

/// Numbers by chance (xorshift64*), the same for the same seed.
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Self {
        let given = std::env::var("PORTOLAN_SEED").ok().map(|text| text.parse().expect("a number"));
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = given.unwrap_or_else(|| now().as_nanos() as u64) | 1;
        println!("PORTOLAN_SEED={seed} repeats this run");
        Self(seed)
    }

    /// Another one, of which it is known what it brings.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next() | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const NAMES: [&str; 15] = [
    "web.default.svc.cluster.local.",
    "WEB.default.SVC.cluster.local.",
    "none.default.svc.cluster.local.",
    "_http._tcp.web.default.svc.cluster.local.",
    "10-244-0-9.web.default.svc.cluster.local.",
    "out.default.svc.cluster.local.",
    "2001-db8--1.default.pod.cluster.local.",
    "7.0.96.10.in-addr.arpa.",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
    "cluster.local.",
    "www.example.com.",
    // As a pod searches, and as they are rewritten.
    "www.example.com.default.svc.cluster.local.",
    "web.default.default.svc.cluster.local.",
    "web.in.example.",
    ".",
];

/// What a client may ask.
pub(crate) fn question(chance: &mut Chance) -> Vec<u8> {
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::ANY,
        RecordType::TXT,
        RecordType::SOA,
        RecordType::NS,
        RecordType::AXFR,
    ];
    let mut message = Message::new(chance.next() as u16, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = chance.below(2) == 0;
    let name = Name::from_ascii(chance.of(&NAMES)).unwrap();
    message.add_query(Question::query(name, *chance.of(&kinds)));
    if chance.below(2) == 0 {
        let mut edns = Edns::new();
        edns.set_max_payload(chance.next() as u16);
        edns.set_dnssec_ok(chance.below(2) == 0);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// What an upstream server may say to a question.
pub(crate) fn response(chance: &mut Chance, to: &[u8]) -> Vec<u8> {
    let Ok(query) = Message::from_vec(to) else { return to.to_vec() };
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.queries.clone_from(&query.queries);
    let name = query.queries.first().map_or_else(Name::root, |question| question.name().clone());
    for _ in 0..chance.below(4) {
        let data = match chance.below(2) {
            0 => RData::A(A(Ipv4Addr::from(chance.next() as u32))),
            _ => RData::CNAME(CNAME(Name::from_ascii(chance.of(&NAMES)).unwrap())),
        };
        message.add_answer(Record::from_rdata(name.clone(), chance.below(100) as u32, data));
    }
    if chance.below(3) == 0 {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 5);
        message.add_authority(Record::from_rdata(Name::root(), 5, RData::SOA(soa)));
    }
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// Breaks a message in some places.
pub(crate) fn broken(chance: &mut Chance, mut message: Vec<u8>) -> Vec<u8> {
    for _ in 0..chance.below(4) {
        let length = message.len();
        if length == 0 {
            break;
        }
        let at = chance.below(length);
        match chance.below(6) {
            0 => message[at] ^= 1 << chance.below(8),
            1 => message[at] = *chance.of(&[0, 1, 0x3f, 0x40, 0xc0, 0xff]),
            2 => message.truncate(at),
            3 => message.insert(at, chance.next() as u8),
            // A pointer to anywhere.
            4 if at + 1 < length => {
                message[at] = 0xc0;
                message[at + 1] = chance.below(length) as u8;
            }
            _ => {
                let part = message[at..].to_vec();
                message.extend(&part[..part.len().min(600)]);
            }
        }
    }
    message
}
