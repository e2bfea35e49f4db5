//! From plan to rules: what a group puts into the tables of one family.
//!
//! Pure. A group's rules depend on that group and on how pods are told, so that a changed group is
//! rendered by itself and compared with what it was.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use model::{Family, Protocol};
use plan::{
    Action, Affinity, EndpointSet, Frontend, FrontendAddress, Group, LocalDetector, Origin,
};

use super::chains::{self, Origins, Surroundings};
use super::rule::{Chain, Match, Rule};
use super::tree::Key;
use crate::number::{port_number, set_number};
use crate::ports::NODE_PORTS;

/// A day: the longest timeout of affinity in seconds that the API takes.
const MAX_AFFINITY: u64 = 86_400;

/// The trees that frontends are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeId {
    /// In `nat`: from a frontend with an address to its endpoints.
    Frontends,
    /// In `nat`: from a node port to its endpoints.
    NodePorts(Protocol),
    /// In `nat`: endpoints on this node, which may talk to themselves.
    Hairpins,
    /// In `filter`: frontends with an address that refuse or drop.
    Refusals,
    /// In `filter`: node ports that refuse or drop.
    NodePortRefusals(Protocol),
    /// In `filter`: virtual addresses in use.
    ClusterIps,
}

/// What a group puts into the tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Chains of `nat` that choose an endpoint.
    pub sets: Vec<(Chain, Vec<Rule>)>,
    /// Entries of trees, which no other group has.
    pub entries: Vec<(TreeId, Key, Vec<Rule>)>,
    /// Addresses of endpoints on this node; other groups may have them as well.
    pub hairpins: BTreeSet<IpAddr>,
}

impl Rendered {
    /// Whether there is nothing of this family.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.entries.is_empty()
    }
}

/// Renders a group for one family.
pub fn render_group(group: &Group, around: &Surroundings) -> Rendered {
    let mut out = Rendered::default();
    let family = around.family;
    let pods = pod_tests(&around.detector, family);
    for frontend in group.frontends.iter().filter(|f| f.key.family() == family) {
        let frontend = Rendering { group, frontend, around, pods: &pods };
        let key = frontend.key();
        let forwards = frontend.forwards();
        let refuses = frontend.refuses();
        let (to, refusing) = match frontend.frontend.key.address {
            FrontendAddress::Ip(_) => (TreeId::Frontends, TreeId::Refusals),
            FrontendAddress::AnyOfNode(_) => {
                let protocol = frontend.frontend.key.protocol;
                (TreeId::NodePorts(protocol), TreeId::NodePortRefusals(protocol))
            }
        };
        for (tree, rules) in [(to, forwards), (refusing, refuses)] {
            if !rules.is_empty() {
                out.entries.push((tree, key, rules));
            }
        }
    }
    for (index, set) in group.sets.iter().enumerate() {
        let leading = group.frontends.iter().find(|f| f.leads_to(index));
        // One that lost its frontends to another group is led to by nobody.
        let Some(leading) = leading.filter(|_| set.id.port.family == family) else { continue };
        out.sets.push((set_chain(set), choose(set, leading.affinity)));
        let local = set.backends.iter().filter(|backend| backend.local);
        out.hairpins.extend(local.map(|backend| backend.address.ip()));
    }
    for ip in group.cluster_ips.iter().filter(|ip| Family::of(**ip) == family) {
        let rules = vec![Match::all().destination(IpNet::from(*ip)).goto(chains::REJECT)];
        out.entries.push((TreeId::ClusterIps, Key::address(*ip), rules));
    }
    out
}

/// The rule for an endpoint on this node that is sent to itself.
pub fn hairpin(address: IpAddr) -> (Key, Vec<Rule>) {
    let address_range = IpNet::from(address);
    let to_itself = Match::all().source(address_range).destination(address_range);
    (Key::address(address), vec![to_itself.goto(chains::REWRITE_SOURCE)])
}

/// The chain that chooses among the endpoints of a set.
fn set_chain(set: &EndpointSet) -> Chain {
    format!("PORTOLAN-{:016x}", set_number(&set.id)).into()
}

