//! Permanent neighbours: link-layer addresses that need not be asked for.

use std::net::IpAddr;

use nix::libc;

use super::{Mac, Rtnetlink, family, octets};
use crate::Result;
use crate::netlink::{Encoder, flags};

impl Rtnetlink {
    /// Tells the kernel for good that `address` is at `mac` on the link of that index.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        // `struct ndmsg`: family, padding, index, state, flags, type.
        let mut header = [0; 12];
        header[0] = family(address);
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        let mut request = Encoder::new();
        request.raw(&header);
        request.attribute(libc::NDA_DST, &octets(address));
        request.attribute(libc::NDA_LLADDR, &mac.0);
        self.socket.request(
            &format!("set neighbour {address} of link {index} to {mac}"),
            libc::RTM_NEWNEIGH,
            flags::CREATE | flags::REPLACE,
            request.bytes(),
        )
    }
}
