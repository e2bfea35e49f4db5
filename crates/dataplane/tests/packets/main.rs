//! The nftables data plane on the real kernel: packets in, endpoint and source address out.
//!
//! Needs root. Everything happens in network namespaces that the tests make.

mod conntrack;
mod hosts;
mod ipv6;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::nftables::Nftables;
use dataplane::{Backend, Delta, Sync, Update};
use hosts::{Addresses, Hosts, NODE, OUTSIDE, POD_A, POD_B, POD_C, V4, V6, VIP};
use model::{Event, Object, ObjectName, World};
use plan::{
    LocalDetector, NodeFacts, NodePlan, NodePortAddresses, NodeSettings, plan_service,
    service::group_id,
};
use serde_json::{Value, json};

/// Long enough to tell a drop from a slow answer.
const SILENCE: Duration = Duration::from_millis(600);
/// Within this time a refusal counts as one that came at once.
const AT_ONCE: Duration = Duration::from_millis(300);

fn facts() -> NodeFacts {
    NodeFacts {
        settings: NodeSettings {
            node_name: "n1".into(),
            local_detector: LocalDetector::Sources(
                ["10.244.0.0/16", "fd00:244::/32"].map(|range| range.parse().unwrap()).into(),
            ),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
        },
        zone: None,
        addresses: [V4.node, V6.node].map(|ip| ip.parse().unwrap()).into(),
    }
}

/// The Service `web` on port 80 and node port 30080, with changes to its spec, and its endpoints.
fn cluster(spec: Value, endpoints: &[&str]) -> World {
    cluster_with(&V4, spec, endpoints)
}

/// As [`cluster`], with the addresses of any family.
fn cluster_with(net: &Addresses, spec: Value, endpoints: &[&str]) -> World {
    let mut world = World::new();
    for protocol in ["TCP", "UDP"] {
        let name = protocol.to_lowercase();
        let mut service = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "NodePort", "clusterIP": net.vip,
                     "ports": [{"name": "p", "port": 80, "protocol": protocol, "nodePort": 30080}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|ip| {
                let node = if *ip == net.pod_b { "n2" } else { "n1" };
                json!({"addresses": [ip], "nodeName": node})
            })
            .collect();
        let slice = json!({
            "metadata": {"name": name, "namespace": "default",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": if net.vip.contains(':') { "IPv6" } else { "IPv4" },
            "endpoints": endpoints,
            "ports": [{"name": "p", "port": 8080, "protocol": protocol}],
        });
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    }
    world
}

fn plan_of(world: &World) -> NodePlan {
    let ranges = ["10.96.0.0/16", "fd00:96::/112"].map(|range| range.parse().unwrap());
    let mut plan = NodePlan::new(facts(), ranges.into());
    for (name, _) in world.services() {
        plan.replace(&group_id(name), plan_service(world, &facts(), name));
    }
    plan
}

fn whole(plan: &NodePlan) -> Delta<'_> {
    let groups = plan.groups().map(|group| (group.id.clone(), Some(group.clone()))).collect();
    Delta { node: Some(plan), groups }
}

/// A backend on the node, programmed with a cluster.
fn programmed(hosts: &Hosts, world: &World) -> Nftables {
    let mut backend = hosts.node.run(|| Nftables::open().unwrap()).unwrap();
    backend.restore(&whole(&plan_of(world))).unwrap();
    backend
}

fn update(backend: &mut Nftables, old: &World, new: &World) -> usize {
    let mut plan = plan_of(old);
    let mut changed = BTreeSet::new();
    for (name, _) in new.services() {
        changed.extend(plan.replace(&group_id(name), plan_service(new, &facts(), name)));
    }
    let groups = changed.into_iter().map(|id| (id.clone(), plan.group(&id).cloned())).collect();
    backend.update(&Delta { node: None, groups }).unwrap()
}

#[test]
fn a_cluster_ip_is_served_by_every_endpoint_and_keeps_pods_addresses() {
    let hosts = Hosts::new();
    let _backend = programmed(&hosts, &cluster(json!({}), &[POD_A, POD_B]));
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = hosts.pod_c.tcp(VIP, 80).unwrap();
        assert_eq!(answer.client, POD_C, "no masquerade for a pod");
        seen.insert(answer.server);
    }
    assert_eq!(seen, BTreeSet::from([POD_A.to_owned(), POD_B.to_owned()]));
    assert!(hosts.pod_c.udp(VIP, 80).is_ok());
    // The node's and outside connections come back this way only if they carry its address.
    for _ in 0..10 {
        let answer = hosts.node_host.tcp(VIP, 80).unwrap();
        assert_ne!(answer.client, OUTSIDE);
    }
    assert_ne!(hosts.outside.tcp(VIP, 80).unwrap().client, OUTSIDE);
}

