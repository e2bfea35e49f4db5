//! What listens for the node only is not reached by its neighbours (CVE-2020-8558).

use std::process::Command;
use std::time::Duration;

use kernel::sysctl;
use serde_json::json;

use crate::hosts::{Host, Hosts, NODE, POD_A};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, programmed};

on_every_plane!(a_neighbour_does_not_reach_loopback);

const LOOPBACK: &str = "127.0.0.5";
const PORT: u16 = 7777;

/// Runs ip(8) there.
fn ip(host: &Host, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split(' ')).status().expect("ip is installed");
    assert!(host.run(run).success(), "ip {arguments}");
}

fn a_neighbour_does_not_reach_loopback(plane: Plane) {
    let hosts = Hosts::new();
    let _server = hosts.node.serve(format!("{LOOPBACK}:{PORT}").parse().unwrap());
    // As kube-proxy leaves a node, and as somebody who means ill sets up his own host.
    for host in [&hosts.node, &hosts.outside] {
        host.run(|| sysctl::write("net/ipv4/conf/all/route_localnet", "1").unwrap());
    }
    ip(&hosts.outside, "route del local 127.0.0.0/8 dev lo table local");
    ip(&hosts.outside, &format!("route add {LOOPBACK}/32 via {NODE}"));
    assert!(hosts.outside.tcp(LOOPBACK, PORT).is_ok(), "without rules it is reached");
    assert!(hosts.outside.udp(LOOPBACK, PORT).is_ok(), "without rules it is reached");

    let _backend = programmed(plane, &hosts, &cluster(json!({}), &[POD_A]));
    let answer = hosts.outside.tcp(LOOPBACK, PORT);
    assert!(answer.is_err(), "{answer:?}");
    assert!(hosts.outside.is_silent(LOOPBACK, PORT, Duration::from_millis(300)));
    assert!(hosts.node.tcp(LOOPBACK, PORT).is_ok(), "the node itself is served");
    assert!(hosts.node.udp(LOOPBACK, PORT).is_ok(), "the node itself is served");
}
