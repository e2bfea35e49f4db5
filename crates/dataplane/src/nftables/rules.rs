//! The rules of the table: few, and the same whatever is programmed. Only the chains that choose a
//! backend come and go, one for each number of backends in use.
//!
//! ```text
//! prerouting, output (dstnat) -> services -> services-outside     entry -> choose-N: dnat
//! input, forward, output      -> refuse   -> refuse-outside       new connections that nobody takes
//! forward, output             -> virtual-addresses                ports and addresses that nobody has
//! postrouting (srcnat)        -> masquerade -> masquerade-ORIGIN  by the original destination
//! ```
//!
//! No packet mark is used: what to masquerade is found again at postrouting by the connection's
//! original destination, which connection tracking remembers.

use std::net::Ipv6Addr;

use kernel::nftables::{
    AddressType, Comparison, ConntrackKey, DynamicSetOperation, Expression, Family, FibAddress,
    MetaKey, Name, Outcome, PayloadBase, Register, Verdict, status,
};
use plan::LocalDetector;

use super::layout::{Dispatch, SCOPE_BIT, SetName, flag};

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
        (SOURCES, 0, Verdict::Return),
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
}

/// Keys begin at the first register, and what is found takes their place.
const KEY: Register = Register(0);
/// The fields of an entry, see [`Entry::to_bytes`](super::layout::Entry::to_bytes).
const DISPATCH: Register = Register(1);
const FLAGS: Register = Register(2);
const SET: Register = Register(3);
/// Follows the set, so that set and index, or set and backend, are one key.
const AFTER_SET: Register = Register(5);

impl<'a> Rules<'a> {
    /// Rules for `family`, with pods told by `detector`.
    pub fn new(family: Family, detector: &'a LocalDetector) -> Self {
        Self { family, detector }
    }

    /// All chains that are always there, called ones before their callers.
    pub fn constant_chains(&self) -> Vec<RuleChain> {
        let chain = |name: &str, rules| RuleChain { name: name.into(), rules };
        let jump = |to: &str| vec![Expression::Verdict(Verdict::Jump(to.into()))];
        let new_only = |to: &str| [state_new(), jump(to)].concat();
        vec![
            chain("reject", self.reject()),
            chain("rewrite-source", rewrite_source()),
            chain("services-outside", self.services(true)),
            chain("services", self.services(false)),
            chain("refuse-outside", self.refuse(true)),
            chain("refuse", self.refuse(false)),
            chain("virtual-addresses", self.virtual_addresses()),
            chain("masquerade-pod", self.masquerade_from(flag::MASQUERADE_POD, false)),
            chain("masquerade-node", self.masquerade_from(flag::MASQUERADE_NODE, false)),
            chain("masquerade-outside", self.masquerade_from(flag::MASQUERADE_OUTSIDE, true)),
            chain("masquerade", self.masquerade()),
            chain("prerouting", vec![jump("services")]),
            chain("output", vec![jump("services")]),
            chain("filter-input", self.input(new_only("refuse"))),
            chain(
                "filter-forward",
                vec![invalid_segments(), new_only("refuse"), new_only("virtual-addresses")],
            ),
            chain("filter-output", vec![new_only("refuse"), new_only("virtual-addresses")]),
            chain("postrouting", vec![[translated(), jump("masquerade")].concat()]),
        ]
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

    /// From a packet to the chain that chooses a backend.
    fn services(&self, outside: bool) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        if !outside {
            rules.push(self.guard());
            rules.push([self.is_outside(), vec![goto("services-outside")]].concat());
        }
        for set in twice(maps(outside)) {
            let dispatch = vec![self.lookup(&dispatch_map(set), DISPATCH, Outcome::Verdict)];
            rules.push([self.gate(set), self.packet_key(set), self.entry(set), dispatch].concat());
        }
        rules
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

    /// Refuses or drops new connections that meet a frontend nobody serves.
    fn refuse(&self, outside: bool) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        if !outside {
            rules.push([self.is_outside(), vec![goto("refuse-outside")]].concat());
        }
        for set in maps(outside) {
            let refusal =
                vec![mask(FLAGS, flag::REFUSED), self.lookup(REFUSALS, FLAGS, Outcome::Verdict)];
            rules.push([self.gate(set), self.packet_key(set), self.entry(set), refusal].concat());
        }
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
        vec![
            hairpin,
            [self.is_pod(), vec![goto("masquerade-pod")]].concat(),
            [is_local(FibAddress::Source, Comparison::Equal), vec![goto("masquerade-node")]]
                .concat(),
            vec![goto("masquerade-outside")],
        ]
    }

