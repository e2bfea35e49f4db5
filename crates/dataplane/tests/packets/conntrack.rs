//! UDP clients that go on sending from one port follow the endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::Backend;
use kernel::conntrack::{self, Filter, Transport};
use kernel::netlink::{Protocol as Netlink, Socket};
use kernel::nftables::Family;
use model::{Protocol, World};
use serde_json::json;

use crate::hosts::{Addresses, Host, Hosts, V4, V6};
use crate::planes::{Plane, on_every_plane};
use crate::traffic::Conversation;
use crate::{cluster_with, plan_of, programmed, update};

on_every_plane!(
    clients_follow_the_endpoints_v4,
    clients_follow_the_endpoints_v6,
    a_client_that_began_before_its_service_is_served,
    a_cleanup_forgets_what_was_translated_and_nothing_else,
);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// A client that sends from one port.
fn client(host: &Host, address: &str, port: u16) -> Conversation {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    host.open(Protocol::Udp, to, None, LIMIT).unwrap()
}

fn repair(backend: &mut dyn Backend, world: &World) -> usize {
    let groups: Vec<_> = plan_of(world).groups().cloned().collect();
    backend.forget_stale(&groups).unwrap()
}

fn clients_follow_the_endpoints(plane: Plane, net: &'static Addresses) {
    let hosts = Hosts::new();
    let cluster = |endpoints: &[&str]| cluster_with(net, json!({}), endpoints);
    let old = cluster(&[net.pod_a]);
    let mut backend = programmed(plane, &hosts, &old);
    let mut pod = client(&hosts.pod_c, net.vip, 80);
    let mut outside = client(&hosts.outside, net.node, 30080);
    for client in [&mut pod, &mut outside] {
        assert_eq!(client.ask(LIMIT).unwrap().server, net.pod_a);
    }
    assert_eq!(repair(&mut *backend, &old), 0, "all lead to an endpoint that serves");

    let new = cluster(&[net.pod_b]);
    update(&mut *backend, &old, &new);
    if plane == Plane::Ipvs {
        // It forgets by itself, and a datagram with it.
        for client in [&mut pod, &mut outside] {
            let _ = client.ask(LIMIT);
        }
        repair(&mut *backend, &new);
    } else {
        assert_eq!(pod.ask(LIMIT).unwrap().server, net.pod_a, "the kernel remembers");
        // Programs see with each packet whether its endpoint serves: only the pod's socket has to be moved.
        let expected = if plane.tracks() { 2 } else { 1 };
        assert_eq!(repair(&mut *backend, &new), expected);
    }
    for client in [&mut pod, &mut outside] {
        assert_eq!(client.ask(LIMIT).unwrap().server, net.pod_b);
    }
    assert_eq!(repair(&mut *backend, &new), 0);
}

fn clients_follow_the_endpoints_v4(plane: Plane) {
    clients_follow_the_endpoints(plane, &V4);
}

fn clients_follow_the_endpoints_v6(plane: Plane) {
    clients_follow_the_endpoints(plane, &V6);
}

/// What is sent before there is a rule is tracked too, as a connection to the address itself, and
/// would be sent there for as long as the client goes on.
fn a_client_that_began_before_its_service_is_served(plane: Plane) {
    let hosts = Hosts::new();
    let nothing = World::new();
    let mut backend = programmed(plane, &hosts, &nothing);
    // Outside the service ranges nothing refuses it: it leaves by the default route and gets lost.
    let address = "203.0.113.44";
    let mut client = client(&hosts.pod_c, address, 80);
    assert!(client.ask(LIMIT).is_err());

    let spec = json!({"externalIPs": [address]});
    let world = cluster_with(&V4, spec, &[V4.pod_a]);
    update(&mut *backend, &nothing, &world);
    // Where programs translate, nothing was tracked.
    let expected = if plane.tracks() { 1 } else { 0 };
    assert_eq!(repair(&mut *backend, &world), expected);
    assert_eq!(client.ask(LIMIT).unwrap().server, V4.pod_a);
}

fn a_cleanup_forgets_what_was_translated_and_nothing_else(plane: Plane) {
    let hosts = Hosts::new();
    let mut backend = programmed(plane, &hosts, &cluster_with(&V4, json!({}), &[V4.pod_a]));
    let count = || {
        let list = || {
            let mut socket = Socket::open(Netlink::Netfilter).unwrap();
            let list = |transport| {
                let filter = Filter::all(Family::Ipv4, transport);
                conntrack::entries(&mut socket, &filter, |_| true).unwrap()
            };
            [Transport::Tcp, Transport::Udp].map(list).concat()
        };
        let entries = hosts.node.run(list);
        let translated = |e: &&conntrack::Entry| e.reply.source != e.original.destination;
        (entries.iter().filter(translated).count(), entries.len())
    };
    let mut clients = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (host, address, port) in [
            (&hosts.pod_c, V4.vip, 80),
            (&hosts.outside, V4.node, 30080),
            // No Service's.
            (&hosts.pod_c, V4.pod_a, 8080),
        ] {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            let mut client = host.open(protocol, to, None, LIMIT).unwrap();
            client.ask(LIMIT).unwrap();
            clients.push(client);
        }
    }
    // What sockets were given nobody translates, and what programs translate connection tracking does not.
    let expected = if plane == Plane::Ebpf { 2 } else { 4 };
    let tracked = if plane.tracks() { expected } else { 0 };
    let (translated, all) = count();
    assert_eq!(translated, tracked);
    assert_eq!(backend.forget_connections().unwrap(), expected);
    assert_eq!(count(), (0, all - tracked));
    backend.cleanup().unwrap();
    assert_eq!(backend.forget_connections().unwrap(), 0, "without tables nothing is ours");
}
