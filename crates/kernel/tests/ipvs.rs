//! IPVS of a real kernel, in network namespaces of the tests' own: needs root.
//!
//! A kernel without IPVS runs none of it, and says so.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use kernel::ipvs::{
    self, Destination, Hashing, Ipvs, Operation, Refusal, Scheduler, Transport, VirtualServer,
    VirtualServerKey, VirtualServerState,
};
use kernel::netns::Netns;
use kernel::nftables::Family;
use kernel::route::Rtnetlink;
use nix::libc;

/// Runs a test in a namespace of its own, if the kernel has IPVS.
fn with_ipvs(test: impl FnOnce(Ipvs) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("this test needs root: it makes a network namespace");
            // In a namespace without any address, no IPv4 address is one of a host.
            Rtnetlink::open().unwrap().set_up("lo").unwrap();
            match Ipvs::open().unwrap() {
                Some(ipvs) => test(ipvs),
                None => eprintln!("not run here: this kernel has no IPVS"),
            }
        });
        thread.join().unwrap();
    });
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn by_address(transport: Transport, text: &str) -> VirtualServerKey {
    VirtualServerKey::Address { transport, address: address(text) }
}

fn by_mark(family: Family, mark: u32) -> VirtualServerKey {
    VirtualServerKey::Mark { family, mark: NonZeroU32::new(mark).unwrap() }
}

/// A server of each kind of key, with destinations of its family.
fn one_of_each() -> Vec<(VirtualServerKey, Vec<Destination>)> {
    let destinations = |texts: [&str; 2]| {
        let weighted = texts.into_iter().zip(1..);
        weighted.map(|(text, weight)| Destination { address: address(text), weight }).collect()
    };
    let v4 = || destinations(["10.244.1.2:8080", "10.244.1.3:8080"]);
    let v6 = || destinations(["[fd00:1::2]:8080", "[fd00:1::3]:0"]);
    vec![
        (by_address(Transport::Tcp, "10.96.0.1:443"), v4()),
        (by_address(Transport::Udp, "10.96.0.1:443"), v4()),
        (by_address(Transport::Sctp, "10.96.0.1:443"), v4()),
        (by_address(Transport::Tcp, "[fd00::1]:443"), v6()),
        (by_address(Transport::Udp, "[fd00::1]:443"), v6()),
        (by_address(Transport::Sctp, "[fd00::1]:443"), v6()),
        (by_mark(Family::Ipv4, 0x4000), v4()),
        (by_mark(Family::Ipv6, 0x4000), v6()),
    ]
}

#[track_caller]
fn accepted(ipvs: &mut Ipvs, operations: &[Operation]) {
    let refusals = ipvs.apply(operations).unwrap();
    assert!(refusals.is_empty(), "{refusals:?}");
}

/// Index, errno and text of each refusal.
fn refused(refusals: &[Refusal]) -> Vec<(usize, i32, String)> {
    let each = refusals.iter();
    each.map(|r| (r.operation, r.error.errno().unwrap(), r.to_string())).collect()
}

/// Servers that are as this program makes them.
fn servers(ipvs: &mut Ipvs) -> BTreeSet<VirtualServer> {
    let plain = ipvs.servers().unwrap().into_iter().map(|state| match state {
        VirtualServerState::Plain(server) => server,
        VirtualServerState::Foreign(key) => panic!("{key} is not as it was made"),
    });
    plain.collect()
}

fn destinations(ipvs: &mut Ipvs, key: &VirtualServerKey) -> BTreeSet<Destination> {
    let states = ipvs.destinations(key).unwrap().into_iter();
    let plain = states.inspect(|state| assert!(state.is_plain, "{state:?}"));
    plain.map(|state| state.destination).collect()
}

#[test]
fn the_kernel_says_which_it_is() {
    with_ipvs(|mut ipvs| {
        let version = ipvs.version().unwrap();
        assert!(version.major >= 1, "{version}");
        assert_eq!(ipvs::available().unwrap(), Some(version));
    });
}

