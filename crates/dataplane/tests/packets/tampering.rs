//! Others who change our table.

use std::time::{Duration, Instant};

use dataplane::nftables::Nftables;
use dataplane::{Backend, Sync, Update};
use plan::plan_service;
use plan::service::group_id;
use serde_json::json;

use crate::hosts::{Hosts, POD_A, POD_B, VIP};
use crate::{cluster, facts, plan_of, programmed, whole, within};

/// How soon everything has to be as it was.
const LIMIT: Duration = Duration::from_secs(1);

#[test]
fn whatever_is_changed_is_mended_within_a_second() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = || {
        let _entered = runtime.enter();
        let mut backend = Nftables::open().unwrap();
        let watcher = backend.watcher().unwrap();
        let sync = Sync::start(Box::new(backend), plan_of(&world), Box::new(())).unwrap();
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

    let before = hosts.ruleset();
    for (what, tampering) in [
        ("a firewall's reload", "flush ruleset"),
        ("the table is deleted", "delete table ip portolan"),
        ("a hook is emptied", "flush chain ip portolan prerouting"),
        ("a rule is added", "insert rule ip portolan services accept"),
        ("all frontends go", "flush map ip portolan frontends"),
        ("an address goes", "flush set ip portolan cluster-ips"),
        ("the other family", "flush chain ip6 portolan services"),
    ] {
        let repairs = status.borrow().repairs;
        let arguments: Vec<&str> = tampering.split(' ').collect();
        hosts.nft(&arguments);
        let start = Instant::now();
        reaches(what, LIMIT, &|status| status.repairs > repairs);
        say!("{what}: mended after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B, "{what}");
        // One change may be told in several notifications, and each is looked into.
        while sorted(&hosts.ruleset()) != sorted(&before) {
            assert!(start.elapsed() < within(LIMIT), "{what}: {}", hosts.ruleset());
        }
    }
    watching.abort();
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
    let mut backend = programmed(&hosts, &world);
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
