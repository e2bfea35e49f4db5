//! Rows against `plan::trace`.

use std::net::IpAddr;

use plan::trace::{Fate, Packet, trace};

use super::Tally;
use super::row::{Manner, Outcome, PacketRow, Row, Target};
use super::scene::{Scene, Variant, ports};

pub(super) fn run(row: &Row, variant: Variant, tally: &mut Tally) {
    let mut scene = Scene::new(variant);
    for step in row.steps() {
        scene.follow(&step);
        if let Some(expected) = &step.health_checks
            && *expected != scene.health_checks()
        {
            let held = scene.health_checks();
            tally.failures.push(format!("{} {variant:?}: health checks {held:?}", row.id));
        }
        for packet in &step.packets {
            if packet.outcome == Outcome::AsBefore {
                tally.skip("what a connection does that has begun before");
                continue;
            }
            tally.packets += 1;
            let found = outcome(&scene, variant, packet);
            if without_manner(&found) != without_manner(&packet.outcome) {
                tally
                    .failures
                    .push(format!("{} {variant:?}: {} but it is {found}", row.id, packet.text));
            }
        }
    }
}

/// What the plan does to a packet, as rows say it.
pub(crate) fn outcome(scene: &Scene, variant: Variant, packet: &PacketRow) -> Outcome {
    let source = source(variant, packet);
    let traced = Packet {
        source,
        destination: variant.address(&packet.to),
        port: ports(packet.protocol.unwrap_or(variant.protocol), packet.port),
        interface: interface(&packet.from).map(str::to_owned),
        asks_sockets: false,
    };
    let traced = trace(&scene.plan, &traced, |ip| scene.is_local(ip));
    let met = traced.frontend.as_ref().and_then(|(key, _)| scene.plan.frontend(key));
    let manner = match met.and_then(|(_, frontend)| frontend.affinity) {
        Some(_) => Manner::Sticky,
        None => Manner::Any,
    };
    match traced.fate {
        Fate::Forward { backends, masquerade } => {
            let target = |backend: &std::net::SocketAddr| {
                let (place, port) = scene.target(*backend);
                // A pod that is sent back to itself has to see somebody else.
                let hairpin = backend.ip() == source;
                Target { place, port, masqueraded: masquerade || hairpin }
            };
            let mut targets: Vec<_> = backends.iter().map(target).collect();
            targets.sort();
            Outcome::Reaches(targets, manner)
        }
        Fate::Reject(_) => Outcome::Reject,
        Fate::Drop(_) => Outcome::Drop,
        Fate::Untouched => Outcome::Untouched,
    }
}

/// How one is chosen shows in many packets, not in one.
pub(super) fn without_manner(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Reaches(targets, _) => Outcome::Reaches(targets.clone(), Manner::Any),
        other => other.clone(),
    }
}

/// The source address of a packet.
pub(super) fn source(variant: Variant, packet: &PacketRow) -> IpAddr {
    match &packet.source {
        Some(source) => variant.address(source),
        None if packet.to == "LOOPBACK" => variant.address("LOOPBACK"),
        None => variant.address(&packet.from),
    }
}

/// The node's interface that a packet arrives on.
pub(super) fn interface(from: &str) -> Option<&'static str> {
    match from {
        "node" => None,
        "outside" => Some("outside"),
        "L" => Some("pod-a"),
        "R" => Some("pod-b"),
        "pod" => Some("pod-c"),
        "S" => Some("pod-d"),
        other => panic!("nothing comes from {other}"),
    }
}