#[test]
fn what_is_added_is_listed_and_goes_with_its_server() {
    with_ipvs(|mut ipvs| {
        let all = one_of_each();
        let mut operations = Vec::new();
        let mut wanted = BTreeSet::new();
        for (key, destinations) in &all {
            let server = VirtualServer::new(*key, Scheduler::RoundRobin);
            wanted.insert(server);
            operations.push(Operation::AddServer(server));
            operations.extend(destinations.iter().map(|d| Operation::AddDestination(*key, *d)));
        }
        accepted(&mut ipvs, &operations);
        assert_eq!(servers(&mut ipvs), wanted);
        for (key, wanted) in &all {
            let wanted: BTreeSet<_> = wanted.iter().copied().collect();
            assert_eq!(destinations(&mut ipvs, key), wanted, "{key}");
        }

        for (key, at) in &all {
            let changed = Destination { weight: 0, ..at[0] };
            let moved = Operation::DeleteDestination(*key, at[1].address);
            accepted(&mut ipvs, &[Operation::ChangeDestination(*key, changed), moved]);
            assert_eq!(destinations(&mut ipvs, key), [changed].into(), "{key}");
        }
        let delete: Vec<_> = all.iter().map(|(key, _)| Operation::DeleteServer(*key)).collect();
        accepted(&mut ipvs, &delete);
        assert_eq!(servers(&mut ipvs), BTreeSet::new());
        for (key, _) in &all {
            assert_eq!(destinations(&mut ipvs, key), BTreeSet::new(), "{key}");
        }
    });
}

#[test]
fn servers_are_made_and_changed_in_every_respect() {
    with_ipvs(|mut ipvs| {
        for (key, _) in one_of_each() {
            let first = VirtualServer::new(key, Scheduler::RoundRobin);
            accepted(&mut ipvs, &[Operation::AddServer(first)]);
            for scheduler in Scheduler::ALL {
                let plain = VirtualServer::new(key, scheduler);
                let persistence = Some(Duration::from_secs(10800));
                let hashing = Hashing { with_port: true, with_fallback: true };
                for server in [
                    plain,
                    VirtualServer { persistence, ..plain },
                    VirtualServer { hashing, ..plain },
                    plain,
                ] {
                    accepted(&mut ipvs, &[Operation::ChangeServer(server)]);
                    assert_eq!(servers(&mut ipvs), [server].into());
                    let again = [Operation::DeleteServer(key), Operation::AddServer(server)];
                    accepted(&mut ipvs, &again);
                    assert_eq!(servers(&mut ipvs), [server].into());
                }
            }
            accepted(&mut ipvs, &[Operation::DeleteServer(key)]);
        }
    });
}

#[test]
fn refusals_name_their_operation_and_stop_no_other() {
    with_ipvs(|mut ipvs| {
        let key = by_address(Transport::Tcp, "10.96.0.1:80");
        let unknown = by_address(Transport::Tcp, "10.96.0.2:80");
        let server = VirtualServer::new(key, Scheduler::RoundRobin);
        let destination = Destination { address: address("10.244.1.2:8080"), weight: 1 };
        let other = address("10.244.1.3:8080");
        let operations = [
            Operation::AddServer(server),
            Operation::AddServer(server),
            Operation::AddDestination(key, destination),
            Operation::AddDestination(key, destination),
            Operation::ChangeServer(VirtualServer { key: unknown, ..server }),
            Operation::DeleteServer(unknown),
            Operation::AddDestination(unknown, destination),
            Operation::ChangeDestination(key, Destination { address: other, weight: 1 }),
            Operation::DeleteDestination(key, other),
            Operation::ChangeDestination(key, Destination { weight: u32::MAX, ..destination }),
            Operation::ChangeDestination(key, Destination { weight: 5, ..destination }),
        ];
        let refusals = refused(&ipvs.apply(&operations).unwrap());
        let expected = [
            (1, libc::EEXIST),
            (3, libc::EEXIST),
            (4, libc::ESRCH),
            (5, libc::ESRCH),
            (6, libc::ESRCH),
            (7, libc::ENOENT),
            (8, libc::ENOENT),
            (9, libc::ERANGE),
        ];
        let got: Vec<_> = refusals.iter().map(|(index, errno, _)| (*index, *errno)).collect();
        assert_eq!(got, expected);
        for (index, _, text) in refusals {
            assert!(text.starts_with(&operations[index].to_string()), "{text}");
        }
        assert_eq!(
            destinations(&mut ipvs, &key),
            [Destination { weight: 5, ..destination }].into()
        );

        // A refusal of the last one is a confirmation too.
        let refusals = refused(&ipvs.apply(&operations[..2]).unwrap());
        assert_eq!(refusals.iter().map(|r| r.0).collect::<Vec<_>>(), [0, 1]);
        assert!(ipvs.apply(&[]).unwrap().is_empty());
    });
}

