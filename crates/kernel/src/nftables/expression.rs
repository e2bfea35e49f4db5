//! Expressions: the instructions that rules are made of.
//!
//! They work on sixteen registers of four bytes; a value longer than that takes consecutive ones.
//! Kernels since 6.3 refuse a rule that reads a register which the same rule has not written.

use std::time::Duration;

use super::{Family, Name, uapi};
use crate::netlink::Encoder;

/// One of the sixteen registers, 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

impl Register {
    /// The register `n` after this one.
    pub const fn plus(self, n: u8) -> Self {
        Register(self.0 + n)
    }

    fn number(self) -> u32 {
        uapi::NFT_REG32_00 + u32::from(self.0)
    }
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// This base chain lets it pass.
    Accept,
    /// It vanishes.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Into a chain, and back after it.
    Jump(Name),
    /// Into a chain, without coming back.
    Goto(Name),
}

/// Start of an offset into the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// IP header.
    Network,
    /// TCP, UDP or SCTP header; the rule does not match fragments other than the first.
    Transport,
}

/// Facts about a packet that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// Name of the interface it arrived on: 16 bytes, all zero if it was made here.
    InputInterface,
    /// Transport protocol: one byte.
    TransportProtocol,
    /// The packet's mark: four bytes in the machine's order.
    Mark,
}

/// Facts about the connection of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConntrackKey {
    /// State bits of the packet, see [`status`].
    State,
    /// Status bits of the connection, see [`status`].
    Status,
    /// Destination address of its first packet as it was sent, before any translation.
    OriginalDestination(Family),
    /// Destination port of its first packet as it was sent: two bytes.
    OriginalDestinationPort,
}

/// Bits of [`ConntrackKey::State`] and [`ConntrackKey::Status`].
pub mod status {
    /// State: the packet is of a connection that has been answered.
    pub const STATE_ESTABLISHED: u32 = 1 << 1;
    /// State: the packet is about a connection that is known, as an ICMP error is.
    pub const STATE_RELATED: u32 = 1 << 2;
    /// State: the packet begins a connection, or nothing has answered yet.
    pub const STATE_NEW: u32 = 1 << 3;
    /// Of the state: the packet belongs to no connection and can't begin one.
    pub const STATE_INVALID: u32 = 1;
    /// Status: the connection's destination is translated.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// How a register is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Goes on if equal.
    Equal,
    /// Goes on if different.
    NotEqual,
    /// Goes on if the register comes before the constant, byte by byte.
    Less,
}

/// Where the outcome of a lookup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nowhere: goes on if the key is in the set.
    Member,
    /// Nowhere: goes on if the key is not in the set.
    NotMember,
    /// The value goes into registers from this one on; ends the rule if the key is absent.
    Register(Register),
    /// The value is the verdict; ends the rule if the key is absent.
    Verdict,
}

/// Which of the packet's addresses the routing tables are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibAddress {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
}

/// Kinds of addresses that the routing tables tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// An address of this host.
    Local,
}

impl AddressType {
    /// As [`Expression::AddressType`] writes it to a register.
    pub fn value(self) -> [u8; 4] {
        match self {
            AddressType::Local => u32::from(nix::libc::RTN_LOCAL).to_ne_bytes(),
        }
    }
}

/// What a packet does to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynamicSetOperation {
    /// Adds the element, or starts its timeout again; its value stays.
    Update,
    /// Removes the element, if it is there.
    Delete,
}

