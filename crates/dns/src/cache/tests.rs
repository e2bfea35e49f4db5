//! Answers that are kept, for how long, and for whom.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::wire::{LARGEST, Transport};

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(of: &str, edns: Option<Edns>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name(of), RecordType::A));
    message.edns = edns;
    message.to_vec().unwrap()
}

/// What an upstream server says: addresses, or a denial.
fn response(
    of: &str,
    code: ResponseCode,
    addresses: &[(u32, u8)],
    soa: Option<(u32, u32)>,
) -> Vec<u8> {
    let mut message = Message::response(9, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.authoritative = true;
    message.add_query(Question::query(name(of), RecordType::A));
    for (ttl, last) in addresses {
        let data = RData::A(A(Ipv4Addr::new(192, 0, 2, *last)));
        message.add_answer(Record::from_rdata(name(of), *ttl, data));
    }
    if let Some((ttl, minimum)) = soa {
        let data = SOA::new(name("ns."), name("h."), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(name("example."), ttl, RData::SOA(data)));
    }
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

struct Asker {
    cache: Cache,
    start: Instant,
}

impl Asker {
    fn new(limits: Limits) -> Self {
        Self { cache: Cache::new(limits), start: Instant::now() }
    }

    fn put(&self, of: &str, response: &[u8], after: Duration) {
        let bytes = question(of, None);
        let query = Query::read(&bytes, Transport::Udp).unwrap();
        let stored = Arc::new(Stored::of(response).unwrap());
        self.cache.put(&key(&query), &stored, self.start + after);
    }

    fn ask(&self, bytes: &[u8], after: Duration) -> Option<(Message, bool)> {
        let query = Query::read(bytes, Transport::Udp).unwrap();
        let mut buffer = [0; LARGEST];
        let hit = self.cache.answer(&query, &key(&query), self.start + after, &mut buffer)?;
        Some((Message::from_vec(&buffer[..hit.length]).unwrap(), hit.is_due))
    }
}

#[test]
fn an_answer_is_given_as_long_as_it_is_good() {
    let asker = Asker::new(Limits::default());
    let told = response("web.example.", ResponseCode::NoError, &[(30, 1), (60, 2)], None);
    asker.put("web.example.", &told, Duration::ZERO);
    let (answer, is_due) = asker.ask(&question("WEB.example.", None), 10 * SECOND).unwrap();
    assert!(!is_due);
    assert_eq!(answer.metadata.id, 7);
    assert_eq!(answer.queries[0].name().to_ascii(), "WEB.example.", "as it was asked");
    // No longer than the first of them is good.
    let ttls: Vec<u32> = answer.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [20, 20]);
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(answer.edns.is_none(), "the client has not asked for it");
    assert!(asker.ask(&question("web.example.", None), 30 * SECOND).is_none());
    assert!(asker.ask(&question("other.example.", None), SECOND).is_none());
    let counts = asker.cache.counts();
    assert_eq!(counts.hits[0].load(Ordering::Relaxed), 1);
    assert_eq!(counts.misses.load(Ordering::Relaxed), 2);
}

#[test]
fn who_takes_signatures_gets_an_answer_of_his_own() {
    let asker = Asker::new(Limits::default());
    asker.put("a.", &response("a.", ResponseCode::NoError, &[(30, 1)], None), Duration::ZERO);
    let mut edns = Edns::new();
    assert!(asker.ask(&question("a.", Some(edns.clone())), SECOND).unwrap().0.edns.is_some());
    edns.set_dnssec_ok(true);
    assert!(asker.ask(&question("a.", Some(edns)), SECOND).is_none());
}

#[test]
fn what_is_wanted_is_asked_for_again_once_before_it_is_over() {
    let asker = Asker::new(Limits::default());
    asker.put("a.", &response("a.", ResponseCode::NoError, &[(100, 1)], None), Duration::ZERO);
    let is_due = |after| asker.ask(&question("a.", None), after * SECOND).unwrap().1;
    assert!(!is_due(1) && !is_due(89));
    assert!(is_due(95), "it was asked for more than once");
    assert!(!is_due(96), "somebody asks already");
    let query = question("a.", None);
    asker.cache.ask_again(&key(&Query::read(&query, Transport::Udp).unwrap()));
    assert!(is_due(97), "that came to nothing");
    // What is asked for once is not.
    asker.put("b.", &response("b.", ResponseCode::NoError, &[(100, 1)], None), Duration::ZERO);
    assert!(!asker.ask(&question("b.", None), 95 * SECOND).unwrap().1);
}

#[test]
fn denials_and_failures_have_times_of_their_own() {
    let asker = Asker::new(Limits::default());
    let denied = |soa| response("a.", ResponseCode::NXDomain, &[], soa);
    let until = |of: &str| {
        (0..10_000).find(|after| asker.ask(&question(of, None), *after * SECOND).is_none())
    };
    // The lesser of the two (RFC 2308, 5), and at least, and at most.
    for (soa, expected) in [((60, 20), 20), ((15, 90), 15), ((1, 1), 5), ((9000, 9000), 1800)] {
        asker.put("a.", &denied(Some(soa)), Duration::ZERO);
        assert_eq!(until("a."), Some(expected), "{soa:?}");
    }
    asker.put("b.", &denied(None), Duration::ZERO);
    assert_eq!(until("b."), Some(0), "nobody says how long that may be believed");
    asker.put("c.", &response("c.", ResponseCode::ServFail, &[], None), Duration::ZERO);
    assert_eq!(until("c."), Some(5));
    let (answer, _) = asker.ask(&question("a.", None), SECOND).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].ttl, 1799);
}

