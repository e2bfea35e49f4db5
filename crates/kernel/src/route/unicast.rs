//! Unicast routes of the main table.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::{Rtnetlink, family, ip, malformed, octets, was_there};
use crate::Result;
use crate::netlink::{Encoder, attributes, flags};

/// Length of `struct rtmsg`.
const HEADER: usize = 12;
/// The gateway is on the link even if no address of the link says so (`linux/rtnetlink.h`).
const RTNH_F_ONLINK: u32 = 4;

/// Where packets of a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// Straight to their destination, which is on the link of this index.
    Link(u32),
    /// To a router.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// The link that it is on; `None` lets the kernel find it. Listed routes always have it.
        link: Option<u32>,
        /// Don't ask whether the router is reachable by the link's addresses. Needs `link`.
        onlink: bool,
    },
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere; the sender is told so.
    Unreachable,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destinations that it is for.
    pub destination: IpNet,
    /// Where they go.
    pub next_hop: NextHop,
    /// Who made it (`RTPROT_*`): a number that lets its maker find it again.
    pub protocol: u8,
    /// Source address of packets that the host itself sends this way, if it has no other.
    pub source: Option<IpAddr>,
    /// Order among routes for the same destination, smaller first. IPv6 reads 0 as 1024.
    pub metric: u32,
}

impl Route {
    /// A route to `destination` by `next_hop`, tagged `protocol`.
    pub fn new(destination: IpNet, next_hop: NextHop, protocol: u8) -> Self {
        Self { destination, next_hop, protocol, source: None, metric: 0 }
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, scope, onlink) = match self.next_hop {
            NextHop::Link(_) => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK, false),
            NextHop::Gateway { onlink, .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE, onlink),
            NextHop::Blackhole => (libc::RTN_BLACKHOLE, libc::RT_SCOPE_UNIVERSE, false),
            NextHop::Unreachable => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE, false),
        };
        let mut header = [0; HEADER];
        header[0] = family(self.destination.addr());
        header[1] = self.destination.prefix_len();
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = self.protocol;
        header[6] = scope;
        header[7] = kind;
        header[8..].copy_from_slice(&(if onlink { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
        let mut request = Encoder::new();
        request.raw(&header);
        request.attribute(libc::RTA_DST, &octets(self.destination.addr()));
        let (gateway, link) = match self.next_hop {
            NextHop::Link(link) => (None, Some(link)),
            NextHop::Gateway { address, link, .. } => (Some(address), link),
            NextHop::Blackhole | NextHop::Unreachable => (None, None),
        };
        match gateway {
            // RFC 5549: an IPv4 route by an IPv6 router names the router's family.
            Some(gateway) if gateway.is_ipv6() != self.destination.addr().is_ipv6() => {
                let family = u16::from(family(gateway)).to_ne_bytes();
                request.attribute(libc::RTA_VIA, &[&family[..], &octets(gateway)].concat());
            }
            Some(gateway) => request.attribute(libc::RTA_GATEWAY, &octets(gateway)),
            None => {}
        }
        if let Some(link) = link {
            request.u32(libc::RTA_OIF, link);
        }
        if let Some(source) = self.source {
            request.attribute(libc::RTA_PREFSRC, &octets(source));
        }
        if self.metric != 0 {
            request.u32(libc::RTA_PRIORITY, self.metric);
        }
        request.into_bytes()
    }

    /// Reads a listed route. `Some(None)` is one of a kind that is not told of here: of another
    /// table, local, multicast, or with several next hops.
    fn parse(payload: &[u8]) -> Option<Option<Self>> {
        let header = payload.first_chunk::<HEADER>()?;
        let is_v4 = header[0] == u8::try_from(libc::AF_INET).ok()?;
        let mut table = u32::from(header[4]);
        let mut destination = if is_v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0u8; 16]) };
        let (mut gateway, mut link, mut source, mut metric) = (None, None, None, 0);
        for attribute in attributes(&payload[HEADER..]) {
            match attribute.kind {
                libc::RTA_TABLE => table = attribute.u32()?,
                libc::RTA_DST => destination = ip(attribute)?,
                libc::RTA_GATEWAY => gateway = Some(ip(attribute)?),
                libc::RTA_VIA => {
                    let value = attribute.value.get(2..)?;
                    gateway = Some(ip(crate::netlink::Attribute { value, ..attribute })?);
                }
                libc::RTA_OIF => link = attribute.u32(),
                libc::RTA_PREFSRC => source = Some(ip(attribute)?),
                libc::RTA_PRIORITY => metric = attribute.u32()?,
                _ => {}
            }
        }
        let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let next_hop = match (header[7], gateway, link) {
            (libc::RTN_UNICAST, Some(address), link) => {
                NextHop::Gateway { address, link, onlink: flags & RTNH_F_ONLINK != 0 }
            }
            (libc::RTN_UNICAST, None, Some(link)) => NextHop::Link(link),
            (libc::RTN_BLACKHOLE, ..) => NextHop::Blackhole,
            (libc::RTN_UNREACHABLE, ..) => NextHop::Unreachable,
            _ => return Some(None),
        };
        if table != u32::from(libc::RT_TABLE_MAIN) {
            return Some(None);
        }
        let destination = IpNet::new(destination, header[1]).ok()?;
        Some(Some(Self { destination, next_hop, protocol: header[5], source, metric }))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.destination)?;
        match self.next_hop {
            NextHop::Link(link) => write!(f, " on link {link}"),
            NextHop::Gateway { address, .. } => write!(f, " via {address}"),
            NextHop::Blackhole => f.write_str(" to nowhere"),
            NextHop::Unreachable => f.write_str(" unreachable"),
        }
    }
}

impl Rtnetlink {
    /// The routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let operation = "list routes";
        let messages = self.socket.dump(operation, libc::RTM_GETROUTE, &[0; HEADER])?;
        let routes = messages.iter().filter(|m| m.kind == libc::RTM_NEWROUTE);
        routes
            .filter_map(|m| {
                Route::parse(&m.payload).ok_or_else(|| malformed(operation)).transpose()
            })
            .collect()
    }

    /// Adds a route, in place of one to the same destination with the same metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let how = flags::CREATE | flags::REPLACE;
        self.socket.request(&format!("set {route}"), libc::RTM_NEWROUTE, how, &route.encode())
    }

    /// Deletes a route. Answers whether it was there.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool> {
        let operation = format!("delete {route}");
        let result = self.socket.request(&operation, libc::RTM_DELROUTE, 0, &route.encode());
        was_there(result, &[libc::ESRCH, libc::ENODEV])
    }
}
