//! The rules of the table: few, and the same whatever is programmed. Only the chains that choose a
//! backend come and go, one for each number of backends in use.
//!
//! ```text
//! prerouting, output (dstnat) -> services -> services-outside     entry -> choose-N: dnat
//! input, output               -> refuse   -> refuse-outside       new connections that nobody takes
//! forward           -> refuse-forwarded   -> ...-outside          the same, for other hosts
//! forward, output             -> virtual-addresses                ports and addresses that nobody has
//! postrouting (srcnat)        -> masquerade -> masquerade-ORIGIN  by the original destination
//! ```
//!
//! What can be told without a lookup is told first: an established connection passes the filters with
//! one comparison, and a translated one is not asked about again.
//!
//! No packet mark is used: what to masquerade is found again at postrouting by the connection's
//! original destination, which connection tracking remembers.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use kernel::nftables::{
    Comparison, ConntrackKey, DynamicSetOperation, Expression, Family, MetaKey, Name, Outcome,
    PayloadBase, Register, Verdict,
};
use plan::LocalDetector;

use super::layout::{Dispatch, SetName, flag};
use super::parts::{
    KEY, TCP, came_in, goto, interface_name, invalid_segments, is_from_elsewhere, is_of_this_node,
    jump, loopback_from_elsewhere, mask, octets, pass_established, rewrite_source, state_new,
    translated, transport_protocol, untranslated,
};
use super::role::{POD_MARK, Role};
use crate::number::SCOPE_BIT;

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChain {
    /// Name of the chain.
    pub name: Name,
    /// Rules, in order.
    pub rules: Vec<Vec<Expression>>,
}

/// Name of the map from what an entry says of refusing to what is done.
pub const REFUSALS: &str = "refusals";
/// Name of the map from what an entry says of the source to what is done.
pub const SOURCES: &str = "sources";

/// The elements of [`REFUSALS`] and [`SOURCES`], which never change.
pub fn constant_verdicts() -> [(&'static str, u32, Verdict); 6] {
    let masquerade = || Verdict::Goto("rewrite-source".into());
    [
        (REFUSALS, flag::REJECT, Verdict::Goto("reject".into())),
        (REFUSALS, flag::DROP, Verdict::Drop),
        (SOURCES, 0, Verdict::Accept),
        (SOURCES, flag::MASQUERADE_POD, masquerade()),
        (SOURCES, flag::MASQUERADE_NODE, masquerade()),
        (SOURCES, flag::MASQUERADE_OUTSIDE, masquerade()),
    ]
}

/// Name of the verdict map that leads from the entries of a map to the chains that choose.
pub fn dispatch_map(set: SetName) -> Name {
    format!("choose-{}", set.as_str()).into()
}

/// Name of the chain that chooses a backend for entries of `set`.
pub fn dispatch_chain(set: SetName, dispatch: Dispatch) -> Name {
    let Dispatch { backends, affinity } = dispatch;
    match affinity {
        0 => format!("{}-{backends}", set.as_str()),
        seconds => format!("{}-{backends}-{seconds}s", set.as_str()),
    }
    .into()
}

/// Name of the map of clients and their backends for an affinity timeout in seconds.
pub fn affinity_map(seconds: u32) -> Name {
    format!("affinity-{seconds}s").into()
}

/// Writes rules for one address family.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    family: Family,
    detector: &'a LocalDetector,
    accompanies: bool,
}

/// The fields of an entry, see [`Entry::to_bytes`](super::layout::Entry::to_bytes).
const DISPATCH: Register = Register(1);
const FLAGS: Register = Register(2);
const SET: Register = Register(3);
/// Follows the set, so that set and index, or set and backend, are one key.
const AFTER_SET: Register = Register(5);

impl<'a> Rules<'a> {
    /// Rules for `family`, with pods told by `detector`.
    pub fn new(family: Family, detector: &'a LocalDetector, role: &Role) -> Self {
        Self { family, detector, accompanies: *role != Role::Translate }
    }

