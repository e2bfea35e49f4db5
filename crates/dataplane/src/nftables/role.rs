//! What a table does: translate connections by itself, all or what eBPF leaves, or accompany IPVS, which
//! does.
//!
//! Behind eBPF stands the same table as without it, under another name: both are there while one takes the
//! place of the other.
//!
//! The companion of IPVS has the same frontends and the same say over who may connect, who is refused and
//! whose source is rewritten. It lacks endpoints and the chains that choose among them, and it has two
//! things more: it marks connections from outside that a frontend treats by themselves, for IPVS to tell
//! them, and it guards the virtual addresses, which IPVS makes addresses of this host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Family, Protocol};
use plan::{FrontendAddress, Group, LocalDetector, NodePlan};

use super::layout::{Dispatch, Element, Entry, Fields, SetName};
use super::render::{Rendered, render_group};
use super::sets::ENTRY_MAPS;

/// What a table does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Role {
    /// It translates.
    #[default]
    Translate,
    /// It translates what no socket has resolved where eBPF does that, on kernels where eBPF can't be at links
    /// for long.
    Complete,
    /// It translates what eBPF does not: SCTP.
    Rest,
    /// IPVS does, on this host.
    Accompany(Arc<Host>),
}

/// What may not be made a virtual address of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Its own addresses, of all its links but that of virtual addresses.
    pub own: BTreeSet<IpAddr>,
    /// Ranges of pods.
    pub pods: Vec<IpNet>,
}

impl Host {
    /// A host with these addresses, of which a plan tells where pods are.
    pub(crate) fn of(plan: &NodePlan, own: BTreeSet<IpAddr>) -> Self {
        let pods = match &plan.node.settings.local_detector {
            LocalDetector::Sources(ranges) => ranges.clone(),
            _ => Vec::new(),
        };
        Self { own, pods }
    }

    /// Whether all that is sent to an address may be taken for a Service's. Whoever may write a Service
    /// could otherwise take a pod off the network, or the host.
    pub(crate) fn may_be_virtual(&self, address: IpAddr) -> bool {
        let is_broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
        !(is_broadcast
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || self.own.contains(&address)
            || self.pods.iter().any(|range| range.contains(&address)))
    }
}

/// The virtual addresses of a group on a host, of both families.
pub(crate) fn virtual_addresses(group: &Group, host: &Host) -> BTreeSet<IpAddr> {
    let of_frontends = group.frontends.iter().filter_map(|frontend| match frontend.key.address {
        FrontendAddress::Ip(ip) => Some(ip),
        FrontendAddress::AnyOfNode(_) => None,
    });
    let all = of_frontends.chain(group.cluster_ips.iter().copied());
    all.filter(|ip| host.may_be_virtual(*ip)).collect()
}

/// Upper bits of the marks by which IPVS tells connections from outside.
const MARKS: u32 = 0x5000_0000;
/// The other bits, which tell endpoint sets.
const SET_BITS: u32 = 0x0fff_ffff;

/// The mark of connections that a set's endpoints take, of the number of the set. Two of 1,000 sets share
/// one by chance once in 500 clusters, which the kernel then refuses.
pub(crate) fn mark(set: u64) -> NonZeroU32 {
    let bits = u32::try_from(set & u64::from(SET_BITS)).unwrap_or_default();
    NonZeroU32::new(MARKS | bits).expect("the upper bits are not zero")
}

/// Whether a mark is one of ours.
pub(crate) fn is_mark(mark: NonZeroU32) -> bool {
    mark.get() & !SET_BITS == MARKS
}

/// The mark of pods that are told by the interface that they come by: where their source is rewritten,
/// the interface is no longer known.
pub(super) const POD_MARK: u32 = 0x4fff_ffff;

impl Role {
    /// Name of the table.
    pub(super) fn table(&self) -> &'static str {
        match self {
            Role::Translate => "portolan",
            Role::Complete | Role::Rest => "portolan-ebpf",
            Role::Accompany(_) => "portolan-ipvs",
        }
    }

    /// Name of the table that does the work of the other while that is made anew.
    ///
    /// A packet sees the tables' chains one after the other, and each as of the moment at which it gets
    /// there. So when a table is replaced in one transaction, a packet can pass the new one a moment
    /// before it begins and the old one a moment after it ended. This one is there before and after.
    pub(super) fn handover(&self) -> &'static str {
        match self {
            Role::Translate => "portolan-handover",
            Role::Complete | Role::Rest => "portolan-ebpf-handover",
            Role::Accompany(_) => "portolan-ipvs-handover",
        }
    }

    /// Renders a group for one family.
    pub(super) fn render_group(&self, group: &Group, family: Family) -> Rendered {
        match self {
            Role::Translate | Role::Complete => render_group(group, family),
            Role::Rest => render_group(&rest(group), family),
            Role::Accompany(host) => accompanying(render_group(group, family), group, family, host),
        }
    }
}

/// Whether eBPF leaves something of a group.
pub(crate) fn has_rest(group: &Group) -> bool {
    group.frontends.iter().any(|frontend| frontend.key.protocol == Protocol::Sctp)
}

/// What eBPF leaves of a group.
fn rest(group: &Group) -> Group {
    let mut rest = group.clone();
    rest.frontends.retain(|frontend| frontend.key.protocol == Protocol::Sctp);
    if rest.frontends.is_empty() {
        rest.sets.clear();
        rest.cluster_ips.clear();
    }
    rest
}

/// What is left of a group where IPVS translates.
fn accompanying(rendered: Rendered, group: &Group, family: Family, host: &Host) -> Rendered {
    let mut out = Rendered { shared: rendered.shared, ..Rendered::default() };
    for element in rendered.elements {
        match element.set {
            // IPVS has them.
            SetName::Endpoints | SetName::Members => {}
            // Guarded below, with those of load balancers.
            SetName::ClusterIps => {}
            set if ENTRY_MAPS.contains(&set) => out.elements.push(without_endpoints(element)),
            _ => out.elements.push(element),
        }
    }
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let addresses = virtual_addresses(group, host).into_iter().filter(of_family);
    out.shared.extend(addresses.map(|ip| Element {
        set: SetName::ClusterIps,
        key: Fields::new().ip(ip).finish(),
        key_end: None,
        data: Default::default(),
    }));
    out.shared.sort();
    out
}

/// An entry that says how connections are treated and not where they go, but for their mark if they are
/// from outside and treated by themselves.
fn without_endpoints(element: Element) -> Element {
    let is_outside = matches!(element.set, SetName::OutsideFrontends | SetName::OutsideNodePorts);
    let Some(entry) = Entry::from_bytes(&element.data) else { return element };
    let mark = match is_outside && entry.dispatch != Dispatch::NONE {
        true => u64::from(mark(entry.set).get()),
        false => 0,
    };
    // In both halves: a rule reads the first, whatever the order of bytes.
    let entry = Entry { dispatch: Dispatch::NONE, set: mark << 32 | mark, ..entry };
    Element { data: entry.to_bytes().into_iter().collect(), ..element }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_those_of_others() {
        assert!(is_mark(mark(u64::MAX)) && is_mark(mark(0)));
        assert_ne!(mark(2), mark(3));
        for other in [0x4000, 1, POD_MARK] {
            assert!(!is_mark(NonZeroU32::new(other).unwrap()));
        }
    }
}