/// An instruction of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload {
        /// Where the offset starts.
        base: PayloadBase,
        /// Bytes from there.
        offset: u32,
        /// Bytes to load.
        length: u32,
        /// First register written.
        into: Register,
    },
    /// Loads a fact about the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// First register written.
        into: Register,
    },
    /// Gives the packet a mark.
    SetMark {
        /// Register of the mark, in the machine's byte order.
        from: Register,
    },
    /// Loads a fact about the packet's connection.
    Conntrack {
        /// Which.
        key: ConntrackKey,
        /// First register written.
        into: Register,
    },
    /// Loads the type of an address as the routing tables have it; see [`AddressType::value`].
    AddressType {
        /// Which address.
        of: FibAddress,
        /// Register written.
        into: Register,
    },
    /// Goes on only if the comparison holds.
    Compare {
        /// First register read.
        register: Register,
        /// The relation.
        comparison: Comparison,
        /// The constant.
        value: Vec<u8>,
    },
    /// `into = (from & mask)`.
    Mask {
        /// First register read.
        from: Register,
        /// First register written.
        into: Register,
        /// The mask.
        mask: Vec<u8>,
    },
    /// Looks a key up in a set or map.
    Lookup {
        /// Name of the set.
        set: Name,
        /// First register of the key.
        key: Register,
        /// Where the outcome goes.
        into: Outcome,
    },
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Loads an evenly distributed random number below `modulus`, in the machine's byte order.
    Random {
        /// Not zero.
        modulus: u32,
        /// Register written.
        into: Register,
    },
    /// Translates the connection's destination.
    DestinationNat {
        /// Family of the address.
        family: Family,
        /// First register of the address.
        address: Register,
        /// Register of the port.
        port: Register,
    },
    /// Translates the connection's source to the address of the outgoing interface, with a random port.
    Masquerade {
        /// Registers of the lowest and highest port, each two bytes; `None` for a port of the same
        /// kind as the client's: below 512, below 1024, or any other.
        ports: Option<(Register, Register)>,
    },
    /// Loads constant bytes.
    Constant {
        /// At most 16.
        value: Vec<u8>,
        /// First register written.
        into: Register,
    },
    /// Answers with ICMP or ICMPv6 destination unreachable, port unreachable.
    RejectPortUnreachable(Family),
    /// Answers with a TCP reset, to TCP only.
    RejectTcpReset,
    /// Changes a set.
    DynamicSet {
        /// Name of the set.
        set: Name,
        /// What is done.
        operation: DynamicSetOperation,
        /// First register of the key.
        key: Register,
        /// First register of the value, for maps.
        value: Option<Register>,
        /// How long the element stays; `None` for the set's default.
        timeout: Option<Duration>,
    },
}

