//! The chains that are always there: the way of a packet to the trees, and what becomes of it there.
//!
//! ```text
//! nat     PREROUTING, OUTPUT -> SERVICES -> FRONTENDS (tree) -> set chain: DNAT
//!                                        -> NODE-PORTS -> TCP, UDP, SCTP (trees) -> set chain: DNAT
//!         POSTROUTING -> POSTROUTING -> HAIRPINS (tree), or by mark -> REWRITE-SOURCE
//! filter  INPUT   -> INPUT   -> REFUSE-INPUT   -> REFUSALS (tree), NODE-PORTS (trees)
//!         OUTPUT  -> OUTPUT  -> REFUSE-OUTPUT  -> the same, CLUSTER-IPS (tree)
//!         FORWARD -> FORWARD -> REFUSE-FORWARD -> REFUSALS, CLUSTER-IPS (trees)
//! ```
//!
//! All of their names begin with `PORTOLAN-`. A mark tells from the first packet of a connection to its
//! postrouting, within this host and this packet, that its source is to be rewritten.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, Protocol};
use plan::{LocalDetector, NodePlan, Origin};

use super::changes::Hook;
use super::render::{PodTest, one_of, pod_tests};
use super::rule::{Chain, Match, Rule};
use crate::ports::{NODE_PORTS, PRIVILEGED_END};

/// What all our chains begin with.
pub const PREFIX: &str = "PORTOLAN-";
/// Refuses with a TCP reset or ICMP port unreachable.
pub(super) const REJECT: &str = "PORTOLAN-REJECT";
/// Rewrites the source to this node's.
pub(super) const REWRITE_SOURCE: &str = "PORTOLAN-REWRITE-SOURCE";
/// Where the tree of frontends begins.
pub(super) const FRONTENDS: &str = "PORTOLAN-FRONTENDS";
/// Where the tree of endpoints on this node begins.
pub(super) const HAIRPINS: &str = "PORTOLAN-HAIRPINS";
/// Where the tree of frontends that refuse begins.
pub(super) const REFUSALS: &str = "PORTOLAN-REFUSALS";
/// Where the tree of virtual addresses begins.
pub(super) const CLUSTER_IPS: &str = "PORTOLAN-CLUSTER-IPS";
const MARK: &str = "PORTOLAN-MARK";
const NODE_PORTS_CHAIN: &str = "PORTOLAN-NODE-PORTS";

/// The tables of iptables that hold rules of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// What refuses.
    Filter,
    /// What translates.
    Nat,
}

impl Table {
    /// In the order in which they are written: what refuses first, for it does not see what is
    /// translated.
    pub const ALL: [Table; 2] = [Table::Filter, Table::Nat];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

/// Where the tree of a protocol's node ports begins.
pub(super) fn node_ports_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "PORTOLAN-TCP",
        Protocol::Udp => "PORTOLAN-UDP",
        Protocol::Sctp => "PORTOLAN-SCTP",
    }
}

/// Packets of this node itself.
pub(super) fn from_node(packets: &Match) -> Match {
    packets.clone().module("addrtype --src-type LOCAL")
}

/// Some of the origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origins {
    pod: bool,
    node: bool,
    outside: bool,
}

impl Origins {
    /// Nobody.
    pub(super) const NONE: Self = Self { pod: false, node: false, outside: false };

    /// Those that are.
    pub(super) fn of(is: impl Fn(Origin) -> bool) -> Self {
        Self { pod: is(Origin::Pod), node: is(Origin::Node), outside: is(Origin::Outside) }
    }

    /// All sets of origins that are not empty.
    fn all() -> impl Iterator<Item = Self> {
        (1..8_u8).map(|bits| Self {
            pod: bits & 1 != 0,
            node: bits & 2 != 0,
            outside: bits & 4 != 0,
        })
    }

    /// The chain that has the source of connections from these rewritten; `None` for nobody.
    pub(super) fn chain(self) -> Option<Chain> {
        let letter = |is: bool, letter| if is { letter } else { "" };
        let Self { pod, node, outside } = self;
        let letters = [letter(pod, "P"), letter(node, "N"), letter(outside, "O")].concat();
        (!letters.is_empty()).then(|| format!("PORTOLAN-MASQUERADE-{letters}").into())
    }
}

