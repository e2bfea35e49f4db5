//! Addresses of links.

use ipnet::IpNet;
use nix::libc;

use super::{Rtnetlink, family, ip, malformed, octets, was_there};
use crate::Result;
use crate::netlink::{Encoder, attributes, flags};

/// Length of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// Use the address at once, without asking the link whether another has it.
const IFA_F_NODAD: u32 = 0x02;

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of its link.
    pub index: u32,
    /// The address, and how much of it names the link's network.
    pub net: IpNet,
}

impl Rtnetlink {
    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let operation = "list addresses";
        let messages = self.socket.dump(operation, libc::RTM_GETADDR, &[0; HEADER])?;
        let addresses = messages.iter().filter(|m| m.kind == libc::RTM_NEWADDR);
        addresses.map(|m| parse(&m.payload).ok_or_else(|| malformed(operation))).collect()
    }

    /// Gives a link an address; that it has it already is no error.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.socket.request(
            &format!("add address {net} to link {index}"),
            libc::RTM_NEWADDR,
            flags::CREATE | flags::REPLACE,
            &encode(index, net),
        )
    }

    /// Takes an address from a link. Answers whether it had it.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<bool> {
        let result = self.socket.request(
            &format!("delete address {net} from link {index}"),
            libc::RTM_DELADDR,
            0,
            &encode(index, net),
        );
        was_there(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

fn encode(index: u32, net: IpNet) -> Vec<u8> {
    let mut header = [0; HEADER];
    header[0] = family(net.addr());
    header[1] = net.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let address = octets(net.addr());
    let mut request = Encoder::new();
    request.raw(&header);
    request.attribute(libc::IFA_LOCAL, &address);
    request.attribute(libc::IFA_ADDRESS, &address);
    if net.addr().is_ipv6() {
        request.u32(libc::IFA_FLAGS, IFA_F_NODAD);
    }
    request.into_bytes()
}

fn parse(payload: &[u8]) -> Option<Address> {
    let header = payload.first_chunk::<HEADER>()?;
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let find = |kind| attributes(&payload[HEADER..]).find(|a| a.kind == kind).and_then(ip);
    // On links with a peer address only IFA_LOCAL is our own; IPv6 has only IFA_ADDRESS.
    let address = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
    Some(Address { index, net: IpNet::new(address, header[1]).ok()? })
}
