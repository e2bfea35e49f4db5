//! The network between hosts: a namespace with one bridge, and a veth pair from it to each host.

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::netns::Netns;
use kernel::route::{LinkChange, Rtnetlink, VethEnd};
use serde::{Deserialize, Serialize};

use crate::{Directory, Error, Result};

/// Name of the bridge, and of the namespace that it is in.
pub(crate) const FABRIC: &str = "fabric";
/// Name of each host's link.
const HOST_LINK: &str = "eth0";

/// The hosts of a lab and the network that they are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The common network; nothing outside the lab sees it.
    pub network: IpNet,
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
    for host in &underlay.hosts {
        let netns = Netns::create(&directory.netns(&host.name))?;
        let host_end = VethEnd { netns: Some(&netns), ..VethEnd::new(HOST_LINK) };
        bridge_side.add_veth(VethEnd::new(&host.name), host_end)?;
        let port = bridge_side.expect_link(&host.name)?.index;
        let join = LinkChange { up: Some(true), master: Some(bridge), ..LinkChange::default() };
        bridge_side.change_link(port, join)?;

        let mut host_side = Rtnetlink::open_in(&netns)?;
        host_side.set_up("lo")?;
        let link = host_side.set_up(HOST_LINK)?.index;
        let address = IpNet::new(host.address, underlay.network.prefix_len())
            .expect("a network's own prefix length fits its addresses");
        host_side.add_address(link, address)?;
    }
    Ok(())
}

impl Underlay {
    /// The host of that name.
    pub fn host(&self, lab: &str, name: &str) -> Result<&HostAddress> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| Error::UnknownHost {
            lab: lab.to_owned(),
            host: name.to_owned(),
            hosts: self.hosts.iter().map(|host| host.name.clone()).collect(),
        })
    }
}
