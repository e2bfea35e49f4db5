//! A start finds what an earlier process has left, and changes no more than what differs.

use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{self, Family, Table};
use model::{Event, Object, World};
use serde_json::json;

use crate::hosts::{Hosts, POD_A, POD_B, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, plan_of, programmed, whole};

on_every_plane!(a_restart_adopts_what_is_there, whatever_has_changed_meanwhile_is_found,);

fn a_restart_adopts_what_is_there(plane: Plane) {
    let hosts = Hosts::new();
    let world = cluster(json!({"sessionAffinity": "ClientIP"}), &[POD_A, POD_B]);
    let first = programmed(plane, &hosts, &world);
    drop(first);
    assert!(hosts.pod_c.tcp(VIP, 80).is_ok(), "rules stay without the process");
    let mut second = hosts.node.run(|| plane.open());
    assert_eq!(second.restore(&whole(&plan_of(&world))).unwrap(), 0, "nothing differs");
    assert_eq!(second.verify(&whole(&plan_of(&world))).unwrap(), [""; 0]);
    let changed = cluster(json!({"sessionAffinity": "ClientIP"}), &[POD_B]);
    let mut third = hosts.node.run(|| plane.open());
    assert!(third.restore(&whole(&plan_of(&changed))).unwrap() > 0);
    for _ in 0..10 {
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B);
    }
    third.cleanup().unwrap();
    let left = hosts.listing(plane);
    assert!(!left.to_lowercase().contains("portolan"), "{left}");
}

#[test]
fn a_table_that_was_being_replaced_is_taken_away() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    let mut backend = programmed(Plane::Nftables, &hosts, &world);
    // What a process leaves that is killed while it replaces a table.
    hosts.nft(&["add", "table", "ip", "portolan-handover"]);
    backend.restore(&whole(&plan_of(&world))).unwrap();
    assert!(!hosts.ruleset().contains("handover"));
    hosts.nft(&["add", "table", "ip6", "portolan-handover"]);
    backend.cleanup().unwrap();
    assert!(hosts.ruleset().is_empty(), "{}", hosts.ruleset());
}

#[test]
fn what_a_killed_process_has_left_unfinished_is_made_anew() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_B]);
    for left in [
        // Killed while it made its table: no packet meets it yet.
        vec!["add table ip portolan", "add chain ip portolan services"],
        // Killed while the stand-in did the work: it goes on doing so until the table is there.
        vec!["add table ip portolan", "add table ip portolan-handover"],
        // A table of our name that others have made, which packets meet.
        vec![
            "add table ip portolan",
            "add chain ip portolan theirs { type nat hook prerouting priority -100 ; }",
        ],
    ] {
        for command in &left {
            hosts.nft(&command.split(' ').collect::<Vec<_>>());
        }
        let mut backend = programmed(Plane::Nftables, &hosts, &world);
        assert_eq!(hosts.pod_c.tcp(VIP, 80).unwrap().server, POD_B, "{left:?}");
        assert!(!hosts.ruleset().contains("handover"), "{left:?}");
        assert_eq!(backend.verify(&whole(&plan_of(&world))).unwrap(), [""; 0], "{left:?}");
        backend.cleanup().unwrap();
    }
}

