//! One Service on one node: its frontends, each with an action for each origin.
//!
//! The whole policy and masquerade matrix of a service proxy is the three columns that
//! [`PortPlan::cluster_ip`] and [`PortPlan::external`] fill.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use model::object::{IpMode, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy};
use model::{Family, ObjectName, Protocol, World};

use crate::endpoints::{self, Candidate, Eligible, Wanted};
use crate::frontend::{
    Action, Affinity, Backend, EndpointSet, Frontend, FrontendAddress, FrontendKey, Group, GroupId,
    HealthCheck, LeftOut, PortId, Refusal, Rule, Scope, SetId, UdpPort,
};
use crate::node::NodeFacts;

/// The group that a Service's plan is kept under.
pub fn group_id(service: &ObjectName) -> GroupId {
    service.to_string().into()
}

/// Plans one Service for one node; `None` if there is nothing to program, because the Service is
/// unknown, headless, an alias or another proxy's.
pub fn plan_service(world: &World, node: &NodeFacts, name: &ObjectName) -> Option<Group> {
    let service = world.service(name).filter(|service| service.is_proxied())?;
    let mut group = Group::empty(group_id(name));
    group.refused_external_ips =
        service.external_ips.iter().copied().filter(|ip| !node.serves_external_ip(*ip)).collect();
    let mut ready_here: BTreeSet<IpAddr> = BTreeSet::new();
    for family in Family::ALL {
        let Some(cluster_ip) = service.cluster_ip(family) else { continue };
        group.cluster_ips.push(cluster_ip);
        for port in &service.ports {
            let candidates = endpoints::candidates(world, node, name, port, family);
            ready_here
                .extend(candidates.iter().filter(|c| c.is_ready_here()).map(|c| c.address.ip()));
            plan_port(&mut group, service, port, cluster_ip, node, &candidates);
        }
    }
    group.health_check = service
        .health_check_node_port
        .filter(|_| is_local_load_balancer(service))
        .map(|port| HealthCheck { port, local_endpoints: ready_here.len() });
    group.shrink();
    Some(group)
}

