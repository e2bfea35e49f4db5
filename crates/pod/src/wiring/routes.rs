//! Routes between nodes: each other node's pod range by that node's address, and the own range to
//! nowhere where no pod has the address, so that it does not go out by the default route.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use kernel::route::{NextHop, Route, Rtnetlink};

use super::ROUTE_PROTOCOL;
use crate::{Error, Result};

/// The routes that a node should have beside those to its own pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRoutes {
    /// Pod ranges of other nodes, and the address of the node that has them, on a common link.
    pub others: Vec<(IpNet, IpAddr)>,
    /// Pod ranges of this node.
    pub own: Vec<IpNet>,
}

/// What makes the held routes the desired ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// To be added, or put in the place of another.
    pub set: Vec<Route>,
    /// To be deleted.
    pub delete: Vec<Route>,
}

impl NodeRoutes {
    /// Compares with the routes that the kernel holds. Of those only routes with our protocol
    /// number count, and not the ones to single pods.
    pub fn diff(&self, held: &[Route]) -> RouteChanges {
        let others = self.others.iter().map(|(range, address)| {
            let next_hop = NextHop::Gateway { address: *address, link: None, onlink: false };
            (*range, Route::new(*range, next_hop, ROUTE_PROTOCOL))
        });
        let own = self
            .own
            .iter()
            .map(|range| (*range, Route::new(*range, NextHop::Unreachable, ROUTE_PROTOCOL)));
        let mut missing: BTreeMap<IpNet, Route> = others.chain(own).collect();
        let mut changes = RouteChanges::default();
        for route in held.iter().filter(|route| is_ours(route)) {
            match missing.get(&route.destination) {
                Some(wanted) if leads_the_same_way(wanted, route) => {
                    missing.remove(&route.destination);
                }
                // IPv4 replaces by destination; IPv6 would add a second next hop of another kind.
                Some(_) if route.destination.addr().is_ipv4() => {}
                _ => changes.delete.push(*route),
            }
        }
        changes.set.extend(missing.into_values());
        changes
    }
}

fn is_ours(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && !matches!(route.next_hop, NextHop::Link(_))
}

/// The kernel fills in the link of a gateway.
fn leads_the_same_way(wanted: &Route, held: &Route) -> bool {
    match (wanted.next_hop, held.next_hop) {
        (NextHop::Gateway { address: a, .. }, NextHop::Gateway { address: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

impl RouteChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty()
    }

    /// Carries the changes out. A route that is refused (its gateway is on no link of this node)
    /// does not stop the others; all refusals are answered.
    pub fn apply(&self, node: &mut Rtnetlink) -> Result<(), Vec<Error>> {
        let deleted = self.delete.iter().map(|route| node.delete_route(route).map(drop));
        let mut failures: Vec<Error> = deleted.filter_map(Result::err).map(Error::from).collect();
        let set = self.set.iter().map(|route| node.replace_route(route));
        failures.extend(set.filter_map(Result::err).map(Error::from));
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

impl fmt::Display for RouteChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.delete.iter().try_for_each(|route| writeln!(f, "- {route}"))?;
        self.set.iter().try_for_each(|route| writeln!(f, "+ {route}"))
    }
}
