//! A data plane takes the place of another while connections begin and go on.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use dataplane::Sync;
use model::Protocol;
use plan::LocalDetector;
use serde_json::json;

use crate::hosts::{Hosts, NODE, POD_A, POD_B, VIP};
use crate::load::repeat_under_load;
use crate::planes::Plane;
use crate::{cluster, plan_of, within};

const LIMIT: Duration = Duration::from_secs(2);
/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has another data plane program a running loop.
fn exchange(sync: &Sync, hosts: &Hosts, plane: Plane) -> dataplane::Result<()> {
    let (reply, replied) = mpsc::channel();
    let backend = hosts.node.run(|| plane.open());
    sync.updates().exchange(backend, move |result| reply.send(result).unwrap()).unwrap();
    replied.recv_timeout(within(PATIENCE)).unwrap()
}

/// Every data plane follows every other in this round.
fn round() -> Vec<Plane> {
    let all = Plane::all();
    let mut round = Vec::new();
    for (i, first) in all.iter().enumerate() {
        for second in &all[i + 1..] {
            round.extend([*first, *second]);
        }
    }
    round
}

#[test]
fn nothing_is_lost_when_data_planes_are_exchanged() {
    if Plane::all().len() < 2 {
        say!("PORTOLAN_PLANES leaves nothing to exchange");
        return;
    }
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A, POD_B]);
    let start = || Sync::start(Plane::Nftables.open(), plan_of(&world), Box::new(())).unwrap();
    let sync = hosts.node.run(start);
    let programmed = |plane: Plane| {
        let ours = match plane {
            Plane::Nftables => "table ip portolan {",
            Plane::Ipvs => "portolan-ipvs",
            Plane::Ebpf => "FrontendKey",
            Plane::IptablesNft | Plane::IptablesLegacy => "PORTOLAN-",
        };
        hosts.listing(plane).contains(ours)
    };
    exchange(&sync, &hosts, Plane::IptablesNft).unwrap();

    let mut flows = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (host, address, port) in [(&hosts.pod_c, VIP, 80), (&hosts.outside, NODE, 30080)] {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            let mut flow = host.open(protocol, to, None, LIMIT).unwrap();
            let first = flow.ask(LIMIT).unwrap();
            flows.push((flow, first));
        }
    }
    let flows = RefCell::new(flows);
    let mut planes = round().into_iter().cycle();
    let mut exchanged = Vec::new();
    let ways = Plane::all().len() * (Plane::all().len() - 1);
    // The first may follow one that is not of the round.
    repeat_under_load("data planes are exchanged", &hosts, (ways + 1).max(10), || {
        let plane = planes.next().unwrap();
        exchange(&sync, &hosts, plane).unwrap();
        exchanged.push(plane);
        for (flow, first) in &mut *flows.borrow_mut() {
            assert_eq!(&flow.ask(LIMIT).unwrap(), first, "an established flow goes on");
        }
    });
    let met: BTreeSet<[Plane; 2]> = exchanged.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    assert_eq!(met.len(), ways, "each follows each of the others: {exchanged:?}");

    // None has left anything but the last.
    for plane in Plane::all() {
        exchange(&sync, &hosts, plane).unwrap();
        for other in Plane::all().into_iter().filter(|other| *other != plane) {
            assert!(!programmed(other), "{other:?} is there beside {plane:?}");
        }
    }
}

#[test]
fn what_can_not_be_programmed_does_not_take_over() {
    let hosts = Hosts::new();
    let mut plan = plan_of(&cluster(json!({}), &[POD_A]));
    // iptables takes no such name, and not for one Service alone.
    let detector = LocalDetector::InterfacePrefix("sixteen-letters-".into());
    plan.node.settings.local_detector = detector;
    let start = || Sync::start(Plane::Nftables.open(), plan, Box::new(())).unwrap();
    let sync = hosts.node.run(start);
    for plane in [Plane::IptablesLegacy, Plane::IptablesNft] {
        let refused = exchange(&sync, &hosts, plane).unwrap_err().to_string();
        assert!(refused.contains("interface name"), "{plane:?}: {refused}");
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_A, "nftables goes on");
        assert!(!hosts.listing(plane).contains("PORTOLAN"), "{plane:?} has left nothing");
        assert_eq!(sync.status().borrow().failure, None);
    }
}
