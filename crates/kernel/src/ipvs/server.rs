//! Virtual servers: their values, and how they are written and read.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::{family, family_of, ip, octets, uapi};
use crate::netlink::{Attribute, Encoder};
use crate::nftables::Family;

/// The flags that are set or cleared here. What else there is tells of the kernel's own state.
const FLAGS: u32 = uapi::IP_VS_SVC_F_PERSISTENT
    | uapi::IP_VS_SVC_F_ONEPACKET
    | uapi::IP_VS_SVC_F_SCHED1
    | uapi::IP_VS_SVC_F_SCHED2
    | uapi::IP_VS_SVC_F_SCHED3;

/// Protocols that are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What tells virtual servers from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualServerKey {
    /// Packets to an address and port.
    Address {
        /// Their protocol.
        transport: Transport,
        /// Where they are sent. The port may be 0, any, if the server is persistent.
        address: SocketAddr,
    },
    /// Packets that carry a firewall mark, of any protocol and to anywhere. A server by mark goes
    /// before one by address.
    Mark {
        /// Their address family.
        family: Family,
        /// The mark, all of it: there is no mask.
        mark: NonZeroU32,
    },
}

/// How a destination is chosen for a new connection. Names are those of the kernel, which loads the
/// module `ip_vs_NAME`, or refuses with `ENOENT` if it can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// `rr`: one after the other.
    RoundRobin,
    /// `wrr`: one after the other, each as often as its weight.
    WeightedRoundRobin,
    /// `lc`: the one with the fewest connections.
    LeastConnection,
    /// `wlc`: the one with the fewest connections for its weight.
    WeightedLeastConnection,
    /// `sh`: by the client's address, in a table of 256 entries.
    SourceHashing,
    /// `mh`: by the client's address, by Maglev's hashing; clients keep their destination when
    /// others go.
    MaglevHashing,
    /// `sed`: the one that is expected to answer soonest.
    ShortestExpectedDelay,
    /// `nq`: an idle one, else as `sed`.
    NeverQueue,
}

/// What `sh` and `mh` do beyond their default; other schedulers take no notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hashing {
    /// The client's port counts too: connections of a client are spread.
    pub with_port: bool,
    /// Another destination is chosen in place of one whose weight is 0, where otherwise the
    /// connection is refused.
    pub with_fallback: bool,
}

/// A virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServer {
    /// Which packets it takes.
    pub key: VirtualServerKey,
    /// How it chooses.
    pub scheduler: Scheduler,
    /// How long a client address is led to the same destination after its last connection has gone;
    /// `None` if each connection is for itself. The kernel counts whole seconds: what is not is
    /// rounded up, and 0 is 1.
    pub persistence: Option<Duration>,
    /// How `sh` and `mh` hash.
    pub hashing: Hashing,
}

/// A virtual server as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtualServerState {
    /// One that a [`VirtualServer`] says all of.
    Plain(VirtualServer),
    /// One that others have made: its scheduler, its flags or what counts as one client are none
    /// that are set here. `ChangeServer` makes it a plain one.
    Foreign(VirtualServerKey),
}

/// A scheduler's name that is none of [`Scheduler`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPVS scheduler (rr, wrr, lc, wlc, sh, mh, sed, nq)")]
pub struct UnknownScheduler(pub String);

impl VirtualServer {
    /// One that balances each connection for itself.
    pub fn new(key: VirtualServerKey, scheduler: Scheduler) -> Self {
        Self { key, scheduler, persistence: None, hashing: Hashing::default() }
    }

    /// Writes all attributes: the kernel takes no server that lacks one, and sets all of them also
    /// when it changes one.
    pub(super) fn encode(&self, to: &mut Encoder) {
        self.key.encode(to);
        to.text(uapi::IPVS_SVC_ATTR_SCHED_NAME, self.scheduler.as_str());
        let mut flags = 0;
        let mut set = |flag, is_set| flags |= if is_set { flag } else { 0 };
        set(uapi::IP_VS_SVC_F_PERSISTENT, self.persistence.is_some());
        set(uapi::IP_VS_SVC_F_SCHED1, self.hashing.with_fallback);
        set(uapi::IP_VS_SVC_F_SCHED2, self.hashing.with_port);
        // `struct ip_vs_flags`: values, and which of them are meant.
        let flags = [flags.to_ne_bytes(), FLAGS.to_ne_bytes()].concat();
        to.attribute(uapi::IPVS_SVC_ATTR_FLAGS, &flags);
        to.u32(uapi::IPVS_SVC_ATTR_TIMEOUT, self.persistence.map_or(0, seconds));
        to.attribute(uapi::IPVS_SVC_ATTR_NETMASK, &one_host(self.key.family()));
    }
}

