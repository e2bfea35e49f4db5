//! The shape of our table: which sets and maps there are, and what their elements mean.
//!
//! There is no chain and no rule for a frontend, only elements: rules and chains are few, and the
//! kernel's cost of a change does not grow with what is there. A connection's way through the table:
//!
//! 1. `frontends` (address . protocol . port) or `node-ports` (protocol . port) answers an
//!    [`Entry`]: how many backends there are, which endpoint set, and how to treat the source.
//!    Before either, connections from outside look in `outside-frontends` or `outside-node-ports`,
//!    which hold only those frontends that treat outside connections by themselves.
//! 2. The entry's [`Entry::dispatch`] leads to a chain for that number of backends, because the
//!    modulus of nftables' random number generator is a constant of the rule.
//! 3. `endpoints` (set . index) answers address and port to rewrite the destination to.
//!
//! Nothing here knows netlink; keys and data are the bytes that the kernel compares.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use arrayvec::ArrayVec;
use ipnet::IpNet;
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey};

/// The sets and maps of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Map: address . protocol . port -> entry.
    Frontends,
    /// Map: protocol . port -> entry, for the node's own addresses.
    NodePorts,
    /// As `Frontends`, for connections from outside, where they are treated by themselves.
    OutsideFrontends,
    /// As `NodePorts`, for connections from outside, where they are treated by themselves.
    OutsideNodePorts,
    /// Map: set . index -> address . port.
    Endpoints,
    /// Set: set . address . port; members of endpoint sets, for affinity.
    Members,
    /// Set: virtual addresses in use.
    ClusterIps,
    /// Set: address . protocol . port of frontends that only some sources may use.
    Guarded,
    /// Set: address . protocol . port . source range.
    AllowedSources,
    /// Set: address . address; a backend on this node talking to itself.
    Hairpins,
    /// Set: range of virtual addresses . any protocol.
    ServiceRanges,
    /// Set: the node's addresses (or ranges of them) that accept node ports . any protocol.
    NodeAddresses,
}

impl SetName {
    /// All of them.
    pub const ALL: [SetName; 12] = [
        SetName::Frontends,
        SetName::NodePorts,
        SetName::OutsideFrontends,
        SetName::OutsideNodePorts,
        SetName::Endpoints,
        SetName::Members,
        SetName::ClusterIps,
        SetName::Guarded,
        SetName::AllowedSources,
        SetName::Hairpins,
        SetName::ServiceRanges,
        SetName::NodeAddresses,
    ];

    /// The name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            SetName::Frontends => "frontends",
            SetName::NodePorts => "node-ports",
            SetName::OutsideFrontends => "outside-frontends",
            SetName::OutsideNodePorts => "outside-node-ports",
            SetName::Endpoints => "endpoints",
            SetName::Members => "members",
            SetName::ClusterIps => "cluster-ips",
            SetName::Guarded => "guarded",
            SetName::AllowedSources => "allowed-sources",
            SetName::Hairpins => "hairpins",
            SetName::ServiceRanges => "service-ranges",
            SetName::NodeAddresses => "node-addresses",
        }
    }
}

/// Bytes of a key or of data: at most an IPv6 address with protocol, port and another address.
///
/// Held in place: there are elements by the million in the making, and few of them at a time.
pub type Bytes = ArrayVec<u8, 40>;

/// One element of a set or map, as bytes. Every field of a key or of data is padded to 4 bytes, as
/// nftables' registers are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The set it belongs to.
    pub set: SetName,
    /// Key; of an interval, its first value.
    pub key: Bytes,
    /// Last value of an interval, inclusive; `None` for a plain key.
    pub key_end: Option<Bytes>,
    /// Data, empty for sets.
    pub data: Bytes,
}

/// What a frontend's element says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Which chain chooses a backend; [`Dispatch::NONE`] if there is nothing to choose.
    pub dispatch: Dispatch,
    /// Combination of the `flag` constants.
    pub flags: u32,
    /// The endpoint set, 0 if none.
    pub set: u64,
}

/// Bits of [`Entry::flags`].
pub mod flag {
    /// Refuse with a TCP reset, or with ICMP port unreachable.
    pub const REJECT: u32 = 1;
    /// Let vanish.
    pub const DROP: u32 = 2;
    /// Both outcomes that end a connection here.
    pub const REFUSED: u32 = REJECT | DROP;
    /// Masquerade connections from pods.
    pub const MASQUERADE_POD: u32 = 4;
    /// Masquerade connections from this node.
    pub const MASQUERADE_NODE: u32 = 8;
    /// Masquerade connections from outside.
    pub const MASQUERADE_OUTSIDE: u32 = 16;
}

/// Number of backends to choose from and affinity timeout: selects the chain that chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dispatch {
    /// Number of backends, 0 for none.
    pub backends: u32,
    /// Affinity timeout in seconds, 0 for no affinity.
    pub affinity: u32,
}

impl Dispatch {
    /// Nothing to choose from.
    pub const NONE: Dispatch = Dispatch { backends: 0, affinity: 0 };

    /// Most backends of a set that are used: 15 bits. The API's affinity timeout (at most a day)
    /// takes the other 17.
    pub const MAX_BACKENDS: u32 = (1 << Self::BACKENDS_BITS) - 1;
    const BACKENDS_BITS: u32 = 15;

