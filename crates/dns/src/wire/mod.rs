//! DNS messages (RFC 1035; EDNS of RFC 6891), as bytes.
//!
//! A [`Query`] is read where it lies, and an answer is written where it is to lie: neither takes memory. What this
//! does not know: what names mean.

mod name;
mod padding;
mod query;
mod records;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use name::to_wire;
pub use name::{BadName, Name, Wire};
pub(crate) use padding::padded;
pub(crate) use query::question_end;
pub use query::{Edns, NotAnswered, Query, Transport};
pub use records::{Record, records};
pub(crate) use response::{AUTHORITATIVE, TRUNCATED};
pub use response::{Data, Owner, Response, Section};

/// Length of a message's header.
pub const HEADER: usize = 12;
/// What is sent at most in a datagram: what passes any link without fragments (DNS Flag Day 2020).
pub const LARGEST: usize = 1232;
/// What fits in a datagram for a client that says nothing of it.
const SMALLEST: usize = 512;

/// Class IN, the only one.
const IN: u16 = 1;

/// Types of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

#[expect(missing_docs, reason = "they have the names that the protocol has for them")]
impl Kind {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const OPT: Self = Self(41);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
}

/// What became of a question. Those above 15 take EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u8);

impl Code {
    /// No error.
    pub const NO_ERROR: Self = Self(0);
    /// The message can't be read.
    pub const FORMAT: Self = Self(1);
    /// The server could not find out.
    pub const SERVER_FAILURE: Self = Self(2);
    /// The name does not exist.
    pub const NO_NAME: Self = Self(3);
    /// This server does not do that.
    pub const NOT_IMPLEMENTED: Self = Self(4);
    /// This server does not want that.
    pub const REFUSED: Self = Self(5);
    /// An EDNS version that is not known here.
    pub const BAD_VERSION: Self = Self(16);

    /// That of a message's header; `None` if it is shorter.
    pub fn of(message: &[u8]) -> Option<Self> {
        message.get(3).filter(|_| message.len() >= HEADER).map(|byte| Self(byte & 0x0f))
    }
}
