//! Against another implementation of the format.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name as HickoryName, RData, Record as HickoryRecord, RecordType};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> HickoryName {
    HickoryName::from_ascii(text).unwrap()
}

fn query(edns: Option<Edns>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = true;
    message.add_query(Question::query(name("Web.Example."), RecordType::A));
    message.edns = edns;
    message.to_vec().unwrap()
}

fn decode(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

fn answer(query: &[u8], transport: Transport, count: u8) -> Message {
    let query = Query::read(query, transport).unwrap();
    let mut buffer = [0; 65_535];
    let mut response = Response::to(&query, &mut buffer);
    response.set_authoritative();
    for number in 0..count {
        let address = std::net::Ipv4Addr::new(10, 0, 0, number);
        response.address(Section::Answer, Owner::QUESTION, 5, address.into());
    }
    let length = response.finish(Code::NO_ERROR);
    assert!(length <= query.limit());
    decode(&buffer[..length])
}

#[test]
fn questions_are_echoed_with_their_case_and_flags() {
    let answer = answer(&query(None), Transport::Udp, 1);
    let metadata = &answer.metadata;
    assert_eq!(metadata.id, 7);
    assert!(metadata.authoritative && metadata.recursion_desired && metadata.checking_disabled);
    assert!(!metadata.recursion_available && !metadata.truncation);
    assert_eq!(answer.queries[0].name().to_ascii(), "Web.Example.");
    assert_eq!(answer.answers[0].name.to_ascii(), "Web.Example.");
    assert!(answer.edns.is_none());
}

#[test]
fn what_does_not_fit_is_left_out_and_that_is_said() {
    let small = answer(&query(None), Transport::Udp, 200);
    assert!(small.metadata.truncation);
    // Header 12, question 17, each address 16 with a pointer for its name.
    assert_eq!(small.answers.len(), (512 - 12 - 17) / 16);
    for (offered, room) in [(4096, LARGEST), (1000, 1000), (100, 512)] {
        let mut edns = Edns::new();
        edns.set_max_payload(offered);
        edns.set_dnssec_ok(true);
        let cut = answer(&query(Some(edns)), Transport::Udp, 200);
        assert_eq!(cut.answers.len(), (room - 12 - 17 - 11) / 16);
        let edns = cut.edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        assert_eq!(usize::from(edns.max_payload()), LARGEST);
    }
    let whole = answer(&query(None), Transport::Tcp, 200);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn additional_records_come_all_or_none() {
    let bytes = query(None);
    let query = Query::read(&bytes, Transport::Udp).unwrap();
    for (count, expected) in [(10, 10), (40, 0)] {
        let mut buffer = [0; LARGEST];
        let mut response = Response::to(&query, &mut buffer);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        response.address(Section::Answer, Owner::QUESTION, 5, address);
        response.additional(|response| {
            for _ in 0..count {
                response.address(Section::Additional, Owner::QUESTION, 5, address);
            }
        });
        let length = response.finish(Code::NO_ERROR);
        let message = decode(&buffer[..length]);
        assert_eq!((message.answers.len(), message.additionals.len()), (1, expected));
        assert!(!message.metadata.truncation);
    }
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let code = |bytes: &[u8]| {
        let mut buffer = [0; LARGEST];
        let length = match Query::read(bytes, Transport::Udp) {
            Err(NotAnswered::Unread(code)) => Response::unread(bytes, code, &mut buffer),
            Err(NotAnswered::Refused(query, code)) => {
                Response::to(&query, &mut buffer).finish(code)
            }
            other => panic!("{other:?}"),
        };
        let message = decode(&buffer[..length]);
        assert_eq!(message.metadata.id, 7);
        message.metadata.response_code
    };
    let good = query(None);
    assert_eq!(code(&good[..20]), ResponseCode::FormErr);
    let mut several = good.clone();
    several[5] = 2;
    assert_eq!(code(&several), ResponseCode::FormErr);
    let mut notify = good.clone();
    notify[2] = 4 << 3;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut transfer = good.clone();
    let at = transfer.len() - 3;
    transfer[at] = 252;
    assert_eq!(code(&transfer), ResponseCode::Refused);
    let mut newer = Edns::new();
    newer.set_version(1);
    // BADVERS and BADSIG are one number.
    assert_eq!(code(&query(Some(newer))).low() | 16, u16::from(ResponseCode::BADVERS) as u8);
    // A name that points elsewhere, and one that never ends.
    let mut pointing = good.clone();
    pointing[12] = 0xc0;
    assert_eq!(code(&pointing), ResponseCode::FormErr);
    let endless = [&good[..12], &[1, b'a'].repeat(200)[..]].concat();
    assert_eq!(code(&endless), ResponseCode::FormErr);
    let mut response = good.clone();
    response[2] |= 0x80;
    let is_ignored =
        |bytes: &[u8]| matches!(Query::read(bytes, Transport::Udp), Err(NotAnswered::Ignored));
    assert!(is_ignored(&response) && is_ignored(&good[..5]));
}

#[test]
fn names_are_compared_without_case_and_by_whole_labels() {
    let name = |text| Name::parse(text).unwrap();
    let zone = name("Cluster.local");
    assert_eq!(name("web.team.svc.cluster.LOCAL.").below(&zone), Some(3));
    assert_eq!(name("cluster.local").below(&zone), Some(0));
    for other in ["xcluster.local", "local", ".", "cluster.local.x"] {
        assert_eq!(name(other).below(&zone), None, "{other}");
    }
    assert_eq!(name("a.b.c").part(1, 3), b"\x01b\x01c");
    assert_eq!(name("A.b.").to_string(), "a.b.");
    assert_eq!(name(".").to_string(), ".");
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    assert_eq!(name(&long).bytes().len(), 255);
    for (text, why) in [
        ("a..b", BadName::EmptyLabel),
        (".a", BadName::EmptyLabel),
        (&"a".repeat(64), BadName::LongLabel),
        (&format!("{long}b"), BadName::Long),
    ] {
        assert_eq!(Name::parse(text).unwrap_err(), why, "{text}");
    }
}

#[test]
fn records_of_others_are_read() {
    let mut message = Message::response(7, OpCode::Query);
    message.add_query(Question::query(name("web.example."), RecordType::A));
    let alias = RData::CNAME(CNAME(name("www.web.example.")));
    message.add_answer(HickoryRecord::from_rdata(name("web.example."), 60, alias));
    let address = RData::A(A::new(192, 0, 2, 1));
    message.add_answer(HickoryRecord::from_rdata(name("www.web.example."), 70, address));
    let bytes = message.to_vec().unwrap();
    let read: Option<Vec<Record<'_>>> = records(&bytes).collect();
    let [alias, address] = read.unwrap().try_into().unwrap();
    assert_eq!((alias.kind, alias.ttl, alias.section), (Kind::CNAME, 60, 0));
    assert_eq!(alias.owner().unwrap()[..], *b"\x03web\x07example\0");
    assert_eq!(alias.target().unwrap(), address.owner().unwrap());
    assert_eq!((address.ttl, address.data()), (70, &[192, 0, 2, 1][..]));
    for length in 0..bytes.len() {
        let last = records(&bytes[..length]).last();
        assert!(last.is_none_or(|last| last.is_none()), "{length} of {}", bytes.len());
    }
}

proptest! {
    /// Whatever comes, what is taken for a question is one for another reader too, or has what that one does not look
    /// into; and it gets an answer that can be read.
    #[test]
    fn anything_can_come(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        is_likely in any::<bool>(),
        places in prop::collection::vec((0_usize..60, any::<u8>()), 0..3),
    ) {
        if is_likely {
            bytes = query(Some(Edns::new()));
            for (at, byte) in places {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
        }
        if let Ok(query) = Query::read(&bytes, Transport::Udp) {
            let mut buffer = [0; LARGEST];
            let mut response = Response::to(&query, &mut buffer);
            response.address(Section::Answer, Owner::QUESTION, 5, std::net::Ipv4Addr::LOCALHOST.into());
            let length = response.finish(Code::NO_ERROR);
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            prop_assert_eq!(answer.queries.len(), 1);
            prop_assert_eq!(answer.queries[0].name().num_labels() as usize, query.name.labels());
        }
        for record in records(&bytes).flatten() {
            let _ = (record.owner(), record.target(), record.minimum());
        }
    }
}
