//! What links and the hosts behind them are like: how large packets may be, what headers they have, who filters
//! them on their way, and that some come later.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::Sync;
use model::Protocol;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};
use nix::unistd::Pid;
use serde_json::json;

use crate::hosts::{Addresses, Host, Hosts, NODE, POD_A, V4, V6, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, cluster_with, plan_of, programmed, within};

on_every_plane!(
    a_narrow_link_is_found_out,
    a_narrow_link_on_the_way_back_is_found_out,
    a_pod_is_told_that_its_client_has_gone,
    fragments_arrive,
    extension_headers_are_passed_over,
    an_error_is_brought_back_past_extension_headers,
    what_is_forwarded_can_be_filtered,
    a_link_that_comes_later_is_served,
    a_way_that_changes_is_taken,
);

const LIMIT: Duration = Duration::from_secs(5);
const NODE_PORT: u16 = 30080;
/// The least that links with IPv6 have (RFC 8200, 5).
const NARROW: u16 = 1280;

fn node_port(net: &Addresses) -> SocketAddr {
    SocketAddr::new(net.node.parse().unwrap(), NODE_PORT)
}

/// A service that answers with as much as it is asked for.
fn serve_much(host: &Host, address: SocketAddr, length: usize) -> thread::JoinHandle<()> {
    use std::io::{Read, Write};
    let listener = host.run(|| std::net::TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(&vec![7; length]).unwrap();
    })
}

/// An address of pod A where nobody listens yet; the cluster has its port 8080 as its only endpoint.
fn new_address(hosts: &Hosts, net: &Addresses) -> IpAddr {
    let (text, family) = match net.pod_a.contains(':') {
        true => ("fd00:244:1::99", "-6"),
        false => ("10.244.1.99", "-4"),
    };
    let address = text.parse().unwrap();
    hosts.pod_a.add_address(address);
    hosts.node.sh(&format!("ip {family} route add {text} via {}", net.pod_a));
    address
}

fn a_narrow_link_is_found_out(plane: Plane) {
    let hosts = Hosts::new();
    hosts.node.sh(&format!("ip link set pod-a mtu {NARROW}"));
    for net in [&V4, &V6] {
        let _backend = programmed(plane, &hosts, &cluster_with(net, json!({}), &[net.pod_a]));
        let mut client = hosts.outside.open(Protocol::Tcp, node_port(net), None, LIMIT).unwrap();
        let length = 1 << 20;
        assert_eq!(client.send(&vec![7; length], LIMIT).unwrap(), length, "{}", net.node);
    }
}

fn a_narrow_link_on_the_way_back_is_found_out(plane: Plane) {
    use std::io::{Read, Write};
    let hosts = Hosts::new();
    hosts.node.sh(&format!("ip link set outside mtu {NARROW}"));
    for net in [&V4, &V6] {
        // Under Cluster policy the pod sees the node, under Local the client: the way back differs.
        for policy in ["Cluster", "Local"] {
            let address = new_address(&hosts, net);
            let spec = json!({"externalTrafficPolicy": policy});
            let _backend =
                programmed(plane, &hosts, &cluster_with(net, spec, &[&address.to_string()]));
            let length = 1 << 20;
            let serving = serve_much(&hosts.pod_a, SocketAddr::new(address, 8080), length);
            let connect = || std::net::TcpStream::connect_timeout(&node_port(net), LIMIT);
            let mut client = hosts.outside.run(connect).unwrap();
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.write_all(b"?").unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), length, "{policy} {}", net.node);
            serving.join().unwrap();
            hosts.node.sh(&format!("ip route del {address} via {}", net.pod_a));
            hosts.pod_a.remove_address(address);
        }
    }
}

fn a_pod_is_told_that_its_client_has_gone(plane: Plane) {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        for policy in ["Cluster", "Local"] {
            let address = new_address(&hosts, net);
            let spec = json!({"externalTrafficPolicy": policy});
            let _backend =
                programmed(plane, &hosts, &cluster_with(net, spec, &[&address.to_string()]));
            let server = hosts.pod_a.run(|| UdpSocket::bind((address, 8080)).unwrap());
            server.set_read_timeout(Some(LIMIT)).unwrap();
            let any = SocketAddr::new(net.outside.parse().unwrap(), 0);
            let client = hosts.outside.run(|| UdpSocket::bind(any).unwrap());
            client.send_to(b"?", node_port(net)).unwrap();
            let (_, seen) = server.recv_from(&mut [0; 10]).unwrap();
            drop(client);
            server.connect(seen).unwrap();
            server.send(b"!").unwrap();
            // With a limit in time it may end without having been told anything (signal(7)).
            let mut told = std::iter::repeat_with(|| server.recv(&mut [0; 10]).unwrap_err());
            let told = told.find(|error| error.kind() != ErrorKind::Interrupted).unwrap();
            assert_eq!(told.kind(), ErrorKind::ConnectionRefused, "{policy} {}", net.node);
            hosts.node.sh(&format!("ip route del {address} via {}", net.pod_a));
            hosts.pod_a.remove_address(address);
        }
    }
}

