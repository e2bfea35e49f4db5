//! An answer of others, to be given to whoever asks the same.

use std::time::Duration;

use crate::wire::{
    AUTHORITATIVE, Code, HEADER, Kind, Query, Response, TRUNCATED, question_end, records,
};

/// Bits of the fourth byte of a header: signatures were checked, or are not to be.
const AUTHENTIC: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
/// What is taken from the client's header.
const DESIRED: u8 = 0x01;

/// An answer without what is said between two neighbours (EDNS).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    message: Box<[u8]>,
    /// Where times to live are.
    ttls: Box<[u16]>,
    /// How long it may be kept, as it says; `None` if it says nothing of it.
    pub(crate) ttl: Option<Duration>,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    /// There is something.
    Success,
    /// There is nothing.
    Denial,
    /// It could not be found out.
    Failure,
    /// It is not whole, or something else.
    Other,
}

impl Stored {
    /// Takes an answer apart; `None` if that can't be done.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let is_whole = question_end(message).is_some() && message.len() <= usize::from(u16::MAX);
        if !is_whole || message[4..6] != [0, 1] {
            return None;
        }
        let (mut ttls, mut least, mut end) = (Vec::new(), None::<u32>, message.len());
        let mut edns = false;
        for record in records(message) {
            let record = record?;
            // What comes after it may point into it.
            if edns {
                return None;
            }
            if record.kind == Kind::OPT {
                edns = true;
                end = record.place().0;
                continue;
            }
            ttls.push(u16::try_from(record.ttl_at).ok()?);
            let minimum = record.minimum().filter(|_| record.section == 1);
            for ttl in [Some(record.ttl), minimum].into_iter().flatten() {
                // With its first bit set it is 0 (RFC 2181, 8).
                let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
                least = Some(least.map_or(ttl, |least| least.min(ttl)));
            }
        }
        let mut message: Box<[u8]> = message[..end].into();
        if edns {
            let count = u16::from_be_bytes([message[10], message[11]]).checked_sub(1)?;
            message[10..12].copy_from_slice(&count.to_be_bytes());
        }
        let ttl = least.map(|seconds| Duration::from_secs(seconds.into()));
        Some(Self { message, ttls: ttls.into(), ttl })
    }

    /// What it says.
    pub(crate) fn sense(&self) -> Sense {
        let has_answers = self.message[6..8] != [0, 0];
        match Code(self.message[3] & 0xf) {
            _ if self.message[2] & TRUNCATED != 0 => Sense::Other,
            Code::NO_ERROR if has_answers => Sense::Success,
            // Without a SOA record it is no denial, but says where to go on.
            Code::NO_ERROR | Code::NO_NAME if self.has_soa() => Sense::Denial,
            Code::SERVER_FAILURE => Sense::Failure,
            _ => Sense::Other,
        }
    }

    fn has_soa(&self) -> bool {
        let mut records = records(&self.message).flatten();
        records.any(|record| record.section == 1 && record.kind == Kind::SOA)
    }

    /// Writes it as an answer to a query about the same, after `age`; times to live are `most` at most. What does
    /// not fit is left to a stream.
    pub(crate) fn answer(
        &self,
        query: &Query<'_>,
        age: Duration,
        most: Duration,
        buffer: &mut [u8],
    ) -> usize {
        let question = query.question();
        let mut response = Response::to(query, buffer);
        response.set_recursion_available();
        let code = Code(self.message[3] & 0xf);
        let end = HEADER + question.len();
        let fits = self.message.get(end..).is_some_and(|rest| response.append(rest));
        if !fits {
            response.set_truncated();
            return response.finish(code);
        }
        let counts = |at| u16::from_be_bytes([self.message[at], self.message[at + 1]]);
        response.set_counts([counts(6), counts(8), counts(10)]);
        let length = response.finish(code);
        let is_authentic = self.message[3] & AUTHENTIC != 0 && query.takes_authentic();
        buffer[2] |= self.message[2] & TRUNCATED;
        buffer[2] &= !AUTHORITATIVE;
        buffer[3] |= if is_authentic { AUTHENTIC } else { 0 };
        let (age, most) = (seconds(age), seconds(most));
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let Some(place) = buffer.get_mut(at..at + 4) else { continue };
            let ttl = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
            let left = ttl.saturating_sub(age).min(most);
            place.copy_from_slice(&left.to_be_bytes());
        }
        length
    }
}

/// What a client says in its header that an answer depends on.
pub(crate) fn flags_of(query: &Query<'_>) -> u8 {
    query.message[3] & CHECKING_DISABLED | query.message[2] & DESIRED
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
