//! From plan to elements: what stands in the table for a group, and for the node itself.
//!
//! Pure. A group's elements depend on that group alone, so that a changed group is rendered by
//! itself and compared with what it was.

use std::net::IpAddr;

use ipnet::IpNet;
use model::Family;
use plan::{Action, Frontend, FrontendAddress, FrontendKey, Group, NodeFacts, NodePlan, Origin};

use super::layout::{Bytes, Dispatch, Element, Entry, Fields, SetName, flag, range_element};
use crate::number::set_number;

/// What a group puts into the table of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Elements that no other group has.
    pub elements: Vec<Element>,
    /// Elements that other groups may have as well: they go with the last that has them.
    pub shared: Vec<Element>,
    /// The chains that entries lead to, once for each entry.
    pub dispatches: Vec<(SetName, Dispatch)>,
}

/// Renders a group for one family. Elements come in a fixed order and none twice.
pub fn render_group(group: &Group, family: Family) -> Rendered {
    let mut out = Rendered::default();
    for frontend in group.frontends.iter().filter(|f| f.key.family() == family) {
        render_frontend(&mut out, group, frontend);
    }
    let affine = |set: &plan::EndpointSet| {
        group.frontends.iter().any(|f| f.port == set.id.port && f.affinity.is_some())
    };
    for (_, set) in group.sets.iter().enumerate().filter(|(index, set)| {
        // One that lost its frontends to another group is led to by nobody.
        set.id.port.family == family && group.frontends.iter().any(|f| f.leads_to(*index))
    }) {
        let number = set_number(&set.id).to_ne_bytes();
        let members = affine(set);
        for (index, backend) in (0..Dispatch::MAX_BACKENDS).zip(&set.backends) {
            out.elements.push(Element {
                set: SetName::Endpoints,
                key: Fields::new().bytes(&number).bytes(&index.to_ne_bytes()).finish(),
                key_end: None,
                data: Fields::new().socket(backend.address).finish(),
            });
            if members {
                let key = Fields::new().bytes(&number).socket(backend.address).finish();
                out.elements.push(plain(SetName::Members, key));
            }
            if backend.local {
                let ip = backend.address.ip();
                out.shared.push(plain(SetName::Hairpins, Fields::new().ip(ip).ip(ip).finish()));
            }
        }
    }
    let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
    for ip in group.cluster_ips.iter().filter(of_family) {
        out.elements.push(plain(SetName::ClusterIps, Fields::new().ip(*ip).finish()));
    }
    out.shared.sort();
    out.shared.dedup();
    out
}

/// Renders what does not belong to any group: the elements that describe the node.
pub fn render_node(plan: &NodePlan, family: Family) -> Vec<Element> {
    let ranges = |set, ranges: Vec<IpNet>| {
        let ranges = ranges.into_iter().filter(|r| Family::of(r.addr()) == family).collect();
        IpNet::aggregate(&ranges).into_iter().map(move |range| range_element(set, &range))
    };
    let mut out: Vec<Element> = Vec::new();
    out.extend(ranges(SetName::ServiceRanges, plan.service_ranges.clone()));
    out.extend(ranges(SetName::NodeAddresses, node_addresses(&plan.node, family)));
    out
}

/// Where node ports are accepted: what the settings name, or all addresses but IPv4 loopback (which
/// the rules exclude; the table's rules also ask that the address be local).
fn node_addresses(node: &NodeFacts, family: Family) -> Vec<IpNet> {
    node.node_port_ranges(family).unwrap_or_else(|| {
        let all = match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        };
        vec![all.parse().expect("a constant range parses")]
    })
}

