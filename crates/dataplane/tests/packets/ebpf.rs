//! What eBPF does with sockets and no other data plane does.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::ebpf::Ebpf;
use dataplane::mode::{Options, Wish};
use dataplane::{Backend, Mode};
use kernel::cgroup::Cgroup;
use model::{Event, Object, World};
use plan::NodePortAddresses;
use serde_json::json;

use crate::hosts::{Addresses, Host, Hosts, NODE, POD_A, POD_B, V4, V6, VIP};
use crate::links::running;
use crate::planes::Plane;
use crate::{cluster, cluster_with, plan_of, programmed, update, whole, within};

/// Makes a test of each function, where eBPF is tested.
macro_rules! on_ebpf {
    ($($name:ident),* $(,)?) => {
        mod tests {
            $(
                #[test]
                fn $name() {
                    crate::planes::Plane::Ebpf.test_of_its_own(stringify!($name), super::$name);
                }
            )*
        }
    };
}

on_ebpf!(
    a_socket_shows_whom_it_has_asked_for,
    an_answer_shows_whom_was_asked,
    datagrams_of_a_socket_go_on_to_their_endpoint,
    a_connected_datagram_socket_is_led_on,
    connections_to_what_has_left_a_service_are_ended_on_request,
    a_service_without_endpoints_refuses_at_once,
    connecting_for_ones_own_address_is_not_refused,
    an_ipv6_socket_reaches_ipv4,
    node_ports_are_served_on_the_nodes_loopback,
    a_pod_keeps_its_own_loopback,
    packets_carry_the_pods_address,
    tables_grow_while_connections_begin,
    another_version_takes_over,
    auto_takes_it_where_it_can_be_had,
    clients_from_outside_get_what_another_node_would_give_them,
    packets_pass_the_stack_where_a_link_has_a_filter,
);

const LIMIT: Duration = Duration::from_secs(2);

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// A socket that is not connected.
fn datagram_socket(host: &Host, net: &Addresses) -> UdpSocket {
    let any: IpAddr = match net.vip.contains(':') {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = host.run(|| UdpSocket::bind((any, 0)).unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Who answers, and as whom he is shown.
fn ask(socket: &UdpSocket, to: SocketAddr) -> (String, SocketAddr) {
    socket.send_to(b"?", to).unwrap();
    let mut buffer = [0; 200];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    (text.split(' ').next().unwrap().to_owned(), from)
}

fn a_socket_shows_whom_it_has_asked_for() {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let _backend = programmed(Plane::Ebpf, &hosts, &cluster_with(net, json!({}), &[net.pod_a]));
        for host in [&hosts.pod_c, &hosts.node] {
            for (address, port) in [(net.vip, 80), (net.node, 30080)] {
                let to = at(address, port);
                let stream = host.run(|| TcpStream::connect_timeout(&to, LIMIT).unwrap());
                assert_eq!(stream.peer_addr().unwrap(), to);
                let socket = datagram_socket(host, net);
                socket.connect(to).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), to);
            }
            // One that was connected elsewhere since.
            let socket = datagram_socket(host, net);
            socket.connect(at(net.vip, 80)).unwrap();
            socket.connect(at(net.pod_a, 8080)).unwrap();
            assert_eq!(ask_connected(&socket), net.pod_a);
        }
    }
}

fn ask_connected(socket: &UdpSocket) -> String {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send(b"?").unwrap();
    let mut buffer = [0; 200];
    let length = socket.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.split(' ').next().unwrap().to_owned()
}

fn an_answer_shows_whom_was_asked() {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let _backend = programmed(Plane::Ebpf, &hosts, &cluster_with(net, json!({}), &[net.pod_b]));
        for host in [&hosts.pod_c, &hosts.node] {
            let socket = datagram_socket(host, net);
            for (address, port) in [(net.vip, 80), (net.node, 30080), (net.pod_b, 8080)] {
                let to = at(address, port);
                assert_eq!(ask(&socket, to), (net.pod_b.to_owned(), to));
            }
        }
    }
}

