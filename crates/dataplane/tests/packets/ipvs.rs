//! What only IPVS has: schedulers, endpoints that drain, virtual addresses that are this host's own, and one
//! list of virtual servers that others have theirs in too.
//!
//! Where a kernel has no IPVS these say so and are not run; `make test-vm` has kernels that have it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::ipvs::{Ipvs, Scheduler};
use dataplane::{Backend, Sync, Update};
use kernel::ipvs::{
    self, Destination, Operation, Transport, VirtualServer, VirtualServerKey, VirtualServerState,
};
use kernel::nftables::Family;
use model::{Protocol, World};
use nix::sys::socket::{self, sockopt};
use plan::plan_service;
use plan::service::group_id;
use serde_json::json;

use crate::hosts::{Host, Hosts, NODE, POD_A, POD_B, V4, V6, VIP};
use crate::planes::Plane;
use crate::traffic::{Answer, Conversation};
use crate::{cluster, cluster_with, facts, plan_of, programmed, update, whole, within};

/// Makes a test of each function, which is run where there is IPVS.
macro_rules! on_ipvs {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn ipvs() {
                crate::planes::Plane::Ipvs.test_of_its_own(stringify!($name), super::$name);
            }
        }
    )*};
}

on_ipvs!(
    every_scheduler_is_programmed_and_answers,
    hashed_clients_leave_an_endpoint_that_drains,
    an_endpoint_that_goes_drains,
    a_port_that_comes_again_is_led_to_an_endpoint_that_is_there,
    a_host_is_not_reached_by_its_virtual_addresses,
    what_others_have_stays,
    a_client_of_udp_follows,
);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the kernel keeps a connection that was reset, and then some for the loop to notice.
const DRAINED: Duration = Duration::from_secs(30);

/// A pod of another node.
const POD_D: &str = V4.pod_d;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn tcp(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address { transport: Transport::Tcp, address: at(address, port) }
}

/// A connection that stays, with who answers it.
fn held(host: &Host, to: SocketAddr) -> (Conversation, Answer) {
    let mut connection = host.open(Protocol::Tcp, to, None, LIMIT).unwrap();
    let answer = connection.ask(LIMIT).unwrap();
    (connection, answer)
}

/// Ends a connection at once, which leaves nothing of it but what IPVS keeps for ten seconds.
fn reset(connection: Conversation) {
    let Conversation::Tcp(stream) = connection else { panic!("only TCP has resets") };
    reset_stream(stream.into_inner());
}

fn reset_stream(stream: TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
}

/// The destinations of a virtual server of the node's with their weights.
fn weights(hosts: &Hosts, server: VirtualServerKey) -> BTreeMap<String, u32> {
    let destinations = || ipvs::Ipvs::open().unwrap().unwrap().destinations(&server).unwrap();
    let states = hosts.node.run(destinations).into_iter();
    states.map(|s| (s.destination.address.ip().to_string(), s.destination.weight)).collect()
}

/// Waits until it is so.
fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < within(limit), "{what}: not within {:?}", within(limit));
        thread::sleep(Duration::from_millis(50));
    }
}

/// The loop on the node, once it has programmed a cluster.
fn started(hosts: &Hosts, world: &World) -> Sync {
    let start = || Sync::start(Plane::Ipvs.open(), plan_of(world), Box::new(())).unwrap();
    let sync = hosts.node.run(start);
    eventually("it is programmed", LIMIT, || sync.status().borrow().generation > 0);
    sync
}

/// Has the loop program another cluster with the same Services.
fn replace(sync: &Sync, world: &World) {
    // One by one: the first may be programmed before the second is told.
    for (name, _) in world.services() {
        let before = sync.status().borrow().generation;
        sync.update(Update::Group(group_id(name), plan_service(world, &facts(), name)));
        eventually("the change is programmed", LIMIT, || {
            let status = sync.status().borrow().clone();
            assert_eq!(status.failure, None);
            status.generation > before && status.pending_since.is_none()
        });
    }
}