    /// All chains that are always there, called ones before their callers.
    pub fn constant_chains(&self) -> Vec<RuleChain> {
        let chain = |name: &str, rules| RuleChain { name: name.into(), rules };
        let new_only = |to: &str| [state_new(), untranslated(), jump(to)].concat();
        let mut chains =
            vec![chain("reject", self.reject()), chain("rewrite-source", rewrite_source())];
        chains.extend(match self.accompanies {
            false => vec![
                chain("node-ports-outside", self.dispatch(&node_port_maps(true))),
                chain("node-ports", self.dispatch(&node_port_maps(false))),
                chain("services-outside", self.services(true)),
                chain("services", self.services(false)),
            ],
            true => vec![
                chain("node-ports-outside", self.mark(SetName::OutsideNodePorts)),
                chain("services-outside", {
                    let node_ports = vec![self.at_node("node-ports-outside")];
                    [self.mark(SetName::OutsideFrontends), node_ports].concat()
                }),
                chain("services", self.guard_and_mark()),
            ],
        });
        chains.extend([
            chain("refuse-node-ports-outside", self.refuse(&node_port_maps(true))),
            chain("refuse-node-ports", self.refuse(&node_port_maps(false))),
            chain("refuse-outside", self.refuse_local(true)),
            chain("refuse", self.refuse_local(false)),
            // What is forwarded goes to no address of this node.
            chain("refuse-forwarded-outside", self.refuse(&exact_maps(true))),
            chain("refuse-forwarded", {
                let outside = self.lead_outside("refuse-forwarded-outside");
                [vec![outside], self.refuse(&exact_maps(false))].concat()
            }),
            chain("virtual-addresses", self.virtual_addresses()),
        ]);
        for (origin, flag) in [
            ("pod", flag::MASQUERADE_POD),
            ("node", flag::MASQUERADE_NODE),
            ("outside", flag::MASQUERADE_OUTSIDE),
        ] {
            let node_ports = format!("masquerade-node-ports-{origin}");
            let outside = origin == "outside";
            chains.push(chain(&node_ports, self.source_of(&node_port_maps(outside), flag)));
            let rules = self.masquerade_from(flag, outside, &node_ports);
            chains.push(chain(&format!("masquerade-{origin}"), rules));
        }
        chains.extend([
            chain("masquerade", self.masquerade()),
            chain("prerouting", vec![jump("services")]),
            chain("output", vec![jump("services")]),
            chain("filter-input", self.input(new_only("refuse"))),
            chain(
                "filter-forward",
                vec![
                    pass_established(),
                    invalid_segments(),
                    new_only("refuse-forwarded"),
                    new_only("virtual-addresses"),
                ],
            ),
            chain(
                "filter-output",
                vec![pass_established(), new_only("refuse"), new_only("virtual-addresses")],
            ),
            chain(
                "postrouting",
                match self.accompanies {
                    false => vec![[translated(), jump("masquerade")].concat()],
                    // Connection tracking does not tell what IPVS has translated.
                    true => vec![jump("masquerade")],
                },
            ),
        ]);
        if self.accompanies {
            // Virtual addresses are this host's own for IPVS' sake. What it has not taken by now nobody
            // takes: so nobody reaches what listens here, or has an answer to a ping.
            let new = [state_new(), jump("virtual-addresses")].concat();
            chains.push(chain("filter-after-ipvs", vec![new]));
        }
        chains
    }

    /// The chain that chooses a backend for entries of `set`.
    pub fn choosing_chain(&self, set: SetName, dispatch: Dispatch) -> RuleChain {
        let entry = [self.packet_key(set), self.entry(set)].concat();
        let choose = vec![
            Expression::Random { modulus: dispatch.backends, into: AFTER_SET },
            self.lookup(SetName::Endpoints.as_str(), SET, Outcome::Register(AFTER_SET)),
        ];
        let rewrite = vec![Expression::DestinationNat {
            family: self.family,
            address: AFTER_SET,
            port: AFTER_SET.plus(self.width()),
        }];
        let rules = match dispatch.affinity {
            0 => vec![[entry, choose, rewrite].concat()],
            seconds => {
                let map = affinity_map(seconds);
                let remembered = vec![
                    self.lookup(&map, self.client(), Outcome::Register(AFTER_SET)),
                    self.lookup(SetName::Members.as_str(), SET, Outcome::Member),
                    self.remember(&map, DynamicSetOperation::Update),
                ];
                let anew = vec![
                    // An element that is there keeps its value, so it has to go first.
                    self.remember(&map, DynamicSetOperation::Delete),
                    self.remember(&map, DynamicSetOperation::Update),
                ];
                let client = self.load_client();
                vec![
                    [entry.clone(), client.clone(), remembered, rewrite.clone()].concat(),
                    [entry, choose, client, anew, rewrite].concat(),
                ]
            }
        };
        RuleChain { name: dispatch_chain(set, dispatch), rules }
    }