fn datagrams_of_a_socket_go_on_to_their_endpoint() {
    let hosts = Hosts::new();
    let both = cluster(json!({}), &[POD_A, POD_B]);
    let mut backend = programmed(Plane::Ebpf, &hosts, &both);
    let sockets: Vec<UdpSocket> = (0..12).map(|_| datagram_socket(&hosts.pod_c, &V4)).collect();
    let to = at(VIP, 80);
    let first: Vec<String> = sockets.iter().map(|socket| ask(socket, to).0).collect();
    assert!(first.iter().any(|server| server != &first[0]), "sockets are spread: {first:?}");
    for (socket, server) in sockets.iter().zip(&first) {
        for _ in 0..5 {
            assert_eq!(&ask(socket, to).0, server);
        }
    }
    // What serves on is gone on with, and what does not is not.
    update(&mut *backend, &both, &cluster(json!({}), &[POD_A]));
    for socket in &sockets {
        assert_eq!(ask(socket, to).0, POD_A);
    }
}

fn a_connected_datagram_socket_is_led_on() {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let of = |endpoints: &[&str]| cluster_with(net, json!({}), endpoints);
        let (old, new) = (of(&[net.pod_a]), of(&[net.pod_b]));
        let mut backend = programmed(Plane::Ebpf, &hosts, &old);
        let socket = datagram_socket(&hosts.pod_c, net);
        socket.connect(at(net.vip, 80)).unwrap();
        // What talks to the pod itself is not moved.
        let other = datagram_socket(&hosts.pod_c, net);
        other.connect(at(net.pod_a, 8080)).unwrap();
        assert_eq!(ask_connected(&socket), net.pod_a);
        let own = socket.local_addr().unwrap();

        update(&mut *backend, &old, &new);
        backend.forget_stale(&plan_of(&new).groups().cloned().collect::<Vec<_>>()).unwrap();
        assert_eq!(ask_connected(&socket), net.pod_b);
        assert_eq!(socket.local_addr().unwrap(), own, "it is the same socket");
        assert_eq!(ask_connected(&other), net.pod_a);
    }
}

/// How a connection is that nobody says anything on.
fn state_of(stream: &TcpStream) -> Option<ErrorKind> {
    stream.set_read_timeout(Some(LIMIT / 10)).unwrap();
    let error = stream.peek(&mut [0; 1]).map_or_else(|error| error, |_| unreachable!());
    (error.kind() != ErrorKind::WouldBlock).then_some(error.kind())
}

