//! From plan to maps: what a group puts into them.
//!
//! Pure. A group's elements depend on that group alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use plan::{Action, Frontend, Group, Origin};

use super::layout::{self, Deed, FrontendKey, Member, is_seen};
use crate::number::{port_number, set_number};

/// A day: the longest timeout of affinity in seconds that the API takes.
const MAX_AFFINITY: u64 = 86_400;

/// What a group puts into the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Elements of `frontends`, which no other group has.
    pub frontends: BTreeMap<FrontendKey, layout::Frontend>,
    /// The endpoints of sets, by their numbers.
    pub sets: BTreeMap<u64, Vec<SocketAddr>>,
    /// Keys of `members`.
    pub members: Vec<Member>,
}

/// Renders a group.
pub fn render_group(group: &Group) -> Rendered {
    let mut out = Rendered::default();
    for ip in &group.cluster_ips {
        // Where there is no frontend everything is refused.
        out.frontends.insert(FrontendKey::virtual_address(*ip), layout::Frontend::default());
    }
    for frontend in group.frontends.iter().filter(|f| is_seen(f.key.protocol)) {
        out.frontends.insert((&frontend.key).into(), value(group, frontend));
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
        out.sets.insert(number, endpoints.collect());
    }
    for port in &group.udp_ports {
        // The numbers of a port and of one of its sets may be the same.
        let number = !port_number(&port.port);
        out.members.extend(port.serving.iter().map(|at| member(number, *at)));
    }
    out.members.sort_unstable();
    out.members.dedup();
    out
}

fn member(of: u64, at: SocketAddr) -> Member {
    Member { of, endpoint: at.into(), zero: 0 }
}

fn value(group: &Group, frontend: &Frontend) -> layout::Frontend {
    let deed = |origin| match frontend.action(origin) {
        // A socket has no source yet that could be compared.
        _ if frontend.allowed_sources.is_some() => Deed::Pass,
        Action::Forward { set, .. } => Deed::Send(set_number(&group.sets[*set].id)),
        Action::Reject(_) => Deed::Refuse,
        // A socket can't be told nothing at all.
        Action::Drop(_) => Deed::Pass,
    };
    let seconds = frontend.affinity.map_or(0, |a| a.timeout.as_secs().clamp(1, MAX_AFFINITY));
    layout::Frontend {
        pod: deed(Origin::Pod),
        node: deed(Origin::Node),
        outside: deed(Origin::Outside),
        port: port_number(&frontend.port),
        affinity: u32::try_from(seconds).unwrap_or(u32::MAX),
        zero: 0,
    }
}
