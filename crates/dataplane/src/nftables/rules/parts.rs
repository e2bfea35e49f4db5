//! Parts that rules are made of, whatever the family and the pods: what is loaded, what is asked before
//! anything is looked up, and what ends a rule.

use std::net::IpAddr;

use kernel::nftables::{
    AddressType, Comparison, ConntrackKey, Expression, FibAddress, MetaKey, PayloadBase, Register,
    Verdict, status,
};

use crate::ports::{NODE_PORTS, PRIVILEGED_END};

/// Keys begin at the first register, and what is found takes their place.
pub(super) const KEY: Register = Register(0);

/// `IFNAMSIZ`, the length of an interface name with its terminating zeros.
const INTERFACE_NAME_LENGTH: usize = 16;

/// Number of TCP (IANA protocol numbers).
pub(super) const TCP: u8 = 6;

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn jump(chain: &str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Jump(chain.into()))]
}

pub(super) fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}

pub(super) fn mask(register: Register, bits: u32) -> Expression {
    Expression::Mask { from: register, into: register, mask: bits.to_ne_bytes().to_vec() }
}

pub(super) fn transport_protocol(into: Register) -> Expression {
    Expression::Meta { key: MetaKey::TransportProtocol, into }
}

/// Goes on if the routing tables call the destination an address of this node.
pub(super) fn is_of_this_node() -> Vec<Expression> {
    let value = AddressType::Local.value().to_vec();
    vec![
        Expression::AddressType { of: FibAddress::Destination, into: KEY },
        Expression::Compare { register: KEY, comparison: Comparison::Equal, value },
    ]
}

/// Goes on if the routing tables call the source no address of this node.
pub(super) fn is_from_elsewhere() -> Vec<Expression> {
    let value = AddressType::Local.value().to_vec();
    vec![
        Expression::AddressType { of: FibAddress::Source, into: KEY },
        Expression::Compare { register: KEY, comparison: Comparison::NotEqual, value },
    ]
}

/// Goes on if the packet was not made on this node: it arrived, and not by the loopback. (What arrives
/// with a source of this node's own is martian, and dropped by the kernel.)
pub(super) fn came_in() -> Vec<Expression> {
    let differs = |name: &[u8]| Expression::Compare {
        register: KEY,
        comparison: Comparison::NotEqual,
        value: interface_name(name),
    };
    let interface = Expression::Meta { key: MetaKey::InputInterface, into: KEY };
    vec![interface, differs(b""), differs(b"lo")]
}

/// A name as the kernel compares it.
pub(super) fn interface_name(name: &[u8]) -> Vec<u8> {
    let mut value = name.to_vec();
    value.resize(INTERFACE_NAME_LENGTH, 0);
    value
}

/// Goes on if the packet begins a connection.
pub(super) fn state_new() -> Vec<Expression> {
    has_bit(ConntrackKey::State, status::STATE_NEW)
}

/// Lets packets of known connections pass: nearly all there are.
pub(super) fn pass_established() -> Vec<Expression> {
    let known = status::STATE_ESTABLISHED | status::STATE_RELATED;
    let mut rule = has_bit(ConntrackKey::State, known);
    rule.push(Expression::Verdict(Verdict::Accept));
    rule
}

/// Drops TCP segments that belong to no connection, such as those outside of its window. They are
/// not translated back: a client would see them come from an endpoint that it does not know, and its
/// reset would end the connection there. kube-proxy's iptables mode drops what is forwarded too,
/// and its nftables mode nothing. (`nf_conntrack_tcp_be_liberal` makes such segments valid.)
pub(super) fn invalid_segments() -> Vec<Expression> {
    let is_tcp =
        Expression::Compare { register: KEY, comparison: Comparison::Equal, value: vec![TCP] };
    let mut rule = vec![transport_protocol(KEY), is_tcp];
    rule.extend(has_bit(ConntrackKey::State, status::STATE_INVALID));
    rule.push(Expression::Verdict(Verdict::Drop));
    rule
}

/// Drops new connections to loopback addresses that did not begin here. The kernel does so by itself,
/// unless `route_localnet` is set, as kube-proxy sets it: then neighbours could reach what listens for
/// this host only (CVE-2020-8558).
pub(super) fn loopback_from_elsewhere() -> Vec<Expression> {
    let destination =
        Expression::Payload { base: PayloadBase::Network, offset: 16, length: 1, into: KEY };
    let compare = |comparison, value| Expression::Compare { register: KEY, comparison, value };
    let mut rule = vec![
        destination,
        compare(Comparison::Equal, vec![127]),
        Expression::Meta { key: MetaKey::InputInterface, into: KEY },
        compare(Comparison::NotEqual, interface_name(b"lo")),
    ];
    // What another program's rules have led here is its own business.
    rule.extend(untranslated());
    rule.push(Expression::Verdict(Verdict::Drop));
    rule
}

/// Rewrites the source to this node's, with a port that is no node port: an answer to it would meet
/// the node port's rules. Ports below 1024 stay below.
pub(super) fn rewrite_source() -> Vec<Vec<Expression>> {
    let within = |lowest: u16, highest: u16| {
        let constant =
            |value: u16, into| Expression::Constant { value: value.to_be_bytes().to_vec(), into };
        let (from, to) = (Register(0), Register(1));
        let ports = Some((from, to));
        vec![constant(lowest, from), constant(highest, to), Expression::Masquerade { ports }]
    };
    let port =
        Expression::Payload { base: PayloadBase::Transport, offset: 0, length: 2, into: KEY };
    let compare = |comparison, value| Expression::Compare { register: KEY, comparison, value };
    let privileged = compare(Comparison::Less, PRIVILEGED_END.to_be_bytes().to_vec());
    let coin = Expression::Random { modulus: 2, into: KEY };
    let heads = compare(Comparison::Equal, 0_u32.to_ne_bytes().to_vec());
    vec![
        vec![port, privileged, Expression::Masquerade { ports: None }],
        [vec![coin, heads], within(PRIVILEGED_END, NODE_PORTS.start() - 1)].concat(),
        within(NODE_PORTS.end() + 1, u16::MAX),
    ]
}

/// Goes on if the connection's destination was rewritten.
pub(super) fn translated() -> Vec<Expression> {
    has_bit(ConntrackKey::Status, status::DESTINATION_NAT)
}

/// Goes on if nobody has rewritten the connection's destination.
pub(super) fn untranslated() -> Vec<Expression> {
    bits(ConntrackKey::Status, status::DESTINATION_NAT, Comparison::Equal)
}

/// Goes on if one of these bits is set.
fn has_bit(key: ConntrackKey, bit: u32) -> Vec<Expression> {
    bits(key, bit, Comparison::NotEqual)
}

/// Compares some bits with none.
fn bits(key: ConntrackKey, bits: u32, with_none: Comparison) -> Vec<Expression> {
    let register = Register(0);
    vec![
        Expression::Conntrack { key, into: register },
        mask(register, bits),
        Expression::Compare { register, comparison: with_none, value: vec![0; 4] },
    ]
}
