//! rtnetlink(7): links, addresses, routes and permanent neighbours of one network namespace.
//!
//! Everything is synchronous: a request answers with the kernel's verdict in microseconds. Nothing
//! here decides what ought to exist.

mod address;
mod link;
mod local;
mod monitor;
mod neighbour;
mod qdisc;
#[cfg(test)]
mod tests;
mod unicast;

pub use address::{Address, RefusedAddress};
pub use link::{Link, LinkChange, Mac, VethEnd};
pub use local::LocalRoute;
pub use monitor::Monitor;
pub use unicast::{NextHop, Route};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

use crate::netlink::{Attribute, Protocol, Socket};
use crate::netns::Netns;
use crate::{Error, Result};

/// A rtnetlink socket; the files beside this one give it its verbs.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// Opens a socket in `netns`, to be used from anywhere.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }
}

/// `AF_INET` or `AF_INET6`.
fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("address families of IP are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Reads an address, of the family that its length tells.
fn ip(attribute: Attribute<'_>) -> Option<IpAddr> {
    match attribute.value.len() {
        4 => <[u8; 4]>::try_from(attribute.value).ok().map(|b| Ipv4Addr::from(b).into()),
        _ => <[u8; 16]>::try_from(attribute.value).ok().map(|b| Ipv6Addr::from(b).into()),
    }
}

/// The answer to "delete this": whether it was there.
fn was_there(result: Result<()>, gone: &[i32]) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| gone.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn malformed(operation: &str) -> Error {
    Error::Malformed {
        operation: operation.to_owned(),
        detail: "a message is cut short".to_owned(),
    }
}
