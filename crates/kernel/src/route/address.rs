//! Addresses of links.

use ipnet::IpNet;
use nix::libc;

use super::{Rtnetlink, family, ip, malformed, octets, was_there};
use crate::netlink::{Encoder, Pipeline, attributes, flags};
use crate::{Error, Result};

/// Length of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// Use the address at once, without asking the link whether another has it.
const IFA_F_NODAD: u32 = 0x02;
/// Make no route to the link's network: an IPv6 address without network has one to itself, which
/// says what the route of table `local` says.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of its link.
    pub index: u32,
    /// The address, and how much of it names the link's network.
    pub net: IpNet,
}

/// An address that the kernel refused to change, and why.
#[derive(Debug)]
pub struct RefusedAddress {
    /// The address.
    pub net: IpNet,
    /// The kernel's answer, naming the address and the link.
    pub error: Error,
}

impl Rtnetlink {
    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let operation = "list addresses";
        let messages = self.socket.dump(operation, libc::RTM_GETADDR, &[0; HEADER])?;
        let addresses = messages.iter().filter(|m| m.kind == libc::RTM_NEWADDR);
        addresses.map(|m| parse(&m.payload).ok_or_else(|| malformed(operation))).collect()
    }

    /// The addresses of the link of that name; `None` if there is none. The kernel lists those of all
    /// links for it.
    pub fn addresses_of(&mut self, name: &str) -> Result<Option<Vec<IpNet>>> {
        let Some(link) = self.link(name)? else { return Ok(None) };
        let addresses = self.addresses()?.into_iter().filter(|a| a.index == link.index);
        Ok(Some(addresses.map(|a| a.net).collect()))
    }

    /// Gives a link an address; that it has it already is no error.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.socket.request(
            &format!("add address {net} to link {index}"),
            libc::RTM_NEWADDR,
            flags::CREATE | flags::REPLACE,
            &encode(index, net, IFA_F_NODAD),
        )
    }

    /// Gives a link many addresses at once; one that it has already is no error. Answers those that
    /// were refused: they keep no other from being added. They are the host's own, and make no
    /// route to a network.
    ///
    /// For each the kernel looks through those that the link has: the first 10,000 of a loopback or
    /// dummy link take about a second, the next 10,000 of IPv4 three. On a link that does multicast,
    /// where each address of IPv6 joins a group, it is half a minute.
    ///
    /// # Errors
    /// It is not known which were added.
    pub fn add_addresses(&mut self, index: u32, nets: &[IpNet]) -> Result<Vec<RefusedAddress>> {
        let operation = format!("add addresses to link {index}");
        let how = flags::CREATE | flags::REPLACE;
        self.change_addresses(&operation, libc::RTM_NEWADDR, how, &[], index, nets)
    }

    /// Takes many addresses from a link at once; one that it does not have is no error. Answers those
    /// that were refused: they keep no other from being taken.
    ///
    /// For each of IPv6 the kernel looks through all routes (`rt6_remove_prefsrc()`), about a
    /// millisecond where there are 10,000. Deleting the link takes all its addresses in a tenth of a
    /// second.
    ///
    /// # Errors
    /// It is not known which were taken.
    pub fn delete_addresses(&mut self, index: u32, nets: &[IpNet]) -> Result<Vec<RefusedAddress>> {
        let operation = format!("delete addresses from link {index}");
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        self.change_addresses(&operation, libc::RTM_DELADDR, 0, &gone, index, nets)
    }

    fn change_addresses(
        &mut self,
        operation: &str,
        kind: u16,
        how: u16,
        harmless: &[i32],
        index: u32,
        nets: &[IpNet],
    ) -> Result<Vec<RefusedAddress>> {
        let mut pipeline = Pipeline::new(&mut self.socket, operation);
        for net in nets {
            let request = encode(index, *net, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
            pipeline.push(kind, how, |message| message.raw(&request))?;
        }
        let refused = pipeline.finish()?.into_iter();
        let refused = refused.filter(|(_, verdict)| !harmless.contains(&verdict.errno));
        let refused = refused.filter_map(|(position, verdict)| {
            let net = nets[position];
            let error = verdict.into_result(&format!("{operation}: {net}")).err()?;
            Some(RefusedAddress { net, error })
        });
        Ok(refused.collect())
    }

    /// Takes an address from a link. Answers whether it had it.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<bool> {
        let result = self.socket.request(
            &format!("delete address {net} from link {index}"),
            libc::RTM_DELADDR,
            0,
            &encode(index, net, IFA_F_NODAD),
        );
        was_there(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

/// Writes a request about an address. `flags` are those of IPv6, which alone need any.
fn encode(index: u32, net: IpNet, flags: u32) -> Vec<u8> {
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
        request.u32(libc::IFA_FLAGS, flags);
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
