//! A line for a question, of all or of some: in the common format of CoreDNS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::tally::{CODES, KINDS};
use crate::wire::{Code, Query, Transport};

/// Which questions are written down.
#[derive(Debug, Default)]
pub struct QueryLog {
    /// One of so many; 0 for none.
    every: u32,
    count: AtomicU32,
}

/// Flags in a header's third and fourth byte, with their names.
const FLAGS: [(usize, u8, &str); 7] = [
    (2, 0x80, "qr"),
    (2, 0x04, "aa"),
    (2, 0x02, "tc"),
    (2, 0x01, "rd"),
    (3, 0x80, "ra"),
    (3, 0x20, "ad"),
    (3, 0x10, "cd"),
];

impl QueryLog {
    /// Writes one of so many down; 0 for none.
    pub fn one_of(every: u32) -> Self {
        Self { every, count: AtomicU32::new(0) }
    }

    /// Writes a question with its answer down, if it is its turn.
    pub(super) fn note(
        &self,
        question: &[u8],
        transport: Transport,
        from: Option<SocketAddr>,
        answer: &[u8],
        duration: Duration,
    ) {
        if self.every == 0 {
            return;
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        if !count.is_multiple_of(self.every) {
            return;
        }
        let Ok(query) = Query::read(question, transport) else { return };
        tracing::info!("{}", line(&query, from, answer, duration));
    }
}

fn line(query: &Query<'_>, from: Option<SocketAddr>, answer: &[u8], duration: Duration) -> String {
    let from = from.map_or_else(|| "-".to_owned(), |from| from.to_string());
    let id = u16::from_be_bytes([query.message[0], query.message[1]]);
    let kind = KINDS[..KINDS.len() - 1].iter().find(|(kind, _)| *kind == query.kind);
    let kind = kind.map_or_else(|| format!("TYPE{}", query.kind.0), |(_, name)| (*name).to_owned());
    let proto = match query.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    let is_dnssec_ok = query.edns.is_some_and(|edns| edns.is_dnssec_ok);
    let code = Code::of(answer).unwrap_or(Code::NO_ERROR);
    let code = CODES.iter().find(|(known, _)| *known == code).map_or("other", |(_, name)| name);
    let flags = FLAGS.iter().filter(|(at, bit, _)| answer.get(*at).is_some_and(|b| b & bit != 0));
    let flags: Vec<&str> = flags.map(|(_, _, name)| *name).collect();
    let room = query.edns.map_or(512, |edns| edns.size);
    format!(
        "{from} - {id} \"{kind} IN {} {proto} {} {is_dnssec_ok} {room}\" {code} {} {} {:.9}s",
        query.name,
        query.message.len(),
        flags.join(","),
        answer.len(),
        duration.as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_asked_what_and_what_came_of_it() {
        let question = b"\x00\x07\x01\x00\0\x01\0\0\0\0\0\0\x03Web\0\0\x1c\0\x01";
        let query = Query::read(question, Transport::Udp).unwrap();
        let mut answer = question.to_vec();
        (answer[2], answer[3]) = (0x85, 0x83);
        let from = Some("192.0.2.1:4000".parse().unwrap());
        assert_eq!(
            line(&query, from, &answer, Duration::from_micros(12)),
            "192.0.2.1:4000 - 7 \"AAAA IN web. udp 21 false 512\" NXDOMAIN qr,aa,rd,ra 21 0.000012000s"
        );
    }
}