/// Services `1..` of so many endpoints each, their addresses beginning with this byte.
fn services(endpoints: &[u8], first_byte: u8) -> World {
    let mut world = World::new();
    for (service, count) in (1..).zip(endpoints) {
        let name = format!("service-{service}");
        let spec = json!({"clusterIP": format!("10.96.7.{service}"), "ports": [{"port": 80}]});
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        world.apply(Event::Put(Object::Service(serde_json::from_value(object).unwrap())));
        let endpoint = |n| json!({"addresses": [format!("{first_byte}.1.{service}.{n}")]});
        let slice = json!({
            "metadata": {"name": name, "namespace": "default",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": (0..*count).map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "", "port": 8080}],
        });
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    }
    world
}

fn whatever_has_changed_meanwhile_is_found(plane: Plane) {
    let hosts = Hosts::new();
    // Enough endpoints that they are asked for in several portions.
    let sizes = |changed: &[u8]| [changed, &[250; 6]].concat();
    let before = services(&sizes(&[3, 3, 3, 3, 0]), 10);
    let mut backend = programmed(plane, &hosts, &before);
    for (what, after, most) in [
        ("a set shrinks", services(&sizes(&[1, 3, 3, 3, 0]), 10), 8),
        ("a set grows", services(&sizes(&[3, 3, 30, 3, 0]), 10), 8),
        ("a set begins", services(&sizes(&[3, 3, 3, 3, 2]), 10), 8),
        ("a set ends", services(&sizes(&[3, 0, 3, 3, 0]), 10), 8),
        ("Services are gone", services(&[3], 10), 8),
        ("every endpoint is another", services(&sizes(&[3, 3, 3, 3, 0]), 11), 20),
    ] {
        let plan = plan_of(&after);
        assert_ne!(backend.verify(&whole(&plan)).unwrap(), [""; 0], "{what}");
        let mut next = hosts.node.run(|| plane.open());
        let operations = next.restore(&whole(&plan)).unwrap();
        let most = if plane == Plane::Nftables { most } else { usize::MAX };
        assert!(operations > 0 && operations <= most, "{what}: {operations} operations");
        assert_eq!(next.verify(&whole(&plan)).unwrap(), [""; 0], "{what}");
        assert_eq!(next.restore(&whole(&plan)).unwrap(), 0, "{what}");
        backend.restore(&whole(&plan_of(&before))).unwrap();
    }
}

#[test]
fn endpoints_that_no_entry_tells_of_are_found() {
    let hosts = Hosts::new();
    let world = services(&[2, 250, 250, 250], 10);
    let mut backend = programmed(Plane::Nftables, &hosts, &world);
    let plan = plan_of(&world);
    let listing = hosts.nft(&["list", "map", "ip", "portolan", "endpoints"]);
    let element = listing
        .split_once("elements = {")
        .and_then(|(_, elements)| elements.split(&[',', '}'][..]).next())
        .expect("there are endpoints")
        .trim()
        .to_owned();
    let (key, _) = element.split_once(" : ").unwrap();
    let stray = "0x1 . 0x2 . 0x3 : 10.9.9.9 . 99";
    let is_counted = hosts.node.run(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let table = Table { family: Family::Ipv4, name: "portolan".into() };
        let sets = nftables::sets(&mut socket, &table).unwrap();
        sets.iter().all(|set| set.elements.is_some())
    });
    let too_many = "one is too many";
    for (what, commands) in [
        ("one is missing", vec![format!("delete element ip portolan endpoints {{ {key} }}")]),
        (too_many, vec![format!("add element ip portolan endpoints {{ {stray} }}")]),
        (
            "one is another",
            vec![
                format!("delete element ip portolan endpoints {{ {key} }}"),
                format!("add element ip portolan endpoints {{ {key} : 10.9.9.9 . 99 }}"),
            ],
        ),
        (
            "one is in the place of another",
            vec![
                format!("delete element ip portolan endpoints {{ {key} }}"),
                format!("add element ip portolan endpoints {{ {stray} }}"),
            ],
        ),
    ] {
        // No entry leads there, so no packet comes there either.
        if what == too_many && !is_counted {
            say!("{what}: not run: this kernel does not tell how many elements there are");
            continue;
        }
        for command in commands {
            hosts.nft(&command.split(' ').collect::<Vec<_>>());
        }
        let found = backend.verify(&whole(&plan)).unwrap().join("\n");
        assert!(found.contains("in endpoints"), "{what}: {found}");
        backend.restore(&whole(&plan)).unwrap();
        assert_eq!(backend.verify(&whole(&plan)).unwrap(), [""; 0], "{what}");
    }
}
