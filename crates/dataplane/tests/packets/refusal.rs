//! What nobody serves is refused, and at once.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::hosts::{Hosts, NODE, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, programmed, within};

on_every_plane!(what_nobody_serves_is_refused_at_once);

/// Long enough to tell a drop from a slow answer.
const SILENCE: Duration = Duration::from_millis(600);
/// Within this time a refusal counts as one that came at once.
const AT_ONCE: Duration = Duration::from_millis(300);

fn what_nobody_serves_is_refused_at_once(plane: Plane) {
    let hosts = Hosts::new();
    let _backend = programmed(plane, &hosts, &cluster(json!({}), &[]));
    for (host, address, port) in [
        (&hosts.pod_c, VIP, 80),
        (&hosts.pod_c, VIP, 81),
        (&hosts.node, VIP, 80),
        (&hosts.node, VIP, 81),
        (&hosts.outside, NODE, 30080),
        (&hosts.pod_c, NODE, 30080),
    ] {
        // More often than refusals by ICMP may be sent to one client.
        for _ in 0..20 {
            let start = Instant::now();
            let error = host.tcp(address, port).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}:{port}");
            assert!(start.elapsed() < within(AT_ONCE), "{address}:{port}");
        }
    }
    assert_eq!(hosts.pod_c.udp(VIP, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // An address of the range that nobody has leads nowhere.
    assert!(hosts.pod_c.is_silent("10.96.7.7", 80, SILENCE));
}