impl VirtualServerState {
    /// Which packets it takes.
    pub fn key(&self) -> VirtualServerKey {
        match self {
            Self::Plain(server) => server.key,
            Self::Foreign(key) => *key,
        }
    }

    /// Reads a listed server. `Some(None)` is one of another protocol.
    pub(super) fn decode(server: Attribute<'_>) -> Option<Option<Self>> {
        let find = |kind| server.nested().find(|a| a.kind == kind);
        let Some(key) = VirtualServerKey::decode(server)? else { return Some(None) };
        let scheduler = find(uapi::IPVS_SVC_ATTR_SCHED_NAME)?.text()?;
        let flags = find(uapi::IPVS_SVC_ATTR_FLAGS)?.value.first_chunk::<4>()?;
        let timeout = find(uapi::IPVS_SVC_ATTR_TIMEOUT)?.u32()?;
        let netmask = find(uapi::IPVS_SVC_ATTR_NETMASK)?.value;

        let flags = u32::from_ne_bytes(*flags);
        let has = |flag| flags & flag != 0;
        let is_persistent = has(uapi::IP_VS_SVC_F_PERSISTENT);
        let known = uapi::IP_VS_SVC_F_PERSISTENT
            | uapi::IP_VS_SVC_F_HASHED
            | uapi::IP_VS_SVC_F_SCHED1
            | uapi::IP_VS_SVC_F_SCHED2;
        let is_foreign = has(!known)
            || find(uapi::IPVS_SVC_ATTR_PE_NAME).is_some()
            || is_persistent && netmask != one_host(key.family());
        Some(Some(match scheduler.parse() {
            Ok(scheduler) if !is_foreign => Self::Plain(VirtualServer {
                key,
                scheduler,
                persistence: is_persistent.then(|| Duration::from_secs(timeout.into())),
                hashing: Hashing {
                    with_port: has(uapi::IP_VS_SVC_F_SCHED2),
                    with_fallback: has(uapi::IP_VS_SVC_F_SCHED1),
                },
            }),
            _ => Self::Foreign(key),
        }))
    }
}

/// Whole seconds, at least one.
fn seconds(persistence: Duration) -> u32 {
    let rounded = persistence.as_secs().saturating_add(u64::from(persistence.subsec_nanos() > 0));
    u32::try_from(rounded).unwrap_or(u32::MAX).max(1)
}

/// The netmask by which each client address is one client: bits for IPv4, their number for IPv6.
fn one_host(family: Family) -> [u8; 4] {
    match family {
        Family::Ipv4 => [0xff; 4],
        Family::Ipv6 => 128u32.to_ne_bytes(),
    }
}

impl VirtualServerKey {
    /// Address family of the packets, and of the destinations.
    pub fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => family_of(address.ip()),
            Self::Mark { family, .. } => *family,
        }
    }

    /// Writes the attributes that tell which server is meant.
    pub(super) fn encode(&self, to: &mut Encoder) {
        to.u16(uapi::IPVS_SVC_ATTR_AF, self.family().number().into());
        match self {
            Self::Address { transport, address } => {
                to.u16(uapi::IPVS_SVC_ATTR_PROTOCOL, transport.number().into());
                to.attribute(uapi::IPVS_SVC_ATTR_ADDR, &octets(address.ip()));
                to.be16(uapi::IPVS_SVC_ATTR_PORT, address.port());
            }
            Self::Mark { mark, .. } => to.u32(uapi::IPVS_SVC_ATTR_FWMARK, mark.get()),
        }
    }

    /// Reads what [`VirtualServerKey::encode`] writes. `Some(None)` is one of another protocol.
    fn decode(server: Attribute<'_>) -> Option<Option<Self>> {
        let find = |kind| server.nested().find(|a| a.kind == kind);
        let family = family(find(uapi::IPVS_SVC_ATTR_AF)?)?;
        if let Some(mark) = find(uapi::IPVS_SVC_ATTR_FWMARK) {
            let mark = NonZeroU32::new(mark.u32()?)?;
            return Some(Some(Self::Mark { family, mark }));
        }
        let number = find(uapi::IPVS_SVC_ATTR_PROTOCOL)?.u16()?;
        let address = ip(find(uapi::IPVS_SVC_ATTR_ADDR)?, family)?;
        let port = find(uapi::IPVS_SVC_ATTR_PORT)?.be16()?;
        let transport = Transport::from_number(number);
        let address = SocketAddr::new(address, port);
        Some(transport.map(|transport| Self::Address { transport, address }))
    }
}

