//! Clusters and packets at random: the kernel does what `plan::trace` says.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::cases::row::{NodeRow, PacketRow, Row, ServiceRow};
use crate::cases::scene::{Scene, Variant};
use crate::cases::trace_outcome;
use crate::cases::{Runner, kernel_run};
use crate::planes::{Plane, on_every_plane};
use model::{Family, Protocol};

/// How many clusters, unless `PORTOLAN_RANDOM_CASES` says another number.
const CLUSTERS: u32 = 24;

fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Cluster"), Just("Local")]
}

fn endpoint() -> impl Strategy<Value = Value> {
    let place = prop_oneof![Just("L"), Just("R"), Just("S"), Just("pod")];
    (place, 0..4u8, 0..3u8).prop_map(|(at, state, hint)| {
        let mut endpoint = json!({"at": at});
        match state {
            0 => endpoint["ready"] = false.into(),
            1 => {
                endpoint["ready"] = false.into();
                endpoint["serving"] = true.into();
                endpoint["terminating"] = true.into();
            }
            _ => {}
        }
        match hint {
            0 => endpoint["zones"] = json!(["a"]),
            1 => endpoint["zones"] = json!(["b"]),
            _ => {}
        }
        endpoint
    })
}

fn service(name: &'static str, vip: &'static str, port: u16) -> impl Strategy<Value = ServiceRow> {
    (
        (policy(), policy()),
        any::<[bool; 4]>(),
        proptest::collection::vec(endpoint(), 0..4),
        prop_oneof![Just(json!([])), Just(json!(["PODS"])), Just(json!(["OUTSIDE/32"]))],
    )
        .prop_map(
            move |((internal, external), [node_port, lb, ext, sticky], endpoints, ranges)| {
                let number = if node_port { 30000 + port } else { 0 };
                let mut spec = json!({
                    "type": "LoadBalancer", "clusterIP": vip,
                    "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                    "loadBalancerSourceRanges": ranges,
                    "sessionAffinity": if sticky { "ClientIP" } else { "None" },
                    "ports": [{"name": "p", "port": port, "nodePort": number}],
                });
                if ext {
                    spec["externalIPs"] = json!(["EXT"]);
                }
                let ingress = if lb { json!([{"ip": "LB"}]) } else { json!([]) };
                serde_json::from_value(json!({
                    "name": name, "spec": spec, "endpoints": endpoints,
                    "status": {"loadBalancer": {"ingress": ingress}},
                }))
                .expect("a row")
            },
        )
}

fn node() -> impl Strategy<Value = NodeRow> {
    let detector = prop_oneof![
        3 => Just(json!("range")), 1 => Just(json!("none")), 1 => Just(json!({"prefix": "pod-"})),
    ];
    (detector, any::<bool>(), any::<bool>()).prop_map(|(detector, masquerade_all, zoned)| {
        let zone = if zoned { json!("a") } else { Value::Null };
        serde_json::from_value(
            json!({"detector": detector, "masqueradeAll": masquerade_all, "zone": zone}),
        )
        .expect("a row")
    })
}

fn cluster() -> impl Strategy<Value = (NodeRow, Vec<ServiceRow>, Vec<String>)> {
    let from = prop_oneof![Just("pod"), Just("L"), Just("node"), Just("outside")];
    let to = prop_oneof![
        Just("VIP:80"),
        Just("VIP:81"),
        Just("VIP2:81"),
        Just("NODE:30080"),
        Just("NODE:30081"),
        Just("LB:80"),
        Just("LB:81"),
        Just("EXT:80"),
        Just("EXT:81"),
        Just("FREE:80"),
    ];
    let way = (from, to).prop_map(|(from, to)| format!("{from} -> {to}"));
    (
        node(),
        (service("web", "VIP", 80), service("other", "VIP2", 81)).prop_map(|(a, b)| vec![a, b]),
        proptest::collection::vec(way, 6),
    )
}

/// The row that expects what the plan says.
fn row(
    plane: Plane,
    variant: Variant,
    node: NodeRow,
    services: Vec<ServiceRow>,
    ways: &[String],
) -> Row {
    let draft = |packets| Row::single("random".into(), node.clone(), services.clone(), packets);
    let mut scene = Scene::new(variant);
    scene.follow(&draft(Vec::new()).steps()[0]);
    let protocol = variant.protocol.to_string().to_lowercase();
    let packet = |way: &String| {
        let packet = PacketRow::parse(&format!("{way}/{protocol} = -")).expect("a packet");
        format!("{way}/{protocol} = {}", trace_outcome(&scene, variant, &packet))
    };
    // What nobody here has is looked for outside, and outside would find it at itself.
    let is_lost = |packet: &String| {
        packet.starts_with("outside -> ") && packet.ends_with(" = -") && !packet.contains("NODE")
    };
    // IPVS makes an address that a Service has its host's own, with all its ports.
    let is_guarded = |packet: &String| plane == Plane::Ipvs && packet.ends_with(" = -");
    let packets = ways.iter().map(packet);
    draft(packets.filter(|packet| !is_lost(packet) && !is_guarded(packet)).collect())
}

fn nanoseconds(since: Duration) -> u64 {
    u64::from(since.subsec_nanos())
}

on_every_plane!(the_kernel_does_what_trace_says);

fn the_kernel_does_what_trace_says(plane: Plane) {
    let number = std::env::var("PORTOLAN_RANDOM_CASES").ok().and_then(|text| text.parse().ok());
    let config = Config {
        cases: number.unwrap_or(CLUSTERS),
        // Packets take their time: a failing cluster is made smaller only so far.
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let given = std::env::var("PORTOLAN_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 =
        given.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0, nanoseconds));
    say!("PORTOLAN_SEED={seed} repeats this run");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let variant = (
        prop_oneof![Just(Family::V4), Just(Family::V6)],
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)],
    )
        .prop_map(|(family, protocol)| Variant { family, protocol });
    let hosts = RefCell::new(Runner::new(plane));
    let result = runner.run(&(variant, cluster()), |(variant, (node, services, ways))| {
        let row = row(plane, variant, node, services, &ways);
        let failures = kernel_run(&mut hosts.borrow_mut(), &row, variant);
        if failures.is_empty() {
            return Ok(());
        }
        let file = std::env::temp_dir().join("portolan-failing-case.yaml");
        std::fs::write(&file, serde_saphyr::to_string(&[&row]).unwrap()).unwrap();
        Err(TestCaseError::fail(format!(
            "{failures:?}\nreplay: PORTOLAN_CASES={} cargo test -p dataplane --test packets cases::all_rows",
            file.display()
        )))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