/// What the chains depend on besides frontends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The family.
    pub family: Family,
    /// How pods are told.
    pub detector: LocalDetector,
    /// Where node ports are accepted; `None` for every address of the node.
    pub node_addresses: Option<Vec<IpNet>>,
    /// Ranges of virtual addresses.
    pub service_ranges: Vec<IpNet>,
    /// Whose source is rewritten on the way to a virtual address of these ranges, as the plan has it for
    /// every Service: connections there are marked before their frontend is looked for, which saves a
    /// rule for each.
    masqueraded: Origins,
    /// The bit of a packet's mark that says that its source is to be rewritten.
    pub mark: u32,
}

impl Surroundings {
    /// Those of a plan.
    pub fn of(plan: &NodePlan, family: Family, mark: u32) -> Self {
        let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
        let ranges: Vec<IpNet> = plan.service_ranges.iter().filter(of_family).copied().collect();
        Self {
            family,
            detector: plan.node.settings.local_detector.clone(),
            node_addresses: plan.node.node_port_ranges(family).map(|r| IpNet::aggregate(&r)),
            service_ranges: IpNet::aggregate(&ranges),
            masqueraded: Origins::of(|origin| {
                let detects = plan.node.detects_pods(family);
                plan.node.settings.masquerade_all || detects && origin != Origin::Pod
            }),
            mark,
        }
    }

    /// Whose connections to an address are marked when its frontend is looked for.
    pub(super) fn marked_at(&self, address: IpAddr) -> Origins {
        match self.service_ranges.iter().any(|range| range.contains(&address)) {
            true => self.masqueraded,
            false => Origins::NONE,
        }
    }

    /// Whether the rules of groups are the same in both.
    pub(super) fn has_same_groups_as(&self, other: &Self) -> bool {
        (&self.detector, &self.service_ranges, self.masqueraded)
            == (&other.detector, &other.service_ranges, other.masqueraded)
    }

    /// The chains of a table that are always there, but for the beginnings of trees.
    pub fn chains(&self, table: Table) -> BTreeMap<Chain, Vec<Rule>> {
        let chains: Vec<(&str, Vec<Rule>)> = match table {
            Table::Nat => vec![
                ("PORTOLAN-SERVICES", self.services()),
                (NODE_PORTS_CHAIN, self.node_ports()),
                (MARK, vec![self.set_mark(self.mark)]),
                ("PORTOLAN-POSTROUTING", self.postrouting()),
                (REWRITE_SOURCE, self.rewrite_source()),
            ],
            Table::Filter => vec![
                ("PORTOLAN-INPUT", self.input()),
                ("PORTOLAN-OUTPUT", vec![new(Match::all()).jump("PORTOLAN-REFUSE-OUTPUT")]),
                ("PORTOLAN-FORWARD", self.forward()),
                ("PORTOLAN-REFUSE-INPUT", [vec![pass_translated()], self.refuse_local()].concat()),
                (
                    "PORTOLAN-REFUSE-OUTPUT",
                    [vec![pass_translated()], self.refuse_local(), self.refuse_virtual()].concat(),
                ),
                (
                    "PORTOLAN-REFUSE-FORWARD",
                    [vec![pass_translated(), Match::all().jump(REFUSALS)], self.refuse_virtual()]
                        .concat(),
                ),
                (NODE_PORTS_CHAIN, self.node_ports()),
                (REJECT, self.reject()),
            ],
        };
        let mut all: BTreeMap<Chain, Vec<Rule>> =
            chains.into_iter().map(|(name, rules)| (name.into(), rules)).collect();
        if table == Table::Nat {
            let masquerading =
                |origins: Origins| Some((origins.chain()?, self.masquerade(origins)));
            all.extend(Origins::all().filter_map(masquerading));
        }
        all
    }

