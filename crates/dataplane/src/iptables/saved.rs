//! What the kernel holds, as iptables-save(8) prints it, and how it differs from what is wanted.
//!
//! Pure: it reads text.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use ipnet::IpNet;
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey};

use super::chains::{PREFIX, Table, hooks};
use super::changes::{Hook, TableChanges};
use super::rule::{Chain, Rule, key, leads_to};

/// All that a table is to hold of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Chains whose rules are asked one after the other.
    pub lines: BTreeMap<Chain, Vec<Rule>>,
    /// Chains of trees: rules of different keys exclude each other, so that the order of the keys says
    /// nothing, but that of the rules of a key does.
    pub trees: BTreeMap<Chain, Vec<Rule>>,
}

/// What a table holds of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Our chains with their rules.
    pub chains: BTreeMap<Chain, Vec<Rule>>,
    /// Rules of other chains that lead to ours, in their order.
    pub hooks: Vec<(Chain, Rule)>,
}

impl Saved {
    /// Reads the text of `iptables-save -t TABLE`.
    pub fn read(text: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                if name.starts_with(PREFIX) {
                    saved.chains.entry(name.into()).or_default();
                }
            } else if let Some((chain, rule)) =
                line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '))
            {
                if chain.starts_with(PREFIX) {
                    saved.chains.entry(chain.into()).or_default().push(rule.into());
                } else if leads_to(rule).is_some_and(|to| to.starts_with(PREFIX)) {
                    saved.hooks.push((chain.into(), rule.into()));
                }
            }
        }
        saved
    }

    /// What makes of it the wanted chains, and calls them.
    pub fn changes_to(&self, wanted: &Wanted, table: Table) -> TableChanges {
        let mut changes = TableChanges::default();
        for (chain, rules) in &wanted.lines {
            if self.chains.get(chain) != Some(rules) {
                changes.write(chain.clone(), rules.clone());
            }
        }
        for (chain, rules) in &wanted.trees {
            let held = self.chains.get(chain);
            if held.is_none_or(|held| by_key(held) != by_key(rules)) {
                changes.write(chain.clone(), rules.clone());
            }
        }
        let is_wanted =
            |chain: &&Chain| wanted.lines.contains_key(*chain) || wanted.trees.contains_key(*chain);
        for chain in self.chains.keys().filter(|chain| !is_wanted(chain)) {
            changes.remove(chain.clone());
        }
        let wanted = hooks(table);
        let mut held = self.hooks.clone();
        for hook in wanted {
            match held.iter().position(|(chain, rule)| *chain == hook.chain && *rule == hook.rule) {
                Some(at) => _ = held.remove(at),
                None => changes.hooks.push(hook),
            }
        }
        let surplus = |(chain, rule)| Hook { chain, rule, wanted: false };
        changes.hooks.extend(held.into_iter().map(surplus));
        changes
    }

    /// What removes all of it.
    pub fn removal(&self) -> TableChanges {
        let mut changes = TableChanges::default();
        for chain in self.chains.keys() {
            changes.remove(chain.clone());
        }
        let gone = |(chain, rule): &(Chain, Rule)| Hook {
            chain: chain.clone(),
            rule: rule.clone(),
            wanted: false,
        };
        changes.hooks = self.hooks.iter().map(gone).collect();
        changes
    }

    /// The frontends that connections are led by, as far as rules of `nat` tell.
    pub fn frontends(&self, family: Family) -> impl Iterator<Item = FrontendKey> {
        let rules = self.chains.values().flatten();
        rules.filter_map(move |rule| frontend(key(rule), family))
    }
}