fn connections_to_what_has_left_a_service_are_ended_on_request() {
    let hosts = Hosts::new();
    for (net, ends) in [(&V4, true), (&V6, true), (&V4, false)] {
        let of = |endpoints: &[&str]| cluster_with(net, json!({}), endpoints);
        let open = || {
            let backend = Ebpf::open(Cgroup::current().unwrap()).unwrap();
            backend.ending_connections(ends)
        };
        let mut backend = hosts.node.run(open);
        let forget = |backend: &mut Ebpf, world: &World| {
            let groups: Vec<_> = plan_of(world).groups().cloned().collect();
            backend.forget_stale(&groups).unwrap()
        };
        let both = of(&[net.pod_a, net.pod_b]);
        hosts.node.run(|| backend.restore(&whole(&plan_of(&of(&[net.pod_a])))).unwrap());
        let connect = |host: &Host, to: SocketAddr| {
            host.run(|| TcpStream::connect_timeout(&to, LIMIT).unwrap())
        };
        let (vip, node_port) = (at(net.vip, 80), at(net.node, 30080));
        let by_pod = connect(&hosts.pod_c, vip);
        let by_node = connect(&hosts.node, node_port);
        // What was never told anything is with the pod itself.
        let direct = connect(&hosts.pod_c, at(net.pod_a, 8080));
        assert_eq!(by_pod.peer_addr().unwrap(), vip);

        // That there is one more, or that it gets no new connections, is no reason.
        let waiting = unready(of(&[net.pod_a, net.pod_b]), net.pod_a);
        update(&mut backend, &of(&[net.pod_a]), &both);
        update(&mut backend, &both, &waiting);
        forget(&mut backend, &waiting);
        let on = connect(&hosts.pod_c, vip);
        for stream in [&by_pod, &by_node, &direct, &on] {
            assert_eq!(state_of(stream), None);
        }
        let rest = of(&[net.pod_b]);
        update(&mut backend, &waiting, &rest);
        assert_eq!(forget(&mut backend, &rest), if ends { 2 } else { 0 });
        let expected = ends.then_some(ErrorKind::ConnectionAborted);
        assert_eq!(state_of(&by_pod), expected);
        assert_eq!(state_of(&by_node), expected);
        assert_eq!(state_of(&direct), None);
        assert_eq!(state_of(&on), None);

        // What leaves while nobody looks is looked for by the next one.
        drop(backend);
        let mut next = hosts.node.run(open);
        hosts.node.run(|| next.restore(&whole(&plan_of(&of(&[net.pod_a])))).unwrap());
        forget(&mut next, &of(&[net.pod_a]));
        assert_eq!(state_of(&on), expected);
        // A Service that is removed leaves its connections alone.
        let last = connect(&hosts.pod_c, vip);
        let nothing = World::new();
        update(&mut next, &of(&[net.pod_a]), &nothing);
        forget(&mut next, &nothing);
        assert_eq!(state_of(&last), None);
        hosts.node.run(|| next.cleanup().unwrap());
    }
}

/// A cluster in which one endpoint is not ready.
fn unready(mut world: World, address: &str) -> World {
    let address: IpAddr = address.parse().unwrap();
    let services = world.services().map(|(name, _)| name);
    let mut slices: Vec<_> = services.flat_map(|name| world.slices(name)).cloned().collect();
    for slice in &mut slices {
        for endpoint in slice.endpoints.iter_mut().filter(|e| e.address == address) {
            endpoint.conditions.ready = false;
        }
    }
    for slice in slices {
        world.apply(Event::Put(Object::EndpointSlice(slice)));
    }
    world
}

fn a_service_without_endpoints_refuses_at_once() {
    let hosts = Hosts::new();
    let _backend = programmed(Plane::Ebpf, &hosts, &cluster(json!({}), &[]));
    for host in [&hosts.pod_c, &hosts.node] {
        // 81 is no port of the Service.
        for (address, port) in [(VIP, 80), (NODE, 30080), (VIP, 81)] {
            let to = at(address, port);
            let start = Instant::now();
            let refused = host.run(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
            let refused = datagram_socket(host, &V4).send_to(b"?", to).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
            assert!(start.elapsed() < LIMIT / 4, "{to}");
        }
    }
}

fn connecting_for_ones_own_address_is_not_refused() {
    let hosts = Hosts::new();
    let _backend = programmed(Plane::Ebpf, &hosts, &cluster(json!({}), &[]));
    // As getaddrinfo(3) does to order addresses, and ping(8).
    for port in [0, 80, 1025] {
        let socket = datagram_socket(&hosts.pod_c, &V4);
        socket.connect(at(VIP, port)).unwrap();
        assert_eq!(socket.local_addr().unwrap().ip().to_string(), V4.pod_c);
    }
}

fn an_ipv6_socket_reaches_ipv4() {
    let hosts = Hosts::new();
    let _backend = programmed(Plane::Ebpf, &hosts, &cluster(json!({}), &[POD_B]));
    let mapped = |address: &str, port| {
        let address: Ipv4Addr = address.parse().unwrap();
        SocketAddr::new(address.to_ipv6_mapped().into(), port)
    };
    let to = mapped(VIP, 80);
    let stream = hosts.pod_c.run(|| TcpStream::connect_timeout(&to, LIMIT).unwrap());
    assert_eq!(stream.peer_addr().unwrap(), to);
    let socket = datagram_socket(&hosts.pod_c, &V6);
    assert_eq!(ask(&socket, to), (POD_B.to_owned(), to));
    socket.connect(to).unwrap();
    assert_eq!(ask_connected(&socket), POD_B);
}

fn node_ports_are_served_on_the_nodes_loopback() {
    let hosts = Hosts::new();
    let mut backend = hosts.node.run(|| Plane::Ebpf.open());
    for (net, loopback) in [(&V4, "127.0.0.1"), (&V6, "::1")] {
        let mut plan = plan_of(&cluster_with(net, json!({}), &[net.pod_b]));
        plan.node.settings.node_port_addresses = NodePortAddresses::Ranges(Vec::new());
        backend.restore(&whole(&plan)).unwrap();
        assert_eq!(hosts.node.tcp(loopback, 30080).unwrap().server, net.pod_b);
        assert_eq!(hosts.node.udp(loopback, 30080).unwrap().server, net.pod_b);
        let refused = hosts.pod_c.tcp(loopback, 30080).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "a pod has a loopback of its own");
    }
}

