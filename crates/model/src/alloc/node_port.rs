//! Node ports, and health-check ports out of the same pool. A number is one Service's, whatever the
//! protocol.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::static_band;

/// The ports that are in use.
#[derive(Debug, Clone)]
pub struct NodePorts {
    range: RangeInclusive<u16>,
    used: BTreeSet<u16>,
}

/// Why a port is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("provided port is already allocated")]
    Taken,
    /// It is not one that is handed out.
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    OutOfRange {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// All ports are in use.
    #[error("range is full")]
    Full,
}

impl NodePorts {
    /// A range with nothing in use.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, used: BTreeSet::new() }
    }

    /// Takes a port that was asked for.
    pub fn reserve(&mut self, port: u16) -> Result<(), Error> {
        if !self.range.contains(&port) {
            return Err(Error::OutOfRange { first: *self.range.start(), last: *self.range.end() });
        }
        if self.used.insert(port) { Ok(()) } else { Err(Error::Taken) }
    }

    /// Takes any free port: from the upper part of the range as long as it has any. `chance` decides
    /// where the search starts.
    pub fn allocate(&mut self, chance: u64) -> Result<u16, Error> {
        let (first, last) = (u64::from(*self.range.start()), u64::from(*self.range.end()));
        let band = static_band(u128::from(last - first + 1), 32, 128);
        let upper = first + u64::try_from(band).expect("a band is at most 128 ports");
        let free = |from: u64, to: u64| {
            let length = (to + 1).checked_sub(from).filter(|length| *length > 0)?;
            let start = from + chance % length;
            (start..=to)
                .chain(from..start)
                .filter_map(|port| u16::try_from(port).ok())
                .find(|port| !self.used.contains(port))
        };
        let port = free(upper, last).or_else(|| free(first, upper.checked_sub(1)?));
        let port = port.ok_or(Error::Full)?;
        self.used.insert(port);
        Ok(port)
    }

    /// Gives a port back; one that is not in use is no error.
    pub fn release(&mut self, port: u16) {
        self.used.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_keeps_its_first_86_ports_for_those_who_ask() {
        let mut ports = NodePorts::new(30000..=32767);
        assert_eq!(ports.allocate(0), Ok(30086));
        assert_eq!(ports.allocate(0), Ok(30087));
        assert_eq!(ports.reserve(30001), Ok(()));
        assert_eq!(ports.reserve(30001), Err(Error::Taken));
        assert_eq!(ports.reserve(80), Err(Error::OutOfRange { first: 30000, last: 32767 }));
    }

    #[test]
    fn every_port_is_given_once() {
        let mut ports = NodePorts::new(30000..=30099);
        let given: BTreeSet<u16> = (0..100).map(|i| ports.allocate(i * 7919).unwrap()).collect();
        assert_eq!(given.len(), 100);
        assert_eq!(ports.allocate(3), Err(Error::Full));
        ports.release(30050);
        assert_eq!(ports.allocate(99), Ok(30050));
    }
}
