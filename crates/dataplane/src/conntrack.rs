//! UDP connections that connection tracking keeps on endpoints which no longer serve.
//!
//! A UDP client has no connection to lose: as long as it sends, its entry lives, and its packets go
//! where the entry says. So entries of changed ports that lead to nobody who serves are forgotten
//! once the new endpoints are programmed, among them entries made while there was no endpoint at
//! all, and those of ports that nobody serves any more or that are gone: kube-proxy leaves these to
//! age, which they do not as long as the client sends. TCP and SCTP clients notice by themselves, and
//! are left alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;

use kernel::conntrack::{Filter, Transport};
use kernel::netlink::Socket;
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey, Group};

use crate::nftables::netfilter_family;

/// Forgets the entries of the UDP ports of `groups` that lead to endpoints which do not serve them,
/// and those of frontends that are `gone`; answers how many. `socket` is one for netfilter, of the namespace that is meant.
pub fn forget_stale<'g>(
    socket: &mut Socket,
    groups: impl IntoIterator<Item = &'g Group>,
    gone: &BTreeSet<FrontendKey>,
) -> kernel::Result<usize> {
    let serving = Serving::of(groups, gone);
    let mut forgotten = 0;
    for filter in serving.filters() {
        forgotten += kernel::conntrack::delete_stale(socket, &filter, |entry| {
            serving.is_stale(entry.original.destination, entry.reply.source)
        })?;
    }
    Ok(forgotten)
}

/// Forgets the connections to these frontends that were led elsewhere; answers how many.
pub fn forget_translated(
    socket: &mut Socket,
    frontends: &HashSet<FrontendKey>,
) -> kernel::Result<usize> {
    let families: BTreeSet<Family> = frontends.iter().map(FrontendKey::family).collect();
    let mut forgotten = 0;
    for family in families {
        for (transport, protocol) in
            [(Transport::Tcp, Protocol::Tcp), (Transport::Udp, Protocol::Udp)]
        {
            let filter = Filter::all(netfilter_family(family), transport);
            forgotten += kernel::conntrack::delete_stale(socket, &filter, |entry| {
                let to = entry.original.destination;
                let Some(port) = NonZeroU16::new(to.port()) else { return false };
                let has = |address| frontends.contains(&FrontendKey { address, protocol, port });
                entry.reply.source != to
                    && (has(FrontendAddress::Ip(to.ip()))
                        || has(FrontendAddress::AnyOfNode(family)))
            })?;
        }
    }
    Ok(forgotten)
}

/// Frontends that are asked for one by one. The kernel looks through all its entries for each
/// request, so for more of them it is asked for everything once.
const MAX_FILTERS: usize = 4;

/// Who serves which UDP frontend.
#[derive(Debug, Default)]
struct Serving<'g> {
    addresses: HashMap<SocketAddr, &'g [SocketAddr]>,
    node_ports: HashMap<(Family, u16), &'g [SocketAddr]>,
}

impl<'g> Serving<'g> {
    fn of(groups: impl IntoIterator<Item = &'g Group>, gone: &BTreeSet<FrontendKey>) -> Self {
        let mut all = Self::default();
        for key in gone.iter().filter(|key| key.protocol == Protocol::Udp) {
            all.insert(key, &[]);
        }
        for group in groups {
            for frontend in group.frontends.iter().filter(|f| f.key.protocol == Protocol::Udp) {
                let Some(port) = group.udp_ports.iter().find(|udp| udp.port == frontend.port)
                else {
                    continue;
                };
                all.insert(&frontend.key, &port.serving);
            }
        }
        all
    }

    fn insert(&mut self, key: &FrontendKey, serving: &'g [SocketAddr]) {
        let port = key.port.get();
        match key.address {
            FrontendAddress::Ip(ip) => self.addresses.insert(SocketAddr::new(ip, port), serving),
            FrontendAddress::AnyOfNode(family) => self.node_ports.insert((family, port), serving),
        };
    }

    /// What the kernel is asked for.
    fn filters(&self) -> Vec<Filter> {
        let all = |family| Filter::all(netfilter_family(family), Transport::Udp);
        if self.addresses.len() + self.node_ports.len() > MAX_FILTERS {
            let of_addresses = self.addresses.keys().map(|address| Family::of(address.ip()));
            let families: BTreeSet<Family> =
                of_addresses.chain(self.node_ports.keys().map(|(family, _)| *family)).collect();
            return families.into_iter().map(all).collect();
        }
        let addresses = self.addresses.keys().map(|address| Filter {
            address: Some(address.ip()),
            port: Some(address.port()),
            ..all(Family::of(address.ip()))
        });
        let node_ports = self.node_ports.keys();
        let node_ports =
            node_ports.map(|(family, port)| Filter { port: Some(*port), ..all(*family) });
        addresses.chain(node_ports).collect()
    }

