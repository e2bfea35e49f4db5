//! The policy and masquerade matrix of a service proxy, packet by packet.
//!
//! The expected outcomes are written by hand from the behaviour of Kubernetes 1.36. Node `n1` has
//! address 192.0.2.1 and runs the endpoint L (10.244.1.10); the endpoint R (10.244.2.10) is on `n2`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use model::{Event, Object, ObjectName, Protocol, World};
use plan::trace::{Cause, Fate, Packet, trace};
use plan::{
    LocalDetector, NodeFacts, NodePlan, NodePortAddresses, NodeSettings, Refusal, plan_service,
};
use serde_json::{Value, json};

const VIP: &str = "10.96.0.50";
const LB: &str = "203.0.113.5";
const NODE: &str = "192.0.2.1";
const POD: &str = "10.244.1.99";
const OUTSIDE: &str = "198.51.100.7";
const L: &str = "10.244.1.10:8080";
const R: &str = "10.244.2.10:8080";

fn settings() -> NodeSettings {
    NodeSettings {
        node_name: "n1".into(),
        local_detector: LocalDetector::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::Primary,
        allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        primary_address: None,
    }
}

fn service(patch: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": VIP, "clusterIPs": [VIP],
                 "externalIPs": ["203.0.113.77"],
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": LB}]}},
    });
    merge(&mut service, patch);
    service
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn endpoint(ip: &str, node: &str) -> Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}})
}

fn local() -> Value {
    endpoint("10.244.1.10", "n1")
}

fn remote() -> Value {
    endpoint("10.244.2.10", "n2")
}

fn with(mut endpoint: Value, patch: Value) -> Value {
    merge(&mut endpoint, patch);
    endpoint
}

fn world(service: Value, endpoints: &[Value]) -> World {
    let mut world = World::new();
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let node = json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
    });
    world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
    world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    world.apply(Event::Put(Object::Node(serde_json::from_value(node).unwrap())));
    world
}

fn plan_of(world: &World, settings: NodeSettings) -> NodePlan {
    let facts = NodeFacts::from_world(settings, world);
    let mut plan = NodePlan::new(facts.clone(), vec!["10.96.0.0/16".parse().unwrap()]);
    for (name, _) in world.services() {
        let group = plan_service(world, &facts, name);
        plan.replace(&plan::service::group_id(name), group);
    }
    plan
}

/// The fate of a TCP connection from `source` to `destination:port`, written as the tables are.
fn fate(plan: &NodePlan, source: &str, destination: &str, port: u16) -> String {
    let is_local = |ip: IpAddr| ip == NODE.parse::<IpAddr>().unwrap() || ip.is_loopback();
    let source: IpAddr = source.parse().unwrap();
    let packet = Packet {
        source,
        destination: destination.parse().unwrap(),
        port: Some((Protocol::Tcp, NonZeroU16::new(port).unwrap())),
        interface: (!is_local(source)).then(|| "eth0".to_owned()),
        asks_sockets: false,
    };
    match trace(plan, &packet, is_local).fate {
        Fate::Forward { backends, masquerade } => {
            let name = |backend: &SocketAddr| match backend.to_string() {
                b if b == L => "L".to_owned(),
                b if b == R => "R".to_owned(),
                other => other,
            };
            let names: Vec<_> = backends.iter().map(name).collect();
            format!("{}{}", names.join(","), if masquerade { " snat" } else { "" })
        }
        Fate::Reject(_) => "reject".into(),
        Fate::Drop(_) => "drop".into(),
        Fate::Untouched => "-".into(),
    }
}

/// The fates of connections from a pod, this node and outside.
fn fates(plan: &NodePlan, destination: &str, port: u16) -> [String; 3] {
    [POD, NODE, OUTSIDE].map(|source| fate(plan, source, destination, port))
}

#[test]
fn matrix_of_policies() {
    let cluster = json!({});
    let internal = json!({"spec": {"internalTrafficPolicy": "Local"}});
    let external = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let rows: [(&Value, &str, u16, [&str; 3]); 8] = [
        (&cluster, VIP, 80, ["L,R", "L,R snat", "L,R snat"]),
        (&internal, VIP, 80, ["L", "L snat", "L snat"]),
        (&cluster, NODE, 30080, ["L,R snat", "L,R snat", "L,R snat"]),
        (&cluster, LB, 80, ["L,R snat", "L,R snat", "L,R snat"]),
        (&external, NODE, 30080, ["L,R", "L,R snat", "L"]),
        (&external, LB, 80, ["L,R", "L,R snat", "L"]),
        (&external, VIP, 80, ["L,R", "L,R snat", "L,R snat"]),
        (&internal, NODE, 30080, ["L,R snat", "L,R snat", "L,R snat"]),
    ];
    for (patch, destination, port, expected) in rows {
        let world = world(service(patch.clone()), &[local(), remote()]);
        let plan = plan_of(&world, settings());
        assert_eq!(fates(&plan, destination, port), expected, "{patch} {destination}:{port}");
    }
}

