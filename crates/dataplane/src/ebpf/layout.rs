//! Keys and values of the maps, as `bpf/portolan.h` has them: a test compares the two by BTF.
//!
//! Pure. Addresses and ports are in network order, all other numbers in the machine's. Fields named `zero`
//! fill gaps, which would otherwise be part of keys.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use model::{Family, Protocol};
use plan::FrontendAddress;

use super::wire::{Wire, layout};

layout! {
    /// An address with a port.
    Endpoint = "endpoint" {
        /// The address.
        address: Address,
        /// The port.
        port: Port,
        /// Nothing.
        zero: u16,
    }

    /// Key of `frontends`: what a connection is made to.
    FrontendKey = "frontend_key" {
        /// The address; the unspecified one stands for any of the node.
        address: Address,
        /// The port, 0 for all of a virtual address.
        port: Port,
        /// The protocol's number in IP headers, 0 for all of a virtual address.
        protocol: u8,
        /// Nothing.
        zero: u8,
    }

    /// Value of `frontends`.
    Frontend = "frontend" {
        /// What is done with connections from pods.
        pod: Deed,
        /// From the node itself.
        node: Deed,
        /// From anywhere else.
        outside: Deed,
        /// Number of the Service's port.
        port: u64,
        /// By which `sources` has who may connect; 0 if everybody may.
        sources: u64,
        /// Seconds that a silent client keeps its endpoint for; 0 if none is kept.
        affinity: u32,
        /// How packets are led.
        flags: Flags,
    }

    /// Value of `sets`, whose key is its number.
    Set = "set" {
        /// The number.
        number: u64,
        /// The list of endpoints that it has.
        list: List,
    }

    /// Key of `endpoints`: a place in a list.
    Slot = "slot" {
        /// Number of the list.
        list: u32,
        /// The place, from 0.
        index: u32,
    }

    /// Key of `members`: an endpoint that somebody may go on with.
    Member = "member" {
        /// Number of a set, or the complement of the number of a UDP port.
        of: u64,
        /// The endpoint.
        endpoint: Endpoint,
        /// Nothing.
        zero: u32,
    }

    /// Value of `peers`.
    Peer = "peer" {
        /// What a socket has asked for.
        asked: Endpoint,
        /// Where it was sent.
        given: Endpoint,
    }

    /// The one value of `node`.
    Node = "node" {
        /// Cookie of its network namespace.
        netns: u64,
        /// The families that pods can be told in.
        pods: Families,
        /// Source ports of masqueraded connections: the first of the lower ones.
        low_port: u16,
        /// How many there are of these.
        low_ports: u16,
        /// The first of the higher ones.
        high_port: u16,
        /// How many there are of these.
        high_ports: u16,
        /// 1 if what is forwarded may be sent on at once.
        flags: u32,
    }

    /// Key of `pods` and `virtual_ranges`.
    Range = "range" {
        /// How many bits of the address count.
        length: u32,
        /// The address.
        address: Address,
    }

    /// Key of `sources`.
    SourceRange = "source_range" {
        /// How many bits of what follows count.
        length: u32,
        /// What frontends have in `sources`.
        of: Halves,
        /// The address.
        address: Address,
    }

    /// Value of `devices`.
    Device = "device" {
        /// The address that IPv4 connections which leave by it are masqueraded with.
        v4: Address,
        /// And IPv6 connections.
        v6: Address,
        /// What else is known of it.
        flags: u32,
    }

    /// Key of `translations`.
    Tuple = "tuple" {
        /// Where a packet comes from.
        source: Endpoint,
        /// Where it goes to.
        destination: Endpoint,
        /// Its protocol's number in IP headers.
        protocol: u8,
        /// Where it is seen so.
        hook: Hook,
        /// Nothing.
        zero: u16,
    }

    /// Value of `translations`.
    Translation = "translation" {
        /// The source that it gets.
        source: Endpoint,
        /// And the destination, but for what leaves.
        destination: Endpoint,
        /// What else is known.
        flags: u32,
        /// Nothing.
        zero: u32,
        /// Number of the Service's port.
        port: u64,
        /// When it was used last: nanoseconds of CLOCK_MONOTONIC.
        seen: u64,
    }
}

/// How many entries of a table are in one value of `tables`.
pub const BLOCK: usize = 64;

/// Value of `tables`: places of endpoints in their list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block(pub [u16; BLOCK]);

/// An IPv6 address; IPv4 addresses are mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Ipv6Addr);

/// A port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

/// Whose connections are masqueraded, as packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Masquerades {
    /// Those from pods.
    pub pods: bool,
    /// Those from outside.
    pub outside: bool,
}

/// How packets of connections to a frontend are led.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags {
    /// Whose connections are masqueraded.
    pub masquerades: Masquerades,
    /// Clients from outside get an endpoint by a hash of themselves.
    pub by_client: bool,
}

/// A number of 64 bits where there may be no gap before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Halves(pub u64);

/// Where a packet is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Where it comes in.
    #[default]
    Ingress,
    /// Where it goes out.
    Egress,
}

