//! Connection tracking: listing connections and forgetting them.
//!
//! Formats are those of `linux/netfilter/nfnetlink_conntrack.h`. Which connections are stale is
//! somebody else's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

use crate::Result;
use crate::netlink::{Attribute, Encoder, Socket, attributes};
use crate::nftables::Family;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// `enum tcp_conntrack`.
const SYN_SENT: u8 = 1;
const SYN_RECEIVED: u8 = 2;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;
const SYN_SENT_BY_BOTH: u8 = 9;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_CTA_IP_DST: u32 = 1 << 1;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Protocols with ports that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its protocol.
    pub transport: Transport,
    /// Addresses of its first packet as it was sent.
    pub original: Tuple,
    /// Addresses of its answers as they are sent: the source is where it really leads.
    pub reply: Tuple,
    /// How far it is.
    pub phase: Phase,
    id: u32,
    zone: Option<u16>,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// TCP that is in its handshake.
    Opening,
    /// It goes on; all of UDP does.
    Open,
    /// TCP that both ends have closed, or one of them has reset.
    Closed,
}

/// Addresses of packets in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
}

/// Which connections are meant, by their first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Family of its addresses.
    pub family: Family,
    /// Its protocol.
    pub transport: Transport,
    /// Where it was sent; `None` for anywhere. Of the filter's family.
    pub address: Option<IpAddr>,
    /// The port it was sent to; `None` for any.
    pub port: Option<u16>,
}

impl Filter {
    /// All connections of a family and protocol.
    pub fn all(family: Family, transport: Transport) -> Self {
        Self { family, transport, address: None, port: None }
    }

    fn matches(&self, entry: &Entry) -> bool {
        let destination = entry.original.destination;
        entry.transport == self.transport
            && self.address.is_none_or(|address| destination.ip() == address)
            && self.port.is_none_or(|port| destination.port() == port)
    }

    fn encode(&self, request: &mut Encoder) {
        request.raw(&[self.family.number(), 0, 0, 0]);
        let mut flags = CTA_FILTER_F_CTA_PROTO_NUM;
        request.nested(CTA_TUPLE_ORIG, |tuple| {
            // The kernel takes every IPv6 address but the wanted one (ctnetlink_filter_match_tuple()
            // reads the outcome of ipv6_addr_cmp() the wrong way round), so it gets none.
            if let Some(address @ IpAddr::V4(_)) = self.address {
                flags |= CTA_FILTER_F_CTA_IP_DST;
                tuple.nested(CTA_TUPLE_IP, |e| {
                    encode_address(e, CTA_IP_V4_DST, CTA_IP_V6_DST, address);
                });
            }
            tuple.nested(CTA_TUPLE_PROTO, |e| {
                e.u8(CTA_PROTO_NUM, self.transport.number());
                if let Some(port) = self.port {
                    flags |= CTA_FILTER_F_CTA_PROTO_DST_PORT;
                    e.be16(CTA_PROTO_DST_PORT, port);
                }
            });
        });
        request.nested(CTA_FILTER, |filter| {
            filter.u32(CTA_FILTER_ORIG_FLAGS, flags);
            filter.u32(CTA_FILTER_REPLY_FLAGS, 0);
        });
    }
}

/// The tracked connections that `filter` means and `is_wanted`, which sees each once, takes. The kernel filters (since 5.8),
/// and only what is wanted is kept.
pub fn entries(
    socket: &mut Socket,
    filter: &Filter,
    mut is_wanted: impl FnMut(&Entry) -> bool,
) -> Result<Vec<Entry>> {
    let operation = format!("list tracked {:?} connections", filter.transport);
    let mut request = Encoder::new();
    filter.encode(&mut request);
    let kind = message_type(IPCTNL_MSG_CT_GET);
    let mut wanted = Vec::new();
    // Connections come and go while they are listed; those that stay are all there.
    socket.stream(&operation, kind, request.bytes(), |message| {
        let entry = message.payload.get(4..).and_then(Entry::decode);
        wanted.extend(entry.filter(|entry| filter.matches(entry) && is_wanted(entry)));
    })?;
    Ok(wanted)
}