#[test]
fn without_a_detector_nothing_is_a_pod() {
    let none = NodeSettings { local_detector: LocalDetector::None, ..settings() };
    let both = [local(), remote()];
    let plan = plan_of(&world(service(json!({})), &both), none.clone());
    assert_eq!(fates(&plan, VIP, 80), ["L,R", "L,R", "L,R"]);
    let external = service(json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let plan = plan_of(&world(external, &both), none);
    assert_eq!(fates(&plan, NODE, 30080), ["L", "L,R snat", "L"]);
}

#[test]
fn masquerade_all_includes_pods() {
    let all = NodeSettings { masquerade_all: true, ..settings() };
    let plan = plan_of(&world(service(json!({})), &[local(), remote()]), all);
    assert_eq!(fates(&plan, VIP, 80), ["L,R snat", "L,R snat", "L,R snat"]);
}

#[test]
fn reject_without_endpoints_drop_without_local_ones() {
    let unready = with(remote(), json!({"conditions": {"ready": false, "serving": false}}));
    let both_local =
        json!({"spec": {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}});
    for patch in [json!({}), both_local.clone()] {
        let plan = plan_of(&world(service(patch), std::slice::from_ref(&unready)), settings());
        for (destination, port) in [(VIP, 80), (NODE, 30080), (LB, 80), ("203.0.113.77", 80)] {
            assert_eq!(fates(&plan, destination, port), ["reject"; 3], "{destination}");
        }
    }
    let plan = plan_of(&world(service(both_local), &[remote()]), settings());
    assert_eq!(fates(&plan, VIP, 80), ["drop"; 3]);
    assert_eq!(fates(&plan, NODE, 30080), ["R", "R snat", "drop"]);
}

#[test]
fn terminating_endpoints_serve_when_there_are_no_others() {
    let draining = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let l = with(local(), draining.clone());
    let plan = plan_of(&world(service(json!({})), &[l.clone(), remote()]), settings());
    assert_eq!(fate(&plan, POD, VIP, 80), "R");
    let plan =
        plan_of(&world(service(json!({})), &[l.clone(), with(remote(), draining)]), settings());
    assert_eq!(fate(&plan, POD, VIP, 80), "L,R");
    // Under Local the draining one here serves rather than a ready one elsewhere.
    let external = service(json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let plan = plan_of(&world(external, &[l, remote()]), settings());
    assert_eq!(fate(&plan, OUTSIDE, NODE, 30080), "L");
    let ended = json!({"conditions": {"ready": false, "serving": false, "terminating": true}});
    let plan = plan_of(&world(service(json!({})), &[with(local(), ended)]), settings());
    assert_eq!(fate(&plan, POD, VIP, 80), "reject");
}

#[test]
fn hints_apply_only_when_every_ready_endpoint_has_one_and_one_is_for_here() {
    let zone = |e: Value, zone: &str| with(e, json!({"hints": {"forZones": [{"name": zone}]}}));
    let node = |e: Value, node: &str| with(e, json!({"hints": {"forNodes": [{"name": node}]}}));
    let rows = [
        (vec![zone(local(), "a"), zone(remote(), "b")], "L"),
        (vec![zone(local(), "b"), zone(remote(), "a")], "R"),
        (vec![zone(local(), "a"), remote()], "L,R"),
        (vec![zone(local(), "b"), zone(remote(), "c")], "L,R"),
        (vec![node(local(), "n1"), node(remote(), "n2")], "L"),
        (vec![node(local(), "n3"), node(remote(), "n2")], "L,R"),
        (vec![node(zone(local(), "b"), "n3"), node(zone(remote(), "a"), "n2")], "R"),
    ];
    for (endpoints, expected) in rows {
        let plan = plan_of(&world(service(json!({})), &endpoints), settings());
        assert_eq!(fate(&plan, POD, VIP, 80), expected, "{endpoints:?}");
    }
}

#[test]
fn a_ready_copy_of_an_address_replaces_a_terminating_one() {
    let draining = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let old = with(local(), draining);
    for endpoints in [[old.clone(), local(), remote()], [local(), old, remote()]] {
        let plan = plan_of(&world(service(json!({})), &endpoints), settings());
        assert_eq!(fate(&plan, POD, VIP, 80), "L,R");
    }
}

#[test]
fn source_ranges_guard_the_load_balancer_address_alone() {
    let ranged = |ranges: Value| service(json!({"spec": {"loadBalancerSourceRanges": ranges}}));
    let plan = plan_of(&world(ranged(json!(["198.51.100.0/25"])), &[local()]), settings());
    assert_eq!(fates(&plan, LB, 80), ["drop", "drop", "L snat"]);
    assert_eq!(fates(&plan, NODE, 30080), ["L snat"; 3]);
    // A range of the other family leaves this one open; so does /0.
    for ranges in [json!(["2001:db8::/32"]), json!(["198.51.100.0/25", "0.0.0.0/0"])] {
        let plan = plan_of(&world(ranged(ranges), &[local()]), settings());
        assert_eq!(fates(&plan, LB, 80), ["L snat"; 3]);
    }
    // A range with this node in it lets the node use the address as its own.
    let plan = plan_of(&world(ranged(json!(["192.0.2.0/24"])), &[local()]), settings());
    assert_eq!(fate(&plan, LB, LB, 80), "L snat");
}

#[test]
fn virtual_addresses_have_no_other_ports() {
    let plan = plan_of(&world(service(json!({})), &[local()]), settings());
    assert_eq!(fates(&plan, VIP, 81), ["reject"; 3]);
    assert_eq!(fates(&plan, "10.96.7.7", 80), ["drop"; 3]);
    assert_eq!(fates(&plan, LB, 81), ["-"; 3]);
    assert_eq!(fates(&plan, NODE, 30081), ["-"; 3]);
    assert_eq!(fate(&plan, NODE, "127.0.0.1", 30080), "-");
    let ping = Packet {
        source: POD.parse().unwrap(),
        destination: VIP.parse().unwrap(),
        port: None,
        interface: Some("eth0".into()),
        asks_sockets: false,
    };
    assert_eq!(
        trace(&plan, &ping, |_| false).fate,
        Fate::Reject(Cause::NoSuchPort("default/web".into()))
    );
}

#[test]
fn what_a_proxy_leaves_alone() {
    let name = ObjectName::new("default", "web");
    for patch in [
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}),
    ] {
        let world = world(service(patch.clone()), &[local()]);
        let facts = NodeFacts::from_world(settings(), &world);
        assert_eq!(plan_service(&world, &facts, &name), None, "{patch}");
    }
    let proxied =
        service(json!({"status": {"loadBalancer": {"ingress": [{"ip": LB, "ipMode": "Proxy"}]}}}));
    let plan = plan_of(&world(proxied, &[local()]), settings());
    assert_eq!(fates(&plan, LB, 80), ["-"; 3]);
}

