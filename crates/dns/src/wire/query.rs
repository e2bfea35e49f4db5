//! Reading a question.

use super::name::skip;
use super::{Code, HEADER, IN, Kind, LARGEST, Name, SMALLEST};

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// A message with one question, which lies in `message`.
#[derive(Debug, Clone)]
pub struct Query<'m> {
    /// All of it.
    pub message: &'m [u8],
    /// How it came.
    pub transport: Transport,
    /// What is asked about.
    pub name: Name,
    /// Which records are asked for.
    pub kind: Kind,
    /// Where the question ends.
    pub end: usize,
    /// What the client says of itself, if it does.
    pub edns: Option<Edns>,
}

/// What a client says of itself (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// How long datagrams may be.
    pub size: u16,
    /// It takes signatures (`DO`).
    pub is_dnssec_ok: bool,
}

/// A message that is no question to look into.
#[derive(Debug, Clone)]
pub enum NotAnswered<'m> {
    /// Nobody waits for an answer.
    Ignored,
    /// It can't be read: this is said of its header.
    Unread(Code),
    /// It is not answered whatever we know.
    Refused(Box<Query<'m>>, Code),
}

/// Bits of the header's third byte: a response; and the operation.
const RESPONSE: u8 = 0x80;
const OPERATION: u8 = 0x78;
/// Where the header counts questions and records.
const COUNTS: usize = 4;
/// What follows the name of a record: type, class, time to live, length.
const RECORD: usize = 10;
/// `DO` in the place of an OPT record's time to live.
const DNSSEC_OK: u32 = 0x8000;

impl<'m> Query<'m> {
    /// Reads a message.
    ///
    /// # Errors
    /// It is not to be answered from what is known.
    pub fn read(message: &'m [u8], transport: Transport) -> Result<Self, NotAnswered<'m>> {
        // Answering an answer could go on for ever.
        if message.len() < HEADER || message[2] & RESPONSE != 0 {
            return Err(NotAnswered::Ignored);
        }
        if message[2] & OPERATION != 0 {
            return Err(NotAnswered::Unread(Code::NOT_IMPLEMENTED));
        }
        let malformed = || NotAnswered::Unread(Code::FORMAT);
        if number(message, COUNTS) != Some(1) {
            return Err(malformed());
        }
        let (name, end) = Name::read(message, HEADER).ok_or_else(malformed)?;
        let (kind, class) =
            number(message, end).zip(number(message, end + 2)).ok_or_else(malformed)?;
        let mut query =
            Self { message, transport, name, kind: Kind(kind), end: end + 4, edns: None };
        let version = query.read_rest().ok_or_else(malformed)?;
        if version > 0 {
            return Err(NotAnswered::Refused(Box::new(query), Code::BAD_VERSION));
        }
        let is_refused = matches!(query.kind, Kind::OPT | Kind::AXFR | Kind::IXFR) || class != IN;
        match is_refused {
            true => Err(NotAnswered::Refused(Box::new(query), Code::REFUSED)),
            false => Ok(query),
        }
    }

    /// Reads what follows the question, and answers the version of EDNS.
    fn read_rest(&mut self) -> Option<u8> {
        let count = |place: usize| number(self.message, COUNTS + 2 * place).map(usize::from);
        let (before, last) = (count(1)? + count(2)?, count(3)?);
        let (mut at, mut version) = (self.end, 0);
        for place in 0..before + last {
            let is_root = self.message.get(at) == Some(&0);
            let fixed = skip(self.message, at)?;
            let (kind, class) = (number(self.message, fixed)?, number(self.message, fixed + 2)?);
            let length = usize::from(number(self.message, fixed + RECORD - 2)?);
            if Kind(kind) == Kind::OPT {
                // One, at the root, among the additional ones (RFC 6891, 6.1.1).
                if !is_root || place < before || self.edns.is_some() {
                    return None;
                }
                let flags = self.message.get(fixed + 4..fixed + 8)?;
                version = flags[1];
                let flags = u32::from_be_bytes(flags.try_into().ok()?);
                self.edns = Some(Edns { size: class, is_dnssec_ok: flags & DNSSEC_OK != 0 });
            }
            at = fixed + RECORD + length;
            if at > self.message.len() {
                return None;
            }
        }
        Some(version)
    }

    /// The question, as it was asked: name, type and class.
    pub fn question(&self) -> &'m [u8] {
        &self.message[HEADER..self.end]
    }

    /// How many bytes the client takes.
    pub fn limit(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => SMALLEST,
            (Transport::Udp, Some(edns)) => usize::from(edns.size).clamp(SMALLEST, LARGEST),
        }
    }
}

/// The number of two bytes at a place.
pub(super) fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}
