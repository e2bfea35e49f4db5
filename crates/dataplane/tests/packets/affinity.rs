//! Clients that keep their endpoint.

use std::thread;
use std::time::Duration;

use dataplane::Delta;
use plan::LocalDetector;
use serde_json::json;

use crate::hosts::{Hosts, NODE, POD_A, POD_B, POD_C, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, plan_of, programmed, update, whole};

on_every_plane!(
    frontends_of_a_port_share_affinity,
    a_silent_client_is_forgotten_after_the_timeout,
    a_client_keeps_its_endpoint_whatever_changes_around_it,
    a_client_keeps_its_endpoint_when_all_rules_are_replaced,
);

fn a_client_keeps_its_endpoint_whatever_changes_around_it(plane: Plane) {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    let old = cluster(sticky.clone(), &[POD_A, POD_B]);
    let mut backend = programmed(plane, &hosts, &old);
    let first = hosts.pod_c.tcp(VIP, 80).unwrap().server;
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, first);
    }
    // A third endpoint does not move the client; losing its own does.
    let new = cluster(sticky.clone(), &[POD_A, POD_B, POD_C]);
    update(&mut *backend, &old, &new);
    for _ in 0..20 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, first);
    }
    let others: Vec<&str> = [POD_A, POD_B].into_iter().filter(|pod| *pod != first).collect();
    let without = cluster(sticky, &others);
    update(&mut *backend, &new, &without);
    for _ in 0..5 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, others[0]);
    }
}

fn frontends_of_a_port_share_affinity(plane: Plane) {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let _backend = programmed(plane, &hosts, &cluster(sticky, &[POD_A, POD_B, POD_C]));
    for client in [&hosts.pod_a, &hosts.pod_c, &hosts.pod_d, &hosts.outside] {
        let first = client.tcp(VIP, 80).unwrap().server;
        for _ in 0..5 {
            assert_eq!(client.tcp(NODE, 30080).unwrap().server, first);
        }
    }
}

/// After an upgrade to other rules too.
fn a_client_keeps_its_endpoint_when_all_rules_are_replaced(plane: Plane) {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let world = cluster(sticky, &[POD_A, POD_B, POD_C]);
    let mut backend = programmed(plane, &hosts, &world);
    let clients = [&hosts.pod_d, &hosts.outside, &hosts.pod_a];
    let ask = || clients.map(|client| client.tcp(VIP, 80).unwrap().server);
    let first = ask();
    let mut plan = plan_of(&world);
    for _ in 0..4 {
        plan.node.settings.local_detector = LocalDetector::InterfacePrefix("to-".into());
        backend.update(&Delta { node: Some(&plan), groups: Vec::new() }).unwrap();
        assert_eq!(ask(), first, "the process has replaced its own");
        // What another process finds, it takes for another version's.
        hosts.node.sh(plane.strange_rule());
        backend = hosts.node.run(|| plane.open());
        assert!(backend.restore(&whole(&plan)).unwrap() > 0);
        assert_eq!(ask(), first, "another process has replaced them");
        plan = plan_of(&world);
    }
}

fn a_silent_client_is_forgotten_after_the_timeout(plane: Plane) {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3}}});
    let _backend = programmed(plane, &hosts, &cluster(sticky, &[POD_A, POD_B]));
    let clients = [&hosts.pod_c, &hosts.pod_d, &hosts.outside, &hosts.node];
    let ask = || clients.map(|client| client.tcp(VIP, 80).unwrap().server);
    let first = ask();
    // Each connection begins the timeout anew: twice 1.6 s are more than one timeout, and leave a slow
    // machine as much time again.
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(1600));
        assert_eq!(ask(), first);
    }
    // Of four clients that choose again one will choose another, sooner or later.
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(3300));
        if ask() != first {
            return;
        }
    }
    panic!("silent clients are remembered");
}
