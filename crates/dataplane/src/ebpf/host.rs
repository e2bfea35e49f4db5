//! What programs are told of the node: its addresses and links, where pods are, and which ports it may use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use kernel::netlink::{self, Socket};
use kernel::netns::{self, Netns};
use kernel::nftables;
use kernel::route::{self, Rtnetlink};
use kernel::sysctl;
use kernel::xtables::{self, TableInfo};
use model::Family;
use plan::{LocalDetector, NodePlan};

use super::layout::{Accepts, Address, Device, Families, Node, Range};
use crate::Result;
use crate::iptables::Flavour;
use crate::ports::NODE_PORTS;

/// Source ports of masqueraded connections: unprivileged.
const FIRST_PORT: u16 = 1024;
/// Ports that the node's own connections get, if nothing is said (ip(7)).
const LOCAL_PORTS: RangeInclusive<u16> = 32768..=60999;
/// `IFF_LOOPBACK`.
const LOOPBACK: u32 = 8;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) node: Node,
    /// Its addresses that accept node ports.
    pub(super) addresses: HashMap<Address, Accepts>,
    /// Its primary addresses.
    pub(super) own: Vec<IpAddr>,
    /// What programs know of its links, by their index.
    pub(super) devices: BTreeMap<u32, Device>,
    /// Where programs are attached, by the same index.
    pub(super) places: BTreeMap<u32, Place>,
    /// Where pods are.
    pub(super) pods: BTreeSet<Range>,
    /// Where virtual addresses are.
    pub(super) virtual_ranges: BTreeSet<Range>,
}

/// A link that packets come and go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name.
    pub(super) link: String,
    /// Its packets begin with the IP header.
    pub(super) is_bare: bool,
}

impl Host {
    /// What a plan, and the kernel, tell of a network namespace.
    pub(super) fn of(
        plan: &NodePlan,
        netns: &Netns,
        rtnetlink: &mut Rtnetlink,
        filters: &mut Filters,
    ) -> Result<Self> {
        let addresses = rtnetlink.addresses()?;
        let accepts = |ip: IpAddr| match plan.node.accepts_node_ports(ip) {
            true => Some(Accepts::All),
            false => plan.node.accepts_node_ports_of_sockets(ip).then_some(Accepts::Node),
        };
        let mut host = Self {
            own: plan.node.addresses.clone(),
            virtual_ranges: plan.service_ranges.iter().map(|range| (*range).into()).collect(),
            ..Self::default()
        };
        let all = addresses.iter().map(|address| address.net.addr());
        host.addresses = all.filter_map(|ip| Some((ip.into(), accepts(ip)?))).collect();
        let detector = &plan.node.settings.local_detector;
        if let LocalDetector::Sources(ranges) = detector {
            host.pods = ranges.iter().map(|range| (*range).into()).collect();
        }
        // What comes by a port of a bridge comes by the bridge.
        let is_way = |link: &route::Link| link.flags & LOOPBACK == 0 && link.master.is_none();
        for link in rtnetlink.links()?.into_iter().filter(is_way) {
            let address = |family: Family| -> Address {
                let is_usable = |ip: &IpAddr| Family::of(*ip) == family && !is_link_local(*ip);
                let of_link = addresses.iter().filter(|address| address.index == link.index);
                let of_link = of_link.map(|address| address.net.addr()).find(is_usable);
                let own = || host.own.iter().copied().find(|ip| Family::of(*ip) == family);
                of_link.or_else(own).map(Address::from).unwrap_or_default()
            };
            let is_of_pods = match detector {
                LocalDetector::Interface(name) => *name == link.name,
                LocalDetector::InterfacePrefix(prefix) => link.name.starts_with(prefix.as_str()),
                LocalDetector::None | LocalDetector::Sources(_) => false,
            };
            let has_peer = link.kind.as_deref() == Some("veth")
                && link.is_joined_elsewhere
                && link.qdisc == "noqueue";
            let mut flags = 0;
            flags |= if is_of_pods { Device::OF_PODS } else { 0 };
            flags |= if has_peer { Device::HAS_PEER } else { 0 };
            let device = Device { v4: address(Family::V4), v6: address(Family::V6), flags };
            host.devices.insert(link.index, device);
            let place = Place { is_bare: link.mac.is_none(), link: link.name };
            host.places.insert(link.index, place);
        }
        let (low, high) = netns.within(source_ports)?;
        let is_filtered = netns.within(|| filters.are_there())??;
        host.node = Node {
            netns: netns.within(netns::cookie)??,
            pods: Families::of(|family| plan.node.detects_pods(family)),
            low_port: *low.start(),
            low_ports: count(&low),
            high_port: *high.start(),
            high_ports: count(&high),
            flags: if is_filtered { 0 } else { Node::MAY_REDIRECT },
        };
        Ok(host)
    }