/// Rules that send a connection to one of a set, each as likely as the others; with affinity, to the one
/// that its client was sent to before, if that is still there.
fn choose(set: &EndpointSet, affinity: Option<Affinity>) -> Vec<Rule> {
    let protocol = set.id.port.protocol;
    let to = |backend: &plan::Backend| format!("DNAT --to-destination {}", backend.address);
    let remembered = |backend: &plan::Backend, what: &str| {
        let list = remembered_clients(set, backend.address);
        let mask = match set.id.port.family {
            Family::V4 => "255.255.255.255",
            Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        };
        format!("recent {what} --name {list} --mask {mask} --rsource")
    };
    let all = || Match::all().protocol(protocol);
    let mut rules = Vec::new();
    if let Some(affinity) = affinity {
        // xt_recent counts from 1.
        let seconds = affinity.timeout.as_secs().clamp(1, MAX_AFFINITY);
        let known = format!("--update --seconds {seconds} --reap");
        rules.extend(
            set.backends
                .iter()
                .map(|backend| all().module(&remembered(backend, &known)).target(&to(backend))),
        );
    }
    for (backend, left) in set.backends.iter().zip((1..=set.backends.len()).rev()) {
        let mut chosen = all();
        if left > 1 {
            chosen = chosen.module(&one_of(left));
        }
        if affinity.is_some() {
            chosen = chosen.module(&remembered(backend, "--set"));
        }
        rules.push(chosen.target(&to(backend)));
    }
    rules
}

/// Name of the list of an endpoint's clients. Sets of a port share them.
fn remembered_clients(set: &EndpointSet, backend: SocketAddr) -> String {
    let (address, port) = (backend.ip(), backend.port());
    format!("PORTOLAN-{:016x}-{address}-{port}", port_number(&set.id.port))
}

/// Applies to one of so many packets. The kernel counts in parts of 2^31, and iptables-save(8) prints
/// eleven digits of them.
pub(super) fn one_of(many: usize) -> String {
    let whole = f64::from(1_u32 << 31);
    let parts = (whole / many as f64).round();
    format!("statistic --mode random --probability {:.11}", parts / whole)
}

/// What tells a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodTest {
    /// Its address.
    Source(IpNet),
    /// The interface that it comes by, as iptables(8) writes it.
    Interface(String),
}

impl PodTest {
    /// `rule` for pods only; `None` if its sources are no pods.
    pub(super) fn of(&self, rule: &Match, sources: Option<IpNet>) -> Option<Match> {
        match self {
            PodTest::Interface(name) => Some(rule.clone().interface(name)),
            PodTest::Source(pods) => {
                let both = match sources {
                    None => *pods,
                    Some(sources) if pods.contains(&sources) => sources,
                    Some(sources) if sources.contains(pods) => *pods,
                    Some(_) => return None,
                };
                Some(rule.clone().source(both))
            }
        }
    }
}

/// What tells pods; nothing if they can't be told. A packet is a pod's if it passes one of the tests.
pub(super) fn pod_tests(detector: &LocalDetector, family: Family) -> Vec<PodTest> {
    match detector {
        LocalDetector::None => Vec::new(),
        LocalDetector::Sources(ranges) => {
            let of_family = ranges.iter().filter(|range| Family::of(range.addr()) == family);
            of_family.map(|range| PodTest::Source(range.trunc())).collect()
        }
        LocalDetector::Interface(name) => vec![PodTest::Interface(name.clone())],
        LocalDetector::InterfacePrefix(prefix) => vec![PodTest::Interface(format!("{prefix}+"))],
    }
}

/// A frontend on its way into rules.
struct Rendering<'a> {
    group: &'a Group,
    frontend: &'a Frontend,
    around: &'a Surroundings,
    pods: &'a [PodTest],
}

/// What happens to a connection in the table that is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It goes on in a chain.
    Goto(Chain),
    /// It is dropped.
    Drop,
    /// The table has nothing to say of it.
    Accept,
}