#[test]
fn a_failure_does_not_take_the_place_of_what_was_known() {
    let asker = Asker::new(Limits::default());
    asker.put("a.", &response("a.", ResponseCode::NoError, &[(30, 1)], None), Duration::ZERO);
    let failure = response("a.", ResponseCode::ServFail, &[], None);
    asker.put("a.", &failure, 40 * SECOND);
    let query = question("a.", None);
    let stale = |after| {
        let query = Query::read(&query, Transport::Udp).unwrap();
        asker.cache.stale(&key(&query), asker.start + after * SECOND)
    };
    assert_eq!(stale(3600).unwrap().sense(), Sense::Success);
    assert!(stale(30 + 3600).is_none());
}

#[test]
fn there_is_room_for_so_many() {
    let asker = Asker::new(Limits { entries: 2 * LISTS, ..Limits::default() });
    for number in 0..5000 {
        let of = format!("n{number}.example.");
        let told = response(&of, ResponseCode::NoError, &[(60, 1)], None);
        asker.put(&of, &told, Duration::ZERO);
    }
    let there = (0..5000).filter(|number| {
        asker.ask(&question(&format!("n{number}.example."), None), SECOND).is_some()
    });
    let there = there.count();
    assert!(there <= 2 * LISTS && there > LISTS, "{there}");
    let counts = asker.cache.counts();
    assert_eq!(counts.entries.load(Ordering::Relaxed), there as u64);
    assert_eq!(counts.evictions.load(Ordering::Relaxed), 5000 - there as u64);
}

#[test]
fn what_is_too_long_for_a_client_is_left_to_a_stream() {
    let asker = Asker::new(Limits::default());
    let many: Vec<(u32, u8)> = (0..60).map(|last| (30, last)).collect();
    asker.put("a.", &response("a.", ResponseCode::NoError, &many, None), Duration::ZERO);
    let (cut, _) = asker.ask(&question("a.", None), SECOND).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    let (whole, _) = asker.ask(&question("a.", Some(edns)), SECOND).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 60);
}

#[test]
fn what_is_cut_or_odd_is_not_kept() {
    let mut cut = response("a.", ResponseCode::NoError, &[(30, 1)], None);
    cut[2] |= 0x02;
    let asker = Asker::new(Limits::default());
    asker.put("a.", &cut, Duration::ZERO);
    assert!(asker.ask(&question("a.", None), SECOND).is_none());
    let whole = response("a.", ResponseCode::NoError, &[(30, 1)], None);
    for length in 0..whole.len() {
        assert_eq!(Stored::of(&whole[..length]), None, "{length}");
    }
}
