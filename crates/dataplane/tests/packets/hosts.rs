//! A node, three pods and an outside host, each a network namespace.
//!
//! Pods A and C are on the node; pod B plays a pod of another node: it has its own address and
//! answers to whoever asks, through the node as its router.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use kernel::route::{NextHop, Route, Rtnetlink, VethEnd};
use kernel::sysctl;
use tempfile::TempDir;

pub(crate) const VIP: &str = V4.vip;
pub(crate) const NODE: &str = V4.node;
pub(crate) const OUTSIDE: &str = V4.outside;
pub(crate) const POD_A: &str = V4.pod_a;
pub(crate) const POD_B: &str = V4.pod_b;
pub(crate) const POD_C: &str = V4.pod_c;

/// The addresses of everybody in one family.
pub(crate) struct Addresses {
    pub(crate) vip: &'static str,
    pub(crate) node: &'static str,
    pub(crate) outside: &'static str,
    pub(crate) pod_a: &'static str,
    pub(crate) pod_b: &'static str,
    pub(crate) pod_c: &'static str,
    /// The node, as its pods see it.
    gateway: &'static str,
    /// Everywhere.
    default: &'static str,
}

pub(crate) const V4: Addresses = Addresses {
    vip: "10.96.0.50",
    node: "192.0.2.1",
    outside: "192.0.2.2",
    pod_a: "10.244.1.10",
    pod_b: "10.244.2.11",
    pod_c: "10.244.1.12",
    gateway: "169.254.1.1",
    default: "0.0.0.0/0",
};

pub(crate) const V6: Addresses = Addresses {
    vip: "fd00:96::50",
    node: "2001:db8::1",
    outside: "2001:db8::2",
    pod_a: "fd00:244:1::10",
    pod_b: "fd00:244:2::11",
    pod_c: "fd00:244:1::12",
    gateway: "fd00:244::1",
    default: "::/0",
};

/// `RTPROT_STATIC`.
const STATIC: u8 = 4;

/// The hosts, removed when dropped.
pub(crate) struct Hosts {
    pub(crate) node: Netns,
    pub(crate) node_host: Host,
    pub(crate) outside: Host,
    pub(crate) pod_c: Host,
    directory: TempDir,
}

/// A place to connect from.
pub(crate) struct Host(Netns);

/// What a server says of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The address the server has.
    pub(crate) server: String,
    /// The address the server sees.
    pub(crate) client: String,
}

impl Hosts {
    /// What the kernel counted on the way of packets, for the message of a test that lost some.
    pub(crate) fn counters(&self) -> String {
        let of = |place: &str, netns: &Netns| {
            let read = || {
                // Of this thread: the process as a whole is in another namespace. The conntrack one
                // is in hexadecimal and named by its header.
                let read = |file: &str| {
                    let path = format!("/proc/thread-self/net/{file}");
                    std::fs::read_to_string(path).unwrap_or_default()
                };
                read("netstat") + &read("snmp") + "\n" + &read("stat/nf_conntrack")
            };
            let text = netns.run(read).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let mut counted = Vec::new();
            for pair in lines.windows(2) {
                let (names, values) = (pair[0].split_whitespace(), pair[1].split_whitespace());
                let nonzero = names.zip(values).filter(|(name, value)| {
                    name.starts_with(char::is_alphabetic)
                        && value.parse::<u64>().is_ok_and(|v| v > 0)
                });
                counted.extend(nonzero.map(|(name, value)| format!("{name} {value}")));
            }
            let conntrack = text.split_once("\n\n").map_or("", |(_, conntrack)| conntrack);
            format!("\n{place}: {}\n{conntrack}", counted.join(", "))
        };
        of("outside", &self.outside.0) + &of("node", &self.node) + &of("pod C", &self.pod_c.0)
    }

    pub(crate) fn new() -> Self {
        Self::with(&V4)
    }

