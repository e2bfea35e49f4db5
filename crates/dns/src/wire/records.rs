//! Reading the records of what others have answered.

use super::name::{Wire, expand, skip};
use super::query::number;
use super::{HEADER, Kind};

/// Length of the numbers behind the names of a SOA.
const SOA_NUMBERS: usize = 20;

/// A record of a message.
#[derive(Debug, Clone, Copy)]
pub struct Record<'m> {
    message: &'m [u8],
    /// Where its name is.
    owner: usize,
    /// 0 for answers, 1 for authority, 2 for additional.
    pub section: usize,
    /// Its type.
    pub kind: Kind,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Where its time to live is.
    pub ttl_at: usize,
    /// Where its data is, and where it ends.
    data: (usize, usize),
}

impl<'m> Record<'m> {
    /// Whose it is, letters as they were written.
    pub fn owner(&self) -> Option<Wire> {
        expand(self.message, self.owner).map(|(name, _)| name)
    }

    /// Its data, in which names may be pointers.
    pub fn data(&self) -> &'m [u8] {
        &self.message[self.data.0..self.data.1]
    }

    /// The name that its data begins with.
    pub fn target(&self) -> Option<Wire> {
        self.name_behind(0)
    }

    /// The name in its data that is behind so many bytes.
    pub fn name_behind(&self, length: usize) -> Option<Wire> {
        expand(self.message, self.data.0 + length).map(|(name, _)| name)
    }

    /// The last field of a SOA: how long it may be believed that there is nothing (RFC 2308, 4).
    pub fn minimum(&self) -> Option<u32> {
        let last = self.data().last_chunk()?;
        (self.kind == Kind::SOA).then_some(u32::from_be_bytes(*last))
    }

    /// The data of a SOA with its names written out: two of them, and five numbers (RFC 1035, 3.3.13).
    pub fn whole_soa(&self) -> Option<Vec<u8>> {
        let (master, end) = expand(self.message, self.data.0)?;
        let (mailbox, end) = expand(self.message, end)?;
        let numbers = self.message.get(end..self.data.1).filter(|it| it.len() == SOA_NUMBERS)?;
        (self.kind == Kind::SOA).then(|| [&master, &mailbox, numbers].concat())
    }

    /// Where it begins and ends in the message.
    pub fn place(&self) -> (usize, usize) {
        (self.owner, self.data.1)
    }
}

/// The records of a message, up to one that can't be read, which is `None`.
pub fn records(message: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut state = begin(message);
    std::iter::from_fn(move || {
        let (at, counts) = state.as_mut()?;
        let section = counts.iter().position(|count| *count > 0)?;
        let read = read(message, *at, section);
        match &read {
            Some(record) => {
                *at = record.data.1;
                counts[section] -= 1;
            }
            None => state = None,
        }
        Some(read)
    })
}

/// Where the first record is, and how many there are; nothing of what has no header or no whole question.
fn begin(message: &[u8]) -> Option<(usize, [u16; 3])> {
    let count = |place: usize| number(message, 4 + 2 * place);
    let mut at = HEADER;
    for _ in 0..count(0)? {
        at = skip(message, at)? + 4;
    }
    Some((at, [count(1)?, count(2)?, count(3)?]))
}

fn read(message: &[u8], owner: usize, section: usize) -> Option<Record<'_>> {
    let at = skip(message, owner)?;
    let kind = Kind(number(message, at)?);
    let ttl = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
    let start = at + 10;
    let end = start + usize::from(number(message, at + 8)?);
    (end <= message.len()).then_some(Record {
        message,
        owner,
        section,
        kind,
        ttl,
        ttl_at: at + 4,
        data: (start, end),
    })
}