    /// As the value that the kernel compares.
    pub fn to_bytes(self) -> [u8; 4] {
        (self.affinity << Self::BACKENDS_BITS | self.backends).to_ne_bytes()
    }

    /// Back from [`Dispatch::to_bytes`].
    pub fn from_bytes(bytes: [u8; 4]) -> Self {
        let value = u32::from_ne_bytes(bytes);
        Self { backends: value & Self::MAX_BACKENDS, affinity: value >> Self::BACKENDS_BITS }
    }
}

impl Entry {
    /// As the data of an element: four bytes of nothing, dispatch, flags, set.
    ///
    /// The first register is left unused for the sake of nft(8): versions before 1.0.9 end in an
    /// assertion on `nft list ruleset` where the very register that a map was loaded into is looked
    /// up in another one. The others they just describe wrongly.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[4..8].copy_from_slice(&self.dispatch.to_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.set.to_ne_bytes());
        bytes
    }

    /// Back from [`Entry::to_bytes`]; `None` if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 20] = bytes.try_into().ok()?;
        let (dispatch, rest) = bytes[4..].split_first_chunk::<4>()?;
        let (flags, set) = rest.split_first_chunk::<4>()?;
        Some(Self {
            dispatch: Dispatch::from_bytes(*dispatch),
            flags: u32::from_ne_bytes(*flags),
            set: u64::from_ne_bytes(set.try_into().ok()?),
        })
    }
}

/// Concatenates fields, each padded with zeros to a multiple of 4 bytes.
#[derive(Debug, Default)]
pub struct Fields(Bytes);

impl Fields {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes.iter().copied());
        while self.0.len() % 4 != 0 {
            self.0.push(0);
        }
        self
    }

    /// Adds an address, in network order.
    pub fn ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.bytes(&ip.octets()),
            IpAddr::V6(ip) => self.bytes(&ip.octets()),
        }
    }

    /// Adds a port, in network order.
    pub fn port(self, port: u16) -> Self {
        self.bytes(&port.to_be_bytes())
    }

    /// Adds an address and its port.
    pub fn socket(self, address: SocketAddr) -> Self {
        self.ip(address.ip()).port(address.port())
    }

    /// Adds protocol and port of a frontend.
    pub fn protocol_port(self, key: &FrontendKey) -> Self {
        self.bytes(&[key.protocol.number()]).port(key.port.get())
    }

    /// The bytes.
    pub fn finish(self) -> Bytes {
        self.0
    }
}

/// The frontend that an element of a map of entries is for; `None` if its key has another form.
pub fn frontend_key(set: SetName, family: Family, key: &[u8]) -> Option<FrontendKey> {
    let (address, rest) = match (set, family) {
        (SetName::Frontends | SetName::OutsideFrontends, Family::V4) => {
            let (ip, rest) = key.split_first_chunk::<4>()?;
            (FrontendAddress::Ip(IpAddr::from(*ip)), rest)
        }
        (SetName::Frontends | SetName::OutsideFrontends, Family::V6) => {
            let (ip, rest) = key.split_first_chunk::<16>()?;
            (FrontendAddress::Ip(IpAddr::from(*ip)), rest)
        }
        _ => (FrontendAddress::AnyOfNode(family), key),
    };
    let [protocol, _, _, _, high, low, _, _] = *rest else { return None };
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    let port = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
    Some(FrontendKey { address, protocol, port })
}

/// An element that stands for all addresses of a range.
///
/// The key has a second field, any protocol: the kernel's sets of ranges that take additions and
/// deletions in any order are those with two fields or more.
pub fn range_element(set: SetName, range: &IpNet) -> Element {
    Element {
        set,
        key: Fields::new().ip(range.network()).bytes(&[0]).finish(),
        key_end: Some(Fields::new().ip(range.broadcast()).bytes(&[u8::MAX]).finish()),
        data: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_their_bytes() {
        let dispatch = Dispatch { backends: Dispatch::MAX_BACKENDS, affinity: 86_400 };
        let entry = Entry { dispatch, flags: flag::DROP, set: u64::MAX - 5 };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
        assert_eq!(Entry::from_bytes(&[0; 19]), None);
    }

    #[test]
    fn keys_of_entries_read_back() {
        let (v4, v6) = ("10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        for (set, family, address) in [
            (SetName::Frontends, Family::V4, FrontendAddress::Ip(v4)),
            (SetName::OutsideFrontends, Family::V6, FrontendAddress::Ip(v6)),
            (SetName::NodePorts, Family::V4, FrontendAddress::AnyOfNode(Family::V4)),
        ] {
            for protocol in Protocol::ALL {
                let port = NonZeroU16::new(30053).unwrap();
                let key = FrontendKey { address, protocol, port };
                let fields = match address {
                    FrontendAddress::Ip(ip) => Fields::new().ip(ip),
                    FrontendAddress::AnyOfNode(_) => Fields::new(),
                };
                let bytes = fields.protocol_port(&key).finish();
                assert_eq!(frontend_key(set, family, &bytes), Some(key));
                assert_eq!(frontend_key(set, family, &bytes[1..]), None);
            }
        }
    }

    #[test]
    fn fields_are_padded_to_registers() {
        let key = Fields::new().ip("10.0.0.1".parse().unwrap()).bytes(&[6]).port(80).finish();
        assert_eq!(*key, [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
    }
}