    /// Whether programs may send packets on past the node's stack.
    pub(super) fn may_redirect(&self) -> bool {
        self.node.flags & Node::MAY_REDIRECT != 0
    }
}

/// Rules that a table of legacy iptables has when it has none: one for each chain, and a last one.
const EMPTY: u32 = 4;

/// Whether somebody filters what is forwarded, or what comes and goes by links, and so has to be asked about each
/// packet.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// What was there when others were asked, which takes a program, and what they said.
    asked: Option<(Seen, bool)>,
}

/// What of the packet filter is seen without a program: tables of nf_tables that filter, and legacy iptables.
type Seen = (BTreeSet<nftables::Name>, Vec<Option<TableInfo>>);

impl Filters {
    /// Looks, in the calling thread's network namespace.
    pub(super) fn are_there(&mut self) -> Result<bool> {
        if !Rtnetlink::open()?.filtered_links()?.is_empty() {
            return Ok(true);
        }
        let mut socket = Socket::open(netlink::Protocol::Netfilter)?;
        let mut tables = nftables::forwarding_filters(&mut socket)?;
        tables.retain(|table| !table.starts_with("portolan"));
        let legacy: Result<Vec<Option<TableInfo>>> = FAMILIES
            .map(|(family, _)| {
                // Asking makes the table where it is not there yet.
                let info = xtables::Tables::is_loaded(family, FILTER)
                    .then(|| xtables::Tables::open(family)?.info(FILTER))
                    .transpose()?
                    .flatten();
                Ok(info.filter(|info| info.entries() > EMPTY))
            })
            .into_iter()
            .collect();
        let seen = (tables, legacy?);
        if let Some((before, answer)) = &self.asked
            && *before == seen
        {
            return Ok(*answer);
        }
        let is_of_iptables = |table: &nftables::Name| &**table == FILTER;
        let by_nft = || FAMILIES.iter().any(|(_, f)| Flavour::Nft.is_forwarding_filtered(*f));
        let mut by_legacy = FAMILIES.iter().zip(&seen.1).filter(|(_, info)| info.is_some());
        let answer = seen.0.iter().any(|table| !is_of_iptables(table))
            || seen.0.iter().any(is_of_iptables) && by_nft()
            || by_legacy.any(|((_, family), _)| Flavour::Legacy.is_forwarding_filtered(*family));
        self.asked = Some((seen, answer));
        Ok(answer)
    }
}

/// The table that filters, of either iptables.
const FILTER: &str = "filter";
/// Families as the packet filter and as plans have them.
const FAMILIES: [(nftables::Family, Family); 2] =
    [(nftables::Family::Ipv4, Family::V4), (nftables::Family::Ipv6, Family::V6)];

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The ports that masqueraded connections get as their source: those below and those above node ports, but
/// for those that the node's own connections get.
fn source_ports() -> (RangeInclusive<u16>, RangeInclusive<u16>) {
    let local = sysctl::read("net/ipv4/ip_local_port_range").ok();
    let local = local.as_deref().and_then(parse_range).unwrap_or(LOCAL_PORTS);
    let (low, high) = (FIRST_PORT..=NODE_PORTS.start() - 1, NODE_PORTS.end() + 1..=u16::MAX);
    let without = |range: &RangeInclusive<u16>| {
        let below = *range.start()..=(*range.end()).min(local.start().saturating_sub(1));
        let above = (*range.start()).max(local.end().saturating_add(1))..=*range.end();
        if count(&below) > count(&above) { below } else { above }
    };
    match (without(&low), without(&high)) {
        // The node's own connections leave none.
        (below, above) if count(&below) == 0 && count(&above) == 0 => (low, high),
        both => both,
    }
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    Some(words.next()?.parse().ok()?..=words.next()?.parse().ok()?)
}

/// How many ports there are.
fn count(range: &RangeInclusive<u16>) -> u16 {
    match range.is_empty() {
        true => 0,
        false => (range.end() - range.start()).saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted() {
        assert_eq!(count(&(1024..=29999)), 28976);
        assert_eq!(count(&RangeInclusive::new(5, 4)), 0);
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_range("32768"), None);
    }
}