/// Adds the frontends of one Service port in the family of `cluster_ip`.
fn plan_port(
    group: &mut Group,
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    node: &NodeFacts,
    candidates: &[Candidate<'_>],
) {
    let family = Family::of(cluster_ip);
    let id = PortId {
        group: group.id.clone(),
        name: port.name.clone(),
        protocol: port.protocol,
        family,
    };
    let external = external_addresses(service, port, family, node);
    let internal_local = service.internal_traffic_policy == TrafficPolicy::Local;
    let external_local = !external.is_empty()
        && may_be_external(service)
        && service.external_traffic_policy == TrafficPolicy::Local;
    let wanted = Wanted {
        // Pods and this node reach external addresses through the cluster set even if both
        // policies are Local.
        cluster: !internal_local || !external.is_empty(),
        local: internal_local || external_local,
    };
    let Eligible { cluster, local, has_endpoints, left_out } =
        endpoints::eligible(candidates, node, wanted);
    let left_out = left_out.into_iter();
    group.left_out.extend(left_out.map(|(address, reason)| LeftOut {
        port: id.clone(),
        address,
        reason,
    }));
    let plan = PortPlan {
        cluster: add_set(group, &id, Scope::Cluster, cluster),
        local: add_set(group, &id, Scope::Local, local),
        has_endpoints,
        internal_local,
        external_local,
        detects_pods: node.detects_pods(family),
        masquerade_all: node.settings.masquerade_all,
    };
    let affinity = match service.session_affinity {
        SessionAffinity::ClientIp(timeout) => Some(Affinity { timeout }),
        SessionAffinity::None => None,
    };
    let mut add =
        |rule, address, number: NonZeroU16, [pod, node, outside]: [Action; 3], allowed_sources| {
            let key = FrontendKey { address, protocol: port.protocol, port: number };
            let port = id.clone();
            group.frontends.push(Frontend {
                key,
                port,
                rule,
                pod,
                node,
                outside,
                allowed_sources,
                affinity,
            });
        };
    add(Rule::ClusterIp, FrontendAddress::Ip(cluster_ip), port.port, plan.cluster_ip(), None);
    for (rule, address, number) in external {
        let sources = match rule {
            Rule::LoadBalancer => allowed_sources(service, family, node),
            _ => None,
        };
        add(rule, address, number, plan.external(), sources);
    }
    if port.protocol == Protocol::Udp {
        let serving = candidates.iter().filter(|c| c.is_serving()).map(|c| c.address).collect();
        group.udp_ports.push(UdpPort { port: id, serving });
    }
}

/// A port's endpoint sets and policies: all that its actions follow from.
struct PortPlan {
    cluster: Option<usize>,
    local: Option<usize>,
    has_endpoints: bool,
    internal_local: bool,
    external_local: bool,
    detects_pods: bool,
    masquerade_all: bool,
}

impl PortPlan {
    /// Actions at a ClusterIP for connections from pods, this node, and outside.
    ///
    /// What is not a pod's is masqueraded, so that answers come back this way; without a detector
    /// nothing can be told and nothing is.
    fn cluster_ip(&self) -> [Action; 3] {
        let set = if self.internal_local { self.local } else { self.cluster };
        let others = self.masquerade_all || self.detects_pods;
        [
            self.forward(set, self.masquerade_all),
            self.forward(set, others),
            self.forward(set, others),
        ]
    }

    /// Actions at a NodePort, load-balancer or external address.
    ///
    /// Policy Cluster masquerades everything. Policy Local keeps outside clients' addresses by
    /// using endpoints of this node only; pods and the node itself may go anywhere all the same.
    fn external(&self) -> [Action; 3] {
        if !self.external_local {
            return [(); 3].map(|()| self.forward(self.cluster, true));
        }
        let outside = self.forward(self.local, false);
        let pod =
            if self.detects_pods { self.forward(self.cluster, false) } else { outside.clone() };
        [pod, self.forward(self.cluster, true), outside]
    }

    fn forward(&self, set: Option<usize>, masquerade: bool) -> Action {
        match set {
            Some(set) => Action::Forward { set, masquerade },
            None if self.has_endpoints => Action::Drop(Refusal::NoLocalEndpoints),
            None => Action::Reject(Refusal::NoEndpoints),
        }
    }
}

/// Adds a set unless it is empty; answers its index.
fn add_set(
    group: &mut Group,
    port: &PortId,
    scope: Scope,
    backends: Vec<Backend>,
) -> Option<usize> {
    if backends.is_empty() {
        return None;
    }
    group.sets.push(EndpointSet { id: SetId { port: port.clone(), scope }, backends });
    Some(group.sets.len() - 1)
}

/// The addresses and ports besides the ClusterIP that a port is reachable at, with their rule.
fn external_addresses(
    service: &Service,
    port: &ServicePort,
    family: Family,
    node: &NodeFacts,
) -> Vec<(Rule, FrontendAddress, NonZeroU16)> {
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let node_port =
        port.node_port.map(|number| (Rule::NodePort, FrontendAddress::AnyOfNode(family), number));
    let load_balancer = service
        .load_balancer
        .iter()
        .filter(|(ip, mode)| of_family(ip) && *mode == IpMode::Vip)
        .map(|(ip, _)| (Rule::LoadBalancer, FrontendAddress::Ip(*ip), port.port));
    let external_ips = service
        .external_ips
        .iter()
        .filter(|ip| of_family(ip) && node.serves_external_ip(**ip))
        .map(|ip| (Rule::ExternalIp, FrontendAddress::Ip(*ip), port.port));
    node_port.into_iter().chain(load_balancer).chain(external_ips).collect()
}

/// Whether `externalTrafficPolicy` means anything for this Service.
fn may_be_external(service: &Service) -> bool {
    match service.service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    }
}

fn is_local_load_balancer(service: &Service) -> bool {
    service.service_type == ServiceType::LoadBalancer
        && service.external_traffic_policy == TrafficPolicy::Local
}

/// `loadBalancerSourceRanges` of a family; `None` if everybody may connect.
///
/// Where a range contains this node, its own connections are allowed too when they carry the
/// load-balancer address as their source, as they do if that address is bound to this node.
fn allowed_sources(service: &Service, family: Family, node: &NodeFacts) -> Option<Vec<IpNet>> {
    let mut ranges: Vec<IpNet> =
        service.source_ranges.iter().copied().filter(|r| Family::of(r.addr()) == family).collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    if ranges.iter().any(|range| node.addresses.iter().any(|ip| range.contains(ip))) {
        let addresses = service.load_balancer.iter().map(|(ip, _)| *ip);
        ranges.extend(addresses.filter(|ip| Family::of(*ip) == family).map(IpNet::from));
    }
    ranges.sort();
    ranges.dedup();
    Some(ranges)
}
