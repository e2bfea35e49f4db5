//! The same over IPv6: the table of that family has wider registers and rules of its own.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Instant;

use model::object::{IpMode, ServiceType};
use model::{Event, Object, ObjectName, World};
use serde_json::{Value, json};

use crate::hosts::{Hosts, V6};
use crate::{AT_ONCE, SILENCE, cluster_with, programmed, update};

fn cluster(spec: Value, endpoints: &[&str]) -> World {
    cluster_with(&V6, spec, endpoints)
}

#[test]
fn a_cluster_ip_is_served_by_every_endpoint_and_keeps_pods_addresses() {
    let hosts = Hosts::with(&V6);
    let _backend = programmed(&hosts, &cluster(json!({}), &[V6.pod_a, V6.pod_b]));
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = hosts.pod_c.tcp(V6.vip, 80).unwrap();
        assert_eq!(answer.client, V6.pod_c);
        seen.insert(answer.server);
    }
    assert_eq!(seen, BTreeSet::from([V6.pod_a.to_owned(), V6.pod_b.to_owned()]));
    assert!(hosts.pod_c.udp(V6.vip, 80).is_ok());
    assert!(hosts.node_host.tcp(V6.vip, 80).is_ok());
    assert_ne!(hosts.outside.tcp(V6.vip, 80).unwrap().client, V6.outside);
}

#[test]
fn what_nobody_serves_is_refused_at_once() {
    let hosts = Hosts::with(&V6);
    let _backend = programmed(&hosts, &cluster(json!({}), &[]));
    for (host, address, port) in [
        (&hosts.pod_c, V6.vip, 80),
        (&hosts.pod_c, V6.vip, 81),
        (&hosts.node_host, V6.vip, 80),
        (&hosts.outside, V6.node, 30080),
    ] {
        let start = Instant::now();
        let error = host.tcp(address, port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "[{address}]:{port}");
        assert!(start.elapsed() < AT_ONCE, "[{address}]:{port}");
    }
    assert_eq!(hosts.pod_c.udp(V6.vip, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(hosts.pod_c.is_silent("fd00:96::7777", 80, SILENCE));
}

#[test]
fn a_node_port_is_masqueraded_under_policy_cluster_and_keeps_the_client_under_local() {
    let hosts = Hosts::with(&V6);
    let general = cluster(json!({}), &[V6.pod_a, V6.pod_b]);
    let mut backend = programmed(&hosts, &general);
    assert_ne!(hosts.outside.tcp(V6.node, 30080).unwrap().client, V6.outside);

    let local = cluster(json!({"externalTrafficPolicy": "Local"}), &[V6.pod_a, V6.pod_b]);
    update(&mut backend, &general, &local);
    for _ in 0..20 {
        let answer = hosts.outside.tcp(V6.node, 30080).unwrap();
        assert_eq!((&*answer.client, &*answer.server), (V6.outside, V6.pod_a));
    }
    let remote_only = cluster(json!({"externalTrafficPolicy": "Local"}), &[V6.pod_b]);
    update(&mut backend, &local, &remote_only);
    assert!(hosts.outside.is_silent(V6.node, 30080, SILENCE));
    assert_eq!(hosts.pod_c.tcp(V6.node, 30080).unwrap().server, V6.pod_b);
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    let hosts = Hosts::with(&V6);
    let _backend = programmed(&hosts, &cluster(json!({}), &[V6.pod_c]));
    let answer = hosts.pod_c.tcp(V6.vip, 80).unwrap();
    assert_eq!(answer.server, V6.pod_c);
    assert_ne!(answer.client, V6.pod_c);
}

#[test]
fn affinity_keeps_a_client_until_its_endpoint_goes() {
    let hosts = Hosts::with(&V6);
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let old = cluster(sticky.clone(), &[V6.pod_a, V6.pod_b]);
    let mut backend = programmed(&hosts, &old);
    let first = hosts.pod_c.tcp(V6.vip, 80).unwrap().server;
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(V6.vip, 80).unwrap().server, first);
    }
    let other = if first == V6.pod_a { V6.pod_b } else { V6.pod_a };
    update(&mut backend, &old, &cluster(sticky, &[other]));
    for _ in 0..5 {
        assert_eq!(hosts.pod_c.tcp(V6.vip, 80).unwrap().server, other);
    }
}

#[test]
fn source_ranges_drop_other_clients() {
    let hosts = Hosts::with(&V6);
    let mut world = cluster(json!({}), &[V6.pod_a]);
    let mut service = world.service(&ObjectName::new("default", "tcp")).unwrap().clone();
    service.load_balancer = vec![("2001:db8:5::9".parse().unwrap(), IpMode::Vip)];
    service.service_type = ServiceType::LoadBalancer;
    service.source_ranges = vec!["fd00:244:1::12/128".parse().unwrap()];
    world.apply(Event::Put(Object::Service(service)));
    let _backend = programmed(&hosts, &world);
    assert_eq!(hosts.pod_c.tcp("2001:db8:5::9", 80).unwrap().server, V6.pod_a);
    assert!(hosts.outside.is_silent("2001:db8:5::9", 80, SILENCE));
    assert!(hosts.outside.tcp(V6.node, 30080).is_ok());
}