#[test]
fn what_nobody_serves_is_refused_at_once() {
    let hosts = Hosts::new();
    let _backend = programmed(&hosts, &cluster(json!({}), &[]));
    for (host, address, port) in [
        (&hosts.pod_c, VIP, 80),
        (&hosts.pod_c, VIP, 81),
        (&hosts.node_host, VIP, 80),
        (&hosts.node_host, VIP, 81),
        (&hosts.outside, NODE, 30080),
        (&hosts.pod_c, NODE, 30080),
    ] {
        // More often than refusals by ICMP may be sent to one client.
        for _ in 0..20 {
            let start = Instant::now();
            let error = host.tcp(address, port).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}:{port}");
            assert!(start.elapsed() < AT_ONCE, "{address}:{port}");
        }
    }
    assert_eq!(hosts.pod_c.udp(VIP, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // An address of the range that nobody has leads nowhere.
    assert!(hosts.pod_c.is_silent("10.96.7.7", 80, SILENCE));
}

#[test]
fn a_node_port_is_masqueraded_under_policy_cluster_and_keeps_the_client_under_local() {
    let hosts = Hosts::new();
    let general = cluster(json!({}), &[POD_A, POD_B]);
    let mut backend = programmed(&hosts, &general);
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let answer = hosts.outside.tcp(NODE, 30080).unwrap();
        assert_ne!(answer.client, OUTSIDE);
        seen.insert(answer.server);
    }
    assert_eq!(seen.len(), 2);

    let local = cluster(json!({"externalTrafficPolicy": "Local"}), &[POD_A, POD_B]);
    update(&mut backend, &general, &local);
    let mut from_pod = BTreeSet::new();
    for _ in 0..40 {
        let answer = hosts.outside.tcp(NODE, 30080).unwrap();
        assert_eq!((&*answer.client, &*answer.server), (OUTSIDE, POD_A));
        let answer = hosts.pod_c.tcp(NODE, 30080).unwrap();
        assert_eq!(answer.client, POD_C);
        from_pod.insert(answer.server);
    }
    assert_eq!(from_pod.len(), 2, "pods reach all endpoints under Local too");

    let remote_only = cluster(json!({"externalTrafficPolicy": "Local"}), &[POD_B]);
    update(&mut backend, &local, &remote_only);
    assert!(hosts.outside.is_silent(NODE, 30080, SILENCE));
    assert_eq!(hosts.pod_c.tcp(NODE, 30080).unwrap().server, POD_B);
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    let hosts = Hosts::new();
    let _backend = programmed(&hosts, &cluster(json!({}), &[POD_C]));
    let answer = hosts.pod_c.tcp(VIP, 80).unwrap();
    assert_eq!(answer.server, POD_C);
    assert_ne!(answer.client, POD_C, "a connection to oneself is masqueraded");
}

#[test]
fn internal_policy_local_uses_endpoints_of_this_node() {
    let hosts = Hosts::new();
    let both = cluster(json!({"internalTrafficPolicy": "Local"}), &[POD_A, POD_B]);
    let mut backend = programmed(&hosts, &both);
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_A);
    }
    let remote_only = cluster(json!({"internalTrafficPolicy": "Local"}), &[POD_B]);
    update(&mut backend, &both, &remote_only);
    assert!(hosts.pod_c.is_silent(VIP, 80, SILENCE));
}

#[test]
fn affinity_keeps_a_client_and_survives_changes() {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}}});
    let old = cluster(sticky.clone(), &[POD_A, POD_B]);
    let mut backend = programmed(&hosts, &old);
    let first = hosts.pod_c.tcp(VIP, 80).unwrap().server;
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, first);
        assert_eq!(hosts.pod_c.tcp(NODE, 30080).unwrap().server, first, "ports share affinity");
    }
    // A third endpoint does not move the client; losing its own does.
    let new = cluster(sticky.clone(), &[POD_A, POD_B, POD_C]);
    update(&mut backend, &old, &new);
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, first);
    }
    let others: Vec<&str> = [POD_A, POD_B].into_iter().filter(|pod| *pod != first).collect();
    let without = cluster(sticky, &others);
    update(&mut backend, &new, &without);
    for _ in 0..5 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, others[0]);
    }
}