    /// Looks up, by the original destination, how a connection's source is treated. The order of
    /// the maps is that of [`Rules::services`], so that the same entry is found.
    fn masquerade_from(&self, origin: u32, outside: bool) -> Vec<Vec<Expression>> {
        let rule = |set: SetName| {
            let is_node_port = matches!(set, SetName::NodePorts | SetName::OutsideNodePorts);
            let gate = match is_node_port {
                true => self.in_ranges(
                    SetName::NodeAddresses,
                    self.original_destination(KEY),
                    Outcome::Member,
                ),
                false => vec![],
            };
            let treatment =
                vec![mask(FLAGS, origin), self.lookup(SOURCES, FLAGS, Outcome::Verdict)];
            [gate, self.original_key(set), self.entry(set), treatment].concat()
        };
        twice(maps(outside)).map(rule).collect()
    }

    /// What arrives for this node.
    fn input(&self, refuse: Vec<Expression>) -> Vec<Vec<Expression>> {
        let mut rules = vec![self.invalid_from_pods(), refuse];
        if self.family == Family::Ipv4 {
            // The kernel drops ::1 from elsewhere whatever is set.
            rules.push([state_new(), loopback_from_elsewhere()].concat());
        }
        rules
    }

    /// Drops what a pod sends to this node and no connection can place; see [`invalid_segments`].
    fn invalid_from_pods(&self) -> Vec<Expression> {
        [self.is_pod(), invalid_segments()].concat()
    }

    /// Goes on for connections from outside only.
    fn is_outside(&self) -> Vec<Expression> {
        [self.is_no_pod(), is_local(FibAddress::Source, Comparison::NotEqual)].concat()
    }

    fn is_pod(&self) -> Vec<Expression> {
        self.pod(Outcome::Member, Comparison::Equal)
    }

    fn is_no_pod(&self) -> Vec<Expression> {
        self.pod(Outcome::NotMember, Comparison::NotEqual)
    }

    fn pod(&self, by_source: Outcome, by_interface: Comparison) -> Vec<Expression> {
        let interface = |value: Vec<u8>| {
            vec![
                Expression::Meta { key: MetaKey::InputInterface, into: Register(0) },
                Expression::Compare { register: Register(0), comparison: by_interface, value },
            ]
        };
        match self.detector {
            LocalDetector::None | LocalDetector::Sources(_) => {
                self.in_ranges(SetName::PodRanges, self.source_address(KEY), by_source)
            }
            LocalDetector::Interface(name) => {
                let mut name = name.as_bytes().to_vec();
                name.resize(INTERFACE_NAME_LENGTH, 0);
                interface(name)
            }
            LocalDetector::InterfacePrefix(prefix) => interface(prefix.as_bytes().to_vec()),
        }
    }

