//! ClusterIPs out of a service range (KEP-3070): values that users ask for come from the whole
//! range, others from its upper part as long as that has any.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::static_band;

/// The addresses of one range that are in use.
#[derive(Debug, Clone)]
pub struct ClusterIps {
    range: IpNet,
    used: BTreeSet<IpAddr>,
}

/// Why an address is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("provided IP is already allocated")]
    Taken,
    /// It is not one that this range hands out.
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    OutOfRange {
        /// The address.
        ip: IpAddr,
        /// The range.
        range: IpNet,
    },
    /// All addresses are in use.
    #[error("range is full")]
    Full,
}

impl ClusterIps {
    /// A range with nothing in use.
    pub fn new(range: IpNet) -> Self {
        Self { range: range.trunc(), used: BTreeSet::new() }
    }

    /// The range.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// The `n`th address of a range, counted from its network address; `None` beyond its end.
    pub fn nth(range: &IpNet, n: u128) -> Option<IpAddr> {
        let address = number(range.network()).checked_add(n)?;
        (address <= number(range.broadcast())).then(|| address_of(range, address))
    }

    /// Takes an address that was asked for.
    pub fn reserve(&mut self, ip: IpAddr) -> Result<(), Error> {
        let is_usable = self.range.contains(&ip)
            && (1..=self.usable()).contains(&(number(ip) - number(self.range.network())));
        if !is_usable {
            return Err(Error::OutOfRange { ip, range: self.range });
        }
        if self.used.insert(ip) { Ok(()) } else { Err(Error::Taken) }
    }

    /// Takes any free address. `chance` decides where the search starts.
    pub fn allocate(&mut self, chance: u64) -> Result<IpAddr, Error> {
        let ip = self.peek(chance)?;
        self.used.insert(ip);
        Ok(ip)
    }

    /// The address that [`ClusterIps::allocate`] would take.
    pub fn peek(&self, chance: u64) -> Result<IpAddr, Error> {
        let usable = self.usable();
        let size = usable.saturating_add(2);
        let band = static_band(size, 16, 256).min(usable);
        self.first_free(band + 1, usable, chance)
            .or_else(|| self.first_free(1, band, chance))
            .ok_or(Error::Full)
    }

    /// Gives an address back; one that is not in use is no error.
    pub fn release(&mut self, ip: IpAddr) {
        self.used.remove(&ip);
    }

    /// Number of addresses that can be handed out, with offsets 1 to this from the network address.
    fn usable(&self) -> u128 {
        let span = number(self.range.broadcast()) - number(self.range.network());
        match self.range {
            // Neither the network nor the broadcast address.
            IpNet::V4(_) => span.saturating_sub(1),
            IpNet::V6(_) => span,
        }
    }

    /// The first free offset from a place within `first..=last`, around its end.
    fn first_free(&self, first: u128, last: u128, chance: u64) -> Option<IpAddr> {
        let length = (last + 1).checked_sub(first).filter(|length| *length > 0)?;
        let start = first + u128::from(chance) % length;
        (start..=last).chain(first..start).find_map(|offset| {
            let ip = Self::nth(&self.range, offset)?;
            (!self.used.contains(&ip)).then_some(ip)
        })
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address_of(range: &IpNet, number: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => {
            Ipv4Addr::from(u32::try_from(number).expect("it is within an IPv4 range")).into()
        }
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ips(range: &str) -> ClusterIps {
        ClusterIps::new(range.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn dynamic_addresses_come_from_the_upper_band_first() {
        // Size of the static band by prefix length.
        for (range, band) in [
            ("10.0.0.0/16", 256),
            ("10.0.0.0/20", 256),
            ("10.0.0.0/23", 32),
            ("10.0.0.0/24", 16),
            ("10.0.0.0/27", 16),
            ("10.0.0.0/28", 0),
        ] {
            let lowest = ips(range).allocate(0).unwrap();
            assert_eq!(Some(lowest), ClusterIps::nth(&range.parse().unwrap(), band + 1), "{range}");
        }
    }

    #[test]
    fn the_lower_band_serves_when_the_upper_is_full() {
        let mut ips = ips("10.0.0.0/27");
        let given: Vec<IpAddr> = (0..30).map(|_| ips.allocate(0).unwrap()).collect();
        assert_eq!(given[..14], (17..31).map(|n| ip(&format!("10.0.0.{n}"))).collect::<Vec<_>>());
        assert_eq!(given[14], ip("10.0.0.1"));
        assert_eq!(ips.allocate(0), Err(Error::Full));
        ips.release(ip("10.0.0.20"));
        assert_eq!(ips.allocate(7), Ok(ip("10.0.0.20")));
    }

    #[test]
    fn network_and_broadcast_are_not_given() {
        let mut ips = ips("10.96.0.0/16");
        for wrong in ["10.96.0.0", "10.96.255.255", "10.97.0.1", "fd00::1"] {
            let error = ips.reserve(ip(wrong)).unwrap_err();
            assert!(matches!(error, Error::OutOfRange { .. }), "{wrong}");
        }
        assert_eq!(ips.reserve(ip("10.96.0.10")), Ok(()));
        assert_eq!(ips.reserve(ip("10.96.0.10")), Err(Error::Taken));
        assert_eq!(
            ClusterIps::new("fd00::/112".parse().unwrap()).reserve(ip("fd00::ffff")),
            Ok(())
        );
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(chances in proptest::collection::vec(any::<u64>(), 1..300)) {
            let mut ips = ips("10.0.0.0/24");
            let mut given = BTreeSet::new();
            for chance in chances {
                match ips.allocate(chance) {
                    Ok(ip) => prop_assert!(given.insert(ip) && ips.range().contains(&ip)),
                    Err(error) => {
                        prop_assert_eq!(error, Error::Full);
                        prop_assert_eq!(given.len(), 254);
                    }
                }
            }
        }
    }
}