#[test]
fn source_ranges_drop_other_clients() {
    let hosts = Hosts::new();
    let mut world = cluster(json!({}), &[POD_A]);
    let name = ObjectName::new("default", "tcp");
    let mut service = world.service(&name).unwrap().clone();
    service.load_balancer = vec![("203.0.113.9".parse().unwrap(), model::object::IpMode::Vip)];
    service.service_type = model::object::ServiceType::LoadBalancer;
    service.source_ranges = vec!["10.244.1.12/32".parse().unwrap()];
    world.apply(Event::Put(Object::Service(service)));
    let _backend = programmed(&hosts, &world);
    assert_eq!(hosts.pod_c.tcp("203.0.113.9", 80).unwrap().server, POD_A);
    assert!(hosts.outside.is_silent("203.0.113.9", 80, SILENCE));
    assert!(hosts.outside.tcp(NODE, 30080).is_ok(), "node ports are not guarded");
}

#[test]
fn a_restart_adopts_what_is_there() {
    let hosts = Hosts::new();
    let world = cluster(json!({"sessionAffinity": "ClientIP"}), &[POD_A, POD_B]);
    let first = programmed(&hosts, &world);
    drop(first);
    assert!(hosts.pod_c.tcp(VIP, 80).is_ok(), "rules stay without the process");
    let mut second = hosts.node.run(|| Nftables::open().unwrap()).unwrap();
    assert_eq!(second.restore(&whole(&plan_of(&world))).unwrap(), 0, "nothing differs");
    let changed = cluster(json!({"sessionAffinity": "ClientIP"}), &[POD_B]);
    let mut third = hosts.node.run(|| Nftables::open().unwrap()).unwrap();
    assert!(third.restore(&whole(&plan_of(&changed))).unwrap() > 0);
    for _ in 0..10 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B);
    }
    third.cleanup().unwrap();
    assert!(hosts.ruleset().is_empty(), "{}", hosts.ruleset());
}

#[test]
fn no_connection_is_lost_while_endpoints_change() {
    let hosts = Arc::new(Hosts::new());
    let two = cluster(json!({}), &[POD_A, POD_B]);
    let three = cluster(json!({}), &[POD_A, POD_B, POD_C]);
    let mut backend = programmed(&hosts, &two);
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let (hosts, stop) = (hosts.clone(), stop.clone());
        thread::spawn(move || {
            let mut connections = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = hosts.outside.tcp(NODE, 30080) {
                    panic!("connection {connections}: {error}; {}", hosts.counters());
                }
                connections += 1;
            }
            connections
        })
    };
    let until = Instant::now() + Duration::from_secs(2);
    let mut changes = 0;
    while Instant::now() < until {
        update(&mut backend, &two, &three);
        update(&mut backend, &three, &two);
        changes += 2;
    }
    stop.store(true, Ordering::Relaxed);
    let connections = client.join().unwrap();
    assert!(connections > 100 && changes > 50, "{connections} connections, {changes} changes");
}

#[test]
fn the_sync_loop_programs_and_repairs() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = || {
        let _entered = runtime.enter();
        let backend = Nftables::open().unwrap();
        let port = backend.port();
        let sync = Sync::start(Box::new(backend), plan_of(&world)).unwrap();
        let watch = dataplane::nftables::watch(port, sync.updates()).unwrap();
        (sync, watch)
    };
    // The sockets are opened on this thread, so the test's own thread has to be on the node.
    let (sync, watch) = hosts.node.run(start).unwrap();
    let watching = runtime.spawn(watch);
    let mut status = sync.status();
    let settled = |generation: u64| {
        let limit = Duration::from_secs(3);
        let wait = status.clone();
        let mut wait = wait;
        runtime
            .block_on(async {
                tokio::time::timeout(limit, wait.wait_for(|s| s.generation >= generation)).await
            })
            .expect("the loop settles in time")
            .unwrap();
    };
    settled(1);
    assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_A);

    let other = cluster(json!({}), &[POD_B]);
    for (name, _) in other.services() {
        sync.update(Update::Group(group_id(name), plan_service(&other, &facts(), name)));
    }
    settled(2);
    let limit = Instant::now() + Duration::from_secs(1);
    while hosts.pod_c.tcp(VIP, 80).map(|answer| answer.server).ok().as_deref() != Some(POD_B) {
        assert!(Instant::now() < limit);
    }

    hosts.nft(&["flush", "ruleset"]);
    let flushed = Instant::now();
    runtime
        .block_on(async {
            let repaired = status.wait_for(|status| status.repairs > 0);
            tokio::time::timeout(Duration::from_secs(2), repaired).await
        })
        .expect("tampering is noticed")
        .unwrap();
    assert!(flushed.elapsed() < Duration::from_secs(1), "{:?}", flushed.elapsed());
    assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B);
    watching.abort();
}
