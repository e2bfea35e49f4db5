//! A pod's network: a routed veth pair, no bridge.
//!
//! ```text
//!   pod netns                                  node netns
//!   eth0  10.244.1.7/32  ----- veth -----  ptl2f61c0a9d7e4  (no address)
//!   default via 169.254.1.1 onlink         10.244.1.7/32 dev ptl2f61c0a9d7e4
//! ```
//!
//! Every packet of a pod is routed by the node, also between two pods of one node, so the packet
//! filter sees all of them and a bridge's exceptions do not exist. The gateway's address belongs to
//! nobody: each side has a permanent neighbour entry with the other's link-layer address, which
//! makes ARP, neighbour discovery and `proxy_arp` unnecessary and is the same for IPv6 (`fe80::1`).

mod link;
mod routes;
#[cfg(test)]
mod tests;

pub use link::{Attachment, HOST_LINK_PREFIX, POD_LINK, attach, detach, host_link, prepare_node};
pub use routes::{NodeRoutes, RouteChanges};

/// Protocol number (`RTPROT_*`) that marks the routes made here, free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 112;