    /// From an address or a node port to its rules.
    fn services(&self) -> Vec<Rule> {
        let in_ranges = || self.service_ranges.iter().map(|range| Match::all().destination(*range));
        let mut rules = Vec::new();
        if let Some(chain) = self.masqueraded.chain() {
            rules.extend(in_ranges().map(|packets| packets.jump(&chain)));
        }
        rules.push(Match::all().jump(FRONTENDS));
        if self.masqueraded != Origins::NONE {
            // What was not forwarded after all.
            rules.extend(in_ranges().map(|packets| packets.target(&self.marking(0))));
        }
        rules.extend(self.at_node());
        rules
    }

    /// To the node ports, for what goes to an address that accepts them.
    fn at_node(&self) -> Vec<Rule> {
        let local =
            |packets: Match| packets.module("addrtype --dst-type LOCAL").jump(NODE_PORTS_CHAIN);
        match &self.node_addresses {
            None => vec![local(Match::all())],
            Some(ranges) => {
                ranges.iter().map(|range| local(Match::all().destination(*range))).collect()
            }
        }
    }

    fn node_ports(&self) -> Vec<Rule> {
        // Answers to 127/8 are martian elsewhere, and ::1 never leaves a host.
        let mut rules = vec![Match::all().destination(self.loopback()).target("RETURN")];
        for protocol in Protocol::ALL {
            rules.push(Match::all().protocol(protocol).goto(node_ports_of(protocol)));
        }
        rules
    }

    fn loopback(&self) -> IpNet {
        let range = match self.family {
            Family::V4 => "127.0.0.0/8",
            Family::V6 => "::1/128",
        };
        range.parse().expect("a constant range parses")
    }

    /// Marks connections of these origins.
    fn masquerade(&self, origins: Origins) -> Vec<Rule> {
        let Origins { pod, node, outside } = origins;
        let rule = |packets: &Match, is_marked| match is_marked {
            true => packets.goto(MARK),
            false => packets.target("RETURN"),
        };
        let mut rules = Vec::new();
        if pod != outside || node != outside {
            let tests = self.pods().into_iter().filter_map(|test| test.of(&Match::all(), None));
            rules.extend(tests.map(|packets| rule(&packets, pod)));
        }
        if node != outside {
            rules.push(rule(&from_node(&Match::all()), node));
        }
        if outside {
            rules.push(self.set_mark(self.mark));
        }
        rules
    }

    fn set_mark(&self, value: u32) -> Rule {
        Match::all().target(&self.marking(value))
    }

    /// The target that gives our bit of a packet's mark a value.
    pub(super) fn marking(&self, value: u32) -> String {
        format!("MARK --set-xmark {value:#x}/{:#x}", self.mark)
    }

    fn is_marked(&self) -> Match {
        Match::all().module(&format!("mark --mark {:#x}/{:#x}", self.mark, self.mark))
    }

    fn postrouting(&self) -> Vec<Rule> {
        let translated = Match::all().module("conntrack --ctstate DNAT");
        vec![translated.jump(HAIRPINS), self.is_marked().goto(REWRITE_SOURCE)]
    }

    /// Rewrites the source to this node's, with a port that is no node port: an answer to it would
    /// meet the node port's rules. Ports below 1024 stay below.
    fn rewrite_source(&self) -> Vec<Rule> {
        let mut rules = vec![self.set_mark(0)];
        for protocol in Protocol::ALL {
            let all = || Match::all().protocol(protocol);
            let within = |first: u16, last: u16| {
                format!("MASQUERADE --to-ports {first}-{last} --random-fully")
            };
            // SCTP's ports would ask for a module that few kernels have.
            if protocol != Protocol::Sctp {
                let privileged = Match::all().source_port(protocol, 0..=PRIVILEGED_END - 1);
                rules.push(privileged.target("MASQUERADE --random-fully"));
            }
            let below = within(PRIVILEGED_END, NODE_PORTS.start() - 1);
            rules.push(all().module(&one_of(2)).target(&below));
            rules.push(all().target(&within(NODE_PORTS.end() + 1, u16::MAX)));
        }
        rules
    }