impl Node {
    /// Nobody filters what is forwarded: it may be sent on without being asked about.
    pub const MAY_REDIRECT: u32 = 1;
    /// What TCP sockets have asked for is kept with them, so that their connections can be ended.
    pub const KEEPS_TCP: u32 = 2;
}

impl Device {
    /// What comes by it comes from pods.
    pub const OF_PODS: u32 = 1;
    /// It is one end of a veth pair whose other end is in another network namespace, and nothing is between.
    pub const HAS_PEER: u32 = 2;
}

impl Translation {
    /// It is of the client's packets, not of answers.
    pub const IS_REQUEST: u32 = 1;
    /// More than the handshake of TCP has passed.
    pub const IS_ESTABLISHED: u32 = 4;
    /// A FIN of TCP has passed.
    pub const IS_CLOSING: u32 = 8;
    /// A RST of TCP has passed.
    pub const IS_RESET: u32 = 16;
    /// It was begun by another data plane.
    pub const IS_TAKEN_OVER: u32 = 32;
}

/// What a frontend does with connections of some origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// It refuses them.
    #[default]
    Refuse,
    /// It lets them vanish.
    Drop,
    /// It sends them to the endpoint set with this number.
    Send(u64),
}

/// Whose node ports an address of the node accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Everybody's.
    All,
    /// Those of sockets in the node's own network namespace.
    Node,
}

/// A list of endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct List {
    /// Its number.
    pub number: u32,
    /// How many endpoints it has.
    pub count: u32,
}

/// Address families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families(u32);

impl Families {
    /// Those that `has` says yes to.
    pub fn of(has: impl Fn(Family) -> bool) -> Self {
        let bit = |family, bit| if has(family) { bit } else { 0 };
        Self(bit(Family::V4, 1) | bit(Family::V6, 2))
    }
}

impl List {
    /// Its places.
    pub fn slots(self) -> impl Iterator<Item = Slot> {
        (0..self.count).map(move |index| Slot { list: self.number, index })
    }
}

impl From<IpNet> for Range {
    fn from(range: IpNet) -> Self {
        Self { length: bits_of(range), address: range.network().into() }
    }
}

impl SourceRange {
    /// A range that may connect to frontends of a number.
    pub fn new(of: u64, range: IpNet) -> Self {
        Self { length: 64 + bits_of(range), of: Halves(of), address: range.network().into() }
    }
}

/// How many bits of the addresses of a range are its own, where IPv4 addresses are mapped.
fn bits_of(range: IpNet) -> u32 {
    let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
    mapped + u32::from(range.prefix_len())
}

impl FrontendKey {
    /// The key of a frontend at this very address.
    pub fn at(at: SocketAddr, protocol: u8) -> Self {
        Self { address: at.ip().into(), port: Port(at.port()), protocol, zero: 0 }
    }

    /// The key of a frontend at any address of the node.
    pub fn at_any(at: SocketAddr, protocol: u8) -> Self {
        let any = match at {
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0; 16]),
        };
        Self::at(SocketAddr::new(any, at.port()), protocol)
    }

    /// Its address and port.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address.0.to_canonical(), self.port.0)
    }

    /// The key of all of a virtual address that has no frontend.
    pub fn virtual_address(ip: IpAddr) -> Self {
        Self { address: ip.into(), ..Self::default() }
    }
}

impl From<&plan::FrontendKey> for FrontendKey {
    fn from(key: &plan::FrontendKey) -> Self {
        let ip = match key.address {
            FrontendAddress::Ip(ip) => ip,
            FrontendAddress::AnyOfNode(Family::V4) => IpAddr::from([0; 4]),
            FrontendAddress::AnyOfNode(Family::V6) => IpAddr::from([0; 16]),
        };
        let protocol = key.protocol.number();
        Self { address: ip.into(), port: Port(key.port.get()), protocol, zero: 0 }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        Self { address: at.ip().into(), port: Port(at.port()), zero: 0 }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(at: Endpoint) -> Self {
        SocketAddr::new(at.address.0.to_canonical(), at.port.0)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => Self(ip),
        }
    }
}

impl Default for Address {
    fn default() -> Self {
        Self(Ipv6Addr::UNSPECIFIED)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.to_canonical(), f)
    }
}

/// Whether sockets of a protocol are seen at all.
pub fn is_seen(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Udp)
}

impl Wire for Address {
    const SIZE: usize = 16;

    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.octets());
    }

    fn get(bytes: &[u8]) -> Self {
        let mut octets = [0; 16];
        octets.copy_from_slice(bytes);
        Self(octets.into())
    }
}

impl Wire for Port {
    const SIZE: usize = u16::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        self.0.to_be().put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        Self(u16::from_be(u16::get(bytes)))
    }
}

impl Wire for Deed {
    const SIZE: usize = u64::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        let number = match self {
            Deed::Refuse => 0,
            Deed::Drop => u64::MAX,
            Deed::Send(set) => *set,
        };
        number.put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        match u64::get(bytes) {
            0 => Deed::Refuse,
            u64::MAX => Deed::Drop,
            set => Deed::Send(set),
        }
    }
}

