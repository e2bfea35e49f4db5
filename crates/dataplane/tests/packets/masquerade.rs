//! Ports that connections get when their source becomes the node's.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::ebpf::Ebpf;
use kernel::cgroup::Cgroup;
use kernel::conntrack::{self, Filter, Transport};
use kernel::netlink::{Protocol as Netlink, Socket};
use kernel::nftables::Family;
use model::Protocol;
use serde_json::json;

use crate::hosts::{Hosts, OUTSIDE, POD_A, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, programmed};

on_every_plane!(no_node_port_becomes_a_source);

const LIMIT: Duration = Duration::from_secs(2);
/// Ports from here on need no privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Of so many ports each of the two ranges gets some, and so would node ports (4 %).
const CONNECTIONS: usize = 600;

fn no_node_port_becomes_a_source(plane: Plane) {
    let hosts = Hosts::new();
    let _backend = programmed(plane, &hosts, &cluster(json!({}), &[POD_A]));
    let vip = SocketAddr::new(VIP.parse().unwrap(), 80);
    for _ in 0..CONNECTIONS {
        hosts.outside.open(Protocol::Udp, vip, None, LIMIT).unwrap().ask(LIMIT).unwrap();
    }
    hosts.outside.run(|| {
        let privileged = UdpSocket::bind((OUTSIDE, 700)).unwrap();
        privileged.set_read_timeout(Some(LIMIT)).unwrap();
        privileged.send_to(b"?", vip).unwrap();
        privileged.recv(&mut [0; 200]).unwrap();
    });
    let (privileged, others): (Vec<_>, Vec<_>) = masqueraded(plane, &hosts, vip)
        .into_iter()
        .partition(|(client, _)| *client < FIRST_UNPRIVILEGED);
    assert!(privileged.iter().all(|(_, source)| (1..FIRST_UNPRIVILEGED).contains(source)));
    assert_eq!(privileged.len(), 1);
    let ports: Vec<u16> = others.into_iter().map(|(_, source)| source).collect();
    let count = |range: std::ops::RangeInclusive<u16>| {
        ports.iter().filter(|port| range.contains(port)).count()
    };
    // Two clients may have had the same port one after the other.
    assert!(ports.len() > CONNECTIONS * 9 / 10, "{} connections", ports.len());
    assert_eq!(count(30000..=32767), 0, "of {} connections", ports.len());
    assert_eq!(count(0..=1023), 0);
    assert!(count(1024..=29999) > CONNECTIONS / 4);
    match plane.tracks() {
        true => assert!(count(32768..=u16::MAX) > CONNECTIONS / 4),
        // Who does not track the node's own connections leaves their ports to them.
        false => {
            assert_eq!(count(32768..=60999), 0);
            assert!(count(61000..=u16::MAX) > CONNECTIONS / 20);
        }
    }
}

/// The ports of clients that have asked for an address, and those that their packets got instead.
fn masqueraded(plane: Plane, hosts: &Hosts, asked: SocketAddr) -> Vec<(u16, u16)> {
    let ports = |client: SocketAddr, source: SocketAddr| (client.port(), source.port());
    if !plane.tracks() {
        let list = || Ebpf::open(Cgroup::current().unwrap()).unwrap().masqueraded().unwrap();
        return hosts.node.run(list).into_iter().map(|(from, to)| ports(from, to)).collect();
    }
    let entries = hosts.node.run(|| {
        let mut socket = Socket::open(Netlink::Netfilter).unwrap();
        let all = Filter::all(Family::Ipv4, Transport::Udp);
        conntrack::entries(&mut socket, &all, |entry| entry.original.destination == asked).unwrap()
    });
    let of_entry = |entry: conntrack::Entry| ports(entry.original.source, entry.reply.destination);
    entries.into_iter().map(of_entry).collect()
}
