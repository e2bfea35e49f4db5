//! Others who change our table.

use std::time::{Duration, Instant};

use dataplane::{Sync, Update};
use plan::plan_service;
use plan::service::group_id;
use serde_json::json;

use crate::hosts::{Hosts, POD_A, POD_B, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, facts, plan_of, programmed, whole, within};

on_every_plane!(whatever_is_changed_is_mended_within_a_second);

/// How soon everything has to be as it was.
const LIMIT: Duration = Duration::from_secs(1);

fn whatever_is_changed_is_mended_within_a_second(plane: Plane) {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = || {
        let _entered = runtime.enter();
        let mut backend = plane.open();
        let watcher = backend.watcher().unwrap();
        let sync = Sync::start(backend, plan_of(&world), Box::new(())).unwrap();
        let watch = watcher.run(sync.updates());
        (sync, watch)
    };
    // The sockets are opened on this thread, so the test's own thread has to be on the node.
    let (sync, watch) = hosts.node.run(start);
    let watching = runtime.spawn(watch);
    let status = sync.status();
    let reaches = |what: &str, limit: Duration, reached: &dyn Fn(&dataplane::Status) -> bool| {
        let mut status = status.clone();
        let limit = within(limit);
        runtime
            .block_on(async {
                tokio::time::timeout(limit, status.wait_for(|status| reached(status))).await
            })
            .unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
            .unwrap();
    };
    reaches("the first transaction", LIMIT * 3, &|status| status.generation >= 1);
    assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_A);

    let other = cluster(json!({}), &[POD_B]);
    for (name, _) in other.services() {
        sync.update(Update::Group(group_id(name), plan_service(&other, &facts(), name)));
    }
    let changed = Instant::now();
    while hosts.pod_c.tcp(VIP, 80).map(|answer| answer.server).ok().as_deref() != Some(POD_B) {
        assert!(changed.elapsed() < within(LIMIT));
    }

    // Both Services have to have changed by then.
    while hosts.pod_c.udp(VIP, 80).map(|answer| answer.server).ok().as_deref() != Some(POD_B) {
        assert!(changed.elapsed() < within(2 * LIMIT));
    }
    // And all of each: not every data plane is changed in one step.
    let before = loop {
        let listing = hosts.listing(plane);
        if !listing.contains(POD_A) {
            break listing;
        }
        assert!(changed.elapsed() < within(2 * LIMIT), "{listing}");
    };
    for (what, tampering) in tamperings(plane) {
        let repairs = status.borrow().repairs;
        hosts.node.sh(&tampering);
        let start = Instant::now();
        reaches(what, LIMIT, &|status| status.repairs > repairs);
        say!("{what}: mended after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B, "{what}");
        // One change may be told in several notifications, and each is looked into.
        loop {
            let now = hosts.listing(plane);
            let (now, before) = (sorted(&now), sorted(&before));
            let missing: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
            if now == before {
                break;
            }
            assert!(start.elapsed() < within(LIMIT), "{what}: {missing:?}, {} lines", now.len());
        }
    }
    watching.abort();
}

/// Where programs of the node are pinned, for a shell on it: it is in the node's cgroup.
pub(crate) const PROGRAMS: &str = "/sys/fs/bpf/portolan/$(stat -c %i \"$(awk '$3 == \"cgroup2\" \
     { print $2; exit }' /proc/mounts)$(sed -n s/^0:://p /proc/self/cgroup)\")";

/// Has a shell on the node make the programs those of another version.
pub(crate) const OTHER_VERSION: &str = "cd /sys/fs/bpf/portolan/$(stat -c %i \"$(awk '$3 == \"cgroup2\" \
     { print $2; exit }' /proc/mounts)$(sed -n s/^0:://p /proc/self/cgroup)\") && \
     for generation in *-*; do case $generation in memory-*) ;; \
     *) mv $generation ${generation%-*}-00000000 ;; esac; done";

