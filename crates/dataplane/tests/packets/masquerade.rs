//! Ports that connections get when their source becomes the node's.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

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
    let entries = hosts.node.run(|| {
        let mut socket = Socket::open(Netlink::Netfilter).unwrap();
        let all = Filter::all(Family::Ipv4, Transport::Udp);
        conntrack::entries(&mut socket, &all, |entry| entry.original.destination == vip).unwrap()
    });
    let (privileged, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| entry.original.source.port() < 1024);
    assert!(privileged.iter().all(|entry| entry.reply.destination.port() < 1024));
    assert_eq!(privileged.len(), 1);
    let ports: Vec<u16> = others.iter().map(|entry| entry.reply.destination.port()).collect();
    let count = |range: std::ops::RangeInclusive<u16>| {
        ports.iter().filter(|port| range.contains(port)).count()
    };
    // Two clients may have had the same port one after the other.
    assert!(ports.len() > CONNECTIONS * 9 / 10, "{} connections", ports.len());
    assert_eq!(count(30000..=32767), 0, "of {} connections", ports.len());
    assert_eq!(count(0..=1023), 0);
    assert!(count(1024..=29999) > CONNECTIONS / 4);
    assert!(count(32768..=u16::MAX) > CONNECTIONS / 4);
}
