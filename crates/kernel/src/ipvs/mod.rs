//! IPVS, the kernel's load balancer: virtual servers, their destinations, changes of both, and lists.
//!
//! Start at [`Ipvs`]. A virtual server is what clients connect to, a destination is where one of
//! them ends up; `linux/ip_vs.h` calls them service and dest. Formats are those of that header's
//! generic netlink family, so that no `ipvsadm` is needed. This module knows nothing of what anybody
//! balances, and never clears what it was not told to: each network namespace has one list of
//! servers, and those of others stand in it too.

mod destination;
mod operation;
mod server;
mod uapi;

pub use destination::{Destination, DestinationState};
pub use operation::{Operation, Refusal};
pub use server::{
    Hashing, Scheduler, Transport, UnknownScheduler, VirtualServer, VirtualServerKey,
    VirtualServerState,
};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Attribute, Encoder, Message, Protocol, Socket, attributes};
use crate::netns::Netns;
use crate::nftables::Family;
use crate::{Error, Result, genetlink};

/// IPVS of one network namespace.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    /// Type of its messages.
    family: u16,
}

/// Version of the kernel's IPVS, which has been 1.2.1 since 2004.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u8,
    /// Second number.
    pub minor: u8,
    /// Third number.
    pub patch: u8,
}

/// Whether the kernel has IPVS, and which. It loads its module if that is there. Needs
/// `CAP_NET_ADMIN` in the first user namespace, as everything here.
pub fn available() -> Result<Option<Version>> {
    Ipvs::open()?.map(|mut ipvs| ipvs.version()).transpose()
}

impl Ipvs {
    /// Opens that of the calling thread's network namespace; `None` if the kernel has no IPVS.
    pub fn open() -> Result<Option<Self>> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let family = genetlink::family(&mut socket, uapi::IPVS_GENL_NAME)?;
        Ok(family.map(|family| Self { socket, family }))
    }

    /// Opens that of `netns`, to be used from anywhere.
    pub fn open_in(netns: &Netns) -> Result<Option<Self>> {
        netns.run(Self::open)?
    }

    /// Its version.
    pub fn version(&mut self) -> Result<Version> {
        let operation = "ask for the version of IPVS";
        let request = header(uapi::IPVS_CMD_GET_INFO);
        let answers = self.socket.query(operation, self.family, 0, &request)?;
        let version = answers.first().and_then(|answer| {
            body(answer)?.find(|a| a.kind == uapi::IPVS_INFO_ATTR_VERSION)?.u32()
        });
        version.map(Version::from_code).ok_or_else(|| malformed(operation))
    }

    /// All virtual servers of the namespace, in no order, whoever made them.
    ///
    /// Those of protocols that [`Transport`] does not have (AH, ESP) are left out. The kernel does
    /// not tell whether servers came or went while it listed them, and then skips some or lists
    /// some twice: who is not the only one to change them has to look again.
    pub fn servers(&mut self) -> Result<Vec<VirtualServerState>> {
        let operation = "list virtual servers";
        let request = header(uapi::IPVS_CMD_GET_SERVICE);
        self.list(operation, &request, uapi::IPVS_CMD_ATTR_SERVICE, VirtualServerState::decode)
    }

    /// The destinations of a virtual server, in no order; none if there is no such server, which the
    /// kernel does not tell apart. What is said of changes at [`Ipvs::servers`] holds here too.
    ///
    /// It takes a request for each server: the kernel has no list of all destinations, and lists
    /// one at a time for a socket.
    pub fn destinations(&mut self, server: &VirtualServerKey) -> Result<Vec<DestinationState>> {
        let operation = format!("list the destinations of virtual server {server}");
        let mut request = Encoder::new();
        request.raw(&header(uapi::IPVS_CMD_GET_DEST));
        request.nested(uapi::IPVS_CMD_ATTR_SERVICE, |e| server.encode(e));
        let family = server.family();
        self.list(&operation, request.bytes(), uapi::IPVS_CMD_ATTR_DEST, |attribute| {
            DestinationState::decode(attribute, family).map(Some)
        })
    }

    /// Asks for a list and decodes it: `decode` reads the attribute `kind` of each message, and
    /// answers `Some(None)` for what is left out.
    fn list<T>(
        &mut self,
        operation: &str,
        request: &[u8],
        kind: u16,
        mut decode: impl FnMut(Attribute<'_>) -> Option<Option<T>>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let mut is_malformed = false;
        // The kernel does not mark interrupted lists of IPVS, so there is nothing to repeat.
        self.socket.stream(operation, self.family, request, |message| {
            let attribute = body(&message).and_then(|mut a| a.find(|a| a.kind == kind));
            match attribute.and_then(&mut decode) {
                Some(item) => found.extend(item),
                None => is_malformed = true,
            }
        })?;
        if is_malformed { Err(malformed(operation)) } else { Ok(found) }
    }
}

impl Version {
    /// Reads what `IP_VS_VERSION_CODE` is: a byte for each number.
    fn from_code(code: u32) -> Self {
        let [_, major, minor, patch] = code.to_be_bytes();
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What precedes the attributes of a message.
const fn header(command: u8) -> [u8; genetlink::HEADER] {
    genetlink::header(command, uapi::IPVS_GENL_VERSION)
}

/// The attributes of a message.
fn body(message: &Message) -> Option<impl Iterator<Item = Attribute<'_>>> {
    message.payload.get(genetlink::HEADER..).map(attributes)
}

fn malformed(operation: &str) -> Error {
    Error::Malformed {
        operation: operation.to_owned(),
        detail: "a message lacks what it must have".to_owned(),
    }
}

/// The family that an address is of.
fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// An address as `union nf_inet_addr`: 16 bytes, of which IPv4 uses the first four.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads an address that [`octets`] writes.
fn ip(attribute: Attribute<'_>, family: Family) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => attribute.value.first_chunk::<4>().map(|o| Ipv4Addr::from(*o).into()),
        Family::Ipv6 => attribute.value.first_chunk::<16>().map(|o| Ipv6Addr::from(*o).into()),
    }
}

/// Reads an address family, whose numbers (`AF_INET`, `AF_INET6`) are also those that netfilter has.
fn family(attribute: Attribute<'_>) -> Option<Family> {
    Family::from_number(u8::try_from(attribute.u16()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_three_bytes() {
        let version = Version::from_code(0x01_02_01);
        assert_eq!(version, Version { major: 1, minor: 2, patch: 1 });
        assert_eq!(version.to_string(), "1.2.1");
    }

    #[test]
    fn addresses_take_the_first_bytes_of_the_union() {
        for text in ["10.96.0.1", "fd00::1"] {
            let address: IpAddr = text.parse().unwrap();
            let value = octets(address);
            let read = ip(Attribute { kind: 1, value: &value }, family_of(address));
            assert_eq!(read, Some(address));
        }
        assert_eq!(octets([10, 96, 0, 1].into())[..5], [10, 96, 0, 1, 0]);
        assert_eq!(ip(Attribute { kind: 1, value: &[1; 15] }, Family::Ipv6), None);
    }
}