fn a_pod_keeps_its_own_loopback() {
    let hosts = Hosts::new();
    let mut plan = plan_of(&cluster(json!({}), &[POD_B]));
    plan.node.settings.node_port_addresses = NodePortAddresses::Ranges(Vec::new());
    let mut backend = hosts.node.run(|| Plane::Ebpf.open());
    backend.restore(&whole(&plan)).unwrap();
    let _server = hosts.pod_c.serve(at("127.0.0.1", 30080));
    assert_eq!(hosts.pod_c.tcp("127.0.0.1", 30080).unwrap().server, "127.0.0.1");
}

fn packets_carry_the_pods_address() {
    let hosts = Hosts::new();
    let _backend = programmed(Plane::Ebpf, &hosts, &cluster(json!({}), &[POD_B]));
    let stream = hosts.pod_c.run(|| TcpStream::connect_timeout(&at(VIP, 80), LIMIT).unwrap());
    let port = stream.local_addr().unwrap().port();
    let sockets = hosts.pod_c.sh("cat /proc/net/tcp");
    // Addresses are in the machine's order, ports are not.
    let peer: Ipv4Addr = POD_B.parse().unwrap();
    let peer = format!("{:08X}:{:04X}", u32::from_ne_bytes(peer.octets()), 8080);
    let is_ours = |line: &&str| line.contains(&format!(":{port:04X} {peer}"));
    assert!(sockets.lines().any(|line| is_ours(&line)), "{peer} in {sockets}");
}

/// So many Services take larger tables than what was there before.
const MANY: usize = 3_000;

/// A cluster with many Services more.
fn with_others(mut world: World) -> World {
    for number in 0..MANY {
        let name = format!("other-{number}");
        let service = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250),
                     "ports": [{"name": "p", "port": 80}]},
        });
        let slice = json!({
            "metadata": {"name": name, "namespace": "default",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [POD_A]}, {"addresses": [POD_B]}],
            "ports": [{"name": "p", "port": 8080}],
        });
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    }
    world
}

fn tables_grow_while_connections_begin() {
    let hosts = Hosts::new();
    let few = cluster(json!({}), &[POD_A, POD_B]);
    let mut backend = programmed(Plane::Ebpf, &hosts, &few);
    let (few, many) = (plan_of(&few), plan_of(&with_others(cluster(json!({}), &[POD_A, POD_B]))));
    crate::load::repeat_under_load("tables grow", &hosts, 2, || {
        for plan in [&many, &few] {
            let groups = many.groups().map(|g| (g.id.clone(), plan.group(&g.id).cloned()));
            backend.update(&dataplane::Delta { node: None, groups: groups.collect() }).unwrap();
            backend.settle().unwrap();
        }
    });
}

