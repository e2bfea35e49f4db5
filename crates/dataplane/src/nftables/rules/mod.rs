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
//! original destination, which connection tracking remembers. (Beside IPVS there are marks, for IPVS to
//! read: see [`Role`].)
//!
//! `lead`, `refuse` and `masquerade` write the three parts, of what `packet` and `parts` have.

mod lead;
mod masquerade;
mod packet;
mod parts;
mod refuse;

use kernel::nftables::{Expression, Family, Name, Register, Verdict};
use plan::LocalDetector;

use super::layout::{Dispatch, SetName, flag};
use super::role::Role;
use parts::{
    invalid_segments, jump, pass_established, rewrite_source, state_new, translated, untranslated,
};

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
        Self { family, detector, accompanies: matches!(role, Role::Accompany(_)) }
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
