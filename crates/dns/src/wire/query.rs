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
    /// Where options are in the message that say something to whoever answers in the end.
    options: Option<(usize, usize)>,
}

/// Options for the next server alone: cookies (RFC 7873), keeping connections (RFC 7828), padding (RFC 7830).
const FOR_NEIGHBOUR: [u16; 3] = [10, 11, 12];

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
/// Bits of the fourth byte: signatures were checked, and that with the one that they are not to be.
const AUTHENTIC: u8 = 0x20;
const ASKED: u8 = 0x30;
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
                let options = (fixed + RECORD, fixed + RECORD + length);
                let is_for_all = has_option_for_all(self.message.get(options.0..options.1)?)?;
                self.edns = Some(Edns {
                    size: class,
                    is_dnssec_ok: flags & DNSSEC_OK != 0,
                    options: is_for_all.then_some(options),
                });
            }
            at = fixed + RECORD + length;
            if at > self.message.len() {
                return None;
            }
        }
        Some(version)
    }

    /// Whether it has options for whoever answers in the end: only that one knows what follows from them.
    pub fn has_options(&self) -> bool {
        self.edns.is_some_and(|edns| edns.options.is_some())
    }

    /// Whether the client wants to know that signatures were checked (RFC 6840, 5.7).
    pub fn takes_authentic(&self) -> bool {
        self.message[3] & AUTHENTIC != 0 || self.edns.is_some_and(|edns| edns.is_dnssec_ok)
    }

    /// The same question, to be asked of another server.
    pub fn onward(&self) -> Vec<u8> {
        let edns = self.edns;
        let is_dnssec_ok = edns.is_some_and(|edns| edns.is_dnssec_ok);
        let options = edns.and_then(|edns| edns.options);
        let options = options.map_or(&[][..], |(from, to)| &self.message[from..to]);
        let mut message =
            vec![0, 0, self.message[2], self.message[3] & ASKED, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(self.question());
        // The root, and what this server takes.
        message.push(0);
        for number in [Kind::OPT.0, LARGEST as u16, 0, u16::from(is_dnssec_ok) << 15] {
            message.extend(number.to_be_bytes());
        }
        message.extend((options.len() as u16).to_be_bytes());
        message.extend(options);
        message
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

/// Whether one of the options is for more than the next server; `None` if they can't be read.
fn has_option_for_all(mut options: &[u8]) -> Option<bool> {
    let mut is_for_all = false;
    while !options.is_empty() {
        let (option, length) = (number(options, 0)?, usize::from(number(options, 2)?));
        is_for_all |= !FOR_NEIGHBOUR.contains(&option);
        options = options.get(4 + length..)?;
    }
    Some(is_for_all)
}

/// Where the only question of a query ends, if it has one.
pub(crate) fn question_end(query: &[u8]) -> Option<usize> {
    skip(query, HEADER).map(|end| end + 4).filter(|end| *end <= query.len())
}

/// The number of two bytes at a place.
pub(super) fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}