/// What others do to a data plane, as command lines.
fn tamperings(plane: Plane) -> Vec<(&'static str, String)> {
    let flavour = match plane {
        Plane::Nftables => {
            return [
                ("a firewall's reload", "nft flush ruleset"),
                ("the table is deleted", "nft delete table ip portolan"),
                ("a hook is emptied", "nft flush chain ip portolan prerouting"),
                ("a rule is added", "nft insert rule ip portolan services accept"),
                ("all frontends go", "nft flush map ip portolan frontends"),
                ("an address goes", "nft flush set ip portolan cluster-ips"),
                ("the other family", "nft flush chain ip6 portolan services"),
            ]
            .map(|(what, command)| (what, command.to_owned()))
            .into();
        }
        Plane::Ipvs => {
            return [
                ("a firewall's reload", "nft flush ruleset"),
                ("the link is deleted", "ip link del portolan-ipvs"),
                ("a hook is emptied", "nft flush chain ip portolan-ipvs prerouting"),
                ("all frontends go", "nft flush map ip portolan-ipvs frontends"),
                ("the other family", "nft flush chain ip6 portolan-ipvs services"),
            ]
            .map(|(what, command)| (what, command.to_owned()))
            .into();
        }
        Plane::Ebpf => {
            return vec![
                ("a program is detached", format!("rm {PROGRAMS}/*/links/connect4")),
                ("the other family", format!("rm {PROGRAMS}/*/links/sendmsg6")),
                ("all of it goes", format!("rm -r {PROGRAMS}")),
            ];
        }
        Plane::IptablesNft => "nft",
        Plane::IptablesLegacy => "legacy",
    };
    let nothing = r"printf '*nat\nCOMMIT\n*filter\nCOMMIT\n'";
    vec![
        ("a firewall's reload", format!("{nothing} | iptables-{flavour}-restore")),
        ("a hook is emptied", format!("iptables-{flavour} -t nat -F PREROUTING")),
        ("a rule is added", format!("iptables-{flavour} -t nat -I PORTOLAN-SERVICES -j ACCEPT")),
        ("all frontends go", format!("iptables-{flavour} -t nat -F PORTOLAN-FRONTENDS")),
        ("what refuses goes", format!("iptables-{flavour} -t filter -F PORTOLAN-FORWARD")),
        ("a hook goes", format!("iptables-{flavour} -t filter -D FORWARD -j PORTOLAN-FORWARD")),
        ("the other family", format!("ip6tables-{flavour} -t nat -F PORTOLAN-SERVICES")),
    ]
}

/// The lines of a listing without what differs from one time to the next: the order.
fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = listing.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_difference_to_the_plan_is_named() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let mut backend = programmed(Plane::Nftables, &hosts, &world);
    let plan = plan_of(&world);
    let mut differences = || backend.verify(&whole(&plan)).unwrap().join("\n");
    assert_eq!(differences(), "");
    for (command, said) in [
        ("delete element ip portolan frontends { 10.96.0.50 . tcp . 80 }", "10.96.0.50:80/TCP"),
        ("insert rule ip portolan services accept", "other sets, chains or rules"),
        ("delete table ip portolan", "table ip portolan is missing"),
    ] {
        hosts.nft(&command.split(' ').collect::<Vec<_>>());
        let found = differences();
        assert!(found.contains(said), "{command}: {found}");
    }
    backend.restore(&whole(&plan)).unwrap();
    assert_eq!(backend.verify(&whole(&plan)).unwrap(), [""; 0]);
}

#[test]
fn a_difference_of_iptables_to_the_plan_is_named() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let plan = plan_of(&world);
    for (plane, flavour) in [(Plane::IptablesNft, "nft"), (Plane::IptablesLegacy, "legacy")] {
        let mut backend = programmed(plane, &hosts, &world);
        for (command, said) in [
            ("-t nat -F PORTOLAN-FRONTENDS", "PORTOLAN-FRONTENDS is missing or has other rules"),
            ("-t nat -D PREROUTING 1", "PREROUTING lacks the rule -j PORTOLAN-SERVICES"),
            ("-N PORTOLAN-STRANGE", "PORTOLAN-STRANGE is too much"),
            ("-A INPUT -j PORTOLAN-INPUT", "INPUT has a rule too much"),
        ] {
            assert_eq!(backend.verify(&whole(&plan)).unwrap(), [""; 0], "before {command}");
            hosts.node.sh(&format!("iptables-{flavour} {command}"));
            let found = backend.verify(&whole(&plan)).unwrap().join("\n");
            assert!(found.contains(said), "{command}: {found}");
            backend.restore(&whole(&plan)).unwrap();
        }
        backend.cleanup().unwrap();
    }
}