    /// Whether a connection to `destination` that leads to `server` belongs to a frontend and
    /// should lead elsewhere.
    fn is_stale(&self, destination: SocketAddr, server: SocketAddr) -> bool {
        let node_port = (Family::of(destination.ip()), destination.port());
        self.addresses.get(&destination).or_else(|| self.node_ports.get(&node_port)).is_some_and(
            |serving| match serving {
                // What was never translated has nothing to do with a port that nobody serves.
                [] => server != destination,
                serving => !serving.contains(&server),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use plan::{Action, Frontend, FrontendKey, PortId, Refusal, Rule, UdpPort};

    use super::*;

    fn group(protocol: Protocol, serving: &[&str]) -> Group {
        let port = PortId { group: "g".into(), name: "p".into(), protocol, family: Family::V4 };
        let refuse = || Action::Reject(Refusal::NoEndpoints);
        let frontend = |address, number| Frontend {
            key: FrontendKey { address, protocol, port: NonZeroU16::new(number).unwrap() },
            port: port.clone(),
            rule: Rule::ClusterIp,
            pod: refuse(),
            node: refuse(),
            outside: refuse(),
            allowed_sources: None,
            affinity: None,
        };
        let mut group = Group::empty("g".into());
        let vip = FrontendAddress::Ip("10.96.0.10".parse().unwrap());
        group.frontends =
            vec![frontend(vip, 53), frontend(FrontendAddress::AnyOfNode(Family::V4), 30053)];
        let serving = serving.iter().map(|text| text.parse().unwrap()).collect();
        group.udp_ports = vec![UdpPort { port, serving }];
        group
    }

    fn is_stale(group: &Group, destination: &str, server: &str) -> bool {
        Serving::of([group], &BTreeSet::new())
            .is_stale(destination.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn entries_that_lead_to_nobody_who_serves_are_stale() {
        let group = group(Protocol::Udp, &["10.244.1.2:5353"]);
        // Its endpoint is gone, or it began when there was none.
        assert!(is_stale(&group, "10.96.0.10:53", "10.244.1.9:5353"));
        assert!(is_stale(&group, "10.96.0.10:53", "10.96.0.10:53"));
        assert!(is_stale(&group, "192.0.2.1:30053", "10.244.1.9:5353"));
    }

    #[test]
    fn entries_of_serving_endpoints_and_of_others_stay() {
        let group = group(Protocol::Udp, &["10.244.1.2:5353"]);
        assert!(!is_stale(&group, "10.96.0.10:53", "10.244.1.2:5353"));
        assert!(!is_stale(&group, "192.0.2.1:30053", "10.244.1.2:5353"));
        assert!(!is_stale(&group, "10.96.0.10:54", "10.244.1.9:5353"));
        assert!(!is_stale(&group, "[2001:db8::1]:30053", "[2001:db8::2]:5353"));
    }

    #[test]
    fn clients_of_ports_that_nobody_serves_are_told() {
        let nobody = group(Protocol::Udp, &[]);
        assert!(is_stale(&nobody, "10.96.0.10:53", "10.244.1.9:5353"));
        assert!(!is_stale(&nobody, "192.0.2.9:30053", "192.0.2.9:30053"), "another's own");
        let gone = nobody.frontends.iter().map(|frontend| frontend.key).collect();
        let stale = |group: &[&Group], destination: &str| {
            let server = "10.244.1.9:5353".parse().unwrap();
            Serving::of(group.iter().copied(), &gone).is_stale(destination.parse().unwrap(), server)
        };
        assert!(stale(&[], "10.96.0.10:53"));
        assert!(stale(&[], "192.0.2.1:30053"));
        let another = super::tests::group(Protocol::Udp, &["10.244.1.9:5353"]);
        assert!(!stale(&[&another], "10.96.0.10:53"), "another Service has it now");
    }

    #[test]
    fn other_protocols_are_left_alone() {
        let tcp = group(Protocol::Tcp, &["10.244.1.2:5353"]);
        assert!(!is_stale(&tcp, "10.96.0.10:53", "10.244.1.9:5353"));
        assert_eq!(Serving::of([&tcp], &BTreeSet::new()).filters(), []);
    }
}