fn fragments_arrive(plane: Plane) {
    let hosts = Hosts::new();
    for net in [&V4, &V6] {
        let _backend = programmed(plane, &hosts, &cluster_with(net, json!({}), &[net.pod_a]));
        for length in [2048, 9000, 60_000] {
            let to = node_port(net);
            let mut client = hosts.outside.open(Protocol::Udp, to, None, LIMIT).unwrap();
            assert_eq!(client.send(&vec![7; length], LIMIT).unwrap(), length, "{}", net.node);
        }
    }
}

/// A UDP datagram of IPv6 behind hop-by-hop and destination options that say nothing (RFC 8200, 4.3 and 4.6).
fn with_extensions(from: SocketAddrV6, to: SocketAddrV6, data: &[u8]) -> Vec<u8> {
    const UDP: u8 = 17;
    const OPTIONS: u8 = 60;
    let length = (8 + data.len()) as u16;
    let mut datagram = Vec::new();
    for number in [from.port(), to.port(), length, 0] {
        datagram.extend(number.to_be_bytes());
    }
    datagram.extend(data);
    let mut summed = [from.ip().octets(), to.ip().octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, UDP]);
    summed.extend(&datagram);
    summed.resize(summed.len().next_multiple_of(2), 0);
    let sum: u32 = summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![6 << 4, 0, 0, 0];
    packet.extend((16 + length).to_be_bytes());
    // Hop-by-hop options come first; then the hops that it may go.
    packet.extend([0, 64]);
    packet.extend([from.ip().octets(), to.ip().octets()].concat());
    // What follows, how long it is beyond eight bytes, and one option of padding.
    packet.extend([OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend(datagram);
    packet
}

/// Sends what a protocol of IPv6 carries, or of `Raw` the packet itself.
fn send_raw(host: &Host, protocol: SockProtocol, to: Ipv6Addr, data: &[u8]) {
    let send = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let raw = socket(AddressFamily::Inet6, SockType::Raw, flags, protocol).unwrap();
        // A port, if any, is in the data.
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
        sendto(raw.as_raw_fd(), data, &to, MsgFlags::empty()).unwrap()
    };
    assert_eq!(host.run(send), data.len());
}

fn extension_headers_are_passed_over(plane: Plane) {
    let hosts = Hosts::new();
    let _backend = programmed(plane, &hosts, &cluster_with(&V6, json!({}), &[V6.pod_a]));
    let client = hosts.outside.run(|| UdpSocket::bind((V6.outside, 0)).unwrap());
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let (SocketAddr::V6(from), SocketAddr::V6(to)) = (client.local_addr().unwrap(), node_port(&V6))
    else {
        panic!("both are of IPv6")
    };
    let packet = with_extensions(from, to, b"what?");
    send_raw(&hosts.outside, SockProtocol::Raw, *to.ip(), &packet);
    let mut answer = [0; 200];
    let count = client.recv(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with(V6.pod_a) && answer.ends_with(" 5\n"), "{answer}");
}

fn an_error_is_brought_back_past_extension_headers(plane: Plane) {
    let hosts = Hosts::new();
    for policy in ["Cluster", "Local"] {
        let address = new_address(&hosts, &V6);
        let spec = json!({"externalTrafficPolicy": policy});
        let _backend = programmed(plane, &hosts, &cluster_with(&V6, spec, &[&address.to_string()]));
        let server = hosts.pod_a.run(|| UdpSocket::bind((address, 8080)).unwrap());
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let client = hosts.outside.run(|| UdpSocket::bind((V6.outside, 0)).unwrap());
        let (SocketAddr::V6(own), SocketAddr::V6(port)) =
            (client.local_addr().unwrap(), node_port(&V6))
        else {
            panic!("both are of IPv6")
        };
        client.send_to(b"?", port).unwrap();
        let (_, seen) = server.recv_from(&mut [0; 10]).unwrap();
        server.connect(seen).unwrap();
        // Nobody has the port (RFC 4443, 3.1); the kernel sums it up.
        let mut error = vec![1, 4, 0, 0, 0, 0, 0, 0];
        error.extend(with_extensions(port, own, b"!"));
        send_raw(&hosts.outside, SockProtocol::IcmpV6, *port.ip(), &error);
        let mut told = std::iter::repeat_with(|| server.recv(&mut [0; 10]).unwrap_err());
        let told = told.find(|error| error.kind() != ErrorKind::Interrupted).unwrap();
        assert_eq!(told.kind(), ErrorKind::ConnectionRefused, "{policy}");
        hosts.node.sh(&format!("ip route del {address} via {}", V6.pod_a));
        hosts.pod_a.remove_address(address);
    }
}

/// What a firewall on the node forbids: whatever is forwarded to pod A.
const FIREWALL: &str = "nft 'table ip guard { chain forward { type filter hook forward priority 0; \
                        ip daddr 10.244.1.10 drop; }; }'";

