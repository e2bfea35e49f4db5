//! Connections that are translated at links: those that connection tracking has translated until now and that
//! go on as they are, and those that are over.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use kernel::conntrack::{self, Entry, Filter, Phase, Transport};
use kernel::netlink::{self, Socket};
use kernel::netns::Netns;
use kernel::nftables::Family;

use super::layout::{Hook, Translation, Tuple};
use super::marks;
use super::programs::{Tables, Translations};
use super::wire::Wire;
use crate::Result;

/// TCP's number in IP headers.
const TCP: u8 = 6;

/// A connection that is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// The protocol's number in IP headers.
    protocol: u8,
    client: SocketAddr,
    /// What the client has asked for.
    asked: SocketAddr,
    /// The endpoint.
    given: SocketAddr,
    /// Whom the endpoint sees.
    seen: SocketAddr,
    /// Number of the Service's port.
    port: u64,
    /// Its handshake is over.
    is_open: bool,
}

/// Takes over the tracked connections of a network namespace whose destination is translated and that are
/// ours: `port_of` answers the number of the Service's port by protocol and what was asked for. Answers how
/// many.
///
/// With `is_final` connection tracking forgets them: programs have to see packets by then. What it would track
/// from now on, from the client to the endpoint, has the same answers, so it would give the client another port.
pub(super) fn take_over(
    netns: &Netns,
    tables: &Tables,
    is_final: bool,
    port_of: impl Fn(u8, SocketAddr) -> Result<Option<u64>>,
) -> Result<usize> {
    let mut socket = netns.within(|| Socket::open(netlink::Protocol::Netfilter))??;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut taken = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let protocol = transport.number();
            let is_translated = |entry: &Entry| entry.reply.source != entry.original.destination;
            let all = Filter::all(family, transport);
            for entry in conntrack::entries(&mut socket, &all, is_translated)? {
                let Some(port) = port_of(protocol, entry.original.destination)? else { continue };
                let flow = Flow {
                    port,
                    is_open: entry.phase == Phase::Open,
                    protocol,
                    client: entry.original.source,
                    asked: entry.original.destination,
                    given: entry.reply.source,
                    seen: entry.reply.destination,
                };
                let is_over = entry.phase == Phase::Closed;
                taken.push(entry);
                if is_over {
                    continue;
                }
                for (tuple, translation) in flow.translations(now()) {
                    keys.push(tuple.to_bytes());
                    values.push(translation.to_bytes());
                }
            }
        }
    }
    // Where answers go first.
    let goes_to = keys.iter().map(|key| Tuple::get(key).destination.address);
    marks::add(&tables.marked, goes_to)?;
    tables.translations.put_all(&keys, &values)?;
    if is_final {
        for entry in &taken {
            conntrack::delete(&mut socket, entry)?;
        }
    }
    Ok(taken.len())
}

impl Flow {
    /// How its packets are changed where they come in: the client's, and answers to them.
    fn translations(&self, now: u64) -> [(Tuple, Translation); 2] {
        let Self { client, asked, given, seen, .. } = *self;
        let change = |comes: (SocketAddr, SocketAddr), goes: (SocketAddr, SocketAddr), flags| {
            let tuple = Tuple {
                source: comes.0.into(),
                destination: comes.1.into(),
                protocol: self.protocol,
                hook: Hook::Ingress,
                zero: 0,
            };
            let translation = Translation {
                source: goes.0.into(),
                destination: goes.1.into(),
                flags: flags | Translation::IS_TAKEN_OVER,
                zero: 0,
                port: self.port,
                seen: now,
            };
            (tuple, translation)
        };
        let progress = if self.is_open { Translation::IS_ESTABLISHED } else { 0 };
        [
            change((client, asked), (seen, given), Translation::IS_REQUEST | progress),
            change((given, seen), (asked, client), 0),
        ]
    }
}

/// A connection of which nothing was heard for that long is over: one of UDP, and one of TCP.
const SILENCE_UDP: Duration = Duration::from_secs(120);
const SILENCE_TCP: Duration = Duration::from_secs(3600);

/// How long a connection is not looked at.
const YOUTH: Duration = Duration::from_secs(1);