    /// For maps of node ports: goes on only for addresses that accept them.
    fn gate(&self, set: SetName) -> Vec<Expression> {
        if !matches!(set, SetName::NodePorts | SetName::OutsideNodePorts) {
            return Vec::new();
        }
        let mut gate = is_local(FibAddress::Destination, Comparison::Equal);
        let destination = self.destination_address(KEY);
        gate.extend(self.in_ranges(SetName::NodeAddresses, destination, Outcome::Member));
        // Not loopback: answers from elsewhere to 127/8 are martian, and ::1 never leaves a host.
        let loopback = match self.family {
            Family::Ipv4 => vec![127],
            Family::Ipv6 => Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        gate.push(Expression::Compare {
            register: KEY,
            comparison: Comparison::NotEqual,
            value: loopback,
        });
        gate
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

/// `IFNAMSIZ`, the length of an interface name with its terminating zeros.
const INTERFACE_NAME_LENGTH: usize = 16;

/// The range of node ports, unless an API server is told another (`--service-node-port-range`).
pub const NODE_PORTS: (u16, u16) = (30000, 32767);

/// Number of TCP (IANA protocol numbers).
const TCP: u8 = 6;

/// The maps in the order in which they are consulted.
fn maps(outside: bool) -> Vec<SetName> {
    match outside {
        true => vec![
            SetName::OutsideFrontends,
            SetName::Frontends,
            SetName::OutsideNodePorts,
            SetName::NodePorts,
        ],
        false => vec![SetName::Frontends, SetName::NodePorts],
    }
}

/// Every lookup of a packet sees the table as it is at that moment, so a transaction between two
/// lookups of one packet can let the second one miss: an entry said three backends, and now there
/// are two. Asking again from the start finds the new state. (Kernels before 6.17 can also miss an
/// element that is replaced within a transaction.) A packet that meets its entry asks once.
fn twice(maps: Vec<SetName>) -> impl Iterator<Item = SetName> {
    let again = maps.clone();
    maps.into_iter().chain(again)
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}

fn mask(register: Register, bits: u32) -> Expression {
    Expression::Mask { from: register, into: register, mask: bits.to_ne_bytes().to_vec() }
}

fn transport_protocol(into: Register) -> Expression {
    Expression::Meta { key: MetaKey::TransportProtocol, into }
}

/// Goes on if the routing tables call an address local, or if they don't.
fn is_local(of: FibAddress, comparison: Comparison) -> Vec<Expression> {
    let value = AddressType::Local.value().to_vec();
    vec![
        Expression::AddressType { of, into: Register(0) },
        Expression::Compare { register: Register(0), comparison, value },
    ]
}

/// Goes on if the packet begins a connection.
fn state_new() -> Vec<Expression> {
    has_bit(ConntrackKey::State, status::STATE_NEW)
}

/// Drops TCP segments that belong to no connection, such as those outside of its window. They are
/// not translated back: a client would see them come from an endpoint that it does not know, and its
/// reset would end the connection there. kube-proxy's iptables mode drops what is forwarded too,
/// and its nftables mode nothing. (`nf_conntrack_tcp_be_liberal` makes such segments valid.)
fn invalid_segments() -> Vec<Expression> {
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
fn loopback_from_elsewhere() -> Vec<Expression> {
    let destination =
        Expression::Payload { base: PayloadBase::Network, offset: 16, length: 1, into: KEY };
    let mut own = b"lo".to_vec();
    own.resize(INTERFACE_NAME_LENGTH, 0);
    let compare = |comparison, value| Expression::Compare { register: KEY, comparison, value };
    let mut rule = vec![
        destination,
        compare(Comparison::Equal, vec![127]),
        Expression::Meta { key: MetaKey::InputInterface, into: KEY },
        compare(Comparison::NotEqual, own),
    ];
    // What another program's rules have led here is its own business.
    rule.extend([
        Expression::Conntrack { key: ConntrackKey::Status, into: KEY },
        mask(KEY, status::DESTINATION_NAT),
        compare(Comparison::Equal, vec![0; 4]),
    ]);
    rule.push(Expression::Verdict(Verdict::Drop));
    rule
}

/// Rewrites the source to this node's, with a port that is no node port: an answer to it would meet
/// the node port's rules. Ports below 1024 stay below.
fn rewrite_source() -> Vec<Vec<Expression>> {
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
        [vec![coin, heads], within(PRIVILEGED_END, NODE_PORTS.0 - 1)].concat(),
        within(NODE_PORTS.1 + 1, u16::MAX),
    ]
}

/// Ports from here on need no privilege.
const PRIVILEGED_END: u16 = 1024;

/// Goes on if the connection's destination was rewritten.
fn translated() -> Vec<Expression> {
    has_bit(ConntrackKey::Status, status::DESTINATION_NAT)
}

fn has_bit(key: ConntrackKey, bit: u32) -> Vec<Expression> {
    let register = Register(0);
    vec![
        Expression::Conntrack { key, into: register },
        mask(register, bit),
        Expression::Compare { register, comparison: Comparison::NotEqual, value: vec![0; 4] },
    ]
}
