//! Leading connections to the chain that chooses an endpoint, or to the server of IPVS that does.

use kernel::nftables::{
    Comparison, DynamicSetOperation, Expression, Name, Outcome, Register, Verdict,
};

use super::parts::KEY;
use super::{
    AFTER_SET, DISPATCH, RuleChain, Rules, SET, affinity_map, dispatch_chain, dispatch_map,
    exact_maps,
};
use crate::nftables::layout::{Dispatch, SetName};
use crate::nftables::role::POD_MARK;
use crate::number::SCOPE_BIT;

impl Rules<'_> {
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
    pub(super) fn services(&self, outside: bool) -> Vec<Vec<Expression>> {
        let mut once = self.dispatch(&exact_maps(outside));
        once.push(self.at_node(if outside { "node-ports-outside" } else { "node-ports" }));
        let rules = match outside {
            true => Vec::new(),
            false => vec![self.guard(), self.lead_outside("services-outside")],
        };
        [rules, once.clone(), once].concat()
    }

    /// From an entry to the chain that chooses a backend.
    pub(super) fn dispatch(&self, maps: &[SetName]) -> Vec<Vec<Expression>> {
        let rule = |set: &SetName| {
            let dispatch = self.lookup(&dispatch_map(*set), DISPATCH, Outcome::Verdict);
            [self.packet_key(*set), self.entry(*set), vec![dispatch]].concat()
        };
        maps.iter().map(rule).collect()
    }

    /// Drops connections to guarded frontends from sources that are not allowed.
    pub(super) fn guard(&self) -> Vec<Expression> {
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
    pub(super) fn guard_and_mark(&self) -> Vec<Vec<Expression>> {
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
    pub(super) fn mark(&self, map: SetName) -> Vec<Vec<Expression>> {
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

    /// The register after set, address and port: source address and the port's number.
    pub(super) fn client(&self) -> Register {
        AFTER_SET.plus(self.width() + 1)
    }

    pub(super) fn load_client(&self) -> Vec<Expression> {
        vec![
            self.source_address(self.client()),
            Expression::Mask {
                from: SET,
                into: self.client().plus(self.width()),
                mask: (!SCOPE_BIT).to_ne_bytes().to_vec(),
            },
        ]
    }

    pub(super) fn remember(&self, map: &Name, operation: DynamicSetOperation) -> Expression {
        Expression::DynamicSet {
            set: map.clone(),
            operation,
            key: self.client(),
            // The kernel wants a value for every operation on a map, for deletions too.
            value: Some(AFTER_SET),
            timeout: None,
        }
    }
}