/// Forgets connections that are over, with all that is not of a connection any more. Answers how many are left.
pub(super) fn forget_ended(translations: &Translations) -> Result<usize> {
    let entries = translations.entries()?.into_iter();
    let all: HashMap<Tuple, Translation> =
        entries.map(|(key, value)| (Tuple::get(&key), Translation::get(&value))).collect();
    let (mut alive, mut over, mut count) = (HashSet::new(), HashSet::new(), 0);
    let is_first = |(key, value): &(&Tuple, &Translation)| {
        key.hook == Hook::Ingress && value.flags & Translation::IS_REQUEST != 0
    };
    for (first, value) in all.iter().filter(is_first) {
        let keys = keys_of(first, value);
        match is_alive(&keys, &all) {
            true => alive.extend(keys),
            false => over.extend(keys),
        }
        count += usize::from(alive.contains(first));
    }
    let is_gone = |(key, value): &(&Tuple, &Translation)| {
        // Of what has come while this was read a part may be missing.
        let is_loose = || !alive.contains(*key) && age_of(value) > YOUTH;
        over.contains(*key) && !alive.contains(*key) || is_loose()
    };
    let gone: Vec<_> = all.iter().filter(is_gone).map(|(key, _)| key.to_bytes()).collect();
    translations.delete_all(&gone)?;
    Ok(count)
}

/// Forgets all connections. Answers how many they were.
pub(super) fn forget_all(translations: &Translations) -> Result<usize> {
    let (mut keys, mut count) = (Vec::new(), 0);
    for (key, value) in translations.entries()? {
        let is_request = Translation::get(&value).flags & Translation::IS_REQUEST != 0;
        count += usize::from(is_request && Tuple::get(&key).hook == Hook::Ingress);
        keys.push(key);
    }
    translations.delete_all(&keys)?;
    Ok(count)
}

/// The keys of a connection, of which the first is known: where its packets come in, in both directions, and where
/// they leave.
fn keys_of(first: &Tuple, value: &Translation) -> [Tuple; 4] {
    let (client, given) = (first.source, value.destination);
    let going = Tuple { destination: given, hook: Hook::Egress, ..*first };
    let coming = Tuple { source: given, destination: client, hook: Hook::Egress, ..*first };
    let back = Tuple { source: given, destination: value.source, ..*first };
    [*first, back, going, coming]
}

fn is_alive(keys: &[Tuple], all: &HashMap<Tuple, Translation>) -> bool {
    let is_tcp = keys[0].protocol == TCP;
    let (mut requests, mut answers, mut seen) = (0, 0, 0);
    for known in keys.iter().filter_map(|key| all.get(key)) {
        match known.flags & Translation::IS_REQUEST != 0 {
            true => requests |= known.flags,
            false => answers |= known.flags,
        }
        seen = known.seen.max(seen);
    }
    let is_over = requests & answers & Translation::IS_CLOSING != 0
        || (requests | answers) & Translation::IS_RESET != 0;
    let silence = if is_tcp { SILENCE_TCP } else { SILENCE_UDP };
    !is_over && Duration::from_nanos(now().saturating_sub(seen)) < silence
}

fn age_of(value: &Translation) -> Duration {
    Duration::from_nanos(now().saturating_sub(value.seen))
}

/// Now, as programs have it.
fn now() -> u64 {
    kernel::machine::monotonic_nanoseconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(seen: &str) -> Flow {
        let at = |text: &str| text.parse().unwrap();
        Flow {
            protocol: TCP,
            client: at("192.0.2.2:40000"),
            asked: at("192.0.2.1:30080"),
            given: at("10.244.1.10:8080"),
            seen: at(seen),
            port: 7,
            is_open: true,
        }
    }

    #[test]
    fn what_goes_out_turned_round_is_the_key_of_the_other_direction() {
        for seen in ["192.0.2.1:1024", "192.0.2.2:40000"] {
            let both = flow(seen).translations(1);
            for (this, other) in [(0, 1), (1, 0)] {
                let goes = both[this].1;
                let turned =
                    Tuple { source: goes.destination, destination: goes.source, ..both[this].0 };
                assert_eq!(turned, both[other].0, "{seen}");
            }
            let keys = keys_of(&both[0].0, &both[0].1);
            assert!(both.iter().all(|(key, _)| keys.contains(key)));
        }
    }

    #[test]
    fn a_connection_is_over_when_both_ends_have_closed() {
        let [(request, mut there), (answer, mut back)] = flow("192.0.2.1:1024").translations(now());
        let is_alive = |there: Translation, back: Translation| {
            let all = HashMap::from([(request, there), (answer, back)]);
            is_alive(&keys_of(&request, &there), &all)
        };
        assert!(is_alive(there, back));
        there.flags |= Translation::IS_CLOSING;
        assert!(is_alive(there, back), "the other end may still send");
        back.flags |= Translation::IS_CLOSING;
        assert!(!is_alive(there, back));
    }
}
