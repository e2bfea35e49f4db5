//! The veth pair of one pod, and what the node needs for any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::netns::Netns;
use kernel::route::{LinkChange, Mac, NextHop, Route, Rtnetlink, VethEnd};
use kernel::sysctl;

use super::ROUTE_PROTOCOL;
use crate::Result;

/// What names of host-side links start with. Also how a rule tells pods' links from others.
pub const HOST_LINK_PREFIX: &str = "ptl";
/// Name of the pod's own link.
pub const POD_LINK: &str = "eth0";

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What a pod is to be attached with.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// Id of the sandbox: names the host-side link and gives stable link-layer addresses.
    pub sandbox: &'a str,
    /// The pod's namespace.
    pub netns: &'a Netns,
    /// The pod's addresses, at most one a family.
    pub addresses: &'a [IpAddr],
    /// MTU of both ends, in bytes: that of the node's own link.
    pub mtu: u32,
}

/// Name of the host-side link of a sandbox: 15 bytes, the most that a link's name may have, with 48
/// bits of a hash.
pub fn host_link(sandbox: &str) -> String {
    format!("{HOST_LINK_PREFIX}{:012x}", hash(sandbox) >> 16)
}

/// Connects a pod. If it fails, what had been made is taken away again.
///
/// `node` is a socket of the node's namespace, and so is the calling thread's.
pub fn attach(node: &mut Rtnetlink, attachment: &Attachment<'_>) -> Result<()> {
    let attached = try_attach(node, attachment);
    if attached.is_err()
        && let Err(error) = detach(node, attachment.sandbox)
    {
        tracing::warn!(sandbox = attachment.sandbox, %error, "undoing a failed attachment");
    }
    attached
}

fn try_attach(node: &mut Rtnetlink, attachment: &Attachment<'_>) -> Result<()> {
    let host_name = host_link(attachment.sandbox);
    let (host_mac, pod_mac) = macs(attachment.sandbox);
    let host_end =
        VethEnd { mac: Some(host_mac), mtu: Some(attachment.mtu), ..VethEnd::new(&host_name) };
    let pod_end = VethEnd {
        netns: Some(attachment.netns),
        mac: Some(pod_mac),
        mtu: Some(attachment.mtu),
        name: POD_LINK,
    };
    node.add_veth(host_end, pod_end)?;
    // Asymmetric paths of translated connections must not look like forged ones.
    sysctl::write(&format!("net/ipv4/conf/{host_name}/rp_filter"), "2")?;
    let host = node.set_up(&host_name)?.index;

    let mut pod = Rtnetlink::open_in(attachment.netns)?;
    pod.set_up("lo")?;
    let link = pod.set_up(POD_LINK)?.index;
    for address in attachment.addresses {
        pod.add_address(link, IpNet::from(*address))?;
        let gateway = gateway(*address);
        pod.set_neighbour(link, gateway, host_mac)?;
        let router = NextHop::Gateway { address: gateway, link: Some(link), onlink: true };
        pod.replace_route(&Route::new(default_of(*address), router, ROUTE_PROTOCOL))?;

        node.set_neighbour(host, *address, pod_mac)?;
        let route = Route::new(IpNet::from(*address), NextHop::Link(host), ROUTE_PROTOCOL);
        node.replace_route(&route)?;
    }
    Ok(())
}

/// Disconnects a sandbox: its link goes with its peer, its routes and its neighbours. That it is not
/// connected is no error.
pub fn detach(node: &mut Rtnetlink, sandbox: &str) -> Result<()> {
    node.delete_link(&host_link(sandbox))?;
    Ok(())
}

/// Lets the calling thread's namespace forward packets, as a node does, and sets its loopback up.
pub fn prepare_node(node: &mut Rtnetlink, has_ipv6: bool) -> Result<()> {
    let lo = node.expect_link("lo")?.index;
    node.change_link(lo, LinkChange { up: Some(true), ..LinkChange::default() })?;
    sysctl::write("net/ipv4/ip_forward", "1")?;
    if has_ipv6 {
        sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

fn default_of(address: IpAddr) -> IpNet {
    if address.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

/// Link-layer addresses of the host's and the pod's end: locally administered, unicast, and the
/// same for the life of the sandbox.
fn macs(sandbox: &str) -> (Mac, Mac) {
    let [_, _, _, a, b, c, d, e] = hash(sandbox).to_be_bytes();
    (Mac([0x02, a, b, c, d, e]), Mac([0x06, a, b, c, d, e]))
}

/// FNV-1a of 64 bits with a final mix: names must not change with the compiler, as
/// `std::hash` may.
fn hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