#[test]
fn each_namespace_has_its_own_servers() {
    with_ipvs(|mut ipvs| {
        let key = by_address(Transport::Tcp, "10.96.0.1:80");
        let add = [Operation::AddServer(VirtualServer::new(key, Scheduler::RoundRobin))];
        accepted(&mut ipvs, &add);
        let path = std::env::temp_dir().join(format!("kernel-ipvs-{}", std::process::id()));
        let other = Netns::create(&path).unwrap();
        let mut there = Ipvs::open_in(&other).unwrap().expect("it is here too");
        assert_eq!(servers(&mut there), BTreeSet::new());
        accepted(&mut there, &add);
        accepted(&mut ipvs, &[Operation::DeleteServer(key)]);
        assert_eq!(servers(&mut there).len(), 1);
        Netns::delete(&path).unwrap();
    });
}

/// Many servers, more than one datagram takes, with a refusal in the middle of each thousand. Prints
/// what it took; `IPVS_SERVERS` says how many servers (200 if not given), each of 10 destinations.
#[test]
fn many_at_once() {
    const DESTINATIONS: u16 = 10;
    let count: u32 = std::env::var("IPVS_SERVERS").map_or(200, |text| text.parse().unwrap());
    with_ipvs(|mut ipvs| {
        let key = |i: u32| {
            let address = SocketAddr::from(((0x0a60_0000 + i).to_be_bytes(), 80));
            VirtualServerKey::Address { transport: Transport::Tcp, address }
        };
        let destination = |i: u32, j: u16| {
            let address = SocketAddr::from(((0x0af4_0000 + i).to_be_bytes(), 8000 + j));
            Destination { address, weight: 1 }
        };
        let mut operations = Vec::new();
        let mut doubled = Vec::new();
        for i in 0..count {
            let server = VirtualServer::new(key(i), Scheduler::RoundRobin);
            operations.push(Operation::AddServer(server));
            let each = (0..DESTINATIONS).map(|j| destination(i, j));
            operations.extend(each.map(|d| Operation::AddDestination(key(i), d)));
            if i % 1000 == 100 {
                doubled.push(operations.len());
                operations.push(Operation::AddServer(server));
            }
        }
        let timed = |what: &str, started: Instant| eprintln!("{what}: {:?}", started.elapsed());

        let started = Instant::now();
        let refusals = ipvs.apply(&operations).unwrap();
        timed(&format!("add {count} servers of {DESTINATIONS} destinations"), started);
        let positions: Vec<_> = refusals.iter().map(|r| r.operation).collect();
        assert!(
            positions == doubled,
            "{} refusals, the first {:?}",
            positions.len(),
            refusals.first()
        );

        let mut times: Vec<Duration> = (0..count)
            .map(|i| {
                let changed = Destination { weight: 2, ..destination(i, 3) };
                let started = Instant::now();
                accepted(&mut ipvs, &[Operation::ChangeDestination(key(i), changed)]);
                started.elapsed()
            })
            .collect();
        times.sort();
        let part = |percent: usize| times[(times.len() - 1) * percent / 100];
        eprintln!("change one destination: p50 {:?}, p99 {:?}", part(50), part(99));

        let started = Instant::now();
        let found = servers(&mut ipvs);
        timed(&format!("list {} servers", found.len()), started);
        assert_eq!(found.len(), count as usize);
        let started = Instant::now();
        let listed: usize = found.iter().map(|s| destinations(&mut ipvs, &s.key).len()).sum();
        timed(&format!("list {listed} destinations, server by server"), started);
        assert_eq!(listed, count as usize * usize::from(DESTINATIONS));

        let started = Instant::now();
        let delete: Vec<_> = found.iter().map(|s| Operation::DeleteServer(s.key)).collect();
        accepted(&mut ipvs, &delete);
        timed(&format!("delete {count} servers"), started);
        assert_eq!(servers(&mut ipvs), BTreeSet::new());
    });
}
