//! Connections, one after the other, while everything changes around them: none is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::Delta;
use plan::LocalDetector;
use serde_json::json;

use crate::hosts::{Hosts, NODE, POD_A, POD_B, POD_C, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, plan_of, programmed, update, whole};

on_every_plane!(
    no_connection_is_lost_while_endpoints_change,
    no_connection_is_lost_when_all_endpoints_change_at_once,
    no_connection_is_lost_while_the_proxy_restarts,
    no_connection_is_lost_while_all_rules_are_replaced,
);

/// How long each test goes on.
const DURATION: Duration = Duration::from_secs(2);

/// How long it goes on where that is not enough for [`ENOUGH`]: on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How many connections and repetitions show something.
const ENOUGH: (usize, usize) = (100, 10);

/// Lets the clients end, also when the work has failed.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Repeats `work` while an outside client and a pod connect as fast as they can. Prints how many
/// connections and repetitions there were; fails on the first connection that does.
pub(crate) fn under_load(what: &str, hosts: &Hosts, work: impl FnMut()) {
    repeat_under_load(what, hosts, ENOUGH.1, work);
}

/// The same with more repetitions than `at_least`.
pub(crate) fn repeat_under_load(
    what: &str,
    hosts: &Hosts,
    at_least: usize,
    mut work: impl FnMut(),
) {
    let stop = AtomicBool::new(false);
    let connections = AtomicUsize::new(0);
    let connect = |from: &crate::hosts::Host, to: &str, port: u16| {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = from.tcp(to, port) {
                let number = connections.load(Ordering::Relaxed);
                panic!("{what}: connection {number}: {error}; {}", hosts.counters());
            }
            connections.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let outside = scope.spawn(|| connect(&hosts.outside, NODE, 30080));
        let pod = scope.spawn(|| connect(&hosts.pod_d, VIP, 80));
        let start = Instant::now();
        let mut repetitions = 0;
        let is_enough =
            |repetitions| connections.load(Ordering::Relaxed) > ENOUGH.0 && repetitions > at_least;
        let goes_on = |repetitions| match start.elapsed() {
            elapsed if elapsed < DURATION => true,
            elapsed => elapsed < LIMIT && !is_enough(repetitions),
        };
        while goes_on(repetitions) && !outside.is_finished() && !pod.is_finished() {
            work();
            repetitions += 1;
        }
        stop.store(true, Ordering::Relaxed);
        outside.join().unwrap();
        pod.join().unwrap();
        let number = connections.load(Ordering::Relaxed);
        say!("{what}: {number} connections, none lost, {repetitions} times");
        assert!(is_enough(repetitions), "{number}, {repetitions}");
    });
}

fn no_connection_is_lost_while_endpoints_change(plane: Plane) {
    let hosts = Hosts::new();
    let two = cluster(json!({}), &[POD_A, POD_B]);
    let three = cluster(json!({}), &[POD_A, POD_B, POD_C]);
    let mut backend = programmed(plane, &hosts, &two);
    under_load("a third endpoint comes and goes", &hosts, || {
        update(&mut *backend, &two, &three);
        update(&mut *backend, &three, &two);
    });
}

fn no_connection_is_lost_when_all_endpoints_change_at_once(plane: Plane) {
    let hosts = Hosts::new();
    let blue = cluster(json!({}), &[POD_A]);
    let green = cluster(json!({}), &[POD_B, POD_C]);
    let mut backend = programmed(plane, &hosts, &blue);
    under_load("blue becomes green and back", &hosts, || {
        update(&mut *backend, &blue, &green);
        update(&mut *backend, &green, &blue);
    });
}

fn no_connection_is_lost_while_the_proxy_restarts(plane: Plane) {
    let hosts = Hosts::new();
    let worlds = [cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_B, POD_C])];
    drop(programmed(plane, &hosts, &worlds[0]));
    let mut which = 0;
    under_load("a proxy starts, catches up and ends", &hosts, || {
        which = 1 - which;
        let mut backend = hosts.node.run(|| plane.open());
        backend.restore(&whole(&plan_of(&worlds[which]))).unwrap();
    });
}

/// An upgrade to a version with other rules, or another way to tell pods: the table is made anew.
fn no_connection_is_lost_while_all_rules_are_replaced(plane: Plane) {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A, POD_B]);
    let mut backend = programmed(plane, &hosts, &world);
    let mut plan = plan_of(&world);
    let by_range = plan.node.settings.local_detector.clone();
    let by_name = LocalDetector::InterfacePrefix("to-pod".into());
    under_load("rules are replaced", &hosts, || {
        for detector in [&by_name, &by_range] {
            plan.node.settings.local_detector = detector.clone();
            let change = Delta { node: Some(&plan), groups: Vec::new() };
            backend.update(&change).unwrap();
        }
    });
}