fn every_scheduler_is_programmed_and_answers() {
    let hosts = Hosts::new();
    let pods = [POD_A, POD_B, POD_D];
    let world = cluster(json!({}), &pods);
    for scheduler in Scheduler::ALL {
        let mut backend = hosts.node.run(|| Ipvs::open(scheduler).unwrap().unwrap());
        hosts.node.run(|| backend.restore(&whole(&plan_of(&world))).unwrap());
        let servers = || ipvs::Ipvs::open().unwrap().unwrap().servers().unwrap();
        let servers = hosts.node.run(servers);
        assert!(servers.len() >= 4, "{scheduler}: {servers:?}");
        for server in servers {
            let VirtualServerState::Plain(server) = server else {
                panic!("{scheduler}: {server:?}")
            };
            assert_eq!(server.scheduler, scheduler, "{server:?}");
        }
        for (host, address, port) in [(&hosts.pod_c, VIP, 80), (&hosts.outside, NODE, 30080)] {
            // They stay open, so that schedulers which count connections have some to count.
            let connections: Vec<_> = (0..12).map(|_| held(host, at(address, port))).collect();
            let answered: BTreeSet<&str> =
                connections.iter().map(|(_, answer)| answer.server.as_str()).collect();
            let is_by_client =
                matches!(scheduler, Scheduler::SourceHashing | Scheduler::MaglevHashing);
            match is_by_client {
                true => assert_eq!(answered.len(), 1, "{scheduler} keeps a client where it is"),
                false => assert_eq!(answered, pods.into(), "{scheduler} spreads connections"),
            }
            assert!(pods.contains(&&*host.udp(address, port).unwrap().server), "{scheduler}");
        }
    }
}

/// A scheduler that hashes finds the same endpoint for a client again, also if it takes nobody any more.
fn hashed_clients_leave_an_endpoint_that_drains() {
    let hosts = Hosts::new();
    let worlds = [
        (cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_B]), POD_A),
        (cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_A]), POD_B),
    ];
    for scheduler in [Scheduler::SourceHashing, Scheduler::MaglevHashing] {
        for (host, address, port) in [(&hosts.pod_c, VIP, 80), (&hosts.outside, NODE, 30080)] {
            let mut backend = hosts.node.run(|| Ipvs::open(scheduler).unwrap().unwrap());
            hosts.node.run(|| backend.restore(&whole(&plan_of(&worlds[0].0))).unwrap());
            let (mut connection, first) = held(host, at(address, port));
            let (both, one, _) = worlds.iter().find(|(_, _, goes)| first.server == *goes).unwrap();
            update(&mut backend, both, one);
            for _ in 0..10 {
                let answer = host.tcp(address, port);
                let answer = answer.unwrap_or_else(|error| panic!("{scheduler}: {error}"));
                assert_ne!(answer.server, first.server, "{scheduler}");
            }
            assert_eq!(connection.ask(LIMIT).unwrap(), first, "{scheduler}: it goes on");
        }
    }
}

