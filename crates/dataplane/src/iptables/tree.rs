//! A tree of chains in the place of a line of rules: a packet passes a few rules of each level
//! instead of one for each key.
//!
//! Keys are addresses or ports, and a chain stands for a prefix of their bits. One with few entries
//! holds their rules; one with more leads on to a chain for each different value of the next four
//! bits, skipping bits that all its entries have in common. The shape depends on the entries alone,
//! not on the order in which they came.
//!
//! Pure: it answers what is to be written, and knows nothing of who writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use model::{Family, Protocol};

use super::changes::TableChanges;
use super::rule::{Chain, Match, Rule, protocol_name};
use crate::number::hash;

/// A chain with more entries leads to others.
const MAX_ENTRIES: usize = 16;
/// Bits that one level tells apart.
const STEP: u8 = 4;

/// What a tree's keys are, and of which side of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Destination addresses.
    Destination(Family),
    /// Source addresses.
    Source(Family),
    /// Destination ports of a protocol.
    Port(Protocol),
}

/// The key of an entry. Entries with the same `at` are not told apart by the tree but by their rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The address or port, its first bit foremost.
    at: u128,
    /// Protocol number and port, where `at` is an address.
    rest: (u8, u16),
}

impl Key {
    /// An address.
    pub fn address(address: IpAddr) -> Self {
        let at = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { at, rest: (0, 0) }
    }

    /// A port at an address.
    pub fn at_address(address: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self { rest: (protocol.number(), port), ..Self::address(address) }
    }

    /// A port.
    pub fn port(port: u16) -> Self {
        Self { at: u128::from(port) << 112, rest: (0, 0) }
    }
}

/// The first bits of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    const ALL: Prefix = Prefix { bits: 0, length: 0 };

    fn of(at: u128, length: u8) -> Self {
        Self { bits: at & mask(length), length }
    }

    fn keys(self) -> RangeInclusive<Key> {
        let first = Key { at: self.bits, rest: (0, 0) };
        first..=Key { at: self.bits | !mask(self.length), rest: (u8::MAX, u16::MAX) }
    }

    fn has(self, at: u128) -> bool {
        at & mask(self.length) == self.bits
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// What a chain of the tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// It holds all entries of its prefix.
    Leaf,
    /// It leads to these.
    Inner(Vec<Prefix>),
}

/// A tree with its entries.
#[derive(Debug, Clone)]
pub struct Tree {
    domain: Domain,
    /// Name of the chain where it begins, which is always there.
    root: &'static str,
    /// What tells its chains from those of another tree of the same table.
    tag: &'static str,
    entries: BTreeMap<Key, Vec<Rule>>,
    nodes: BTreeMap<Prefix, Node>,
}

/// Changed entries of a tree; `None` removes one.
pub type Edits = BTreeMap<Key, Option<Vec<Rule>>>;

impl Tree {
    /// A tree without entries.
    pub fn new(domain: Domain, root: &'static str, tag: &'static str) -> Self {
        let nodes = BTreeMap::from([(Prefix::ALL, Node::Leaf)]);
        Self { domain, root, tag, entries: BTreeMap::new(), nodes }
    }

