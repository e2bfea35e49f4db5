//! From plan to maps: what a group puts into them.
//!
//! Pure. A group's elements depend on that group alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use model::Family;
use plan::{Action, Frontend, FrontendAddress, Group, Origin};

use super::layout::{self, Deed, Flags, FrontendKey, Masquerades, Member, SourceRange, is_seen};
use super::wire::Wire;
use crate::number::{hash, port_number, set_number};

/// A day: the longest timeout of affinity in seconds that the API takes.
const MAX_AFFINITY: u64 = 86_400;

/// What a group puts into the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Elements of `frontends`, which no other group has.
    pub frontends: BTreeMap<FrontendKey, layout::Frontend>,
    /// The endpoints of sets, by their numbers.
    pub sets: BTreeMap<u64, Vec<SocketAddr>>,
    /// Numbers of those sets whose endpoints clients from outside get by a hash of themselves.
    pub by_client: BTreeSet<u64>,
    /// Keys of `members`.
    pub members: Vec<Member>,
    /// Keys of `sources`.
    pub sources: Vec<SourceRange>,
}

/// Renders a group. `own` are the node's addresses, by which it is told whether its own sockets may connect
/// where not everybody may.
pub fn render_group(group: &Group, own: &[IpAddr]) -> Rendered {
    let mut out = Rendered::default();
    for ip in &group.cluster_ips {
        // Where there is no frontend everything is refused.
        out.frontends.insert(FrontendKey::virtual_address(*ip), layout::Frontend::default());
    }
    for frontend in group.frontends.iter().filter(|f| is_seen(f.key.protocol)) {
        let key = FrontendKey::from(&frontend.key);
        let ranges = frontend.allowed_sources.as_ref().map(|ranges| (sources_number(&key), ranges));
        if let Some((number, ranges)) = &ranges {
            out.sources.extend(ranges.iter().map(|range| SourceRange::new(*number, *range)));
        }
        let sources = ranges.map_or(0, |(number, _)| number);
        out.frontends.insert(key, value(group, frontend, sources, own));
    }
    for (index, set) in group.sets.iter().enumerate() {
        // One that lost its frontends to another group is led to by nobody.
        let leading = group.frontends.iter().find(|f| f.leads_to(index));
        let Some(leading) = leading.filter(|_| is_seen(set.id.port.protocol)) else { continue };
        let number = set_number(&set.id);
        let endpoints = set.backends.iter().map(|backend| backend.address);
        if leading.affinity.is_some() {
            out.members.extend(endpoints.clone().map(|at| member(number, at)));
        }
        let is_by_client = |f: &&Frontend| is_by_client(group, f) && f.leads_to(index);
        if group.frontends.iter().any(|f| is_by_client(&f)) {
            out.by_client.insert(number);
        }
        out.sets.insert(number, endpoints.collect());
    }
    for port in &group.udp_ports {
        // The numbers of a port and of one of its sets may be the same.
        let number = !port_number(&port.port);
        out.members.extend(port.serving.iter().map(|at| member(number, *at)));
    }
    out.sources.sort_unstable();
    out.sources.dedup();
    out.members.sort_unstable();
    out.members.dedup();
    out
}

/// Whether clients from outside are to get the same endpoint from every node: their packets may come by another
/// node all of a sudden. Nobody outside has a way to a ClusterIP of his own.
fn is_by_client(group: &Group, frontend: &Frontend) -> bool {
    let is_cluster_ip = match frontend.key.address {
        FrontendAddress::Ip(ip) => group.cluster_ips.contains(&ip),
        FrontendAddress::AnyOfNode(_) => false,
    };
    !is_cluster_ip && matches!(frontend.action(Origin::Outside), Action::Forward { .. })
}

fn member(of: u64, at: SocketAddr) -> Member {
    Member { of, endpoint: at.into(), zero: 0 }
}

/// By which `sources` has who may connect to a frontend; not 0.
fn sources_number(key: &FrontendKey) -> u64 {
    let bytes: [u8; FrontendKey::SIZE] = key.to_bytes();
    hash(&[&bytes]).max(1)
}

fn value(group: &Group, frontend: &Frontend, sources: u64, own: &[IpAddr]) -> layout::Frontend {
    let family = frontend.key.family();
    let may_connect = |ranges: &Vec<IpNet>| {
        let mut of_family = own.iter().filter(|ip| Family::of(**ip) == family);
        of_family.any(|ip| ranges.iter().any(|range| range.contains(ip)))
    };
    let deed = |origin| match frontend.action(origin) {
        // Its own sockets have no source yet that could be compared.
        _ if origin == Origin::Node
            && !frontend.allowed_sources.as_ref().is_none_or(may_connect) =>
        {
            Deed::Drop
        }
        Action::Forward { set, .. } => Deed::Send(set_number(&group.sets[*set].id)),
        Action::Reject(_) => Deed::Refuse,
        Action::Drop(_) => Deed::Drop,
    };
    let masquerades =
        |origin| matches!(frontend.action(origin), Action::Forward { masquerade: true, .. });
    let seconds = frontend.affinity.map_or(0, |a| a.timeout.as_secs().clamp(1, MAX_AFFINITY));
    layout::Frontend {
        pod: deed(Origin::Pod),
        node: deed(Origin::Node),
        outside: deed(Origin::Outside),
        port: port_number(&frontend.port),
        sources,
        affinity: u32::try_from(seconds).unwrap_or(u32::MAX),
        flags: Flags {
            masquerades: Masquerades {
                pods: masquerades(Origin::Pod),
                outside: masquerades(Origin::Outside),
            },
            by_client: is_by_client(group, frontend),
        },
    }
}