    pub(crate) fn with(net: &'static Addresses) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let make = |name: &str| {
            let netns = Netns::create(&directory.path().join(name))
                .expect("a network namespace can be made: these tests need root");
            let prepare = || {
                // An address is usable at once.
                sysctl::write("net/ipv6/conf/default/accept_dad", "0")?;
                Rtnetlink::open()?.set_up("lo")
            };
            netns.run(prepare).unwrap().unwrap();
            netns
        };
        let node = make("node");
        let forward = || {
            sysctl::write("net/ipv4/ip_forward", "1")?;
            sysctl::write("net/ipv6/conf/all/forwarding", "1")
        };
        node.run(forward).unwrap().unwrap();
        let attach = |name: &str, address: &str, node_address: &str| {
            let host = make(name);
            attach(&node, name, node_address, &host, address, net.default);
            host
        };
        let outside = attach("outside", net.outside, net.node);
        // A node has a default route: what it sends to a virtual address is routed before it is
        // translated.
        let gateway =
            NextHop::Gateway { address: net.outside.parse().unwrap(), link: None, onlink: false };
        let default = Route::new(net.default.parse().unwrap(), gateway, STATIC);
        Rtnetlink::open_in(&node).unwrap().replace_route(&default).unwrap();
        let pods = [
            ("pod-a", net.pod_a, net.gateway),
            ("pod-b", net.pod_b, net.gateway),
            ("pod-c", net.pod_c, net.gateway),
        ];
        let mut pods = pods.map(|(name, address, gateway)| {
            let pod = attach(name, address, gateway);
            serve(&pod, address);
            Some(pod)
        });
        let pod_c = Host(pods[2].take().unwrap());
        let node_host = Host(node.try_clone().unwrap());
        Self { node, node_host, outside: Host(outside), pod_c, directory }
    }

    /// Runs `nft` on the node.
    pub(crate) fn nft(&self, arguments: &[&str]) -> String {
        let output = self
            .node
            .run(|| Command::new("nft").args(arguments).output().expect("nft is installed"))
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ruleset(&self) -> String {
        self.nft(&["list", "ruleset"])
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in ["node", "outside", "pod-a", "pod-b", "pod-c"] {
            Netns::delete(&self.directory.path().join(name)).unwrap();
        }
    }
}

impl Host {
    /// Connects and asks who is there.
    pub(crate) fn tcp(&self, address: &str, port: u16) -> io::Result<Answer> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.0
            .run(|| {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                answer(&text)
            })
            .unwrap()
    }

    /// Sends a datagram and asks who is there.
    pub(crate) fn udp(&self, address: &str, port: u16) -> io::Result<Answer> {
        self.udp_client(address, port).ask()
    }

    /// A client that asks again and again from one port.
    pub(crate) fn udp_client(&self, address: &str, port: u16) -> UdpClient {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let connected = || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            io::Result::Ok(socket)
        };
        UdpClient(self.0.run(connected).unwrap().unwrap())
    }

    /// Whether a connection attempt gets no answer of any kind for that long.
    pub(crate) fn is_silent(&self, address: &str, port: u16, limit: Duration) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let start = Instant::now();
        let outcome = self.0.run(|| TcpStream::connect_timeout(&to, limit)).unwrap();
        outcome.is_err() && start.elapsed() >= limit
    }
}

/// A connected UDP socket.
pub(crate) struct UdpClient(UdpSocket);

impl UdpClient {
    /// Asks who is there.
    pub(crate) fn ask(&self) -> io::Result<Answer> {
        self.0.send(b"who")?;
        let mut buffer = [0; 200];
        let length = self.0.recv(&mut buffer)?;
        answer(&String::from_utf8_lossy(&buffer[..length]))
    }
}

fn answer(text: &str) -> io::Result<Answer> {
    let (server, client) =
        text.split_once(' ').ok_or_else(|| io::Error::other("the server said nothing"))?;
    Ok(Answer { server: server.to_owned(), client: client.to_owned() })
}

/// Joins a host to the node by a veth and routes.
fn attach(
    node: &Netns,
    name: &str,
    node_address: &str,
    host: &Netns,
    address: &str,
    default: &str,
) {
    let host_net = |ip: &str| ip.parse::<IpAddr>().unwrap().into();
    let mut on_node = Rtnetlink::open_in(node).unwrap();
    let peer = VethEnd { netns: Some(host), ..VethEnd::new("eth0") };
    on_node.add_veth(VethEnd::new(name), peer).unwrap();
    let link = on_node.set_up(name).unwrap();
    on_node.add_address(link.index, host_net(node_address)).unwrap();
    let mut on_host = Rtnetlink::open_in(host).unwrap();
    let eth0 = on_host.set_up("eth0").unwrap();
    on_host.add_address(eth0.index, host_net(address)).unwrap();
    on_node
        .replace_route(&Route::new(host_net(address), NextHop::Link(link.index), STATIC))
        .unwrap();
    on_host
        .replace_route(&Route::new(host_net(node_address), NextHop::Link(eth0.index), STATIC))
        .unwrap();
    let gateway = NextHop::Gateway {
        address: node_address.parse().unwrap(),
        link: Some(eth0.index),
        onlink: true,
    };
    on_host.replace_route(&Route::new(default.parse().unwrap(), gateway, STATIC)).unwrap();
}

/// Answers TCP and UDP on port 8080 with the server's and the client's address, until the process
/// ends.
fn serve(pod: &Netns, address: &'static str) {
    let (tcp, udp) = pod
        .run(|| {
            let tcp = TcpListener::bind((address, 8080)).unwrap();
            (tcp, UdpSocket::bind((address, 8080)).unwrap())
        })
        .unwrap();
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            // A client that is gone needs no answer.
            let _ = stream
                .peer_addr()
                .and_then(|peer| stream.write_all(format!("{address} {}", peer.ip()).as_bytes()));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 200];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{address} {}", peer.ip()).as_bytes(), peer);
        }
    });
}
