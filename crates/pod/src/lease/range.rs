//! Which addresses a range has to give, and in which order. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Error, Result};

/// The addresses that may be leased: all but network, broadcast and gateway, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    is_v4: bool,
    first: u128,
    last: u128,
}

impl Range {
    pub(super) fn new(net: IpNet) -> Result<Self> {
        let host_bits = net.max_prefix_len() - net.prefix_len();
        if host_bits < 2 || net.trunc() != net {
            return Err(Error::Range { range: net });
        }
        let is_v4 = net.addr().is_ipv4();
        // The network's address and the first host, which is the gateway, come before; IPv6 has
        // no broadcast.
        let first = number(net.network()) + 2;
        let last = number(net.broadcast()) - u128::from(is_v4);
        Ok(Self { is_v4, first, last })
    }

    pub(super) fn bounds(&self) -> (IpAddr, IpAddr) {
        (self.address(self.first), self.address(self.last))
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4 && (self.first..=self.last).contains(&number(address))
    }

    /// Addresses in the order in which they are to be tried, from the one after `cursor`, each
    /// once. With `taken` addresses in use one of the first `taken + 1` is free, or none is.
    pub(super) fn after(
        self,
        cursor: Option<IpAddr>,
        taken: usize,
    ) -> impl Iterator<Item = IpAddr> {
        let start = match cursor.filter(|cursor| self.contains(*cursor)).map(number) {
            Some(cursor) if cursor < self.last => cursor + 1,
            _ => self.first,
        };
        (start..=self.last)
            .chain(self.first..start)
            .take(taken.saturating_add(1))
            .map(move |number| self.address(number))
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.is_v4 => Ipv4Addr::from(number).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}