    /// Whether there is such an entry.
    pub fn has(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// All chains with their rules.
    pub fn chains(&self) -> impl Iterator<Item = (Chain, Vec<Rule>)> {
        self.nodes.iter().map(|(prefix, node)| (self.name(*prefix), self.rules(*prefix, node)))
    }

    /// Changes entries, and adds to `changes` what that does to chains.
    pub fn apply(&mut self, edits: Edits, changes: &mut TableChanges) {
        let mut touched = Vec::new();
        let mut old = BTreeMap::new();
        for (key, rules) in edits {
            let before = match rules {
                Some(rules) => {
                    if self.entries.get(&key) == Some(&rules) {
                        continue;
                    }
                    self.entries.insert(key, rules)
                }
                None => match self.entries.remove(&key) {
                    Some(rules) => Some(rules),
                    None => continue,
                },
            };
            touched.push(key);
            old.insert(key, before.unwrap_or_default());
        }
        if touched.is_empty() {
            return;
        }
        let mut growth = Growth { kept: BTreeSet::new(), dropped: Vec::new() };
        self.grow(Prefix::ALL, &touched, &old, &mut growth, changes);
        while let Some(prefix) = growth.dropped.pop() {
            if growth.kept.contains(&prefix) {
                continue;
            }
            if let Some(node) = self.nodes.remove(&prefix) {
                changes.remove(self.name(prefix));
                if let Node::Inner(children) = node {
                    growth.dropped.extend(children);
                }
            }
        }
    }

    /// Makes the chain of `prefix` what the entries say now, and those below it. `touched` are the
    /// changed keys of the prefix, and `old` what the changed entries were.
    fn grow(
        &mut self,
        prefix: Prefix,
        touched: &[Key],
        old: &BTreeMap<Key, Vec<Rule>>,
        growth: &mut Growth,
        changes: &mut TableChanges,
    ) {
        growth.kept.insert(prefix);
        let node = self.shape(prefix);
        let before = self.nodes.insert(prefix, node.clone());
        let name = self.name(prefix);
        match (&before, &node) {
            (Some(Node::Leaf), Node::Leaf) => {
                for key in touched {
                    let removed = old.get(key).cloned().unwrap_or_default();
                    let added = self.entries.get(key).cloned().unwrap_or_default();
                    changes.edit(&name, removed, added);
                }
                return;
            }
            (Some(Node::Inner(old)), Node::Inner(new)) => {
                let missing = |of: &[Prefix], all: &[Prefix]| -> Vec<Prefix> {
                    all.iter().filter(|child| !of.contains(child)).copied().collect()
                };
                let (gone, come) = (missing(new, old), missing(old, new));
                let lead = |children: &[Prefix]| {
                    children.iter().map(|child| self.lead(*child)).collect::<Vec<_>>()
                };
                changes.edit(&name, lead(&gone), lead(&come));
                growth.dropped.extend(gone);
            }
            (before, _) => {
                changes.write(name, self.rules(prefix, &node));
                if let Some(Node::Inner(children)) = before {
                    growth.dropped.extend(children);
                }
            }
        }
        let Node::Inner(children) = node else { return };
        for child in children {
            let is_of_child = |key: &&Key| child.has(key.at);
            let touched: Vec<Key> = touched.iter().filter(is_of_child).copied().collect();
            match touched.is_empty() && self.nodes.contains_key(&child) {
                true => _ = growth.kept.insert(child),
                false => self.grow(child, &touched, old, growth, changes),
            }
        }
    }

    /// What the chain of a prefix is, by the entries alone.
    fn shape(&self, prefix: Prefix) -> Node {
        let is_small = self.entries.range(prefix.keys()).nth(MAX_ENTRIES).is_none();
        if is_small || prefix.length >= self.bits() {
            return Node::Leaf;
        }
        let mut children = Vec::new();
        let mut rest = prefix.keys();
        while let Some((first, _)) = self.entries.range(rest.clone()).next() {
            let group = Prefix::of(first.at, prefix.length + STEP);
            let mut keys = self.entries.range(group.keys()).map(|(key, _)| key.at);
            let (first, last) = (first.at, keys.next_back().unwrap_or(first.at));
            // As many whole steps as all of the group have in common.
            let common = ((first ^ last).leading_zeros() as u8).min(self.bits());
            children.push(Prefix::of(first, common / STEP * STEP));
            let end = *group.keys().end();
            match end.at.checked_add(1) {
                Some(next) if next <= prefix.keys().end().at => {
                    rest = Key { at: next, rest: (0, 0) }..=*prefix.keys().end();
                }
                _ => break,
            }
        }
        Node::Inner(children)
    }

    fn rules(&self, prefix: Prefix, node: &Node) -> Vec<Rule> {
        match node {
            Node::Leaf => {
                self.entries.range(prefix.keys()).flat_map(|(_, rules)| rules).cloned().collect()
            }
            Node::Inner(children) => children.iter().map(|child| self.lead(*child)).collect(),
        }
    }

    /// The rule that leads to a chain.
    fn lead(&self, prefix: Prefix) -> Rule {
        let to = Match::all();
        let to = match self.domain {
            Domain::Destination(family) => to.destination(range(family, prefix)),
            Domain::Source(family) => to.source(range(family, prefix)),
            Domain::Port(protocol) => to.port(protocol, ports(prefix)),
        };
        to.goto(&self.name(prefix))
    }

    fn name(&self, prefix: Prefix) -> Chain {
        if prefix.length == 0 {
            return self.root.into();
        }
        let tag = self.tag;
        match self.domain {
            Domain::Destination(Family::V4) | Domain::Source(Family::V4) => {
                format!("PORTOLAN-{tag}{}", range(Family::V4, prefix)).into()
            }
            // They would be too long: a name has 28 bytes.
            Domain::Destination(Family::V6) | Domain::Source(Family::V6) => {
                let number = hash(&[&prefix.bits.to_be_bytes(), &[prefix.length]]);
                format!("PORTOLAN-{tag}{number:016x}").into()
            }
            Domain::Port(protocol) => {
                let ports = ports(prefix);
                let name = protocol_name(protocol).to_uppercase();
                format!("PORTOLAN-{name}-{}-{}", ports.start(), ports.end()).into()
            }
        }
    }

    /// Length of a key.
    fn bits(&self) -> u8 {
        match self.domain {
            Domain::Destination(Family::V4) | Domain::Source(Family::V4) => 32,
            Domain::Destination(Family::V6) | Domain::Source(Family::V6) => 128,
            Domain::Port(_) => 16,
        }
    }
}

/// Prefixes that are looked at while a tree changes.
struct Growth {
    /// They are in the new tree.
    kept: BTreeSet<Prefix>,
    /// They have lost the chain that led to them.
    dropped: Vec<Prefix>,
}

fn range(family: Family, prefix: Prefix) -> IpNet {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits((prefix.bits >> 96) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(prefix.bits)),
    };
    IpNet::new(address, prefix.length).expect("a prefix is no longer than its family's addresses")
}