fn an_endpoint_that_goes_drains() {
    let hosts = Hosts::new();
    let (both, one) = (cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_B]));
    let sync = started(&hosts, &both);
    let server = tcp(VIP, 80);
    let answers = |count| -> BTreeSet<String> {
        let connections: Vec<_> = (0..count).map(|_| held(&hosts.pod_c, at(VIP, 80))).collect();
        let answered = connections.iter().map(|(_, answer)| answer.server.clone()).collect();
        // What ends in order IPVS remembers for two minutes.
        connections.into_iter().for_each(|(connection, _)| reset(connection));
        answered
    };
    let (first, second) = (held(&hosts.pod_c, at(VIP, 80)), held(&hosts.pod_c, at(VIP, 80)));
    let (to_a, to_b) = if first.1.server == POD_A { (first, second) } else { (second, first) };
    reset(to_b.0);
    let mut connection = to_a.0;
    replace(&sync, &one);
    let is_draining = BTreeMap::from([(POD_A.to_owned(), 0), (POD_B.to_owned(), 1)]);
    let is_gone = BTreeMap::from([(POD_B.to_owned(), 1)]);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert_eq!(weights(&hosts, server), is_draining);
        assert_eq!(connection.ask(LIMIT).unwrap().server, POD_A, "an established one goes on");
        assert_eq!(answers(4), BTreeSet::from([POD_B.to_owned()]), "new ones go elsewhere");
        thread::sleep(Duration::from_millis(200));
    }
    // An endpoint that comes back before it has drained takes connections again.
    replace(&sync, &both);
    assert_eq!(answers(10), BTreeSet::from([POD_A.to_owned(), POD_B.to_owned()]));
    replace(&sync, &one);
    assert_eq!(weights(&hosts, server), is_draining);
    assert_eq!(connection.ask(LIMIT).unwrap().server, POD_A);
    reset(connection);
    let start = Instant::now();
    eventually("it is taken away", DRAINED, || weights(&hosts, server) == is_gone);
    say!(
        "an endpoint was taken away {:.1} s after its last connection",
        start.elapsed().as_secs_f64()
    );
}

/// A connection from a given port of the client, again and again.
fn connect_from(host: &Host, port: u16, to: SocketAddr) -> io::Result<(TcpStream, Answer)> {
    host.run(|| {
        let socket = socket::socket(
            socket::AddressFamily::Inet,
            socket::SockType::Stream,
            socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let stream = TcpStream::from(socket);
        socket::setsockopt(&stream, sockopt::ReuseAddr, &true)?;
        stream.set_write_timeout(Some(LIMIT))?;
        use std::os::fd::AsRawFd;
        let own = socket::SockaddrStorage::from(at("0.0.0.0", port));
        socket::bind(stream.as_raw_fd(), &own)?;
        socket::connect(stream.as_raw_fd(), &socket::SockaddrStorage::from(to))?;
        let mut conversation = Conversation::Tcp(io::BufReader::new(stream.try_clone()?));
        let answer = conversation.ask(LIMIT)?;
        Ok((stream, answer))
    })
}

fn a_port_that_comes_again_is_led_to_an_endpoint_that_is_there() {
    let hosts = Hosts::new();
    // A client may then use a port again a second after it has closed a connection.
    for host in [&hosts.pod_c, &hosts.outside] {
        host.run(|| kernel::sysctl::write("net/ipv4/tcp_tw_reuse", "1").unwrap());
    }
    let (blue, green) = (cluster(json!({}), &[POD_A]), cluster(json!({}), &[POD_B, POD_D]));
    let mut backend = programmed(Plane::Ipvs, &hosts, &blue);
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    // One that is reset leaves nothing behind at the client, one that is closed does.
    for (is_reset, rounds) in [(true, 20), (false, 4)] {
        for round in 0..rounds {
            let (old, new, there) = match round % 2 {
                0 => (&blue, &green, &[POD_B, POD_D][..]),
                _ => (&green, &blue, &[POD_A][..]),
            };
            update(&mut *backend, old, new);
            for (host, address, port) in [(&hosts.pod_c, VIP, 80), (&hosts.outside, NODE, 30080)] {
                for _ in 0..if is_reset { 3 } else { 1 } {
                    let waited = Instant::now();
                    let (start, result) = loop {
                        let start = Instant::now();
                        match connect_from(host, 40_000, at(address, port)) {
                            // A command that another test starts holds what was open here for a moment.
                            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                                assert!(waited.elapsed() < LIMIT, "the port is taken");
                                thread::sleep(Duration::from_millis(10));
                            }
                            result => break (start, result),
                        }
                    };
                    let (stream, answer) = result.unwrap_or_else(|error| {
                        panic!("round {round}, reset: {is_reset}, {address}: {error}")
                    });
                    slowest = slowest.max(start.elapsed());
                    count += 1;
                    assert!(there.contains(&&*answer.server), "{} of {there:?}", answer.server);
                    if is_reset {
                        reset_stream(stream);
                    }
                }
            }
            if !is_reset {
                thread::sleep(Duration::from_millis(2_100));
            }
        }
    }
    say!("{count} connections from one port, the slowest took {slowest:?}");
    // A first packet that is dropped comes again after a second.
    assert!(slowest < within(Duration::from_millis(300)).max(Duration::from_millis(900)));
}

