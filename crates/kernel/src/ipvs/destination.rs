//! Destinations of virtual servers: their values, and how they are written and read.

use std::net::SocketAddr;

use super::{family, family_of, ip, octets, uapi};
use crate::netlink::{Attribute, Encoder};
use crate::nftables::Family;

/// A destination: it gets connections by masquerading (NAT), which alone can change a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Where it is; what tells it from the other destinations of its server. Port 0 keeps the port
    /// that the client has asked for.
    pub address: SocketAddr,
    /// Its share, where the scheduler has weights. 0 gives it no new connections, and lets those it
    /// has go on; a persistent server still leads clients that it knows to it, unless the sysctl
    /// `net/ipv4/vs/expire_quiescent_template` is 1. Above `i32::MAX` the kernel refuses it with `ERANGE`.
    pub weight: u32,
}

/// A destination as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationState {
    /// Which it is.
    pub destination: Destination,
    /// Whether it gets connections by masquerading. Others may have made it with tunneling or direct
    /// routing, or with a bound on its connections; `ChangeDestination` makes it so.
    pub is_plain: bool,
    /// Connections that are established.
    pub active: u32,
    /// Connections that begin or end, and those of UDP.
    pub inactive: u32,
    /// Clients that are led to it for a while (persistence).
    pub persistent: u32,
}

impl Destination {
    /// Writes all attributes: the kernel takes no destination that lacks one.
    pub(super) fn encode(&self, to: &mut Encoder) {
        encode_address(self.address, to);
        to.u32(uapi::IPVS_DEST_ATTR_FWD_METHOD, uapi::IP_VS_CONN_F_MASQ);
        to.u32(uapi::IPVS_DEST_ATTR_WEIGHT, self.weight);
        // No bounds on its connections.
        to.u32(uapi::IPVS_DEST_ATTR_U_THRESH, 0);
        to.u32(uapi::IPVS_DEST_ATTR_L_THRESH, 0);
    }
}

/// Writes the attributes that tell which destination is meant.
pub(super) fn encode_address(address: SocketAddr, to: &mut Encoder) {
    to.attribute(uapi::IPVS_DEST_ATTR_ADDR, &octets(address.ip()));
    to.be16(uapi::IPVS_DEST_ATTR_PORT, address.port());
    let family = family_of(address.ip()).number();
    to.u16(uapi::IPVS_DEST_ATTR_ADDR_FAMILY, family.into());
}

impl DestinationState {
    /// Reads a listed destination of a server of that family: kernels before 3.18 don't tell that of
    /// the destination, which has to be the same there.
    pub(super) fn decode(destination: Attribute<'_>, server_family: Family) -> Option<Self> {
        let find = |kind| destination.nested().find(|a| a.kind == kind);
        let number = |kind| find(kind)?.u32();
        let family = match find(uapi::IPVS_DEST_ATTR_ADDR_FAMILY) {
            Some(attribute) => family(attribute)?,
            None => server_family,
        };
        let address = ip(find(uapi::IPVS_DEST_ATTR_ADDR)?, family)?;
        let port = find(uapi::IPVS_DEST_ATTR_PORT)?.be16()?;
        let weight = number(uapi::IPVS_DEST_ATTR_WEIGHT)?;
        let is_unbounded = number(uapi::IPVS_DEST_ATTR_U_THRESH)? == 0
            && number(uapi::IPVS_DEST_ATTR_L_THRESH)? == 0;
        let method = number(uapi::IPVS_DEST_ATTR_FWD_METHOD)?;
        Some(Self {
            destination: Destination { address: SocketAddr::new(address, port), weight },
            is_plain: method == uapi::IP_VS_CONN_F_MASQ && is_unbounded,
            active: number(uapi::IPVS_DEST_ATTR_ACTIVE_CONNS)?,
            inactive: number(uapi::IPVS_DEST_ATTR_INACT_CONNS)?,
            persistent: number(uapi::IPVS_DEST_ATTR_PERSIST_CONNS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    /// Attribute of a destination's counters, which are not read here.
    const IPVS_DEST_ATTR_STATS: u16 = 10;

    fn destinations() -> [Destination; 2] {
        ["10.244.1.2:8080", "[fd00:1::2]:0"]
            .map(|address| Destination { address: address.parse().unwrap(), weight: 7 })
    }

    /// What the kernel lists beyond what it was given.
    fn encode_counts(to: &mut Encoder) {
        to.u32(uapi::IPVS_DEST_ATTR_ACTIVE_CONNS, 3);
        to.u32(uapi::IPVS_DEST_ATTR_INACT_CONNS, 4);
        to.u32(uapi::IPVS_DEST_ATTR_PERSIST_CONNS, 5);
    }

    fn decode(body: impl FnOnce(&mut Encoder), family: Family) -> Option<DestinationState> {
        let mut encoder = Encoder::new();
        encoder.nested(uapi::IPVS_CMD_ATTR_DEST, body);
        DestinationState::decode(attributes(encoder.bytes()).next().unwrap(), family)
    }

    #[test]
    fn destinations_read_back_as_written() {
        for destination in destinations() {
            let state = decode(
                |e| {
                    e.nested(IPVS_DEST_ATTR_STATS, |e| e.u32(1, 7));
                    destination.encode(e);
                    encode_counts(e);
                    e.u32(99, 7);
                },
                // That of the destination goes before that of its server.
                Family::Ipv4,
            );
            let expected = DestinationState {
                destination,
                is_plain: true,
                active: 3,
                inactive: 4,
                persistent: 5,
            };
            assert_eq!(state, Some(expected));
        }
    }

    #[test]
    fn the_wire_is_that_of_the_header() {
        let mut encoder = Encoder::new();
        destinations()[0].encode(&mut encoder);
        let mut expected = Encoder::new();
        expected.attribute(1, &[10, 244, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.attribute(2, &[31, 144]);
        expected.attribute(11, &2u16.to_ne_bytes());
        expected.attribute(3, &0u32.to_ne_bytes());
        expected.attribute(4, &7u32.to_ne_bytes());
        expected.attribute(5, &[0; 4]);
        expected.attribute(6, &[0; 4]);
        assert_eq!(encoder.bytes(), expected.bytes());
    }

    #[test]
    fn a_cut_destination_is_none() {
        let mut whole = Encoder::new();
        destinations()[1].encode(&mut whole);
        encode_counts(&mut whole);
        for length in 0..whole.len() {
            let value = &whole.bytes()[..length];
            let cut = Attribute { kind: uapi::IPVS_CMD_ATTR_DEST, value };
            assert_eq!(DestinationState::decode(cut, Family::Ipv6), None, "{length} bytes");
        }
    }

    #[test]
    fn tunnels_and_bounds_are_told_from_what_is_made_here() {
        for (method, bound) in [(2, 0), (3, 0), (0, 100)] {
            let state = decode(
                |e| {
                    encode_address(destinations()[0].address, e);
                    e.u32(uapi::IPVS_DEST_ATTR_FWD_METHOD, method);
                    e.u32(uapi::IPVS_DEST_ATTR_WEIGHT, 1);
                    e.u32(uapi::IPVS_DEST_ATTR_U_THRESH, bound);
                    e.u32(uapi::IPVS_DEST_ATTR_L_THRESH, 0);
                    encode_counts(e);
                },
                Family::Ipv4,
            );
            assert!(!state.unwrap().is_plain, "{method} {bound}");
        }
    }
}
