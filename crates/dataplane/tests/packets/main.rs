//! Data planes on the real kernel: packets in, endpoint and source address out.
//!
//! Needs root. Everything happens in network namespaces that the tests make.

/// Prints counts also of tests that pass, whose output is otherwise kept: what was tried is part of
/// the result.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let line = format!($($text)*) + "\n";
        // Without a standard error nobody reads it.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}

mod adoption;
mod affinity;
mod cases;
mod conntrack;
mod ebpf;
mod hosts;
mod invalid;
mod ipvs;
mod links;
mod load;
mod loopback;
mod masquerade;
mod planes;
mod quarantine;
mod random;
mod refusal;
mod switching;
mod tampering;
mod traffic;

use std::collections::BTreeSet;
use std::time::Duration;

use dataplane::{Backend, Delta};
use hosts::{Addresses, Hosts, V4, V6};
use model::{Event, Object, World};
use plan::{
    LocalDetector, NodeFacts, NodePlan, NodePortAddresses, NodeSettings, plan_service,
    service::group_id,
};
use planes::{Plane, on_every_plane};
use serde_json::{Value, json};

/// How long something may take that takes no longer than `limit` on a machine. One that is imitated is
/// given `PORTOLAN_PATIENCE` times as long.
fn within(limit: Duration) -> Duration {
    let patience = std::env::var("PORTOLAN_PATIENCE").ok();
    limit * patience.map_or(1, |number| number.parse().expect("PORTOLAN_PATIENCE is a number"))
}

fn facts() -> NodeFacts {
    NodeFacts {
        settings: NodeSettings {
            node_name: "n1".into(),
            local_detector: LocalDetector::Sources(
                ["10.244.0.0/16", "fd00:244::/32"].map(|range| range.parse().unwrap()).into(),
            ),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            primary_address: None,
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
fn programmed(plane: Plane, hosts: &Hosts, world: &World) -> Box<dyn Backend> {
    let mut backend = hosts.node.run(|| plane.open());
    hosts.node.run(|| backend.restore(&whole(&plan_of(world))).unwrap());
    backend
}

fn update(backend: &mut dyn Backend, old: &World, new: &World) -> usize {
    let mut plan = plan_of(old);
    let mut changed = BTreeSet::new();
    for (name, _) in new.services() {
        changed.extend(plan.replace(&group_id(name), plan_service(new, &facts(), name)));
    }
    let groups = changed.into_iter().map(|id| (id.clone(), plan.group(&id).cloned())).collect();
    backend.update(&Delta { node: None, groups }).unwrap()
}

on_every_plane!(large_requests_arrive_whole);

fn large_requests_arrive_whole(plane: Plane) {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let world = cluster_with(net, json!({}), &[net.pod_b]);
        let _backend = programmed(plane, &hosts, &world);
        let to = std::net::SocketAddr::new(net.vip.parse().unwrap(), 80);
        let limit = Duration::from_secs(5);
        for (protocol, length) in [(model::Protocol::Tcp, 2 << 20), (model::Protocol::Udp, 2048)] {
            let mut client = hosts.pod_c.open(protocol, to, None, limit).unwrap();
            assert_eq!(client.send(&vec![7; length], limit).unwrap(), length, "{protocol}");
        }
    }
}
