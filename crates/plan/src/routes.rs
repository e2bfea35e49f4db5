//! Routes to the pods of other nodes, for nodes that share a link (host gateway).

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, World};

/// A route: packets for `destination` go to `gateway`, which is on a link of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// A node's pod range.
    pub destination: IpNet,
    /// That node's address of the same family.
    pub gateway: IpAddr,
}

/// The routes that the node `own` needs to reach the pods of all others, ordered. A node without a
/// pod range or an address in its family is left out until it has both.
pub fn plan_routes(world: &World, own: &str) -> Vec<Route> {
    let mut routes: Vec<Route> = world
        .nodes()
        .filter(|node| &*node.meta.name != own)
        .flat_map(|node| {
            node.pod_cidrs.iter().filter_map(|destination| {
                let gateway = node.address(Family::of(destination.addr()))?;
                Some(Route { destination: *destination, gateway })
            })
        })
        .collect();
    routes.sort();
    routes.dedup();
    routes
}
