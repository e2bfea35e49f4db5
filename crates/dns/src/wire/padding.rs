//! How long a query is says something of what it asks, also if nobody can read it.

use super::query::number;
use super::{HEADER, Kind, question_end};

/// What lengths are multiples of (RFC 8467, 4.1).
const BLOCK: usize = 128;
/// The option (RFC 7830), and how long it is without what it is for.
const PADDING: u16 = 12;
const OPTION: usize = 4;
/// From the start of an OPT record to the length of its options, and to those.
const LENGTH: usize = 9;
const OPTIONS: usize = 11;

/// A query, filled up to the length of many others if it has EDNS, whose record is its only one then.
pub(crate) fn padded(query: &[u8]) -> Vec<u8> {
    let mut padded = query.to_vec();
    let Some(at) = options_length(query) else { return padded };
    let fill = (query.len() + OPTION).next_multiple_of(BLOCK) - query.len() - OPTION;
    let options = query.len() - at - 2 + OPTION + fill;
    let (Ok(fill), Ok(options)) = (u16::try_from(fill), u16::try_from(options)) else {
        return padded;
    };
    padded[at..at + 2].copy_from_slice(&options.to_be_bytes());
    padded.extend([PADDING.to_be_bytes(), fill.to_be_bytes()].concat());
    padded.resize(padded.len() + usize::from(fill), 0);
    padded
}

/// Where a query has the length of its options, which are at its end.
fn options_length(query: &[u8]) -> Option<usize> {
    let at = question_end(query)?;
    let is_only_record = query[4..HEADER] == [0, 1, 0, 0, 0, 0, 0, 1];
    let is_options = query.get(at) == Some(&0) && number(query, at + 1)? == Kind::OPT.0;
    let length = usize::from(number(query, at + LENGTH)?);
    let is_whole = at + OPTIONS + length == query.len();
    (is_only_record && is_options && is_whole).then_some(at + LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Query, Transport};

    #[test]
    fn queries_with_edns_are_of_the_same_length() {
        let plain = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        assert_eq!(padded(plain), plain);
        let short = Query::read(plain, Transport::Udp).unwrap().onward();
        // Among them are such as have no room for the option in their last block.
        for length in 1..=63 {
            let label = |length: u8| [vec![length], vec![b'x'; length.into()]].concat();
            let name = [label(60), label(length)].concat();
            let query = [&short[..HEADER], &name, &short[HEADER + 4..]].concat();
            let padded = padded(&query);
            assert_eq!(padded.len() % BLOCK, 0, "{length}");
            assert!(padded.len() < query.len() + OPTION + BLOCK, "{length}");
            let read = Query::read(&padded, Transport::Tcp).unwrap();
            assert!(read.edns.is_some() && !read.has_options(), "{length}");
            assert_eq!(read.onward(), query, "{length}");
        }
    }
}
