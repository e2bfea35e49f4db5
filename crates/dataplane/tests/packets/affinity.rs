//! Clients that keep their endpoint.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::hosts::{Hosts, NODE, POD_A, POD_B, POD_C, VIP};
use crate::{cluster, programmed, update};

#[test]
fn a_client_keeps_its_endpoint_whatever_changes_around_it() {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
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
fn a_silent_client_is_forgotten_after_the_timeout() {
    let hosts = Hosts::new();
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}}});
    let _backend = programmed(&hosts, &cluster(sticky, &[POD_A, POD_B]));
    let is_remembered = || {
        let map = hosts.nft(&["list", "map", "ip", "portolan", "affinity-2s"]);
        map.contains(POD_C)
    };
    let first = hosts.pod_c.tcp(VIP, 80).unwrap().server;
    // Each connection begins the timeout anew: three times 1.2 s are more than one timeout.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(1200));
        assert!(is_remembered());
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, first);
    }
    thread::sleep(Duration::from_millis(2300));
    assert!(!is_remembered());
}
