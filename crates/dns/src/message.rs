//! DNS messages (RFC 1035, EDNS of RFC 6891): from bytes to a question, from an answer to bytes.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::answer::Answer;

/// What fits in a datagram for a client that says nothing of it.
const SMALLEST: u16 = 512;
/// What is sent at most in a datagram: what passes any link without fragments (DNS Flag Day 2020).
const LARGEST: u16 = 1232;
/// Length of the header.
const HEADER: usize = 12;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What a message is.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A question to answer.
    Question(Box<Request>),
    /// Something that has one answer whatever we know.
    Refused(Vec<u8>),
    /// Nothing that anybody waits for an answer to.
    Ignored,
}

/// A question, and who asks it how.
#[derive(Debug)]
pub(crate) struct Request {
    message: Message,
    transport: Transport,
}

impl Incoming {
    pub(crate) fn read(bytes: &[u8], transport: Transport) -> Self {
        // Answering an answer could go on for ever.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Incoming::Ignored;
        }
        let refused = |code| Incoming::Refused(refusal(bytes, code));
        if OpCode::from_u8((bytes[2] >> 3) & 0xf) != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        let Ok(message) = Message::from_vec(bytes) else { return refused(ResponseCode::FormErr) };
        let request = Request { message, transport };
        let [query] = &request.message.queries[..] else { return refused(ResponseCode::FormErr) };
        if request.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Incoming::Refused(request.fail(ResponseCode::BADVERS));
        }
        if query.query_class() != DNSClass::IN || query.query_type() == RecordType::OPT {
            return Incoming::Refused(request.fail(ResponseCode::Refused));
        }
        Incoming::Question(Box::new(request))
    }
}

impl Request {
    /// What is asked.
    pub(crate) fn question(&self) -> &Query {
        &self.message.queries[0]
    }

    /// How it came.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The same question about another name, to ask others.
    pub(crate) fn about(&self, name: hickory_proto::rr::Name) -> Vec<u8> {
        let mut query = self.question().clone();
        query.set_name(name);
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.edns.clone_from(&self.message.edns);
        message.add_query(query);
        message.to_vec().unwrap_or_default()
    }

    /// An answer without contents.
    pub(crate) fn fail(&self, code: ResponseCode) -> Vec<u8> {
        let mut response = self.response();
        response.metadata.response_code = code;
        self.encode(response)
    }

    /// An answer of our own knowledge. `recurses` says whether we ask others about the rest.
    pub(crate) fn answer(&self, answer: Answer, recurses: bool) -> Vec<u8> {
        let mut response = self.response();
        response.metadata.authoritative = true;
        response.metadata.recursion_available = recurses;
        response.metadata.response_code = answer.code;
        response.answers = answer.records;
        response.authorities = answer.authority;
        response.additionals = answer.additional;
        self.encode(response)
    }

    fn response(&self) -> Message {
        let mut response = Message::response(self.message.metadata.id, OpCode::Query);
        response.metadata = Metadata::response_from_request(&self.message.metadata);
        response.queries.clone_from(&self.message.queries);
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            response.set_edns(edns);
        }
        response
    }

    /// How many bytes the client takes.
    fn limit(&self) -> usize {
        let datagram = match &self.message.edns {
            Some(edns) => edns.max_payload().clamp(SMALLEST, LARGEST),
            None => SMALLEST,
        };
        match self.transport {
            Transport::Udp => datagram.into(),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// The bytes of a response; what does not fit is left out from the end, and that said.
    fn encode(&self, mut response: Message) -> Vec<u8> {
        let limit = self.limit();
        let bytes = |message: &Message| message.to_vec().unwrap_or_default();
        let whole = bytes(&response);
        if fits(&whole, limit) {
            return whole;
        }
        // Nobody asked for these (RFC 2181, section 9).
        response.additionals.clear();
        let short = bytes(&response);
        if fits(&short, limit) {
            return short;
        }
        response.metadata.truncation = true;
        let records = std::mem::take(&mut response.answers);
        let (mut most, mut least) = (records.len(), 0);
        let mut best = bytes(&response);
        while least < most {
            let middle = (least + most).div_ceil(2);
            response.answers = records[..middle].to_vec();
            let tried = bytes(&response);
            match fits(&tried, limit) {
                true => (least, best) = (middle, tried),
                false => most = middle - 1,
            }
        }
        best
    }
}

/// An encoding that failed is empty: it is too long in another way.
fn fits(bytes: &[u8], limit: usize) -> bool {
    !bytes.is_empty() && bytes.len() <= limit
}

/// A refusal of something that could not be read.
fn refusal(bytes: &[u8], code: ResponseCode) -> Vec<u8> {
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    let op_code = OpCode::from_u8((bytes[2] >> 3) & 0xf);
    Message::error_msg(id, op_code, code).to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};

    use super::*;

    fn query(edns: Option<Edns>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii("Web.Example.").unwrap(), RecordType::A));
        message.edns = edns;
        message.to_vec().unwrap()
    }

    fn request(bytes: &[u8], transport: Transport) -> Request {
        match Incoming::read(bytes, transport) {
            Incoming::Question(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    fn many(count: u8) -> Answer {
        let name = Name::from_ascii("Web.Example.").unwrap();
        let record = |n| Record::from_rdata(name.clone(), 5, RData::A(A::new(10, 0, 0, n)));
        Answer {
            code: ResponseCode::NoError,
            records: (0..count).map(record).collect(),
            authority: Vec::new(),
            additional: Vec::new(),
            leads_to: None,
        }
    }

    fn decode(bytes: &[u8]) -> Message {
        Message::from_vec(bytes).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_cut_and_that_is_said() {
        let small = request(&query(None), Transport::Udp).answer(many(200), true);
        let message = decode(&small);
        assert!(small.len() <= 512 && message.metadata.truncation);
        // Header 12, question 17, each address 16 with a compressed name.
        assert_eq!(message.answers.len(), (512 - 12 - 17) / 16);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        let larger = request(&query(Some(edns)), Transport::Udp).answer(many(200), true);
        assert!((1200..=1232).contains(&larger.len()));
        assert!(decode(&larger).edns.is_some());
        let whole = decode(&request(&query(None), Transport::Tcp).answer(many(200), true));
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }

    #[test]
    fn questions_are_echoed_with_their_case_and_flags() {
        let answer = decode(&request(&query(None), Transport::Udp).answer(many(1), false));
        assert_eq!(answer.metadata.id, 7);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
        assert!(!answer.metadata.recursion_available);
        assert_eq!(answer.queries[0].name().to_ascii(), "Web.Example.");
        assert_eq!(answer.answers[0].name.to_ascii(), "Web.Example.");
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let code = |bytes: &[u8]| match Incoming::read(bytes, Transport::Udp) {
            Incoming::Refused(bytes) => decode(&bytes).metadata.response_code,
            other => panic!("{other:?}"),
        };
        let good = query(None);
        assert_eq!(code(&good[..20]), ResponseCode::FormErr);
        let mut notify = good.clone();
        notify[2] = 4 << 3;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let mut chaos = good.clone();
        *chaos.last_mut().unwrap() = 3;
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut newer = Edns::new();
        newer.set_version(1);
        // BADVERS and BADSIG are one number.
        assert_eq!(code(&query(Some(newer))).low() | 16, u16::from(ResponseCode::BADVERS) as u8);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(matches!(Incoming::read(&response, Transport::Udp), Incoming::Ignored));
        assert!(matches!(Incoming::read(&good[..5], Transport::Udp), Incoming::Ignored));
    }
}