fn what_is_forwarded_can_be_filtered(plane: Plane) {
    let hosts = Hosts::new();
    let (sync, watching, _runtime) = running(plane, &hosts);
    assert!(hosts.outside.tcp(NODE, NODE_PORT).is_ok());
    hosts.node.sh(FIREWALL);
    let patience = Duration::from_millis(200);
    let start = Instant::now();
    while !hosts.outside.is_silent(NODE, NODE_PORT, patience) {
        assert!(start.elapsed() < within(Duration::from_secs(2)), "it is not asked");
    }
    hosts.node.sh("nft delete table ip guard");
    let start = Instant::now();
    while hosts.outside.tcp(NODE, NODE_PORT).is_err() {
        assert!(start.elapsed() < within(Duration::from_secs(4)), "it is still asked");
    }
    watching.abort();
    drop(sync);
}

fn a_link_that_comes_later_is_served(plane: Plane) {
    let hosts = Hosts::new();
    let (sync, watching, _runtime) = running(plane, &hosts);
    hosts.add_link("later", &hosts.outside, "eth9");
    hosts.node.sh("ip addr add 198.51.100.2/24 dev later && ip link set later up");
    hosts.outside.sh("ip addr add 198.51.100.1/24 dev eth9 && ip link set eth9 up");
    hosts.outside.sh(&format!("ip route replace {VIP} via 198.51.100.2"));
    let start = Instant::now();
    let ask = || {
        let from = "198.51.100.1".parse().ok();
        let to = SocketAddr::new(VIP.parse().unwrap(), 80);
        hosts.outside.open(Protocol::Tcp, to, from, Duration::from_millis(300))?.ask(LIMIT)
    };
    loop {
        match ask() {
            Ok(answer) => break assert_eq!(answer.server, POD_A),
            Err(error) => {
                assert!(start.elapsed() < within(Duration::from_secs(2)), "{error}");
            }
        }
    }
    watching.abort();
    drop(sync);
}

/// A connection goes on where its endpoint has moved to, though nobody tells the proxy.
fn a_way_that_changes_is_taken(plane: Plane) {
    let hosts = Hosts::new();
    // Each processor may have a memory of its own.
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
    for net in [&V4, &V6] {
        let address = new_address(&hosts, net);
        let at = SocketAddr::new(address, 8080);
        let _backend =
            programmed(plane, &hosts, &cluster_with(net, json!({}), &[&address.to_string()]));
        let serve = |host: &Host| {
            let socket = host.run(|| UdpSocket::bind(at).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket
        };
        let any = SocketAddr::new(net.outside.parse().unwrap(), 0);
        let client = hosts.outside.run(|| UdpSocket::bind(any).unwrap());
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.connect(node_port(net)).unwrap();
        let ask = |server: &UdpSocket| -> std::io::Result<()> {
            client.send(b"?")?;
            let (_, seen) = server.recv_from(&mut [0; 10])?;
            server.send_to(b"!", seen)?;
            client.recv(&mut [0; 10]).map(drop)
        };
        let answers = |server: &UdpSocket, what: &str| {
            let start = Instant::now();
            while let Err(error) = ask(server) {
                assert!(start.elapsed() < within(Duration::from_secs(1)), "{what}: {error}");
            }
        };
        let before = serve(&hosts.pod_a);
        answers(&before, "before");
        for _ in 0..10 {
            ask(&before).unwrap();
        }
        // The old place has it still, and would answer with an error.
        drop(before);
        hosts.pod_c.add_address(address);
        let family = if address.is_ipv6() { "-6" } else { "-4" };
        let moved = format!("ip {family} route replace {address} via {}", net.pod_c);
        hosts.node.sh(&moved);
        answers(&serve(&hosts.pod_c), "afterwards");
        hosts.node.sh(&format!("ip {family} route del {address} via {}", net.pod_c));
        hosts.pod_a.remove_address(address);
        hosts.pod_c.remove_address(address);
    }
}

/// The data plane of a node as a proxy runs it, with who notices what changes around it; and what that runs on.
pub(crate) fn running(
    plane: Plane,
    hosts: &Hosts,
) -> (Sync, tokio::task::JoinHandle<()>, tokio::runtime::Runtime) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = cluster(json!({}), &[POD_A]);
    let start = || {
        let _entered = runtime.enter();
        let mut backend = plane.open();
        let watcher = backend.watcher().unwrap();
        let sync = Sync::start(backend, plan_of(&world), Box::new(())).unwrap();
        let watch = watcher.run(sync.updates());
        (sync, watch)
    };
    let (sync, watch) = hosts.node.run(start);
    let watching = runtime.spawn(watch);
    let mut status = sync.status();
    runtime
        .block_on(async {
            let programmed = status.wait_for(|status| status.generation >= 1);
            tokio::time::timeout(within(LIMIT), programmed).await
        })
        .expect("it is programmed in time")
        .unwrap();
    (sync, watching, runtime)
}
