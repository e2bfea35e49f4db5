//! The network between hosts: a namespace with one bridge, and a veth pair from it to each host.

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::netns::Netns;
use kernel::route::{LinkChange, NextHop, Route, Rtnetlink, VethEnd};
use serde::{Deserialize, Serialize};

use crate::{Directory, Error, Result};

/// Name of the bridge, and of the namespace that it is in.
pub(crate) const FABRIC: &str = "fabric";
/// Name of each host's link.
const HOST_LINK: &str = "eth0";
/// Says of a route that it was made with the host (rtnetlink(7), `RTPROT_BOOT`).
const BOOT: u8 = 3;

/// The hosts of a lab and the network that they are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The common network; nothing outside the lab sees it.
    pub network: IpNet,
    /// An address in it that is the hosts' default gateway. What is behind it is not to be reached,
    /// and it says so.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The hosts.
    pub hosts: Vec<HostAddress>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAddress {
    /// Name, at most 15 bytes: it also names the host's port of the bridge.
    pub name: String,
    /// Address in the common network.
    pub address: IpAddr,
}

/// Makes the namespaces and joins them. What was made when something fails is left to
/// [`take_down`](crate::take_down).
pub(crate) fn build(directory: &Directory, underlay: &Underlay) -> Result<()> {
    let fabric = Netns::create(&directory.netns(FABRIC))?;
    let mut bridge_side = Rtnetlink::open_in(&fabric)?;
    bridge_side.add_bridge(FABRIC)?;
    let bridge = bridge_side.set_up(FABRIC)?.index;
    if let Some(gateway) = underlay.gateway {
        bridge_side.add_address(bridge, underlay.in_network(gateway))?;
        fabric.run(|| {
            // A router without a route tells senders at once; a host would keep silent.
            kernel::sysctl::write("net/ipv4/ip_forward", "1")?;
            kernel::sysctl::write("net/ipv4/conf/all/send_redirects", "0")
        })??;
    }
    for host in &underlay.hosts {
        let netns = Netns::create(&directory.netns(&host.name))?;
        let host_end = VethEnd { netns: Some(&netns), ..VethEnd::new(HOST_LINK) };
        bridge_side.add_veth(VethEnd::new(&host.name), host_end)?;
        let port = bridge_side.expect_link(&host.name)?.index;
        let join = LinkChange { up: Some(true), master: Some(bridge), ..LinkChange::default() };
        bridge_side.change_link(port, join)?;

        netns.run(|| {
            // As a node agent would set it, which then has nothing to put back.
            kernel::sysctl::write("net/ipv4/ip_local_reserved_ports", "30000-32767")
        })??;
        let mut host_side = Rtnetlink::open_in(&netns)?;
        host_side.set_up("lo")?;
        let link = host_side.set_up(HOST_LINK)?.index;
        host_side.add_address(link, underlay.in_network(host.address))?;
        if let Some(gateway) = underlay.gateway {
            let hop = NextHop::Gateway { address: gateway, link: Some(link), onlink: false };
            host_side.replace_route(&Route::new(everything(gateway), hop, BOOT))?;
        }
    }
    Ok(())
}

/// The destination of a default route.
fn everything(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::from(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::from(ipnet::Ipv6Net::default()),
    }
}

impl Underlay {
    /// An address with the length of the network's prefix.
    fn in_network(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.network.prefix_len())
            .expect("a network's own prefix length fits its addresses")
    }

    /// The host of that name.
    pub fn host(&self, lab: &str, name: &str) -> Result<&HostAddress> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| Error::UnknownHost {
            lab: lab.to_owned(),
            host: name.to_owned(),
            hosts: self.hosts.iter().map(|host| host.name.clone()).collect(),
        })
    }
}
