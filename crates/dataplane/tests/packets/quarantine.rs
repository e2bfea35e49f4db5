//! Services that are odd, and one that the kernel refuses: all others are programmed at once.

use std::time::{Duration, Instant};

use dataplane::{Status, Sync, Update};
use model::{Event, Object, World};
use plan::service::group_id;
use plan::{GroupId, plan_service};
use serde_json::{Value, json};

use crate::hosts::{Hosts, POD_A, POD_B, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, facts, plan_of, within};

on_every_plane!(odd_services_stop_nobody, what_the_kernel_refuses_waits_alone,);

/// How soon the others have to be programmed.
const LIMIT: Duration = Duration::from_secs(1);
/// Good Services that arrive together with a bad one.
const OTHERS: u16 = 200;

/// A Service with its slice, added to a cluster.
fn add(world: &mut World, name: &str, spec: Value, slice: Value) {
    let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let mut slice = slice;
    slice["metadata"] = json!({
        "name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name},
    });
    world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
    world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
}

fn endpoints(addresses: &[&str]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "p", "port": 8080}]})
}

/// Waits until the loop says so; answers how long that took.
fn wait(
    runtime: &tokio::runtime::Runtime,
    sync: &Sync,
    what: &str,
    limit: Duration,
    is_reached: impl Fn(&Status) -> bool,
) -> Duration {
    let start = Instant::now();
    let limit = within(limit);
    let mut status = sync.status();
    let waiting = async {
        tokio::time::timeout(limit, status.wait_for(is_reached)).await.map(|status| status.is_ok())
    };
    match runtime.block_on(waiting) {
        Ok(true) => start.elapsed(),
        _ => panic!("{what}: not within {limit:?}: {:?}", *sync.status().borrow()),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Each of these has stopped some proxy that programs all Services or none.
fn odd_services_stop_nobody(plane: Plane) {
    let hosts = Hosts::new();
    let mut world = cluster(json!({}), &[POD_A]);
    let port = || json!([{"name": "p", "port": 80}]);
    // IPVS looks through all destinations for each that is added.
    let count = if plane == Plane::Ipvs { 4_000 } else { 40_000 };
    let many: Vec<String> = (0..count)
        .map(|i| format!("10.{}.{}.{}", 1 + i / 65_536, i / 256 % 256, i % 256))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "n".repeat(63);
    let ip = |n: u8| format!("10.96.1.{n}");
    let odd: Vec<(&str, Value, Value)> = vec![
        (
            &long,
            json!({"clusterIP": ip(1), "ports": [{"name": "p".repeat(63), "port": 80}]}),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": [POD_A]}],
                   "ports": [{"name": "p".repeat(63), "port": 8080}]}),
        ),
        (
            "overlapping-ranges",
            json!({
               "clusterIP": ip(2), "type": "LoadBalancer", "ports": port(),
               "loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16", "10.1.2.3/8"],
            }),
            endpoints(&[POD_A]),
        ),
        (
            "affinity-of-years",
            json!({
               "clusterIP": ip(3), "ports": port(), "sessionAffinity": "ClientIP",
               "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 4_000_000_000_u32}},
            }),
            endpoints(&[POD_A]),
        ),
        (
            "affinity-of-nothing",
            json!({
               "clusterIP": ip(4), "ports": port(), "sessionAffinity": "ClientIP",
               "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
            }),
            endpoints(&[POD_A]),
        ),
        (
            "wrong-family",
            json!({"clusterIP": ip(5), "ports": port()}),
            json!({
            "addressType": "IPv6", "endpoints": [{"addresses": [POD_A]}],
            "ports": [{"name": "p", "port": 8080}]}),
        ),
        ("z-same-address", json!({"clusterIP": VIP, "ports": port()}), endpoints(&[POD_B])),
        (
            "z-same-node-port",
            json!({
            "clusterIP": ip(6), "type": "NodePort",
            "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}),
            endpoints(&[POD_B]),
        ),
        (
            "same-port-twice",
            json!({
            "clusterIP": ip(7), "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
            endpoints(&[POD_B]),
        ),
        (
            "same-endpoint-often",
            json!({"clusterIP": ip(8), "ports": port()}),
            endpoints(&[POD_A, POD_A, POD_A]),
        ),
        (
            "sctp",
            json!({
            "clusterIP": ip(9), "ports": [{"name": "p", "port": 80, "protocol": "SCTP"}]}),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": [POD_A]}],
                   "ports": [{"name": "p", "port": 8080, "protocol": "SCTP"}]}),
        ),
        (
            "strange-external-addresses",
            json!({
            "clusterIP": ip(10), "ports": port(),
            "externalIPs": ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", VIP, "::", POD_A]}),
            endpoints(&[POD_A]),
        ),
        ("very-many-endpoints", json!({"clusterIP": ip(11), "ports": port()}), endpoints(&many)),
    ];
    for (name, spec, slice) in odd {
        add(&mut world, name, spec, slice);
    }
    let runtime = runtime();
    let start = || {
        let backend = plane.open();
        Sync::start(backend, plan_of(&world), Box::new(())).unwrap()
    };
    let sync = hosts.node.run(start);
    // 40,000 endpoints are a lot of work for a debug build.
    wait(&runtime, &sync, "the first transaction", 10 * LIMIT, |status| status.generation > 0);
    assert_eq!(sync.status().borrow().quarantined, Default::default());
    for (address, port) in [(VIP, 80), (&*ip(1), 80), (&*ip(3), 80), (&*ip(4), 80), (&*ip(8), 80)] {
        let answer = hosts.pod_c.tcp(address, port);
        let answer = answer.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(answer.server, POD_A, "{address}");
    }
}

fn what_the_kernel_refuses_waits_alone(plane: Plane) {
    let hosts = Hosts::new();
    let runtime = runtime();
    let start = || {
        let plan = plan_of(&cluster(json!({}), &[POD_A]));
        Sync::start(plane.open(), plan, Box::new(())).unwrap()
    };
    let sync = hosts.node.run(start);
    wait(&runtime, &sync, "the first transaction", 5 * LIMIT, |status| status.generation > 0);

    let mut world = World::new();
    for i in 0..OTHERS {
        let spec = json!({
            "clusterIP": format!("10.96.2.{}", i % 250), "ports": [{"name": "p", "port": 1000 + i}],
        });
        add(&mut world, &format!("good-{i}"), spec, endpoints(&[POD_B]));
    }
    let spec = json!({"clusterIP": "10.96.3.1", "ports": [{"name": "p", "port": 80}]});
    add(&mut world, "bad", spec, endpoints(&[POD_A, POD_B]));
    let group = |name: &str| {
        plan_service(&world, &facts(), &model::ObjectName::new("default", name)).unwrap()
    };
    // No Service is planned like this: an endpoint of the other family.
    let mut bad = group("bad");
    bad.sets[0].backends[0].address = "[fd00:244::9]:8080".parse().unwrap();
    let id: GroupId = bad.id.clone();

    let updates: Vec<_> = (0..OTHERS).map(|i| group(&format!("good-{i}"))).collect();
    sync.update(Update::Group(id.clone(), Some(bad)));
    for group in updates {
        sync.update(Update::Group(group.id.clone(), Some(group)));
    }
    // All of them are taken in by then, and what was programmed before may not count.
    let (tell, told) = std::sync::mpsc::channel();
    let look = move |_: &plan::NodePlan, _: &mut dyn dataplane::Backend, status: &Status| {
        let left = u64::from(status.pending_since.is_some());
        tell.send(status.generation + left).unwrap();
    };
    sync.updates().inspect(look).unwrap();
    let generation = told.recv_timeout(10 * within(LIMIT)).unwrap();
    let took = wait(&runtime, &sync, "the others", LIMIT, |status| {
        status.generation >= generation
            && status.pending_since.is_none()
            && !status.quarantined.is_empty()
    });
    say!("{OTHERS} Services beside a refused one were programmed in {took:?}");
    for i in 0..OTHERS {
        let (address, port) = (format!("10.96.2.{}", i % 250), 1000 + i);
        let answer = hosts.pod_c.tcp(&address, port);
        let server = answer.unwrap_or_else(|e| panic!("good-{i}: {e}")).server;
        assert_eq!(server, POD_B, "good-{i}");
    }
    let status = sync.status().borrow().clone();
    let (refused, reason) = status.quarantined.first_key_value().unwrap();
    assert_eq!((refused, status.quarantined.len()), (&id, 1), "{reason}");
    assert!(!reason.is_empty());
    say!("{plane:?} says: {reason}");
    assert!(hosts.pod_c.tcp("10.96.3.1", 80).is_err());

    // Others that change go on being programmed, and so is the bad one once it is good.
    let generation = status.generation;
    let changed = plan_service(
        &cluster(json!({}), &[POD_B]),
        &facts(),
        &model::ObjectName::new("default", "tcp"),
    );
    sync.update(Update::Group(group_id(&model::ObjectName::new("default", "tcp")), changed));
    wait(&runtime, &sync, "a change", LIMIT, |status| status.generation > generation);
    assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B);
    sync.update(Update::Group(id, Some(group("bad"))));
    wait(&runtime, &sync, "the mended one", LIMIT, |status| status.generation > generation + 1);
    assert!(sync.status().borrow().quarantined.is_empty());
    assert!(hosts.pod_c.tcp("10.96.3.1", 80).is_ok());
}
