//! Writing an answer.

use std::net::IpAddr;

use super::{Code, HEADER, IN, Kind, LARGEST, Query};

/// Bits of the header's third byte: a response, authoritative, truncated; and what a client's is answered with.
const RESPONSE: u8 = 0x80;
pub(crate) const AUTHORITATIVE: u8 = 0x04;
pub(crate) const TRUNCATED: u8 = 0x02;
const OPERATION_AND_DESIRED: u8 = 0x79;
/// Bits of the fourth: recursion is available; the client checks signatures itself.
const AVAILABLE: u8 = 0x80;
const CHECKING_DISABLED: u8 = 0x10;
/// Length of an OPT record without options.
const OPT: usize = 11;
/// Length of what is between a record's name and its data.
const FIXED: usize = 10;
/// The first two bits of a pointer to where a name is.
const POINTER: u16 = 0xc000;

/// Where in an answer a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// Who knows.
    Authority = 1,
    /// What will be asked for next.
    Additional = 2,
}

/// Whose a record is: a name that was written before, by the place where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u16);

impl Owner {
    /// What the question is about.
    pub const QUESTION: Self = Self(HEADER as u16);
}

/// An answer that is being written. What does not fit is left out whole, and that said.
#[derive(Debug)]
pub struct Response<'b> {
    buffer: &'b mut [u8],
    length: usize,
    /// How long it may become.
    limit: usize,
    counts: [u16; 3],
    is_full: bool,
    edns: bool,
    is_dnssec_ok: bool,
}

impl<'b> Response<'b> {
    /// Begins the answer to a question, which it repeats. `buffer` has room for 512 bytes at least.
    pub fn to(query: &Query<'_>, buffer: &'b mut [u8]) -> Self {
        let question = query.question();
        let room = if query.edns.is_some() { OPT } else { 0 };
        let limit = query.limit().min(buffer.len()) - room;
        let length = HEADER + question.len();
        buffer[..2].copy_from_slice(&query.message[..2]);
        buffer[2] = RESPONSE | query.message[2] & OPERATION_AND_DESIRED;
        buffer[3] = query.message[3] & CHECKING_DISABLED;
        buffer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        buffer[HEADER..length].copy_from_slice(question);
        let is_dnssec_ok = query.edns.is_some_and(|edns| edns.is_dnssec_ok);
        Self {
            buffer,
            length,
            limit,
            counts: [0; 3],
            is_full: false,
            edns: query.edns.is_some(),
            is_dnssec_ok,
        }
    }

    /// The answer to what can't be read; `message` has a header, and `buffer` room for one.
    pub fn unread(message: &[u8], code: Code, buffer: &mut [u8]) -> usize {
        buffer[..HEADER].fill(0);
        buffer[..2].copy_from_slice(&message[..2]);
        buffer[2] = RESPONSE | message[2] & OPERATION_AND_DESIRED;
        buffer[3] = code.0;
        HEADER
    }

    /// Says that this is ours to know.
    pub fn set_authoritative(&mut self) {
        self.buffer[2] |= AUTHORITATIVE;
    }

    /// Says that others are asked about what is not ours.
    pub fn set_recursion_available(&mut self) {
        self.buffer[3] |= AVAILABLE;
    }

    /// Says that there is more than this.
    pub fn set_truncated(&mut self) {
        self.buffer[2] |= TRUNCATED;
    }

    /// Adds what another answer to the same question has behind that. Answers whether it fits.
    pub(crate) fn append(&mut self, records: &[u8]) -> bool {
        let end = self.length + records.len();
        let fits = end <= self.limit;
        if fits {
            self.buffer[self.length..end].copy_from_slice(records);
            self.length = end;
        }
        fits
    }

    /// Says how many records there are, where these were added all at once.
    pub(crate) fn set_counts(&mut self, counts: [u16; 3]) {
        self.counts = counts;
    }

    /// How many records there are in a section.
    pub fn count(&self, section: Section) -> usize {
        self.counts[section as usize].into()
    }

    /// Whether something did not fit.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether a record would fit whose name and data are so long.
    pub(crate) fn has_room(&self, owner: usize, data: usize) -> bool {
        !self.is_full && self.length + owner + FIXED + data <= self.limit
    }

    /// Adds a record whose data `write` writes. Sections come in their order. Answers where its data is, if it fits.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner,
        kind: Kind,
        ttl: u32,
        write: impl FnOnce(&mut Data<'_>),
    ) -> Option<usize> {
        self.add(section, &(POINTER | owner.0).to_be_bytes(), kind, ttl, write)
    }