/// Forgets a connection: its next packet begins a new one. Answers whether it was still there.
pub fn delete(socket: &mut Socket, entry: &Entry) -> Result<bool> {
    let operation = format!(
        "forget the {:?} connection from {} to {}",
        entry.transport, entry.original.source, entry.original.destination
    );
    let family = match entry.original.source {
        SocketAddr::V4(_) => Family::Ipv4,
        SocketAddr::V6(_) => Family::Ipv6,
    };
    let mut request = Encoder::new();
    request.raw(&[family.number(), 0, 0, 0]);
    request.nested(CTA_TUPLE_ORIG, |tuple| entry.original.encode(tuple, entry.transport));
    request.be32(CTA_ID, entry.id);
    if let Some(zone) = entry.zone {
        request.be16(CTA_ZONE, zone);
    }
    match socket.request(&operation, message_type(IPCTNL_MSG_CT_DELETE), 0, request.bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Forgets the connections that `filter` means and `is_stale` says are; answers how many.
pub fn delete_stale(
    socket: &mut Socket,
    filter: &Filter,
    is_stale: impl Fn(&Entry) -> bool,
) -> Result<usize> {
    let mut deleted = 0;
    for entry in &entries(socket, filter, is_stale)? {
        deleted += usize::from(delete(socket, entry)?);
    }
    Ok(deleted)
}

impl Transport {
    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Transport::Tcp, Transport::Udp].into_iter().find(|t| t.number() == number)
    }
}

impl Entry {
    fn decode(body: &[u8]) -> Option<Self> {
        let find = |kind| attributes(body).find(|a| a.kind == kind);
        let (transport, original) = Tuple::decode(find(CTA_TUPLE_ORIG)?)?;
        let (_, reply) = Tuple::decode(find(CTA_TUPLE_REPLY)?)?;
        Some(Self {
            transport,
            original,
            reply,
            phase: find(CTA_PROTOINFO)
                .and_then(|info| info.nested().find(|a| a.kind == CTA_PROTOINFO_TCP))
                .and_then(|tcp| tcp.nested().find(|a| a.kind == CTA_PROTOINFO_TCP_STATE)?.u8())
                .map_or(Phase::Open, |state| match state {
                    SYN_SENT | SYN_RECEIVED | SYN_SENT_BY_BOTH => Phase::Opening,
                    TIME_WAIT | CLOSE => Phase::Closed,
                    _ => Phase::Open,
                }),
            id: find(CTA_ID)?.be32()?,
            zone: find(CTA_ZONE).and_then(Attribute::be16),
        })
    }
}

impl Tuple {
    fn decode(tuple: Attribute<'_>) -> Option<(Transport, Self)> {
        let find = |kind| tuple.nested().find(|a| a.kind == kind);
        let addresses = find(CTA_TUPLE_IP)?;
        let ports = find(CTA_TUPLE_PROTO)?;
        let address = |kind_v4, kind_v6| {
            addresses.nested().find_map(|a| match a.kind {
                kind if kind == kind_v4 => {
                    Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(a.value).ok()?)))
                }
                kind if kind == kind_v6 => {
                    Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(a.value).ok()?)))
                }
                _ => None,
            })
        };
        let port = |kind| ports.nested().find(|a| a.kind == kind)?.be16();
        let number = ports.nested().find(|a| a.kind == CTA_PROTO_NUM)?.u8()?;
        let tuple = Self {
            source: SocketAddr::new(
                address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
                port(CTA_PROTO_SRC_PORT)?,
            ),
            destination: SocketAddr::new(
                address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
                port(CTA_PROTO_DST_PORT)?,
            ),
        };
        Some((Transport::from_number(number)?, tuple))
    }

    fn encode(&self, tuple: &mut Encoder, transport: Transport) {
        tuple.nested(CTA_TUPLE_IP, |e| {
            encode_address(e, CTA_IP_V4_SRC, CTA_IP_V6_SRC, self.source.ip());
            encode_address(e, CTA_IP_V4_DST, CTA_IP_V6_DST, self.destination.ip());
        });
        tuple.nested(CTA_TUPLE_PROTO, |e| {
            e.u8(CTA_PROTO_NUM, transport.number());
            e.be16(CTA_PROTO_SRC_PORT, self.source.port());
            e.be16(CTA_PROTO_DST_PORT, self.destination.port());
        });
    }
}

fn encode_address(e: &mut Encoder, kind_v4: u16, kind_v6: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => e.attribute(kind_v4, &address.octets()),
        IpAddr::V6(address) => e.attribute(kind_v6, &address.octets()),
    }
}

fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_CTNETLINK << 8) | message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn tuples_read_back_as_written() {
        for (source, destination) in
            [("192.0.2.1:4000", "10.96.0.10:53"), ("[2001:db8::1]:4000", "[fd00::10]:53")]
        {
            let tuple =
                Tuple { source: socket_address(source), destination: socket_address(destination) };
            let mut encoder = Encoder::new();
            encoder.nested(CTA_TUPLE_ORIG, |e| tuple.encode(e, Transport::Udp));
            let attribute = attributes(encoder.bytes()).next().unwrap();
            assert_eq!(Tuple::decode(attribute), Some((Transport::Udp, tuple)));
        }
    }
}