fn another_version_takes_over() {
    let hosts = Hosts::new();
    let world = cluster(json!({}), &[POD_A]);
    drop(programmed(Plane::Ebpf, &hosts, &world));
    let socket = datagram_socket(&hosts.pod_c, &V4);
    assert_eq!(ask(&socket, at(VIP, 80)), (POD_A.to_owned(), at(VIP, 80)));
    // Its maps are no longer taken for those of this version.
    crate::load::repeat_under_load("another version takes over", &hosts, 2, || {
        hosts.node.sh(crate::tampering::OTHER_VERSION);
        let mut backend: Box<dyn Backend> = hosts.node.run(|| Plane::Ebpf.open());
        backend.restore(&whole(&plan_of(&world))).unwrap();
    });
    let names = hosts.node.sh(&format!("ls {}", crate::tampering::PROGRAMS));
    assert!(!names.contains("-00000000") && names.contains("memory-"), "{names}");
    assert_eq!(ask(&socket, at(VIP, 80)), (POD_A.to_owned(), at(VIP, 80)), "it is remembered");
}

fn auto_takes_it_where_it_can_be_had() {
    let hosts = Hosts::new();
    let resolve = |options: &Options| hosts.node.run(|| Wish::Auto.resolve(options));
    let (mode, reason) = resolve(&Options::default());
    match kernel::bpf::PacketProgram::is_possible() {
        true => assert!(mode == Mode::Ebpf && reason.is_none(), "{mode}: {reason:?}"),
        false => {
            assert_eq!(mode, Mode::Nftables);
            assert!(reason.unwrap().to_string().contains("Linux 6.6"));
        }
    }
    // Nothing was left behind by looking.
    assert_eq!(hosts.listing(Plane::Ebpf).trim(), "");
    let elsewhere = Options { cgroup: Some("/proc".into()), ..Options::default() };
    let (mode, reason) = resolve(&elsewhere);
    assert_eq!(mode, Mode::Nftables);
    assert!(reason.is_some());
}

