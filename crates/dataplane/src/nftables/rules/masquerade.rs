//! Deciding by its original destination whether the source of a connection is rewritten.

use kernel::nftables::{Comparison, Expression, MetaKey, Outcome, Register};

use super::parts::{KEY, came_in, goto, is_from_elsewhere, jump, mask};
use super::{FLAGS, Rules, SOURCES, exact_maps};
use crate::nftables::layout::SetName;
use crate::nftables::role::POD_MARK;

impl Rules<'_> {
    /// Decides, for a connection whose destination was rewritten, whether its source is too.
    pub(super) fn masquerade(&self) -> Vec<Vec<Expression>> {
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
    pub(super) fn masquerade_from(
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
    pub(super) fn source_of(&self, maps: &[SetName], origin: u32) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let treatment =
                vec![mask(FLAGS, origin), self.lookup(SOURCES, FLAGS, Outcome::Verdict)];
            [self.original_key(*set), self.entry(*set), treatment].concat()
        };
        maps.iter().map(rule).collect()
    }
}
