//! What rules ask of a packet: who sends it, where it goes, and what the maps say of that.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use kernel::nftables::{
    Comparison, ConntrackKey, Expression, Family, MetaKey, Outcome, PayloadBase, Register,
};
use plan::LocalDetector;

use super::Rules;
use super::parts::{
    KEY, came_in, goto, interface_name, is_of_this_node, jump, octets, transport_protocol,
};
use crate::nftables::layout::SetName;

impl Rules<'_> {
    /// Whether pods are told by what is not known any more where their source is rewritten.
    pub(super) fn pods_are_marked(&self) -> bool {
        let by_interface = matches!(
            self.detector,
            LocalDetector::Interface(_) | LocalDetector::InterfacePrefix(_)
        );
        self.accompanies && by_interface
    }

    /// Goes on for connections from outside only.
    pub(super) fn is_outside(&self) -> Vec<Expression> {
        [self.pod_tests(Comparison::NotEqual).concat(), came_in()].concat()
    }

    /// Rules that do this for pods: one for each way to tell them.
    pub(super) fn for_pods(&self, then: &[Expression]) -> impl Iterator<Item = Vec<Expression>> {
        self.pod_tests(Comparison::Equal).into_iter().map(move |is_pod| [&is_pod, then].concat())
    }

    /// What tells a pod, or that it is none: one of these is equal, or all are different.
    ///
    /// Ranges are compared and not looked up: they are few, and every new connection is asked for
    /// them two or three times.
    pub(super) fn pod_tests(&self, comparison: Comparison) -> Vec<Vec<Expression>> {
        let interface = |value: Vec<u8>| {
            vec![vec![
                Expression::Meta { key: MetaKey::InputInterface, into: KEY },
                Expression::Compare { register: KEY, comparison, value },
            ]]
        };
        match self.detector {
            LocalDetector::None => Vec::new(),
            LocalDetector::Sources(ranges) => {
                let of_family = ranges
                    .iter()
                    .filter(|range| range.addr().is_ipv4() == (self.family == Family::Ipv4));
                let in_range = |range: &IpNet| {
                    let mask = octets(range.netmask());
                    let value = octets(range.network());
                    vec![
                        self.source_address(KEY),
                        Expression::Mask { from: KEY, into: KEY, mask },
                        Expression::Compare { register: KEY, comparison, value },
                    ]
                };
                of_family.map(in_range).collect()
            }
            LocalDetector::Interface(name) => interface(interface_name(name.as_bytes())),
            LocalDetector::InterfacePrefix(prefix) => interface(prefix.as_bytes().to_vec()),
        }
    }

    /// Leads connections from outside to a chain of their own.
    pub(super) fn lead_outside(&self, chain: &str) -> Vec<Expression> {
        [self.is_outside(), vec![goto(chain)]].concat()
    }

    /// Leads what is for an address that accepts node ports to the chain that looks them up.
    pub(super) fn at_node(&self, chain: &str) -> Vec<Expression> {
        // The set first: it is cheaper than the routing tables, and most packets are for others.
        let destination = self.destination_address(KEY);
        let mut rule = self.in_ranges(SetName::NodeAddresses, destination.clone(), Outcome::Member);
        rule.extend(is_of_this_node());
        rule.push(destination);
        // Not loopback: answers from elsewhere to 127/8 are martian, and ::1 never leaves a host.
        let loopback = match self.family {
            Family::Ipv4 => vec![127],
            Family::Ipv6 => Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        rule.push(Expression::Compare {
            register: KEY,
            comparison: Comparison::NotEqual,
            value: loopback,
        });
        rule.extend(jump(chain));
        rule
    }

    /// Goes on if an address, which `load` puts into the first registers, is in one of the ranges
    /// of a set, or if it is in none.
    pub(super) fn in_ranges(
        &self,
        set: SetName,
        load: Expression,
        into: Outcome,
    ) -> Vec<Expression> {
        vec![load, transport_protocol(Register(self.width())), self.lookup(set.as_str(), KEY, into)]
    }

    /// Loads the key that a packet has in a map of entries.
    pub(super) fn packet_key(&self, set: SetName) -> Vec<Expression> {
        let with_address = matches!(set, SetName::Frontends | SetName::OutsideFrontends);
        let (address, rest) = match with_address {
            true => (vec![self.destination_address(KEY)], Register(self.width())),
            false => (vec![], KEY),
        };
        let port = Expression::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            into: rest.plus(1),
        };
        [address, vec![transport_protocol(rest), port]].concat()
    }

    /// Loads the key that a packet's connection had in a map of entries when it began.
    pub(super) fn original_key(&self, set: SetName) -> Vec<Expression> {
        let with_address = matches!(set, SetName::Frontends | SetName::OutsideFrontends);
        let (address, rest) = match with_address {
            true => (vec![self.original_destination(KEY)], Register(self.width())),
            false => (vec![], KEY),
        };
        let key = ConntrackKey::OriginalDestinationPort;
        let port = Expression::Conntrack { key, into: rest.plus(1) };
        [address, vec![transport_protocol(rest), port]].concat()
    }

    /// Looks the key up and loads the entry in its place.
    pub(super) fn entry(&self, set: SetName) -> Vec<Expression> {
        vec![self.lookup(set.as_str(), KEY, Outcome::Register(KEY))]
    }

    pub(super) fn lookup(&self, set: &str, key: Register, into: Outcome) -> Expression {
        Expression::Lookup { set: set.into(), key, into }
    }

    /// Registers that an address takes.
    pub(super) fn width(&self) -> u8 {
        match self.family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 4,
        }
    }

    pub(super) fn source_address(&self, into: Register) -> Expression {
        let offset = match self.family {
            Family::Ipv4 => 12,
            Family::Ipv6 => 8,
        };
        self.address(offset, into)
    }

    pub(super) fn destination_address(&self, into: Register) -> Expression {
        let offset = match self.family {
            Family::Ipv4 => 16,
            Family::Ipv6 => 24,
        };
        self.address(offset, into)
    }

    pub(super) fn address(&self, offset: u32, into: Register) -> Expression {
        let length = self.family.address_length();
        Expression::Payload { base: PayloadBase::Network, offset, length, into }
    }

    pub(super) fn original_destination(&self, into: Register) -> Expression {
        Expression::Conntrack { key: ConntrackKey::OriginalDestination(self.family), into }
    }
}
