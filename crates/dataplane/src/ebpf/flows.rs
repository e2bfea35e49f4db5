//! Connections that connection tracking has translated until now: they go on as they are.

use std::net::SocketAddr;

use kernel::conntrack::{self, Entry, Filter, Transport};
use kernel::netlink::{self, Socket};
use kernel::netns::Netns;
use kernel::nftables::Family;

use super::layout::{Endpoint, Hook, Translation, Tuple, Wire};
use super::programs::Translations;
use crate::Result;

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
}

/// Takes over the tracked connections of a network namespace whose destination is translated and that are
/// ours: `port_of` answers the number of the Service's port by protocol and what was asked for. Answers how
/// many.
pub(super) fn take_over(
    netns: &Netns,
    translations: &Translations,
    port_of: impl Fn(u8, SocketAddr) -> Result<Option<u64>>,
) -> Result<usize> {
    let mut socket = netns.within(|| Socket::open(netlink::Protocol::Netfilter))??;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut count = 0;
    for family in [Family::Ipv4, Family::Ipv6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let protocol = if transport == Transport::Tcp { 6 } else { 17 };
            let is_translated = |entry: &Entry| entry.reply.source != entry.original.destination;
            let all = Filter::all(family, transport);
            for entry in conntrack::entries(&mut socket, &all, is_translated)? {
                let Some(port) = port_of(protocol, entry.original.destination)? else { continue };
                let flow = Flow {
                    port,
                    protocol,
                    client: entry.original.source,
                    asked: entry.original.destination,
                    given: entry.reply.source,
                    seen: entry.reply.destination,
                };
                count += 1;
                for (tuple, translation) in flow.translations(now()) {
                    keys.push(tuple.to_bytes());
                    values.push(translation.to_bytes());
                }
            }
        }
    }
    translations.put_all(&keys, &values)?;
    Ok(count)
}

impl Flow {
    /// How its packets are changed.
    fn translations(&self, now: u64) -> Vec<(Tuple, Translation)> {
        let change = |source: SocketAddr, destination: SocketAddr, hook, to: SocketAddr, flags| {
            let (source, destination) = (Endpoint::from(source), Endpoint::from(destination));
            let tuple = Tuple { source, destination, protocol: self.protocol, hook, zero: 0 };
            (tuple, Translation { to: to.into(), flags, port: self.port, seen: now })
        };
        let request = Translation::IS_REQUEST | Translation::IS_ESTABLISHED;
        let Self { client, asked, given, seen, .. } = *self;
        let mut changes = vec![
            change(client, asked, Hook::Ingress, given, request),
            change(given, client, Hook::Egress, asked, 0),
        ];
        if seen != client {
            changes.push(change(client, given, Hook::Egress, seen, request));
            changes.push(change(given, seen, Hook::Ingress, client, 0));
        }
        changes
    }
}

/// Now, as programs have it.
fn now() -> u64 {
    kernel::machine::monotonic_nanoseconds()
}