fn ports(prefix: Prefix) -> RangeInclusive<u16> {
    let last = prefix.bits | !mask(prefix.length);
    (prefix.bits >> 112) as u16..=(last >> 112) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "ROOT";

    /// The chains that a packet to an address passes, and how many rules; by the text of the rules.
    fn pass(chains: &BTreeMap<Chain, Vec<Rule>>, address: IpAddr) -> (Vec<Rule>, usize) {
        let (mut at, mut rules, mut found) = (ROOT.to_owned(), 0, Vec::new());
        'chain: loop {
            for rule in &chains[&*at] {
                rules += 1;
                let (range, rest) = rule.strip_prefix("-d ").unwrap().split_once(' ').unwrap();
                if range.parse::<IpNet>().unwrap().contains(&address) {
                    match rest.strip_prefix("-g ") {
                        Some(next) => {
                            at = next.to_owned();
                            continue 'chain;
                        }
                        None => found.push(rule.clone()),
                    }
                }
            }
            return (found, rules);
        }
    }

    fn entry(address: IpAddr, port: u16) -> (Key, Vec<Rule>) {
        let text = format!("-d {} -p tcp --dport {port}", IpNet::from(address));
        (Key::at_address(address, Protocol::Tcp, port), vec![text.into()])
    }

    fn tree(family: Family) -> Tree {
        Tree::new(Domain::Destination(family), ROOT, "")
    }

    #[test]
    fn the_way_through_ten_thousand_is_short() {
        let mut tree = tree(Family::V4);
        let address = |i: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + i));
        let edits =
            (0..10_000).map(|i| entry(address(i), 80)).map(|(key, rules)| (key, Some(rules)));
        tree.apply(edits.collect(), &mut TableChanges::default());
        let chains: BTreeMap<_, _> = tree.chains().collect();
        for i in [0, 4_711, 9_999] {
            let (found, rules) = pass(&chains, address(i));
            assert_eq!(found, entry(address(i), 80).1);
            assert!(rules <= 50, "{rules} rules");
        }
        let (found, rules) = pass(&chains, "192.0.2.1".parse().unwrap());
        assert_eq!((found.len(), rules), (0, 1), "what is no Service's is told at once");
        assert!(chains.keys().all(|name| name.len() <= 28));
    }

    #[test]
    fn ports_are_parted_by_ranges() {
        let mut tree = Tree::new(Domain::Port(Protocol::Tcp), "PORTOLAN-TCP", "");
        let rule = |port: u16| vec![Match::all().port(Protocol::Tcp, port..=port).goto("X")];
        let edits = (30_000..30_100).map(|port| (Key::port(port), Some(rule(port)))).collect();
        tree.apply(edits, &mut TableChanges::default());
        let chains: BTreeMap<_, _> = tree.chains().collect();
        let root = chains["PORTOLAN-TCP"].join("\n");
        assert_eq!(root, "-p tcp -m tcp --dport 29952:30207 -g PORTOLAN-TCP-29952-30207");
        assert_eq!(chains["PORTOLAN-TCP-30000-30015"].len(), 16, "{:?}", chains.keys());
    }

    /// Applies changes to chains as iptables-restore does, and fails where that does.
    fn commit(chains: &mut BTreeMap<Chain, Vec<Rule>>, changes: &TableChanges) {
        for (chain, rules) in &changes.written {
            chains.insert(chain.clone(), rules.clone());
        }
        for (chain, edit) in &changes.edited {
            let held = chains.get_mut(chain).expect("what is edited is there");
            for rule in &edit.removed {
                let at = held.iter().position(|held| held == rule).expect("it is there");
                held.remove(at);
            }
            held.extend(edit.added.iter().cloned());
        }
        for chain in &changes.gone {
            assert!(chains.remove(chain).is_some(), "{chain}");
        }
    }

    fn sorted(chains: impl IntoIterator<Item = (Chain, Vec<Rule>)>) -> BTreeMap<Chain, Vec<Rule>> {
        let sort = |(chain, mut rules): (Chain, Vec<Rule>)| {
            rules.sort();
            (chain, rules)
        };
        chains.into_iter().map(sort).collect()
    }

    proptest! {
        #[test]
        fn a_changed_tree_is_that_of_its_entries(
            steps in proptest::collection::vec(
                proptest::collection::vec((any::<bool>(), 0..400_u32, 1..3_u16), 1..120), 1..8),
            v6 in any::<bool>(),
        ) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let address = |i: u32| match family {
                // Some far apart, some close together.
                Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + i * if i.is_multiple_of(7) { 4_099 } else { 1 })),
                Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(0xfd << 120 | u128::from(i) << (i % 3 * 40))),
            };
            let mut changed = tree(family);
            let mut kernel: BTreeMap<_, _> = changed.chains().collect();
            let mut wanted = BTreeMap::new();
            for step in steps {
                let mut edits = Edits::new();
                for (is_there, i, port) in step {
                    let (key, rules) = entry(address(i), port);
                    if is_there { wanted.insert(key, rules.clone()); } else { wanted.remove(&key); }
                    edits.insert(key, is_there.then_some(rules));
                }
                let mut changes = TableChanges::default();
                changed.apply(edits, &mut changes);
                commit(&mut kernel, &changes);
                let mut fresh = tree(family);
                let all = wanted.iter().map(|(key, rules)| (*key, Some(rules.clone()))).collect();
                fresh.apply(all, &mut TableChanges::default());
                prop_assert_eq!(sorted(fresh.chains()), sorted(changed.chains()));
                prop_assert_eq!(sorted(kernel.clone()), sorted(changed.chains()));
            }
        }
    }
}