    fn input(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        // What a pod sends to this node and no connection can place.
        let invalid = Match::all().protocol(Protocol::Tcp).module("conntrack --ctstate INVALID");
        for test in self.pods() {
            rules.extend(test.of(&invalid, None).map(|packets| packets.target("DROP")));
        }
        if self.family == Family::V4 {
            // With route_localnet, neighbours could reach what listens for this host only
            // (CVE-2020-8558).
            let elsewhere = Match::all().destination(self.loopback()).interface("! lo");
            let known = "conntrack ! --ctstate RELATED,ESTABLISHED,DNAT";
            rules.push(elsewhere.module(known).target("DROP"));
        }
        rules.push(new(Match::all()).jump("PORTOLAN-REFUSE-INPUT"));
        rules
    }

    /// What is translated passes, whatever a policy of the chain says, as with kube-proxy.
    fn forward(&self) -> Vec<Rule> {
        // Segments outside of the window are not translated back; the reset that they would meet
        // ends a connection.
        let invalid = Match::all().protocol(Protocol::Tcp).module("conntrack --ctstate INVALID");
        let known = Match::all().module("conntrack --ctstate RELATED,ESTABLISHED");
        vec![
            known.target("ACCEPT"),
            invalid.target("DROP"),
            new(Match::all()).jump("PORTOLAN-REFUSE-FORWARD"),
            self.is_marked().target("ACCEPT"),
        ]
    }

    fn refuse_local(&self) -> Vec<Rule> {
        [vec![Match::all().jump(REFUSALS)], self.at_node()].concat()
    }

    /// Refuses what goes to a virtual address that has no such port, and drops what goes to an
    /// address of the service ranges that nobody has.
    fn refuse_virtual(&self) -> Vec<Rule> {
        let unused = |range: &IpNet| Match::all().destination(*range).target("DROP");
        let mut rules = vec![Match::all().jump(CLUSTER_IPS)];
        rules.extend(self.service_ranges.iter().map(unused));
        rules
    }

    /// TCP is refused with a reset: an ICMP error is lost on a client on this machine whose connect(2)
    /// still holds the socket, and is limited to one a second for each client.
    fn reject(&self) -> Vec<Rule> {
        let unreachable = match self.family {
            Family::V4 => "icmp-port-unreachable",
            Family::V6 => "icmp6-port-unreachable",
        };
        vec![
            Match::all().protocol(Protocol::Tcp).target("REJECT --reject-with tcp-reset"),
            Match::all().target(&format!("REJECT --reject-with {unreachable}")),
        ]
    }

    fn pods(&self) -> Vec<PodTest> {
        pod_tests(&self.detector, self.family)
    }
}

/// Rules of ours in the chains of a table that are iptables' own.
pub(super) fn hooks(table: Table) -> Vec<Hook> {
    let hooks: &[(&str, &str)] = match table {
        Table::Nat => &[
            ("PREROUTING", "PORTOLAN-SERVICES"),
            ("OUTPUT", "PORTOLAN-SERVICES"),
            ("POSTROUTING", "PORTOLAN-POSTROUTING"),
        ],
        Table::Filter => &[
            ("INPUT", "PORTOLAN-INPUT"),
            ("FORWARD", "PORTOLAN-FORWARD"),
            ("OUTPUT", "PORTOLAN-OUTPUT"),
        ],
    };
    let hook = |(chain, to): &(&str, &str)| Hook {
        chain: (*chain).into(),
        rule: Match::all().jump(to),
        wanted: true,
    };
    hooks.iter().map(hook).collect()
}

/// Packets that begin a connection.
fn new(packets: Match) -> Match {
    packets.module("conntrack --ctstate NEW")
}

/// Nothing is asked of what was forwarded already.
fn pass_translated() -> Rule {
    Match::all().module("conntrack --ctstate DNAT").target("RETURN")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::rule::protocol_name;

    #[test]
    fn names_fit_into_the_kernel() {
        let surroundings = Surroundings {
            family: Family::V4,
            detector: LocalDetector::None,
            node_addresses: None,
            service_ranges: Vec::new(),
            masqueraded: Origins::NONE,
            mark: 0x4000,
        };
        for table in Table::ALL {
            for name in surroundings.chains(table).into_keys() {
                assert!(name.len() <= 28 && name.starts_with(PREFIX), "{name}");
            }
        }
        assert!(
            Protocol::ALL
                .into_iter()
                .all(|p| node_ports_of(p).ends_with(&protocol_name(p).to_uppercase()))
        );
    }
}