    /// From a packet to the chain that chooses a backend, or by way of the node's ports.
    ///
    /// Every lookup of a packet sees the table as it is at that moment, so a transaction between two
    /// lookups of one packet can let the second one miss: an entry said three backends, and now there
    /// are two. Asking again from the start finds the new state. (Kernels before 6.17 can also miss
    /// an element that is replaced within a transaction.) A packet that meets its entry asks once.
    fn services(&self, outside: bool) -> Vec<Vec<Expression>> {
        let mut once = self.dispatch(&exact_maps(outside));
        once.push(self.at_node(if outside { "node-ports-outside" } else { "node-ports" }));
        let rules = match outside {
            true => Vec::new(),
            false => vec![self.guard(), self.lead_outside("services-outside")],
        };
        [rules, once.clone(), once].concat()
    }

    /// From an entry to the chain that chooses a backend.
    fn dispatch(&self, maps: &[SetName]) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let dispatch = self.lookup(&dispatch_map(*set), DISPATCH, Outcome::Verdict);
            [self.packet_key(*set), self.entry(*set), vec![dispatch]].concat()
        };
        maps.iter().map(rule).collect()
    }

    /// Drops connections to guarded frontends from sources that are not allowed.
    fn guard(&self) -> Vec<Expression> {
        let source = Register(self.width() + 2);
        let mut rule = self.packet_key(SetName::Frontends);
        rule.extend([
            self.lookup(SetName::Guarded.as_str(), KEY, Outcome::Member),
            self.source_address(source),
            self.lookup(SetName::AllowedSources.as_str(), KEY, Outcome::NotMember),
            Expression::Verdict(Verdict::Drop),
        ]);
        rule
    }

    /// In the place of [`Rules::services`] where IPVS translates: what leads connections to the right
    /// one of its servers.
    fn guard_and_mark(&self) -> Vec<Vec<Expression>> {
        let mut rules = vec![self.guard()];
        if self.pods_are_marked() {
            let mark = [
                Expression::Constant { value: POD_MARK.to_ne_bytes().to_vec(), into: KEY },
                Expression::SetMark { from: KEY },
                Expression::Verdict(Verdict::Accept),
            ];
            let pods = self.pod_tests(Comparison::Equal).into_iter();
            rules.extend(pods.map(|is_pod| [&is_pod[..], &mark].concat()));
        }
        rules.push(self.lead_outside("services-outside"));
        rules
    }

    /// Marks connections from outside that an entry treats by themselves.
    fn mark(&self, map: SetName) -> Vec<Vec<Expression>> {
        let is_marked = Expression::Compare {
            register: SET,
            comparison: Comparison::NotEqual,
            value: vec![0; 4],
        };
        let mark = vec![
            is_marked,
            Expression::SetMark { from: SET },
            Expression::Verdict(Verdict::Accept),
        ];
        vec![[self.packet_key(map), self.entry(map), mark].concat()]
    }

    /// Whether pods are told by what is not known any more where their source is rewritten.
    fn pods_are_marked(&self) -> bool {
        let by_interface = matches!(
            self.detector,
            LocalDetector::Interface(_) | LocalDetector::InterfacePrefix(_)
        );
        self.accompanies && by_interface
    }

    /// Refuses or drops new connections that meet a frontend nobody serves.
    fn refuse(&self, maps: &[SetName]) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let refusal =
                vec![mask(FLAGS, flag::REFUSED), self.lookup(REFUSALS, FLAGS, Outcome::Verdict)];
            [self.packet_key(*set), self.entry(*set), refusal].concat()
        };
        maps.iter().map(rule).collect()
    }

    /// The same for what ends or begins on this node.
    fn refuse_local(&self, outside: bool) -> Vec<Vec<Expression>> {
        let (first, node_ports) = match outside {
            true => (None, "refuse-node-ports-outside"),
            false => (Some(self.lead_outside("refuse-outside")), "refuse-node-ports"),
        };
        let mut rules: Vec<_> = first.into_iter().collect();
        rules.extend(self.refuse(&exact_maps(outside)));
        rules.push(self.at_node(node_ports));
        rules
    }

    /// TCP is refused with a reset, which clients take at any time. An ICMP error is lost on a client
    /// on this machine: it arrives while connect(2) still holds the socket (tcp_v4_err() counts it
    /// as `LockDroppedIcmps`), and the refusal is only seen when the first packet is sent again, a
    /// second later. It is also limited to one a second for each client (`icmp_ratelimit`).
    fn reject(&self) -> Vec<Vec<Expression>> {
        let is_tcp =
            Expression::Compare { register: KEY, comparison: Comparison::Equal, value: vec![TCP] };
        vec![
            vec![transport_protocol(KEY), is_tcp, Expression::RejectTcpReset],
            vec![Expression::RejectPortUnreachable(self.family)],
        ]
    }

    /// Refuses what goes to a virtual address that has no such port, and drops what goes to an
    /// address of the service ranges that nobody has.
    fn virtual_addresses(&self) -> Vec<Vec<Expression>> {
        let destination = self.destination_address(KEY);
        let is_virtual = self.lookup(SetName::ClusterIps.as_str(), KEY, Outcome::Member);
        let in_range = self.in_ranges(SetName::ServiceRanges, destination.clone(), Outcome::Member);
        vec![
            vec![destination, is_virtual, goto("reject")],
            [in_range, vec![Expression::Verdict(Verdict::Drop)]].concat(),
        ]
    }

    /// Decides, for a connection whose destination was rewritten, whether its source is too.
    fn masquerade(&self) -> Vec<Vec<Expression>> {
        let hairpin = vec![
            self.source_address(Register(0)),
            self.destination_address(Register(self.width())),
            self.lookup(SetName::Hairpins.as_str(), Register(0), Outcome::Member),
            goto("rewrite-source"),
        ];
        let mut rules = vec![hairpin];
        if self.pods_are_marked() {
            let is_pod = vec![
                Expression::Meta { key: MetaKey::Mark, into: KEY },
                Expression::Compare {
                    register: KEY,
                    comparison: Comparison::Equal,
                    value: POD_MARK.to_ne_bytes().to_vec(),
                },
            ];
            rules.push([is_pod, vec![goto("masquerade-pod")]].concat());
        } else {
            rules.extend(self.for_pods(&[goto("masquerade-pod")]));
        }
        let from_outside = match self.accompanies {
            false => came_in(),
            // IPVS sends in this host's name.
            true => is_from_elsewhere(),
        };
        rules.push([from_outside, vec![goto("masquerade-outside")]].concat());
        rules.push(vec![goto("masquerade-node")]);
        rules
    }

    /// Looks up, by the original destination, how a connection's source is treated. The order of
    /// the maps is that of [`Rules::services`], so that the same entry is found, and they are asked
    /// twice for the same reason.
    fn masquerade_from(
        &self,
        origin: u32,
        outside: bool,
        node_ports: &str,
    ) -> Vec<Vec<Expression>> {
        let destination = self.original_destination(KEY);
        let mut at_node = self.in_ranges(SetName::NodeAddresses, destination, Outcome::Member);
        at_node.extend(jump(node_ports));
        let mut once = self.source_of(&exact_maps(outside), origin);
        once.push(at_node);
        [once.clone(), once].concat()
    }

    /// Rewrites the source if the entry says so for this origin.
    fn source_of(&self, maps: &[SetName], origin: u32) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let treatment =
                vec![mask(FLAGS, origin), self.lookup(SOURCES, FLAGS, Outcome::Verdict)];
            [self.original_key(*set), self.entry(*set), treatment].concat()
        };
        maps.iter().map(rule).collect()
    }

    /// What arrives for this node.
    fn input(&self, refuse: Vec<Expression>) -> Vec<Vec<Expression>> {
        let mut rules = vec![pass_established()];
        // What a pod sends to this node and no connection can place.
        rules.extend(self.for_pods(&invalid_segments()));
        rules.push(refuse);
        if self.family == Family::Ipv4 {
            // The kernel drops ::1 from elsewhere whatever is set.
            rules.push([state_new(), loopback_from_elsewhere()].concat());
        }
        rules
    }

    /// Goes on for connections from outside only.
    fn is_outside(&self) -> Vec<Expression> {
        [self.pod_tests(Comparison::NotEqual).concat(), came_in()].concat()
    }

    /// Rules that do this for pods: one for each way to tell them.
    fn for_pods(&self, then: &[Expression]) -> impl Iterator<Item = Vec<Expression>> {
        self.pod_tests(Comparison::Equal).into_iter().map(move |is_pod| [&is_pod, then].concat())
    }

    /// What tells a pod, or that it is none: one of these is equal, or all are different.
    ///
    /// Ranges are compared and not looked up: they are few, and every new connection is asked for
    /// them two or three times.
    fn pod_tests(&self, comparison: Comparison) -> Vec<Vec<Expression>> {
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
    fn lead_outside(&self, chain: &str) -> Vec<Expression> {
        [self.is_outside(), vec![goto(chain)]].concat()
    }

    /// Leads what is for an address that accepts node ports to the chain that looks them up.
    fn at_node(&self, chain: &str) -> Vec<Expression> {
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
    fn in_ranges(&self, set: SetName, load: Expression, into: Outcome) -> Vec<Expression> {
        vec![load, transport_protocol(Register(self.width())), self.lookup(set.as_str(), KEY, into)]
    }

    /// Loads the key that a packet has in a map of entries.
    fn packet_key(&self, set: SetName) -> Vec<Expression> {
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
    fn original_key(&self, set: SetName) -> Vec<Expression> {
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
    fn entry(&self, set: SetName) -> Vec<Expression> {
        vec![self.lookup(set.as_str(), KEY, Outcome::Register(KEY))]
    }

    /// The register after set, address and port: source address and the port's number.
    fn client(&self) -> Register {
        AFTER_SET.plus(self.width() + 1)
    }

    fn load_client(&self) -> Vec<Expression> {
        vec![
            self.source_address(self.client()),
            Expression::Mask {
                from: SET,
                into: self.client().plus(self.width()),
                mask: (!SCOPE_BIT).to_ne_bytes().to_vec(),
            },
        ]
    }

    fn remember(&self, map: &Name, operation: DynamicSetOperation) -> Expression {
        Expression::DynamicSet {
            set: map.clone(),
            operation,
            key: self.client(),
            // The kernel wants a value for every operation on a map, for deletions too.
            value: Some(AFTER_SET),
            timeout: None,
        }
    }

    fn lookup(&self, set: &str, key: Register, into: Outcome) -> Expression {
        Expression::Lookup { set: set.into(), key, into }
    }

    /// Registers that an address takes.
    fn width(&self) -> u8 {
        match self.family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 4,
        }
    }

    fn source_address(&self, into: Register) -> Expression {
        let offset = match self.family {
            Family::Ipv4 => 12,
            Family::Ipv6 => 8,
        };
        self.address(offset, into)
    }

    fn destination_address(&self, into: Register) -> Expression {
        let offset = match self.family {
            Family::Ipv4 => 16,
            Family::Ipv6 => 24,
        };
        self.address(offset, into)
    }

    fn address(&self, offset: u32, into: Register) -> Expression {
        let length = self.family.address_length();
        Expression::Payload { base: PayloadBase::Network, offset, length, into }
    }

    fn original_destination(&self, into: Register) -> Expression {
        Expression::Conntrack { key: ConntrackKey::OriginalDestination(self.family), into }
    }
}

/// The maps of frontends with an address of their own, in the order in which they are consulted.
fn exact_maps(outside: bool) -> Vec<SetName> {
    match outside {
        true => vec![SetName::OutsideFrontends, SetName::Frontends],
        false => vec![SetName::Frontends],
    }
}

/// The maps of frontends at the node's addresses, which are consulted after them.
fn node_port_maps(outside: bool) -> Vec<SetName> {
    match outside {
        true => vec![SetName::OutsideNodePorts, SetName::NodePorts],
        false => vec![SetName::NodePorts],
    }
}