    /// Adds a record of a name that was not written before.
    pub fn named_record(
        &mut self,
        section: Section,
        owner: &[u8],
        kind: Kind,
        ttl: u32,
        data: &[u8],
    ) -> Option<usize> {
        self.add(section, owner, kind, ttl, |to| to.bytes(data))
    }

    fn add(
        &mut self,
        section: Section,
        owner: &[u8],
        kind: Kind,
        ttl: u32,
        write: impl FnOnce(&mut Data<'_>),
    ) -> Option<usize> {
        if self.is_full {
            return None;
        }
        let mut data = Data { buffer: &mut self.buffer[..self.limit], at: self.length, fits: true };
        data.bytes(owner);
        data.number(kind.0);
        data.number(IN);
        data.long(ttl);
        data.number(0);
        let start = data.at;
        write(&mut data);
        let (end, fits) = (data.at, data.fits);
        if !fits {
            self.is_full = true;
            // Nobody asked for additional ones (RFC 2181, 9).
            if section != Section::Additional {
                self.buffer[2] |= TRUNCATED;
            }
            return None;
        }
        self.buffer[start - 2..start].copy_from_slice(&((end - start) as u16).to_be_bytes());
        self.length = end;
        self.counts[section as usize] += 1;
        Some(start)
    }

    /// Adds a record with an address.
    pub fn address(&mut self, section: Section, owner: Owner, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(ip) => {
                self.record(section, owner, Kind::A, ttl, |data| data.bytes(&ip.octets()))
            }
            IpAddr::V6(ip) => {
                self.record(section, owner, Kind::AAAA, ttl, |data| data.bytes(&ip.octets()))
            }
        };
    }

    /// Takes back all records that are additional, where one of them did not fit.
    fn drop_additional(&mut self, start: usize) {
        self.length = start;
        self.counts[Section::Additional as usize] = 0;
    }

    /// Adds additional records, all of them or none.
    pub fn additional(&mut self, write: impl FnOnce(&mut Self)) {
        if self.is_full {
            return;
        }
        let start = self.length;
        write(self);
        if self.is_full {
            self.drop_additional(start);
        }
    }

    /// Ends the answer. Answers how long it is.
    pub fn finish(mut self, code: Code) -> usize {
        self.buffer[3] |= code.0 & 0xf;
        for (at, count) in self.counts.iter().enumerate() {
            self.buffer[6 + 2 * at..8 + 2 * at].copy_from_slice(&count.to_be_bytes());
        }
        if self.edns {
            let [high, low] = (LARGEST as u16).to_be_bytes();
            let flags = if self.is_dnssec_ok { 0x80 } else { 0 };
            let opt = [0, 0, Kind::OPT.0 as u8, high, low, code.0 >> 4, 0, flags, 0, 0, 0];
            self.buffer[self.length..self.length + OPT].copy_from_slice(&opt);
            self.length += OPT;
            let additional = self.counts[Section::Additional as usize] + 1;
            self.buffer[10..12].copy_from_slice(&additional.to_be_bytes());
        }
        self.length
    }

    /// The name that was written at a place of some record's data, as the owner of further records; if it can be
    /// pointed to.
    pub fn owner_at(at: usize) -> Option<Owner> {
        u16::try_from(at).ok().filter(|at| *at < POINTER).map(Owner)
    }
}

/// The data of a record that is being written.
#[derive(Debug)]
pub struct Data<'b> {
    buffer: &'b mut [u8],
    at: usize,
    fits: bool,
}

impl Data<'_> {
    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.at..self.at + bytes.len()) {
            Some(to) if self.fits => {
                to.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            _ => self.fits = false,
        }
    }

    /// Adds a number.
    pub fn number(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    /// Adds a number of twice the length.
    pub fn long(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    /// Adds a label.
    pub fn label(&mut self, label: &[u8]) {
        self.bytes(&[label.len() as u8]);
        self.bytes(label);
    }

    /// Ends a name with what is at a place of the message (RFC 1035, 4.1.4).
    pub fn pointer(&mut self, to: usize) {
        self.number(POINTER | to as u16);
    }

    /// Ends a name with what the question's name ends with, letters as they were asked; `at` is where that begins in
    /// the message. It is repeated for those who don't take pointers (RFC 2782).
    pub fn end_of_question(&mut self, at: usize) {
        let Some(end) = self.buffer[at..].iter().position(|byte| *byte == 0) else { return };
        let length = end + 1;
        match self.at + length <= self.buffer.len() && self.fits {
            true => {
                self.buffer.copy_within(at..at + length, self.at);
                self.at += length;
            }
            false => self.fits = false,
        }
    }
}