impl Transport {
    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|t| u16::from(t.number()) == number)
    }
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnection,
        Self::WeightedLeastConnection,
        Self::SourceHashing,
        Self::MaglevHashing,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
    ];

    /// The kernel's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnection => "lc",
            Self::WeightedLeastConnection => "wlc",
            Self::SourceHashing => "sh",
            Self::MaglevHashing => "mh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
        }
    }
}

impl FromStr for Scheduler {
    type Err = UnknownScheduler;

    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        let found = Self::ALL.into_iter().find(|scheduler| scheduler.as_str() == name);
        found.ok_or_else(|| UnknownScheduler(name.to_owned()))
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl fmt::Display for VirtualServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { transport, address } => write!(f, "{transport} {address}"),
            Self::Mark { family, mark } => write!(f, "{family} mark {mark:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    /// Attribute of a server's counters, which are not read here.
    const IPVS_SVC_ATTR_STATS: u16 = 10;

    fn by_address(transport: Transport, address: &str) -> VirtualServerKey {
        VirtualServerKey::Address { transport, address: address.parse().unwrap() }
    }

    fn by_mark(family: Family, mark: u32) -> VirtualServerKey {
        VirtualServerKey::Mark { family, mark: NonZeroU32::new(mark).unwrap() }
    }

    fn keys() -> [VirtualServerKey; 5] {
        [
            by_address(Transport::Tcp, "10.96.0.1:443"),
            by_address(Transport::Udp, "[fd00::a]:53"),
            by_address(Transport::Sctp, "10.96.0.2:9"),
            by_mark(Family::Ipv4, 0x4000),
            by_mark(Family::Ipv6, u32::MAX),
        ]
    }

    fn nest(body: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.nested(uapi::IPVS_CMD_ATTR_SERVICE, body);
        encoder.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Option<VirtualServerState>> {
        VirtualServerState::decode(attributes(bytes).next()?)
    }

    #[test]
    fn servers_read_back_as_written() {
        for key in keys() {
            for scheduler in Scheduler::ALL {
                let plain = VirtualServer::new(key, scheduler);
                let hashing = Hashing { with_port: true, with_fallback: false };
                let persistence = Some(Duration::from_secs(10800));
                for server in [
                    plain,
                    VirtualServer { persistence, ..plain },
                    VirtualServer { hashing, ..plain },
                    VirtualServer {
                        hashing: Hashing { with_port: false, with_fallback: true },
                        ..plain
                    },
                ] {
                    let bytes = nest(|e| server.encode(e));
                    assert_eq!(decode(&bytes), Some(Some(VirtualServerState::Plain(server))));
                }
            }
        }
    }

    #[test]
    fn the_wire_is_that_of_the_header() {
        let server = VirtualServer {
            persistence: Some(Duration::from_secs(300)),
            ..VirtualServer::new(by_address(Transport::Tcp, "10.96.0.1:443"), Scheduler::RoundRobin)
        };
        let mut encoder = Encoder::new();
        server.encode(&mut encoder);
        let mut expected = Encoder::new();
        expected.attribute(1, &2u16.to_ne_bytes());
        expected.attribute(2, &6u16.to_ne_bytes());
        expected.attribute(3, &[10, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.attribute(4, &[1, 187]);
        expected.attribute(6, b"rr\0");
        expected.attribute(7, &[1u32.to_ne_bytes(), 0x3du32.to_ne_bytes()].concat());
        expected.attribute(8, &300u32.to_ne_bytes());
        expected.attribute(9, &[255; 4]);
        assert_eq!(encoder.bytes(), expected.bytes());
    }

    #[test]
    fn attributes_that_are_not_known_are_skipped() {
        let server = VirtualServer::new(keys()[0], Scheduler::WeightedRoundRobin);
        let bytes = nest(|e| {
            e.nested(IPVS_SVC_ATTR_STATS, |e| e.u32(1, 7));
            server.encode(e);
            e.u32(99, 7);
        });
        assert_eq!(decode(&bytes), Some(Some(VirtualServerState::Plain(server))));
    }

    #[test]
    fn a_cut_server_is_none() {
        for key in keys() {
            let server = VirtualServer::new(key, Scheduler::RoundRobin);
            let mut whole = Encoder::new();
            server.encode(&mut whole);
            for length in 0..whole.len() {
                let value = &whole.bytes()[..length];
                let cut = Attribute { kind: uapi::IPVS_CMD_ATTR_SERVICE, value };
                assert_eq!(VirtualServerState::decode(cut), None, "{length} bytes of {key}");
            }
        }
    }

    #[test]
    fn what_others_have_made_is_told_from_ours() {
        let key = keys()[0];
        let foreign = |scheduler: &str, flags: u32, netmask: [u8; 4], pe: Option<&str>| {
            nest(|e| {
                key.encode(e);
                e.text(uapi::IPVS_SVC_ATTR_SCHED_NAME, scheduler);
                e.attribute(
                    uapi::IPVS_SVC_ATTR_FLAGS,
                    &[flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat(),
                );
                e.u32(uapi::IPVS_SVC_ATTR_TIMEOUT, 0);
                e.attribute(uapi::IPVS_SVC_ATTR_NETMASK, &netmask);
                if let Some(pe) = pe {
                    e.text(uapi::IPVS_SVC_ATTR_PE_NAME, pe);
                }
            })
        };
        let hashed = uapi::IP_VS_SVC_F_HASHED;
        let ours = VirtualServerState::Plain(VirtualServer::new(key, Scheduler::RoundRobin));
        // The netmask says nothing where nothing is persistent.
        assert_eq!(decode(&foreign("rr", hashed, [255, 255, 0, 0], None)), Some(Some(ours)));
        let persistent = hashed | uapi::IP_VS_SVC_F_PERSISTENT;
        for bytes in [
            foreign("lblc", hashed, [255; 4], None),
            foreign("rr", hashed | uapi::IP_VS_SVC_F_ONEPACKET, [255; 4], None),
            foreign("rr", persistent, [255, 255, 255, 0], None),
            foreign("rr", persistent, [255; 4], Some("sip")),
        ] {
            assert_eq!(decode(&bytes), Some(Some(VirtualServerState::Foreign(key))));
        }
    }

    #[test]
    fn servers_of_other_protocols_are_left_out() {
        let bytes = nest(|e| {
            e.u16(uapi::IPVS_SVC_ATTR_AF, 2);
            e.u16(uapi::IPVS_SVC_ATTR_PROTOCOL, 50);
            e.attribute(uapi::IPVS_SVC_ATTR_ADDR, &[0; 16]);
            e.be16(uapi::IPVS_SVC_ATTR_PORT, 0);
        });
        assert_eq!(decode(&bytes), Some(None));
    }

    #[test]
    fn persistence_is_rounded_up_to_seconds() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
        assert_eq!(seconds(Duration::from_secs(10800)), 10800);
        assert_eq!(seconds(Duration::MAX), u32::MAX);
    }

    #[test]
    fn names() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.to_string().parse(), Ok(scheduler));
        }
        let error = "dh".parse::<Scheduler>().unwrap_err();
        assert!(error.to_string().starts_with("\"dh\" is no IPVS scheduler"), "{error}");
        let names = keys().map(|key| key.to_string());
        let expected = [
            "TCP 10.96.0.1:443",
            "UDP [fd00::a]:53",
            "SCTP 10.96.0.2:9",
            "ip mark 0x4000",
            "ip6 mark 0xffffffff",
        ];
        assert_eq!(names, expected);
    }
}
