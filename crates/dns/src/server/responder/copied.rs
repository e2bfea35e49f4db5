//! What another message says, in an answer of ours. Names are written out: what they point to is not there.

use crate::wire::{Code, Kind, Record, Response, Section, TRUNCATED, records};

/// Copies what a message answers, also that this is not all; and if it answers that there is nothing, the SOA that says for
/// how long (RFC 2308, 3), unless that does not fit: nobody is to ask again for it.
pub(super) fn copy(told: &[u8], response: &mut Response<'_>) {
    let is_cut = told.get(2).is_some_and(|flags| flags & TRUNCATED != 0);
    if is_cut {
        response.set_truncated();
    }
    let is_known = matches!(Code::of(told), Some(Code::NO_ERROR | Code::NO_NAME));
    for record in records(told).map_while(|record| record) {
        match record.section {
            0 => copy_answer(&record, response),
            1 if is_known && !is_cut && record.kind == Kind::SOA => copy_soa(&record, response),
            _ => {}
        }
    }
}

/// Copies a record of the types that are asked for at names of Services.
fn copy_answer(record: &Record<'_>, response: &mut Response<'_>) {
    // What is before a name in the data; of others there is none in it.
    let before = match record.kind {
        Kind::A | Kind::AAAA | Kind::TXT => None,
        Kind::CNAME | Kind::PTR | Kind::NS => Some(0),
        Kind::SRV => Some(6),
        _ => return,
    };
    let whole = match before {
        None => Some(record.data().to_vec()),
        Some(before) => record
            .data()
            .get(..before)
            .zip(record.name_behind(before))
            .map(|(fixed, name)| [fixed, &name].concat()),
    };
    let (Some(owner), Some(data)) = (record.owner(), whole) else { return };
    response.named_record(Section::Answer, &owner, record.kind, record.ttl, &data);
}

fn copy_soa(record: &Record<'_>, response: &mut Response<'_>) {
    let (Some(owner), Some(data)) = (record.owner(), record.whole_soa()) else { return };
    if response.has_room(owner.len(), data.len()) {
        response.named_record(Section::Authority, &owner, Kind::SOA, record.ttl, &data);
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, OpCode, Query as Question, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, RData, Record as Told, RecordType};

    use super::*;
    use crate::wire::{Query, Transport};

    const QUESTION: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03out\x07example\0\0\x01\0\x01";

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    /// What others say about a name: an alias, then addresses, and a SOA whose names are so long.
    fn told(code: ResponseCode, addresses: u8, length: usize) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Question::query(name("www.shop.example."), RecordType::A));
        let alias = RData::CNAME(CNAME(name("web.shop.example.")));
        message.add_answer(Told::from_rdata(name("www.shop.example."), 60, alias));
        for last in 1..=addresses {
            let address = RData::A(A::new(192, 0, 2, last));
            message.add_answer(Told::from_rdata(name("web.shop.example."), 60, address));
        }
        let label = "a".repeat(length);
        let of = |first: &str| name(&format!("{first}.{label}.{label}.{label}.shop.example."));
        let soa = RData::SOA(SOA::new(of("ns"), of("admin"), 9, 7200, 1800, 86400, 30));
        message.add_authority(Told::from_rdata(name("shop.example."), 25, soa));
        message
    }

    fn copied(told: &Message) -> Message {
        let query = Query::read(QUESTION, Transport::Udp).unwrap();
        let mut buffer = [0; 512];
        let mut response = Response::to(&query, &mut buffer);
        copy(&told.to_vec().unwrap(), &mut response);
        let length = response.finish(Code::NO_ERROR);
        Message::from_vec(&buffer[..length]).unwrap()
    }

    #[test]
    fn that_there_is_nothing_comes_with_how_long_that_may_be_believed() {
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            let told = told(code, 0, 3);
            let copied = copied(&told);
            assert_eq!(copied.answers, told.answers);
            assert_eq!(copied.authorities, told.authorities, "{code}");
        }
        let failure = copied(&told(ResponseCode::ServFail, 0, 3));
        assert!(failure.authorities.is_empty(), "it is not known that there is nothing");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_not_asked_for_again() {
        let copied = copied(&told(ResponseCode::NXDomain, 0, 60));
        assert_eq!((copied.answers.len(), copied.authorities.len()), (1, 0));
        assert!(!copied.metadata.truncation);
    }

    #[test]
    fn what_is_not_whole_is_no_denial() {
        let mut told = told(ResponseCode::NoError, 3, 3);
        told.metadata.truncation = true;
        let copied = copied(&told);
        assert_eq!((copied.answers.len(), copied.authorities.len()), (4, 0));
        assert!(copied.metadata.truncation);
    }
}
