//! Which endpoints of a Service port take connections on this node.
//!
//! Follows kube-proxy of Kubernetes 1.36: endpoints are joined by port name and protocol, ready ones
//! go first, terminating ones serve when there are no others, topology hints apply to the cluster
//! set when every ready endpoint carries them (KEP-2433, KEP-4444), and never to the local set.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::object::{Endpoint, ServicePort};
use model::{Family, ObjectName, World};

use crate::frontend::{Backend, LeftOutReason};
use crate::node::NodeFacts;

/// An endpoint of one Service port, before any policy.
#[derive(Debug, Clone)]
pub struct Candidate<'w> {
    /// Where connections would be sent.
    pub address: SocketAddr,
    /// It runs on this node.
    pub local: bool,
    endpoint: &'w Endpoint,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.endpoint.conditions.ready && !self.is_forbidden()
    }

    fn is_serving_terminating(&self) -> bool {
        self.is_serving() && self.endpoint.conditions.terminating
    }

    /// It answers, whether or not it takes new connections.
    pub fn is_serving(&self) -> bool {
        self.endpoint.conditions.serving && !self.is_forbidden()
    }

    /// Addresses that no pod has and that would lead a Service to the node itself, to its neighbours
    /// or to its cloud's metadata (CVE-2021-25737). The API refuses them; slices written around its
    /// check get no traffic.
    fn is_forbidden(&self) -> bool {
        match self.address.ip() {
            IpAddr::V4(ip) => {
                ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified()
            }
            IpAddr::V6(ip) => {
                ip.is_loopback()
                    || ip.is_unicast_link_local()
                    || ip.is_multicast()
                    || ip.is_unspecified()
                    || ip.to_ipv4_mapped().is_some()
            }
        }
    }

    /// It is ready for new connections and on this node.
    pub fn is_ready_here(&self) -> bool {
        self.local && self.is_ready()
    }

    fn backend(&self) -> Backend {
        Backend { address: self.address, local: self.local }
    }
}

/// The endpoints of a port in a family: the union over all slices, ordered by address. Of two
/// entries with the same address the one that is not terminating counts: pod addresses are reused
/// while the old pod's object still exists.
pub fn candidates<'w>(
    world: &'w World,
    node: &NodeFacts,
    service: &ObjectName,
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'w>> {
    let mut candidates: Vec<Candidate<'w>> = Vec::new();
    let slices = world.slices(service).filter(|s| s.is_of(family) && !s.is_headless);
    for slice in slices {
        let numbers =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in numbers {
            let of_family = slice.endpoints.iter().filter(|e| Family::of(e.address) == family);
            candidates.extend(of_family.map(|endpoint| Candidate {
                address: SocketAddr::new(endpoint.address, number.port.get()),
                local: endpoint.node_name.as_ref() == Some(&node.settings.node_name),
                endpoint,
            }));
        }
    }
    // Of equal ones the sort keeps the order of slices.
    candidates.sort_by_key(|c| (c.address, c.endpoint.conditions.terminating));
    candidates.dedup_by_key(|c| c.address);
    candidates
}

/// What the policies of a Service ask for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Some traffic may go to any endpoint of the cluster.
    pub cluster: bool,
    /// Some traffic may only go to endpoints of this node.
    pub local: bool,
}

/// The endpoints that take connections, by scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eligible {
    /// For traffic that may go anywhere; empty if not wanted.
    pub cluster: Vec<Backend>,
    /// For traffic that must stay on this node; empty if not wanted.
    pub local: Vec<Backend>,
    /// Whether any endpoint anywhere could take a connection: decides between reject and drop.
    pub has_endpoints: bool,
    /// Endpoints in neither set, and why.
    pub left_out: Vec<(SocketAddr, LeftOutReason)>,
}

/// Chooses the endpoints that take connections on this node.
pub fn eligible(candidates: &[Candidate<'_>], node: &NodeFacts, wanted: Wanted) -> Eligible {
    let mut result = Eligible::default();
    let topology = Topology::of(candidates, node);
    if wanted.cluster {
        result.cluster = first_non_empty([
            members(candidates, |c| c.is_ready() && topology.allows(c, node)),
            members(candidates, |c| c.is_serving_terminating()),
        ]);
    }
    if wanted.local {
        result.local = first_non_empty([
            members(candidates, |c| c.local && c.is_ready()),
            members(candidates, |c| c.local && c.is_serving_terminating()),
        ]);
    }
    result.has_endpoints = !result.cluster.is_empty()
        || (wanted.local && candidates.iter().any(|c| c.is_ready() || c.is_serving_terminating()));
    for candidate in candidates {
        let takes_part = |set: &[Backend]| {
            set.binary_search_by_key(&candidate.address, |backend| backend.address).is_ok()
        };
        if takes_part(&result.cluster) || takes_part(&result.local) {
            continue;
        }
        let reason = if candidate.is_forbidden() {
            LeftOutReason::Forbidden
        } else if candidate.is_ready() {
            match topology {
                _ if !wanted.cluster => LeftOutReason::NotLocal,
                Topology::SameNode => LeftOutReason::OtherNode,
                Topology::SameZone | Topology::Anywhere => LeftOutReason::OtherZone,
            }
        } else if candidate.is_serving_terminating() {
            LeftOutReason::Terminating
        } else {
            LeftOutReason::NotReady
        };
        result.left_out.push((candidate.address, reason));
    }
    result
}

/// How far traffic may go according to the hints of the ready endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    Anywhere,
}

impl Topology {
    /// One ready endpoint without a hint of a kind disables that kind; so does a set of hints that
    /// leaves nothing for this node.
    fn of(candidates: &[Candidate<'_>], node: &NodeFacts) -> Self {
        let hinted = |hints: fn(&Endpoint) -> &[Arc<str>], here: Option<&Arc<str>>| {
            let Some(here) = here else { return false };
            let mut any_here = false;
            for candidate in candidates.iter().filter(|c| c.is_ready()) {
                let names = hints(candidate.endpoint);
                if names.is_empty() {
                    return false;
                }
                any_here |= names.contains(here);
            }
            any_here
        };
        if hinted(Endpoint::for_nodes, Some(&node.settings.node_name)) {
            Topology::SameNode
        } else if hinted(Endpoint::for_zones, node.zone.as_ref()) {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }

    fn allows(self, candidate: &Candidate<'_>, node: &NodeFacts) -> bool {
        let endpoint = candidate.endpoint;
        match self {
            Topology::SameNode => endpoint.for_nodes().contains(&node.settings.node_name),
            Topology::SameZone => {
                node.zone.as_ref().is_some_and(|zone| endpoint.for_zones().contains(zone))
            }
            Topology::Anywhere => true,
        }
    }
}

fn members(candidates: &[Candidate<'_>], keep: impl Fn(&Candidate<'_>) -> bool) -> Vec<Backend> {
    let mut members: Vec<Backend> =
        candidates.iter().filter(|c| keep(c)).map(Candidate::backend).collect();
    members.shrink_to_fit();
    members
}

fn first_non_empty<const N: usize>(choices: [Vec<Backend>; N]) -> Vec<Backend> {
    choices.into_iter().find(|choice| !choice.is_empty()).unwrap_or_default()
}