/// The frontend whose packets these are.
fn frontend(packets: &str, family: Family) -> Option<FrontendKey> {
    let (address, rest) = match packets.strip_prefix("-d ") {
        Some(rest) => {
            let (range, rest) = rest.split_once(' ')?;
            let range: IpNet = range.parse().ok()?;
            let is_one = range.prefix_len() == range.max_prefix_len();
            (is_one.then_some(FrontendAddress::Ip(range.addr()))?, rest)
        }
        None => (FrontendAddress::AnyOfNode(family), packets),
    };
    let mut words = rest.split(' ');
    let protocol = match (words.next()?, words.next()?, words.next()?, words.next()?) {
        ("-p", "tcp", "-m", "tcp") => Protocol::Tcp,
        ("-p", "udp", "-m", "udp") => Protocol::Udp,
        ("-p", "sctp", "-m", "sctp") => Protocol::Sctp,
        _ => return None,
    };
    let port: NonZeroU16 = match (words.next()?, words.next()?, words.next()) {
        ("--dport", port, None) => port.parse().ok()?,
        _ => return None,
    };
    Some(FrontendKey { address, protocol, port })
}

/// The rules of a chain of a tree in the order of their keys.
fn by_key(rules: &[Rule]) -> Vec<&Rule> {
    let mut ordered: Vec<&Rule> = rules.iter().collect();
    ordered.sort_by_key(|rule| key(rule));
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [1:2]\n\
        :DOCKER - [0:0]\n:PORTOLAN-SERVICES - [0:0]\n:PORTOLAN-FRONTENDS - [0:0]\n\
        -A PREROUTING -j PORTOLAN-SERVICES\n-A PREROUTING -j DOCKER\n\
        -A PORTOLAN-FRONTENDS -d 10.96.0.2/32 -p udp -m udp --dport 53 -g PORTOLAN-2\n\
        -A PORTOLAN-FRONTENDS -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -g PORTOLAN-1\n\
        COMMIT\n";

    fn wanted(rules: &[&str]) -> Wanted {
        let rules = rules.iter().map(|rule| (*rule).into()).collect();
        Wanted {
            lines: [("PORTOLAN-SERVICES".into(), vec![])].into(),
            trees: [("PORTOLAN-FRONTENDS".into(), rules)].into(),
        }
    }

    #[test]
    fn only_what_differs_is_written() {
        let saved = Saved::read(TEXT);
        let first = "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -g PORTOLAN-1";
        let second = "-d 10.96.0.2/32 -p udp -m udp --dport 53 -g PORTOLAN-2";
        let changes = saved.changes_to(&wanted(&[first, second]), Table::Nat);
        assert!(changes.written.is_empty() && changes.gone.is_empty(), "{changes:?}");
        let missing: Vec<_> =
            changes.hooks.iter().map(|hook| (&*hook.chain, hook.wanted)).collect();
        assert_eq!(missing, [("OUTPUT", true), ("POSTROUTING", true)]);
        let changes = saved.changes_to(&wanted(&[first]), Table::Nat);
        assert_eq!(
            changes.written.keys().map(|c| &**c).collect::<Vec<_>>(),
            ["PORTOLAN-FRONTENDS"]
        );
    }

    #[test]
    fn the_rules_of_one_frontend_keep_their_order() {
        let mark = "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j PORTOLAN-MASQUERADE-O";
        let lead = "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -g PORTOLAN-1";
        let rules = |rules: [&str; 2]| rules.map(Rule::from).to_vec();
        assert_ne!(by_key(&rules([mark, lead])), by_key(&rules([lead, mark])));
    }

    #[test]
    fn all_of_ours_goes_and_nothing_else() {
        let removal = Saved::read(TEXT).removal();
        assert_eq!(removal.gone.len(), 2);
        assert_eq!(removal.hooks.len(), 1);
    }

    #[test]
    fn frontends_are_read_back() {
        let found: Vec<String> =
            Saved::read(TEXT).frontends(Family::V4).map(|key| key.to_string()).collect();
        assert_eq!(found, ["10.96.0.2:53/UDP", "10.96.0.1:80/TCP"]);
        assert_eq!(frontend("-p tcp -m tcp --dport 30080", Family::V4).unwrap().port.get(), 30080);
        assert_eq!(frontend("-p tcp -m tcp --dport 30000:30015", Family::V4), None);
        assert_eq!(frontend("-d 10.96.0.0/16", Family::V4), None);
    }
}