impl Expression {
    /// Writes the expression as an item of a rule's list.
    pub(super) fn encode(&self, list: &mut Encoder) {
        list.nested(uapi::NFTA_LIST_ELEM, |item| {
            item.text(uapi::NFTA_EXPR_NAME, self.name());
            item.nested(uapi::NFTA_EXPR_DATA, |data| self.encode_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expression::Payload { .. } => "payload",
            Expression::Meta { .. } | Expression::SetMark { .. } => "meta",
            Expression::Conntrack { .. } => "ct",
            Expression::AddressType { .. } => "fib",
            Expression::Compare { .. } => "cmp",
            Expression::Mask { .. } => "bitwise",
            Expression::Lookup { .. } => "lookup",
            Expression::Verdict(_) | Expression::Constant { .. } => "immediate",
            Expression::Random { .. } => "numgen",
            Expression::DestinationNat { .. } => "nat",
            Expression::Masquerade { .. } => "masq",
            Expression::RejectPortUnreachable(_) | Expression::RejectTcpReset => "reject",
            Expression::DynamicSet { .. } => "dynset",
        }
    }

    fn encode_data(&self, e: &mut Encoder) {
        match self {
            Expression::Payload { base, offset, length, into } => {
                e.be32(uapi::NFTA_PAYLOAD_DREG, into.number());
                e.be32(uapi::NFTA_PAYLOAD_BASE, base.number());
                e.be32(uapi::NFTA_PAYLOAD_OFFSET, *offset);
                e.be32(uapi::NFTA_PAYLOAD_LEN, *length);
            }
            Expression::Meta { key, into } => {
                e.be32(uapi::NFTA_META_DREG, into.number());
                e.be32(uapi::NFTA_META_KEY, key.number());
            }
            Expression::SetMark { from } => {
                e.be32(uapi::NFTA_META_SREG, from.number());
                e.be32(uapi::NFTA_META_KEY, uapi::NFT_META_MARK);
            }
            Expression::Conntrack { key, into } => {
                e.be32(uapi::NFTA_CT_DREG, into.number());
                e.be32(uapi::NFTA_CT_KEY, key.number());
                if key.has_direction() {
                    e.u8(uapi::NFTA_CT_DIRECTION, uapi::IP_CT_DIR_ORIGINAL);
                }
            }
            Expression::AddressType { of, into } => {
                e.be32(uapi::NFTA_FIB_DREG, into.number());
                e.be32(uapi::NFTA_FIB_RESULT, uapi::NFT_FIB_RESULT_ADDRTYPE);
                e.be32(uapi::NFTA_FIB_FLAGS, of.flag());
            }
            Expression::Compare { register, comparison, value } => {
                e.be32(uapi::NFTA_CMP_SREG, register.number());
                e.be32(uapi::NFTA_CMP_OP, comparison.number());
                encode_value(e, uapi::NFTA_CMP_DATA, value);
            }
            Expression::Mask { from, into, mask } => {
                let length = u32::try_from(mask.len()).expect("a mask has at most 64 bytes");
                e.be32(uapi::NFTA_BITWISE_SREG, from.number());
                e.be32(uapi::NFTA_BITWISE_DREG, into.number());
                e.be32(uapi::NFTA_BITWISE_LEN, length);
                encode_value(e, uapi::NFTA_BITWISE_MASK, mask);
                encode_value(e, uapi::NFTA_BITWISE_XOR, &vec![0; mask.len()]);
            }
            Expression::Lookup { set, key, into } => {
                e.text(uapi::NFTA_LOOKUP_SET, set);
                e.be32(uapi::NFTA_LOOKUP_SREG, key.number());
                match into {
                    Outcome::Member => {}
                    Outcome::NotMember => e.be32(uapi::NFTA_LOOKUP_FLAGS, uapi::NFT_LOOKUP_F_INV),
                    Outcome::Register(r) => e.be32(uapi::NFTA_LOOKUP_DREG, r.number()),
                    Outcome::Verdict => e.be32(uapi::NFTA_LOOKUP_DREG, uapi::NFT_REG_VERDICT),
                }
            }
            Expression::Verdict(verdict) => {
                e.be32(uapi::NFTA_IMMEDIATE_DREG, uapi::NFT_REG_VERDICT);
                verdict.encode(e, uapi::NFTA_IMMEDIATE_DATA);
            }
            Expression::Random { modulus, into } => {
                e.be32(uapi::NFTA_NG_DREG, into.number());
                e.be32(uapi::NFTA_NG_MODULUS, *modulus);
                e.be32(uapi::NFTA_NG_TYPE, uapi::NFT_NG_RANDOM);
            }
            Expression::DestinationNat { family, address, port } => {
                e.be32(uapi::NFTA_NAT_TYPE, uapi::NFT_NAT_DNAT);
                e.be32(uapi::NFTA_NAT_FAMILY, u32::from(family.number()));
                e.be32(uapi::NFTA_NAT_REG_ADDR_MIN, address.number());
                e.be32(uapi::NFTA_NAT_REG_PROTO_MIN, port.number());
            }
            Expression::Constant { value, into } => {
                e.be32(uapi::NFTA_IMMEDIATE_DREG, into.number());
                encode_value(e, uapi::NFTA_IMMEDIATE_DATA, value);
            }
            Expression::Masquerade { ports } => {
                let random = uapi::NF_NAT_RANGE_PROTO_RANDOM_FULLY;
                match ports {
                    None => e.be32(uapi::NFTA_MASQ_FLAGS, random),
                    Some((lowest, highest)) => {
                        e.be32(uapi::NFTA_MASQ_FLAGS, random | uapi::NF_NAT_RANGE_PROTO_SPECIFIED);
                        e.be32(uapi::NFTA_MASQ_REG_PROTO_MIN, lowest.number());
                        e.be32(uapi::NFTA_MASQ_REG_PROTO_MAX, highest.number());
                    }
                }
            }
            Expression::RejectPortUnreachable(family) => {
                e.be32(uapi::NFTA_REJECT_TYPE, uapi::NFT_REJECT_ICMP_UNREACH);
                e.u8(uapi::NFTA_REJECT_ICMP_CODE, port_unreachable(*family));
            }
            Expression::RejectTcpReset => {
                e.be32(uapi::NFTA_REJECT_TYPE, uapi::NFT_REJECT_TCP_RST);
            }
            Expression::DynamicSet { set, operation, key, value, timeout } => {
                e.text(uapi::NFTA_DYNSET_SET_NAME, set);
                e.be32(uapi::NFTA_DYNSET_OP, operation.number());
                e.be32(uapi::NFTA_DYNSET_SREG_KEY, key.number());
                if let Some(value) = value {
                    e.be32(uapi::NFTA_DYNSET_SREG_DATA, value.number());
                }
                if let Some(timeout) = timeout {
                    e.be64(uapi::NFTA_DYNSET_TIMEOUT, milliseconds(*timeout));
                }
            }
        }
    }
}

impl Verdict {
    /// Writes the verdict as data.
    pub(super) fn encode(&self, e: &mut Encoder, kind: u16) {
        let (code, chain) = match self {
            Verdict::Accept => (uapi::NF_ACCEPT, None),
            Verdict::Drop => (uapi::NF_DROP, None),
            Verdict::Return => (uapi::NFT_RETURN, None),
            Verdict::Jump(chain) => (uapi::NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (uapi::NFT_GOTO, Some(chain)),
        };
        e.nested(kind, |data| {
            data.nested(uapi::NFTA_DATA_VERDICT, |verdict| {
                verdict.be32(uapi::NFTA_VERDICT_CODE, code.cast_unsigned());
                if let Some(chain) = chain {
                    verdict.text(uapi::NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    }

    /// The verdict with that code and chain.
    pub(super) fn decode(code: u32, chain: Option<&str>) -> Option<Self> {
        match (code.cast_signed(), chain) {
            (uapi::NF_ACCEPT, None) => Some(Verdict::Accept),
            (uapi::NF_DROP, None) => Some(Verdict::Drop),
            (uapi::NFT_RETURN, None) => Some(Verdict::Return),
            (uapi::NFT_JUMP, Some(chain)) => Some(Verdict::Jump(chain.into())),
            (uapi::NFT_GOTO, Some(chain)) => Some(Verdict::Goto(chain.into())),
            _ => None,
        }
    }
}

/// Writes constant data.
pub(super) fn encode_value(e: &mut Encoder, kind: u16, value: &[u8]) {
    e.nested(kind, |data| data.attribute(uapi::NFTA_DATA_VALUE, value));
}

/// Timeouts count in milliseconds.
pub(super) fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 792 and RFC 4443.
fn port_unreachable(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 3,
        Family::Ipv6 => 4,
    }
}

impl PayloadBase {
    fn number(self) -> u32 {
        match self {
            PayloadBase::Network => 1,
            PayloadBase::Transport => 2,
        }
    }
}

impl MetaKey {
    fn number(self) -> u32 {
        match self {
            MetaKey::InputInterface => 6,
            MetaKey::TransportProtocol => 16,
            MetaKey::Mark => uapi::NFT_META_MARK,
        }
    }
}

impl ConntrackKey {
    fn number(self) -> u32 {
        match self {
            ConntrackKey::State => 0,
            ConntrackKey::Status => 2,
            ConntrackKey::OriginalDestinationPort => 12,
            ConntrackKey::OriginalDestination(Family::Ipv4) => 20,
            ConntrackKey::OriginalDestination(Family::Ipv6) => 22,
        }
    }

    fn has_direction(self) -> bool {
        !matches!(self, ConntrackKey::State | ConntrackKey::Status)
    }
}

impl Comparison {
    fn number(self) -> u32 {
        match self {
            Comparison::Equal => 0,
            Comparison::NotEqual => 1,
            Comparison::Less => 2,
        }
    }
}

impl FibAddress {
    fn flag(self) -> u32 {
        match self {
            FibAddress::Source => uapi::NFTA_FIB_F_SADDR,
            FibAddress::Destination => uapi::NFTA_FIB_F_DADDR,
        }
    }
}

impl DynamicSetOperation {
    fn number(self) -> u32 {
        match self {
            DynamicSetOperation::Update => 1,
            DynamicSetOperation::Delete => 2,
        }
    }
}
