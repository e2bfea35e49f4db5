//! Properties that hold for every cluster: the elements do to a packet what `plan::trace` says, and
//! a series of small changes ends where a full rendering does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use dataplane::fake::{Fake, Outcome, Packet};
use dataplane::{Backend, Delta};
use model::{Event, Family, Kind, Object, ObjectName, Protocol, World};
use plan::trace::{self, Fate};
use plan::{
    GroupId, LocalDetector, NodeFacts, NodePlan, NodePortAddresses, NodeSettings, plan_service,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NODE: &str = "192.0.2.1";
const SERVICES: usize = 4;

/// One change of the cluster.
#[derive(Debug, Clone)]
enum Step {
    Service(usize, Box<Value>),
    Slice(usize, Box<Value>),
    RemoveService(usize),
    RemoveSlice(usize),
}

fn local_or_cluster() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Local"), Just("Cluster")]
}

fn service() -> impl Strategy<Value = Value> {
    (
        (local_or_cluster(), local_or_cluster(), any::<bool>(), any::<bool>()),
        // Few addresses and ports, so that Services collide.
        (0..6u8, 80..83u16, proptest::option::of(30080..30083u16), 0..3u8),
        prop_oneof![Just("TCP"), Just("UDP")],
    )
        .prop_map(
            |((internal, external, sticky, ranged), (vip, port, node_port, lb), protocol)| {
                let ingress: Vec<_> =
                    (0..lb).map(|i| json!({"ip": format!("203.0.113.{i}")})).collect();
                let ranges =
                    if ranged { json!(["198.51.100.0/25", "10.244.1.0/24"]) } else { json!([]) };
                json!({
                    "spec": {
                        "type": "LoadBalancer", "clusterIP": format!("10.96.0.{vip}"),
                        "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                        "sessionAffinity": if sticky { "ClientIP" } else { "None" },
                        "loadBalancerSourceRanges": ranges,
                        "ports": [{"name": "p", "port": port, "protocol": protocol,
                                   "nodePort": node_port.unwrap_or(0)}],
                    },
                    "status": {"loadBalancer": {"ingress": ingress}},
                })
            },
        )
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint =
        (1..3u8, 1..5u8, any::<bool>(), any::<bool>()).prop_map(|(node, pod, ready, end)| {
            json!({"addresses": [format!("10.244.{node}.{pod}")], "nodeName": format!("n{node}"),
               "conditions": {"ready": ready, "serving": ready || end, "terminating": end}})
        });
    (proptest::collection::vec(endpoint, 0..6), prop_oneof![Just("TCP"), Just("UDP")]).prop_map(
        |(endpoints, protocol)| {
            json!({"addressType": "IPv4", "endpoints": endpoints,
                   "ports": [{"name": "p", "port": 8080, "protocol": protocol}]})
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..SERVICES;
    prop_oneof![
        4 => (which.clone(), service()).prop_map(|(i, v)| Step::Service(i, Box::new(v))),
        4 => (which.clone(), slice()).prop_map(|(i, v)| Step::Slice(i, Box::new(v))),
        1 => which.clone().prop_map(Step::RemoveService),
        1 => which.prop_map(Step::RemoveSlice),
    ]
}

fn name(index: usize) -> ObjectName {
    ObjectName::new("ns", format!("s{index}"))
}

fn event(step: &Step) -> Event {
    match step {
        Step::Service(i, value) => {
            let mut value = (**value).clone();
            value["metadata"] = json!({"namespace": "ns", "name": format!("s{i}")});
            Event::Put(Object::Service(serde_json::from_value(value).unwrap()))
        }
        Step::Slice(i, value) => {
            let mut value = (**value).clone();
            value["metadata"] = json!({"namespace": "ns", "name": format!("s{i}"),
                "labels": {"kubernetes.io/service-name": format!("s{i}")}});
            Event::Put(Object::EndpointSlice(serde_json::from_value(value).unwrap()))
        }
        Step::RemoveService(i) => Event::Removed(Kind::Service, name(*i)),
        Step::RemoveSlice(i) => Event::Removed(Kind::EndpointSlice, name(*i)),
    }
}

fn facts(detects: bool) -> NodeFacts {
    let local_detector = match detects {
        true => LocalDetector::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
        false => LocalDetector::None,
    };
    NodeFacts {
        settings: NodeSettings {
            node_name: "n1".into(),
            local_detector,
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            primary_address: None,
        },
        zone: None,
        addresses: vec![NODE.parse().unwrap()],
    }
}

fn whole(plan: &NodePlan) -> Delta<'_> {
    let groups = plan.groups().map(|group| (group.id.clone(), Some(group.clone()))).collect();
    Delta { node: Some(plan), groups }
}

fn packets() -> Vec<Packet> {
    let is_local = |ip: IpAddr| ip.to_string() == NODE;
    let sources = ["10.244.1.1", "10.244.2.1", NODE, "198.51.100.7", "198.51.100.200"];
    let destinations = (0..6)
        .map(|i| format!("10.96.0.{i}"))
        .chain((0..3).map(|i| format!("203.0.113.{i}")))
        .chain([NODE.to_owned(), "10.96.9.9".to_owned(), "192.0.2.77".to_owned()]);
    let mut packets = Vec::new();
    for destination in destinations {
        let destination: IpAddr = destination.parse().unwrap();
        for source in sources {
            let source: IpAddr = source.parse().unwrap();
            for number in [80, 81, 82, 30080, 30081, 30082] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    packets.push(Packet {
                        source,
                        destination,
                        port: Some((protocol, NonZeroU16::new(number).unwrap())),
                        source_is_local: is_local(source),
                        destination_is_local: is_local(destination),
                    });
                }
            }
            packets.push(Packet {
                source,
                destination,
                port: None,
                source_is_local: is_local(source),
                destination_is_local: is_local(destination),
            });
        }
    }
    packets
}