impl Wire for Flags {
    const SIZE: usize = u32::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        let Masquerades { pods, outside } = self.masquerades;
        (u32::from(pods) | u32::from(outside) << 1 | u32::from(self.by_client) << 2).put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        let flags = u32::get(bytes);
        let masquerades = Masquerades { pods: flags & 1 != 0, outside: flags & 2 != 0 };
        Self { masquerades, by_client: flags & 4 != 0 }
    }
}

impl Wire for Block {
    const SIZE: usize = BLOCK * u16::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        for (place, bytes) in self.0.iter().zip(bytes.chunks_mut(u16::SIZE)) {
            place.put(bytes);
        }
    }

    fn get(bytes: &[u8]) -> Self {
        let mut block = Self([0; BLOCK]);
        for (place, bytes) in block.0.iter_mut().zip(bytes.chunks(u16::SIZE)) {
            *place = u16::get(bytes);
        }
        block
    }
}

impl Wire for Halves {
    const SIZE: usize = u64::SIZE;

    /// The lower one first.
    fn put(&self, bytes: &mut [u8]) {
        let (lower, upper) = bytes.split_at_mut(u32::SIZE);
        (self.0 as u32).put(lower);
        ((self.0 >> 32) as u32).put(upper);
    }

    fn get(bytes: &[u8]) -> Self {
        let (lower, upper) = bytes.split_at(u32::SIZE);
        Self(u64::from(u32::get(upper)) << 32 | u64::from(u32::get(lower)))
    }
}

impl Wire for Hook {
    const SIZE: usize = u8::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        u8::from(*self == Hook::Egress).put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        if u8::get(bytes) == 0 { Hook::Ingress } else { Hook::Egress }
    }
}

impl Wire for Accepts {
    const SIZE: usize = u32::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        u32::from(*self == Accepts::Node).put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        if u32::get(bytes) == 0 { Accepts::All } else { Accepts::Node }
    }
}

impl Wire for List {
    const SIZE: usize = u64::SIZE;

    /// In one number, so that it is read as a whole.
    fn put(&self, bytes: &mut [u8]) {
        (u64::from(self.count) << 32 | u64::from(self.number)).put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        let both = u64::get(bytes);
        // Halves fit.
        Self { number: both as u32, count: (both >> 32) as u32 }
    }
}

impl Wire for Families {
    const SIZE: usize = u32::SIZE;

    fn put(&self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        Self(u32::get(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::btf::{Btf, Structure};
    use super::super::programs::CODE;
    use super::*;

    #[test]
    fn structures_are_those_of_the_header() {
        let btf = Btf::of(CODE);
        for (name, fields) in STRUCTURES {
            let Structure { size, members } = btf.structure(name);
            let mut at = 0;
            let expected: Vec<(String, usize)> = fields
                .iter()
                .map(|(field, size)| {
                    let field = (field.to_string(), at);
                    at += size;
                    field
                })
                .collect();
            assert_eq!((members, size), (expected, at), "struct {name}");
        }
    }

    /// What one process remembers another one reads, of another version perhaps. Who changes these gives
    /// `MEMORY` in programs.rs another number.
    #[test]
    fn what_is_remembered_has_not_changed() {
        let btf = Btf::of(CODE);
        let names = [
            "client",
            "remembered",
            "datagrams",
            "peer",
            "shown",
            "endpoint",
            "tuple",
            "translation",
            "fragment",
        ];
        let described = names.map(|name| {
            let Structure { size, members } = btf.structure(name);
            let members: Vec<String> =
                members.iter().map(|(member, at)| format!("{member}@{at}")).collect();
            format!("{name} {size}: {}", members.join(" "))
        });
        assert_eq!(
            described,
            [
                "client 24: port@0 address@8",
                "remembered 32: endpoint@0 zero@20 seen@24",
                "datagrams 32: socket@0 peer@8 zero@28",
                "peer 40: asked@0 given@20",
                "shown 48: socket@0 peer@8",
                "endpoint 20: address@0 port@16 zero@18",
                "tuple 44: source@0 destination@20 protocol@40 hook@41 zero@42",
                "translation 64: source@0 destination@20 flags@40 zero@44 port@48 seen@56",
                "fragment 40: source@0 destination@16 identification@32 protocol@36",
            ]
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let at: SocketAddr = "10.244.1.10:8080".parse().unwrap();
        let member = Member { of: 7, endpoint: at.into(), zero: 0 };
        let bytes: [u8; Member::SIZE] = member.to_bytes();
        assert_eq!(bytes[18..28], [0xff, 0xff, 10, 244, 1, 10, 0x1f, 0x90, 0, 0]);
        assert_eq!(Member::get(&bytes), member);
        assert_eq!(SocketAddr::from(member.endpoint), at);
        for deed in [Deed::Refuse, Deed::Drop, Deed::Send(9)] {
            assert_eq!(Deed::get(&deed.to_bytes::<8>()), deed);
        }
        let list = List { number: 3, count: 4 };
        assert_eq!(List::get(&list.to_bytes::<8>()), list);
    }
}