impl Rendering<'_> {
    fn key(&self) -> Key {
        let port = self.frontend.key.port.get();
        match self.frontend.key.address {
            FrontendAddress::Ip(ip) => Key::at_address(ip, self.frontend.key.protocol, port),
            FrontendAddress::AnyOfNode(_) => Key::port(port),
        }
    }

    /// Packets to it.
    fn packets(&self) -> Match {
        let key = &self.frontend.key;
        let to = match key.address {
            FrontendAddress::Ip(ip) => Match::all().destination(IpNet::from(ip)),
            FrontendAddress::AnyOfNode(_) => Match::all(),
        };
        to.port(key.protocol, key.port.get()..=key.port.get())
    }

    /// The sources that may connect, each `None` for all.
    fn sources(&self) -> Vec<Option<IpNet>> {
        match &self.frontend.allowed_sources {
            None => vec![None],
            Some(ranges) => IpNet::aggregate(ranges).into_iter().map(Some).collect(),
        }
    }

    /// Rules of `nat` that lead connections to their endpoints.
    fn forwards(&self) -> Vec<Rule> {
        let fate = |origin| match self.frontend.action(origin) {
            Action::Forward { set, .. } => Fate::Goto(set_chain(&self.group.sets[*set])),
            Action::Reject(_) | Action::Drop(_) => Fate::Accept,
        };
        let masquerade = Origins::of(|origin| {
            matches!(self.frontend.action(origin), Action::Forward { masquerade: true, .. })
        });
        let marked = match self.frontend.key.address {
            FrontendAddress::Ip(ip) => self.around.marked_at(ip),
            FrontendAddress::AnyOfNode(_) => Origins::NONE,
        };
        let mut rules = Vec::new();
        for sources in self.sources() {
            let packets = from(self.packets(), sources);
            if masquerade != marked {
                if marked != Origins::NONE {
                    rules.push(packets.target(&self.around.marking(0)));
                }
                rules.extend(masquerade.chain().map(|chain| packets.jump(&chain)));
            }
            rules.extend(self.by_origin(&packets, sources, fate));
        }
        // What is not forwarded would go on to the node ports, if its address is one of the node's.
        let is_forwarded = |origin| matches!(self.frontend.action(origin), Action::Forward { .. });
        let falls_through =
            self.frontend.allowed_sources.is_some() || !Origin::ALL.into_iter().all(is_forwarded);
        let may_be_node_port = matches!(self.frontend.key.address, FrontendAddress::Ip(_))
            && NODE_PORTS.contains(&self.frontend.key.port.get());
        if falls_through && may_be_node_port {
            rules.push(self.packets().target("ACCEPT"));
        }
        rules
    }

    /// Rules of `filter` for connections that are not forwarded.
    fn refuses(&self) -> Vec<Rule> {
        let refusal = |origin| match self.frontend.action(origin) {
            Action::Forward { .. } => None,
            Action::Reject(_) => Some(Fate::Goto(chains::REJECT.into())),
            Action::Drop(_) => Some(Fate::Drop),
        };
        // What was forwarded never comes here, so that others may be meant with the rest.
        let default = Origin::ALL.into_iter().find_map(refusal);
        let mut rules = Vec::new();
        if let Some(default) = default {
            let fate = |origin| refusal(origin).unwrap_or_else(|| default.clone());
            for sources in self.sources() {
                let packets = from(self.packets(), sources);
                rules.extend(self.by_origin(&packets, sources, fate));
            }
        }
        if self.frontend.allowed_sources.is_some() {
            rules.push(self.packets().target("DROP"));
        }
        rules
    }

    /// Rules for packets from some sources that do with each what befits its origin.
    fn by_origin(
        &self,
        packets: &Match,
        sources: Option<IpNet>,
        fate: impl Fn(Origin) -> Fate,
    ) -> Vec<Rule> {
        let (pod, node, outside) = (fate(Origin::Pod), fate(Origin::Node), fate(Origin::Outside));
        let mut rules = Vec::new();
        if pod != outside || node != outside {
            let pods = self.pods.iter().filter_map(|test| test.of(packets, sources));
            rules.extend(pods.map(|packets| pod.rule(&packets)));
        }
        if node != outside {
            rules.push(node.rule(&chains::from_node(packets)));
        }
        if outside != Fate::Accept {
            rules.push(outside.rule(packets));
        }
        // Nobody is treated in any way.
        if rules.iter().all(|rule| rule.ends_with("-j ACCEPT")) {
            rules.clear();
        }
        rules
    }
}

fn from(packets: Match, sources: Option<IpNet>) -> Match {
    match sources {
        Some(range) => packets.source(range),
        None => packets,
    }
}

impl Fate {
    fn rule(&self, packets: &Match) -> Rule {
        match self {
            Fate::Goto(chain) => packets.goto(chain),
            Fate::Drop => packets.target("DROP"),
            Fate::Accept => packets.target("ACCEPT"),
        }
    }
}