#[test]
fn the_health_check_counts_addresses_of_ready_local_endpoints() {
    let local_policy = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"name": "http", "port": 80, "targetPort": 8080},
                  {"name": "https", "port": 443, "targetPort": 8443}]}});
    let draining = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let count = |endpoints: &[Value]| {
        let plan = plan_of(&world(service(local_policy.clone()), endpoints), settings());
        plan.group("default/web").unwrap().health_check.as_ref().unwrap().local_endpoints
    };
    assert_eq!(count(&[local(), remote()]), 1);
    assert_eq!(count(&[with(local(), draining), remote()]), 0);
}

#[test]
fn the_first_claimant_by_name_owns_a_frontend_and_the_other_inherits_it() {
    let mut world = world(service(json!({})), &[local()]);
    let facts = NodeFacts::from_world(settings(), &world);
    let first = ObjectName::new("default", "web");
    let second = ObjectName::new("default", "zed");
    let twin = service(json!({"metadata": {"name": "zed"}, "spec": {"externalIPs": []}}));
    world.apply(Event::Put(Object::Service(serde_json::from_value(twin).unwrap())));
    let group = |name| plan_service(&world, &facts, name);
    for order in [[&first, &second], [&second, &first]] {
        let mut plan = NodePlan::new(facts.clone(), vec![]);
        for name in order {
            plan.replace(&plan::service::group_id(name), group(name));
        }
        assert_eq!(fate(&plan, POD, VIP, 80), "L");
        assert!(plan.group("default/zed").unwrap().frontends.is_empty());
        let changed = plan.replace(&"default/web".into(), None);
        assert_eq!(changed, BTreeSet::from(["default/web".into(), "default/zed".into()]));
        assert_eq!(fate(&plan, POD, VIP, 80), "reject");
        assert!(plan.contested().is_empty());
    }
}

#[test]
fn a_refusal_says_why() {
    let plan = plan_of(&world(service(json!({})), &[]), settings());
    let packet = Packet {
        source: POD.parse().unwrap(),
        destination: VIP.parse().unwrap(),
        port: Some((Protocol::Tcp, NonZeroU16::new(80).unwrap())),
        interface: Some("eth0".into()),
        asks_sockets: false,
    };
    let fate = trace(&plan, &packet, |_| false).fate;
    assert_eq!(fate, Fate::Reject(Cause::Refusal(Refusal::NoEndpoints)));
    assert_eq!(fate.to_string(), "refused: no endpoint is ready anywhere");
}
