//! Rows against the data plane in memory.

use std::collections::BTreeSet;

use dataplane::fake::{self, Fake};
use dataplane::{Backend, Delta};
use plan::LocalDetector;

use super::Tally;
use super::row::{Manner, Outcome, PacketRow, Row, Target};
use super::scene::{Scene, Variant, ports};
use super::trace::{source, without_manner};
use crate::whole;

pub(super) fn run(row: &Row, variant: Variant, tally: &mut Tally) {
    let mut scene = Scene::new(variant);
    let mut backend = Fake::new();
    backend.restore(&whole(&scene.plan)).unwrap();
    for step in row.steps() {
        let (changed, node_changed) = scene.follow(&step);
        let groups = changed.into_iter().map(|id| (id.clone(), scene.plan.group(&id).cloned()));
        let node = node_changed.then_some(&scene.plan);
        backend.update(&Delta { node, groups: groups.collect() }).unwrap();
        let by_interface = matches!(
            scene.plan.node.settings.local_detector,
            LocalDetector::Interface(_) | LocalDetector::InterfacePrefix(_)
        );
        for packet in &step.packets {
            if packet.outcome == Outcome::AsBefore {
                tally.skip("what a connection does that has begun before");
            } else if by_interface {
                tally.skip("the fake knows no interfaces");
            } else {
                tally.packets += 1;
                let found = outcome(&backend, &scene, variant, packet);
                if found != without_manner(&packet.outcome) {
                    let what = format!("{} {variant:?}: {} but {found}", row.id, packet.text);
                    tally.failures.push(what);
                }
            }
        }
    }
}

fn outcome(backend: &Fake, scene: &Scene, variant: Variant, packet: &PacketRow) -> Outcome {
    let source = source(variant, packet);
    let destination = variant.address(&packet.to);
    let decided = backend.decide(&fake::Packet {
        source,
        destination,
        port: ports(packet.protocol.unwrap_or(variant.protocol), packet.port),
        source_is_local: scene.is_local(source),
        destination_is_local: scene.is_local(destination),
    });
    match decided {
        fake::Outcome::Forwarded { backends, masqueraded } => {
            let target = |backend: &std::net::SocketAddr| {
                let (place, port) = scene.target(*backend);
                Target { place, port, masqueraded: masqueraded.contains(backend) }
            };
            let targets: BTreeSet<_> = backends.iter().map(target).collect();
            Outcome::Reaches(targets.into_iter().collect(), Manner::Any)
        }
        fake::Outcome::Rejected => Outcome::Reject,
        fake::Outcome::Dropped => Outcome::Drop,
        fake::Outcome::Untouched => Outcome::Untouched,
    }
}
