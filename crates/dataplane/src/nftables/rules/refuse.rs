//! Refusing and dropping what nobody takes.

use kernel::nftables::{Comparison, Expression, Family, Outcome, Verdict};

use super::parts::{
    KEY, TCP, goto, invalid_segments, loopback_from_elsewhere, mask, pass_established, state_new,
    transport_protocol,
};
use super::{FLAGS, REFUSALS, Rules, exact_maps};
use crate::nftables::layout::{SetName, flag};

impl Rules<'_> {
    /// Refuses or drops new connections that meet a frontend nobody serves.
    pub(super) fn refuse(&self, maps: &[SetName]) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let refusal =
                vec![mask(FLAGS, flag::REFUSED), self.lookup(REFUSALS, FLAGS, Outcome::Verdict)];
            [self.packet_key(*set), self.entry(*set), refusal].concat()
        };
        maps.iter().map(rule).collect()
    }

    /// The same for what ends or begins on this node.
    pub(super) fn refuse_local(&self, outside: bool) -> Vec<Vec<Expression>> {
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
    pub(super) fn reject(&self) -> Vec<Vec<Expression>> {
        let is_tcp =
            Expression::Compare { register: KEY, comparison: Comparison::Equal, value: vec![TCP] };
        vec![
            vec![transport_protocol(KEY), is_tcp, Expression::RejectTcpReset],
            vec![Expression::RejectPortUnreachable(self.family)],
        ]
    }

    /// Refuses what goes to a virtual address that has no such port, and drops what goes to an
    /// address of the service ranges that nobody has.
    pub(super) fn virtual_addresses(&self) -> Vec<Vec<Expression>> {
        let destination = self.destination_address(KEY);
        let is_virtual = self.lookup(SetName::ClusterIps.as_str(), KEY, Outcome::Member);
        let in_range = self.in_ranges(SetName::ServiceRanges, destination.clone(), Outcome::Member);
        vec![
            vec![destination, is_virtual, goto("reject")],
            [in_range, vec![Expression::Verdict(Verdict::Drop)]].concat(),
        ]
    }

    /// What arrives for this node.
    pub(super) fn input(&self, refuse: Vec<Expression>) -> Vec<Vec<Expression>> {
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
}