fn a_host_is_not_reached_by_its_virtual_addresses() {
    const PORT: u16 = 9090;
    let hosts = Hosts::new();
    // As programs mostly do: on any address of the host, in both families.
    let _server = hosts.node.serve(at("::", PORT));
    for net in [&V4, &V6] {
        let _backend = programmed(Plane::Ipvs, &hosts, &cluster_with(net, json!({}), &[net.pod_a]));
        for (who, host) in
            [("a pod", &hosts.pod_c), ("outside", &hosts.outside), ("the node", &hosts.node)]
        {
            assert_eq!(host.tcp(net.vip, 80).unwrap().server, net.pod_a);
            host.tcp(net.node, PORT).unwrap_or_else(|error| panic!("{who}: {error}"));
            for refused in [host.tcp(net.vip, PORT), host.udp(net.vip, PORT)] {
                let kind = refused.as_ref().map_err(io::Error::kind);
                assert_eq!(kind, Err(io::ErrorKind::ConnectionRefused), "{who}, {}", net.vip);
            }
            let ping = |address| {
                let command =
                    format!("if ping -c 1 -W 1 {address} >/dev/null 2>&1; then echo pong; fi");
                host.sh(&command).trim() == "pong"
            };
            assert!(ping(net.node), "{who} does not reach {}", net.node);
            assert!(!ping(net.vip), "{who} has an answer of {}", net.vip);
        }
    }
}

/// All virtual servers and destinations, links with their addresses, and routes, a line each.
fn everything(hosts: &Hosts) -> BTreeSet<String> {
    let servers = || {
        let mut ipvs = ipvs::Ipvs::open().unwrap().unwrap();
        let mut lines = Vec::new();
        for server in ipvs.servers().unwrap() {
            lines.push(format!("{server:?}"));
            let states = ipvs.destinations(&server.key()).unwrap();
            lines.extend(states.iter().map(|s| format!("{} {:?}", server.key(), s.destination)));
        }
        lines
    };
    let script = "ip -o link | sed 's/^[0-9]*: //'; ip -o address | sed 's/^[0-9]*: //'; \
                  ip route show table all; ip -6 route show table all; nft list ruleset";
    let listed = hosts.node.sh(script);
    // Link-local addresses come of themselves, a moment after their link.
    let listed = listed.lines().filter(|line| !line.contains("fe80:") && !line.contains("ff00:"));
    hosts.node.run(servers).into_iter().chain(listed.map(str::to_owned)).collect()
}