fn render_frontend(out: &mut Rendered, group: &Group, frontend: &Frontend) {
    let (general, outside) = match frontend.key.address {
        FrontendAddress::Ip(_) => (SetName::Frontends, SetName::OutsideFrontends),
        FrontendAddress::AnyOfNode(_) => (SetName::NodePorts, SetName::OutsideNodePorts),
    };
    let key = frontend_bytes(&frontend.key);
    let mut add = |set, entry: Entry| {
        if entry.dispatch != Dispatch::NONE {
            out.dispatches.push((set, entry.dispatch));
        }
        out.elements.push(Element {
            set,
            key: key.clone(),
            key_end: None,
            data: entry.to_bytes().into_iter().collect(),
        });
    };
    let inside = entry(group, frontend, Origin::Pod, Origin::Node);
    let from_outside = entry(group, frontend, Origin::Outside, Origin::Outside);
    match (inside, from_outside) {
        // One entry says it all if only the source's treatment differs.
        (Some(inside), Some(from_outside)) if is_same_but_source(inside, from_outside) => {
            add(general, Entry { flags: inside.flags | from_outside.flags, ..inside });
        }
        (Some(inside), Some(from_outside)) => {
            add(general, inside);
            add(outside, from_outside);
        }
        // Pods and the node never differ in more than masquerading, except where pods can't be
        // told: then they count as outside and the node has the general entry.
        _ => {
            if let Some(node) = entry(group, frontend, Origin::Node, Origin::Node) {
                add(general, node);
            }
            if let Some(from_outside) = from_outside {
                add(outside, from_outside);
            }
        }
    }
    if let Some(sources) = &frontend.allowed_sources {
        out.elements.push(plain(SetName::Guarded, key.clone()));
        // The kernel refuses ranges that overlap.
        for range in IpNet::aggregate(sources) {
            let with = |ip| Fields::new().bytes(&key).ip(ip).finish();
            out.elements.push(Element {
                set: SetName::AllowedSources,
                key: with(range.network()),
                key_end: Some(with(range.broadcast())),
                data: Bytes::new(),
            });
        }
    }
}

/// The entry for connections of two origins; `None` if they differ in more than masquerading.
fn entry(group: &Group, frontend: &Frontend, first: Origin, second: Origin) -> Option<Entry> {
    let (a, b) = (frontend.action(first), frontend.action(second));
    let flags = |origin, action: &Action| match (action, origin) {
        (Action::Forward { masquerade: false, .. }, _) => 0,
        (Action::Forward { .. }, Origin::Pod) => flag::MASQUERADE_POD,
        (Action::Forward { .. }, Origin::Node) => flag::MASQUERADE_NODE,
        (Action::Forward { .. }, Origin::Outside) => flag::MASQUERADE_OUTSIDE,
        (Action::Reject(_), _) => flag::REJECT,
        (Action::Drop(_), _) => flag::DROP,
    };
    let flags = flags(first, a) | flags(second, b);
    match (a, b) {
        (Action::Forward { set: a, .. }, Action::Forward { set: b, .. }) if a == b => {
            let set = &group.sets[*a];
            let backends = u32::try_from(set.backends.len()).unwrap_or(u32::MAX);
            let affinity = frontend.affinity.map_or(0, |affinity| affinity.timeout.as_secs());
            let dispatch = Dispatch {
                backends: backends.min(Dispatch::MAX_BACKENDS),
                affinity: u32::try_from(affinity.min(86_400)).expect("a day fits"),
            };
            Some(Entry { dispatch, flags, set: set_number(&set.id) })
        }
        (Action::Reject(_), Action::Reject(_)) | (Action::Drop(_), Action::Drop(_)) => {
            Some(Entry { dispatch: Dispatch::NONE, flags, set: 0 })
        }
        _ => None,
    }
}

fn is_same_but_source(a: Entry, b: Entry) -> bool {
    (a.dispatch, a.set, a.flags & flag::REFUSED) == (b.dispatch, b.set, b.flags & flag::REFUSED)
}

fn frontend_bytes(key: &FrontendKey) -> Bytes {
    let fields = match key.address {
        FrontendAddress::Ip(ip) => Fields::new().ip(ip),
        FrontendAddress::AnyOfNode(_) => Fields::new(),
    };
    fields.protocol_port(key).finish()
}

fn plain(set: SetName, key: Bytes) -> Element {
    Element { set, key, key_end: None, data: Bytes::new() }
}