fn clients_from_outside_get_what_another_node_would_give_them() {
    if !kernel::bpf::PacketProgram::is_possible() {
        say!("clients_from_outside_get_...: not run here, without programs at links");
        return;
    }
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let endpoints = [net.pod_a, net.pod_b, net.pod_d];
        let world = cluster_with(net, json!({}), &endpoints);
        let mut backend = programmed(Plane::Ebpf, &hosts, &world);
        let bind = || UdpSocket::bind((net.outside.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let clients: Vec<UdpSocket> = hosts.outside.run(|| (0..60).map(|_| bind()).collect());
        let ask_all = || -> Vec<String> {
            let answers = clients.iter().map(|client| {
                client.set_read_timeout(Some(LIMIT)).unwrap();
                ask(client, at(net.node, 30080)).0
            });
            answers.collect()
        };
        let first = ask_all();
        let share = |endpoint: &str| first.iter().filter(|answer| **answer == endpoint).count();
        assert!(endpoints.iter().all(|endpoint| share(endpoint) > 5), "{first:?}");
        // A node that knows nothing of them, and has heard of the endpoints in another order.
        hosts.node.run(|| backend.forget_connections().unwrap());
        let reversed = [net.pod_d, net.pod_b, net.pod_a];
        let other = cluster_with(net, json!({}), &reversed);
        hosts.node.run(|| backend.restore(&whole(&plan_of(&other))).unwrap());
        assert_eq!(ask_all(), first);
        // One endpoint less moves its clients and few others.
        hosts.node.run(|| backend.forget_connections().unwrap());
        let fewer = cluster_with(net, json!({}), &[net.pod_a, net.pod_b]);
        hosts.node.run(|| backend.restore(&whole(&plan_of(&fewer))).unwrap());
        let last = ask_all();
        let moved = first.iter().zip(&last).filter(|(before, after)| before != after).count();
        let of_gone = share(net.pod_d);
        assert!(moved - of_gone <= 6, "{moved} have moved, {of_gone} had to");
    }
}

/// How many packets a host's stack has sent on (`Ip: ForwDatagrams`).
fn forwarded(host: &Host) -> u64 {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut of_ip = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (of_ip.next().unwrap(), of_ip.next().unwrap());
    let at = names.split(' ').position(|name| name == "ForwDatagrams").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn packets_pass_the_stack_where_a_link_has_a_filter() {
    if !kernel::bpf::PacketProgram::is_possible() {
        say!("packets_pass_the_stack_...: not run here, without programs at links");
        return;
    }
    let hosts = Hosts::new();
    // One that takes nothing away: the kernels of tests need not have actions.
    let filter = "tc qdisc add dev pod-a clsact && \
                  tc filter add dev pod-a egress protocol ip u32 match u32 0 0 classid 1:1";
    let is_possible =
        hosts.node.run(|| Command::new("sh").args(["-c", filter]).status().unwrap().success());
    if !is_possible {
        say!("packets_pass_the_stack_...: not run here, without the filter u32");
        return;
    }
    hosts.node.sh("tc qdisc del dev pod-a clsact");
    let (sync, watching, _runtime) = running(Plane::Ebpf, &hosts);
    let passes = || {
        let before = forwarded(&hosts.node);
        hosts.outside.tcp(NODE, 30080).unwrap();
        forwarded(&hosts.node) > before
    };
    assert!(!passes());
    for (command, is_asked) in [(filter, true), ("tc qdisc del dev pod-a clsact", false)] {
        hosts.node.sh(command);
        let start = Instant::now();
        while passes() != is_asked {
            assert!(start.elapsed() < within(LIMIT * 2), "after: {command}");
        }
    }
    watching.abort();
    drop(sync);
}

/// So many Services with so many ports each.
const SERVICES: u32 = 1000;
const PORTS: u16 = 200;

fn cluster_of_many_ports() -> World {
    let mut world = World::new();
    for number in 0..SERVICES {
        let name = format!("many-{number}");
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 100, 0)) + number);
        let ports: Vec<_> = (0..PORTS)
            .map(
                |port| json!({"name": format!("p{port}"), "port": 1000 + port, "targetPort": 8080}),
            )
            .collect();
        let of_slice: Vec<_> =
            (0..PORTS).map(|port| json!({"name": format!("p{port}"), "port": 8080})).collect();
        let metadata = json!({"name": name, "namespace": "default",
                              "labels": {"kubernetes.io/service-name": name}});
        let service = json!({"metadata": metadata,
                             "spec": {"type": "ClusterIP", "clusterIP": ip, "ports": ports}});
        let slice = json!({"metadata": metadata, "addressType": "IPv4",
                           "endpoints": [{"addresses": [POD_A], "nodeName": "n1"}],
                           "ports": of_slice});
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    }
    world
}

#[test]
#[ignore = "some seconds and a gigabyte: make test-long"]
fn two_hundred_thousand_service_ports_are_served() {
    let hosts = Hosts::new();
    let world = cluster_of_many_ports();
    let plan = plan_of(&world);
    let start = Instant::now();
    let mut backend = hosts.node.run(|| Plane::Ebpf.open());
    hosts.node.run(|| backend.restore(&whole(&plan)).unwrap());
    say!("{} ports were programmed in {:?}", SERVICES * u32::from(PORTS), start.elapsed());
    for number in [0, SERVICES / 2, SERVICES - 1] {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 100, 0)) + number).to_string();
        for port in [1000, 1000 + PORTS - 1] {
            assert_eq!(hosts.pod_c.tcp(&ip, port).unwrap().server, POD_A);
            assert_eq!(hosts.outside.tcp(&ip, port).unwrap().server, POD_A);
        }
        assert!(hosts.pod_c.tcp(&ip, 1000 + PORTS).is_err());
    }
}