fn what_others_have_stays() {
    let hosts = Hosts::new();
    hosts.node.sh("ip link add others type dummy && ip link set others up && \
         ip address add 198.51.100.1/32 dev others && \
         ip route add local 198.51.100.7 dev others proto 155 table local && \
         ip -6 route add local 2001:db8:7::7 dev others proto 155 table local && \
         ip route add 203.0.113.0/24 dev others proto 155 && nft add table ip others");
    let mark = |mark| VirtualServerKey::Mark {
        family: Family::Ipv4,
        mark: NonZeroU32::new(mark).unwrap(),
    };
    // At an address of their own, at the host's own, at a node port's number of no address of the host,
    // and by marks.
    let theirs = [
        tcp("198.51.100.1", 443),
        tcp("198.51.100.7", 30_080),
        tcp(NODE, 80),
        tcp(V6.node, 443),
        mark(0x4000),
        mark(1),
    ];
    let add = theirs.map(|key| {
        let endpoint = match key {
            VirtualServerKey::Address { address, .. } if address.is_ipv6() => at(V6.pod_d, 8080),
            _ => at(POD_D, 8080),
        };
        let weights = |weight| Destination { address: endpoint, weight };
        let server = VirtualServer::new(key, Scheduler::WeightedRoundRobin);
        [Operation::AddServer(server), Operation::AddDestination(key, weights(0))]
    });
    let add = add.concat();
    let refused = hosts.node.run(|| ipvs::Ipvs::open().unwrap().unwrap().apply(&add).unwrap());
    assert!(refused.is_empty(), "{refused:?}");

    let before = everything(&hosts);
    let stays = |when: &str| {
        let now = everything(&hosts);
        let missing: Vec<&String> = before.difference(&now).collect();
        assert!(missing.is_empty(), "{when}: {missing:#?}");
        now
    };
    let (both, one) = (cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_B]));
    let nobody = cluster(json!({}), &[]);
    for is_retired in [false, true] {
        let mut backend = programmed(Plane::Ipvs, &hosts, &both);
        assert!(stays("programmed").len() > before.len());
        let (connection, _) = held(&hosts.pod_c, at(VIP, 80));
        for (old, new) in [(&both, &one), (&one, &nobody), (&nobody, &both)] {
            update(&mut *backend, old, new);
            stays("a change");
            hosts.node.run(|| backend.settle().unwrap());
            stays("a look at what drains");
        }
        drop(backend);
        // Another process, which is told by the kernel what is there.
        let mut backend = programmed(Plane::Ipvs, &hosts, &one);
        stays("another start");
        if is_retired {
            hosts.node.run(|| backend.retire().unwrap());
            stays("retiring");
            reset(connection);
            eventually("it has retired", DRAINED, || {
                let is_gone = hosts.node.run(|| backend.retire().unwrap());
                stays("retiring");
                is_gone
            });
        } else {
            hosts.node.run(|| backend.cleanup().unwrap());
        }
        let after = stays("cleaned up");
        let left: Vec<&String> = after.difference(&before).collect();
        assert!(left.is_empty(), "retired: {is_retired}: {left:#?}");
    }
}

fn a_client_of_udp_follows() {
    let hosts = Hosts::new();
    let (both, one) = (cluster(json!({}), &[POD_A, POD_B]), cluster(json!({}), &[POD_B]));
    let nobody = cluster(json!({}), &[]);
    let sync = started(&hosts, &both);
    for (host, address, port) in [(&hosts.pod_c, VIP, 80), (&hosts.outside, NODE, 30080)] {
        // One of them is led to the endpoint that goes.
        let open = || host.open(Protocol::Udp, at(address, port), None, LIMIT).unwrap();
        let mut clients: Vec<Conversation> = (0..8).map(|_| open()).collect();
        let mut ask = |of: &[&str]| {
            let mut lost = 0;
            let mut answered = BTreeSet::new();
            for client in &mut clients {
                // An answer that comes too late would be taken for one to the next question.
                let patience = within(Duration::from_millis(500));
                let mut answer = client.ask(patience);
                while answer.is_err() && lost < 8 {
                    lost += 1;
                    answer = client.ask(patience);
                }
                answered.insert(answer.unwrap().server);
            }
            assert_eq!(answered, of.iter().map(|ip| ip.to_string()).collect(), "{address}");
            lost
        };
        assert_eq!(ask(&[POD_A, POD_B]), 0);
        replace(&sync, &one);
        let lost = ask(&[POD_B]);
        say!("{address}: of 8 clients of UDP {lost} lost a datagram to an endpoint that is gone");
        replace(&sync, &nobody);
        for client in &mut clients {
            let heard = client.ask(within(Duration::from_millis(500)));
            assert!(heard.is_err(), "{address}: {heard:?} though nobody is there");
        }
        replace(&sync, &both);
        for client in &mut clients {
            // That nobody was there may be told late.
            let heard = client.ask(LIMIT).or_else(|_| client.ask(LIMIT));
            let heard: IpAddr = heard.unwrap().server.parse().unwrap();
            assert!([POD_A, POD_B].contains(&&*heard.to_string()));
        }
    }
}