/// The outcome that the plan asks for.
fn expected(plan: &NodePlan, packet: &Packet) -> Outcome {
    let traced = trace::Packet {
        source: packet.source,
        destination: packet.destination,
        port: packet.port,
        interface: (!packet.source_is_local).then(|| "eth0".to_owned()),
        asks_sockets: false,
    };
    let is_local = |ip: IpAddr| ip.to_string() == NODE;
    match trace::trace(plan, &traced, is_local).fate {
        Fate::Forward { backends, masquerade } => {
            let backends: BTreeSet<_> = backends.into_iter().collect();
            // A pod of this node that is sent back to itself is masqueraded always; for a pod of
            // another node that is the business of its own node.
            let hairpin = |b: &std::net::SocketAddr| {
                b.ip() == packet.source && b.ip().to_string().starts_with("10.244.1.")
            };
            let masqueraded =
                backends.iter().filter(|b| masquerade || hairpin(b)).copied().collect();
            Outcome::Forwarded { backends, masqueraded }
        }
        Fate::Reject(_) => Outcome::Rejected,
        Fate::Drop(_) => Outcome::Dropped,
        Fate::Untouched => Outcome::Untouched,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn elements_do_what_the_plan_says(
        steps in proptest::collection::vec(step(), 1..30),
        detects in any::<bool>(),
    ) {
        let facts = facts(detects);
        let mut world = World::new();
        let mut plan = NodePlan::new(facts.clone(), vec!["10.96.0.0/16".parse().unwrap()]);
        let mut backend = Fake::new();
        backend.restore(&whole(&plan)).unwrap();
        for step in &steps {
            let mut changed: BTreeSet<GroupId> = BTreeSet::new();
            for touched in world.apply(event(step)) {
                let model::Touched::Service(name) = touched else { continue };
                let group = plan_service(&world, &facts, &name);
                changed.extend(plan.replace(&plan::service::group_id(&name), group));
            }
            let group = |id: GroupId| { let group = plan.group(&id).cloned(); (id, group) };
            let groups = changed.into_iter().map(group).collect();
            backend.update(&Delta { node: None, groups }).unwrap();
        }
        for packet in packets() {
            prop_assert_eq!(backend.decide(&packet), expected(&plan, &packet), "{:?}", packet);
        }

        let mut fresh = Fake::new();
        fresh.restore(&whole(&plan)).unwrap();
        prop_assert_eq!(backend.content(Family::V4), fresh.content(Family::V4));
        prop_assert_eq!(fresh.restore(&whole(&plan)).unwrap(), 0, "equal states differ in nothing");
    }
}
