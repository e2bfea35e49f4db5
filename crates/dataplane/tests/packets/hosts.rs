//! A node, pods and an outside host, each a network namespace with an address of each family.
//!
//! Pods A and C are on the node; pods B and D play pods of other nodes: they have addresses of other
//! nodes' ranges and answer to whoever asks, through the node as their router. Everybody serves, on
//! ports 8080 and 8081.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dataplane::ebpf::Ebpf;
use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::route::{NextHop, Route, Rtnetlink, VethEnd};
use kernel::sysctl;
use model::Protocol;
use tempfile::TempDir;

use crate::planes::Plane;
use crate::traffic::{Answer, Conversation, Server};

pub(crate) const VIP: &str = V4.vip;
pub(crate) const NODE: &str = V4.node;
pub(crate) const OUTSIDE: &str = V4.outside;
pub(crate) const POD_A: &str = V4.pod_a;
pub(crate) const POD_B: &str = V4.pod_b;
pub(crate) const POD_C: &str = V4.pod_c;

/// The ports that everybody serves.
const SERVED: [u16; 2] = [8080, 8081];

/// The addresses of everybody in one family.
pub(crate) struct Addresses {
    pub(crate) vip: &'static str,
    pub(crate) node: &'static str,
    /// A further address of the node.
    pub(crate) node_secondary: &'static str,
    pub(crate) outside: &'static str,
    pub(crate) pod_a: &'static str,
    pub(crate) pod_b: &'static str,
    pub(crate) pod_c: &'static str,
    pub(crate) pod_d: &'static str,
    /// The node, as its pods see it.
    gateway: &'static str,
    /// Everywhere.
    default: &'static str,
}

pub(crate) const V4: Addresses = Addresses {
    vip: "10.96.0.50",
    node: "192.0.2.1",
    node_secondary: "192.0.2.9",
    outside: "192.0.2.2",
    pod_a: "10.244.1.10",
    pod_b: "10.244.2.11",
    pod_c: "10.244.1.12",
    pod_d: "10.244.3.13",
    gateway: "169.254.1.1",
    default: "0.0.0.0/0",
};

pub(crate) const V6: Addresses = Addresses {
    vip: "fd00:96::50",
    node: "2001:db8::1",
    node_secondary: "2001:db8::9",
    outside: "2001:db8::2",
    pod_a: "fd00:244:1::10",
    pod_b: "fd00:244:2::11",
    pod_c: "fd00:244:1::12",
    pod_d: "fd00:244:3::13",
    gateway: "fd00:244::1",
    default: "::/0",
};

/// `RTPROT_STATIC`.
const STATIC: u8 = 4;

/// The hosts, removed when dropped.
pub(crate) struct Hosts {
    pub(crate) node: Host,
    pub(crate) outside: Host,
    pub(crate) pod_a: Host,
    pub(crate) pod_b: Host,
    pub(crate) pod_c: Host,
    pub(crate) pod_d: Host,
    servers: Vec<Server>,
    directory: TempDir,
    /// The control group of all that runs on the node and in its pods.
    cgroup: Cgroup,
}

/// A place to connect from.
pub(crate) struct Host {
    netns: Netns,
    /// Where its threads are, if it is the node or one of its pods.
    cgroup: Option<Cgroup>,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cgroup = new_cgroup();
        let make = |name: &str| {
            let netns = Netns::create(&directory.path().join(name))
                .expect("a network namespace can be made: these tests need root");
            let prepare = || {
                // An address is usable at once.
                sysctl::write("net/ipv6/conf/default/accept_dad", "0")?;
                Rtnetlink::open()?.set_up("lo")
            };
            netns.run(prepare).unwrap().unwrap();
            let is_of_node = ["node", "pod-a", "pod-c"].contains(&name);
            Host { netns, cgroup: is_of_node.then(|| cgroup.clone()) }
        };
        let node = make("node");
        let route = || {
            sysctl::write("net/ipv4/ip_forward", "1")?;
            sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
            // Tests are refused more often than anybody is told so otherwise.
            sysctl::write("net/ipv4/icmp_ratelimit", "0")?;
            sysctl::write("net/ipv6/icmp/ratelimit", "0")
        };
        node.netns.run(route).unwrap().unwrap();
        let attached = |name: &str, addresses: fn(&Addresses) -> (&'static str, &'static str)| {
            let host = make(name);
            attach(&node, name, &host, addresses);
            host
        };
        let outside = attached("outside", |net| (net.outside, net.node));
        let pod_a = attached("pod-a", |net| (net.pod_a, net.gateway));
        let pod_b = attached("pod-b", |net| (net.pod_b, net.gateway));
        let pod_c = attached("pod-c", |net| (net.pod_c, net.gateway));
        let pod_d = attached("pod-d", |net| (net.pod_d, net.gateway));
        for net in [&V4, &V6] {
            // A node has a default route: what it sends to a virtual address is routed before it is
            // translated.
            let gateway = NextHop::Gateway {
                address: net.outside.parse().unwrap(),
                link: None,
                onlink: false,
            };
            let default = Route::new(net.default.parse().unwrap(), gateway, STATIC);
            Rtnetlink::open_in(&node.netns).unwrap().replace_route(&default).unwrap();
            node.add_address(net.node_secondary.parse().unwrap());
        }
        let mut servers = Vec::new();
        for net in [&V4, &V6] {
            for (host, address) in [
                (&node, net.node),
                (&outside, net.outside),
                (&pod_a, net.pod_a),
                (&pod_b, net.pod_b),
                (&pod_c, net.pod_c),
                (&pod_d, net.pod_d),
            ] {
                for port in SERVED {
                    servers.push(host.serve(SocketAddr::new(address.parse().unwrap(), port)));
                }
            }
        }
        let hosts = Self { node, outside, pod_a, pod_b, pod_c, pod_d, servers, directory, cgroup };
        hosts.meet();
        hosts
    }

    /// Joins a host to the node by a further link, which both have to set up.
    pub(crate) fn add_link(&self, name: &str, host: &Host, name_there: &str) {
        let mut on_node = Rtnetlink::open_in(&self.node.netns).unwrap();
        let peer = VethEnd { netns: Some(&host.netns), ..VethEnd::new(name_there) };
        on_node.add_veth(VethEnd::new(name), peer).unwrap();
    }

    /// Waits until everybody and the node know each other: what is sent in the first moment of a
    /// link may be lost, neighbour solicitations too, which are repeated only after a second.
    fn meet(&self) {
        let patience = Duration::from_millis(100);
        for (node, address) in [(V4.node, &V4), (V6.node, &V6)] {
            for (host, own) in [
                (&self.outside, address.outside),
                (&self.pod_a, address.pod_a),
                (&self.pod_b, address.pod_b),
                (&self.pod_c, address.pod_c),
                (&self.pod_d, address.pod_d),
            ] {
                let ask = |from: &Host, to: &str| {
                    let to = SocketAddr::new(to.parse().unwrap(), SERVED[0]);
                    from.open(Protocol::Udp, to, None, patience)?.ask(patience)
                };
                let start = Instant::now();
                while ask(host, node).is_err() || ask(&self.node, own).is_err() {
                    assert!(start.elapsed() < Duration::from_secs(10), "{own} does not answer");
                }
            }
        }
    }

    /// What the kernel counted on the way of packets, for the message of a test that lost some.
    pub(crate) fn counters(&self) -> String {
        let of = |place: &str, host: &Host| {
            let read = || {
                // Of this thread: the process as a whole is in another namespace. The conntrack one
                // is in hexadecimal and named by its header.
                let read = |file: &str| {
                    let path = format!("/proc/thread-self/net/{file}");
                    std::fs::read_to_string(path).unwrap_or_default()
                };
                read("netstat") + &read("snmp") + "\n" + &read("stat/nf_conntrack")
            };
            let text = host.run(read);
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
        of("outside", &self.outside) + &of("node", &self.node) + &of("pod C", &self.pod_c)
    }

    /// Runs `nft` on the node.
    pub(crate) fn nft(&self, arguments: &[&str]) -> String {
        let output = self
            .node
            .run(|| Command::new("nft").args(arguments).output().expect("nft is installed"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ruleset(&self) -> String {
        self.nft(&["list", "ruleset"])
    }

    /// Virtual servers with their destinations, links, local routes, and the packet filter.
    fn ipvs_listing(&self) -> String {
        let servers = || {
            let mut ipvs = kernel::ipvs::Ipvs::open().unwrap().unwrap();
            let mut lines = Vec::new();
            for server in ipvs.servers().unwrap() {
                lines.push(format!("{server:?}"));
                let states = ipvs.destinations(&server.key()).unwrap().into_iter();
                // What is on its way out goes sooner or later.
                for state in states.filter(|state| state.destination.weight > 0) {
                    lines.push(format!("{} {:?}", server.key(), state.destination));
                }
            }
            lines.sort();
            lines.join("\n")
        };
        // A link that is made anew has another address of its own.
        let routes = "ip -br link | cut -d' ' -f1; ip route show table local; \
                      ip -6 route show table local | grep -v fe80";
        [self.node.run(servers), self.node.sh(routes), self.ruleset()].join("\n")
    }

    /// What is attached to the cgroup, what the maps hold, and the packet filter.
    fn ebpf_listing(&self) -> String {
        let ebpf = self.node.run(|| Ebpf::open(self.cgroup.clone()).unwrap());
        let held = self.node.run(|| ebpf.listing().unwrap());
        [held, self.ruleset()].join("\n")
    }

    /// What the kernel holds where a data plane writes, without what counts packets.
    pub(crate) fn listing(&self, plane: Plane) -> String {
        let flavour = match plane {
            Plane::Nftables => return self.ruleset(),
            Plane::Ipvs => return self.ipvs_listing(),
            Plane::Ebpf => return self.ebpf_listing(),
            Plane::IptablesNft => "nft",
            Plane::IptablesLegacy => "legacy",
        };
        let save = |tool: &str| self.node.sh(&format!("{tool}-{flavour}-save"));
        let text = ["iptables", "ip6tables"].map(save).concat();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let plain = lines.map(|line| line.split(" [").next().unwrap_or_default());
        plain.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.servers.clear();
        for name in ["node", "outside", "pod-a", "pod-b", "pod-c", "pod-d"] {
            Netns::delete(&self.directory.path().join(name)).unwrap();
        }
        // What a test has left of programs goes with their cgroup, but not their names.
        Ebpf::open(self.cgroup.clone()).and_then(|mut ebpf| ebpf.detach()).unwrap();
        // The last threads may be about to end.
        let start = Instant::now();
        while let Err(error) = std::fs::remove_dir(self.cgroup.path()) {
            assert!(start.elapsed() < Duration::from_secs(5), "{error}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A control group below the one of this process, for threads of it.
fn new_cgroup() -> Cgroup {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("portolan-packets-{}-{number}", std::process::id());
    let cgroup = Cgroup::current().unwrap().child(name);
    cgroup.create().expect("these tests need root: they make a cgroup");
    cgroup.make_threaded().unwrap();
    cgroup
}

impl Host {
    /// Runs something in its network namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let within_cgroup = || {
            if let Some(cgroup) = &self.cgroup {
                cgroup.add_this_thread().unwrap();
            }
            body()
        };
        self.netns.run(within_cgroup).expect("a namespace that is there can be entered")
    }

    /// Runs a command line there, which has to succeed, and answers what it prints.
    pub(crate) fn sh(&self, command: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-c", command]).output().unwrap());
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Connects and asks who is there.
    pub(crate) fn tcp(&self, address: &str, port: u16) -> io::Result<Answer> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.open(Protocol::Tcp, to, None, LIMIT)?.ask(LIMIT)
    }

    /// Sends a datagram and asks who is there.
    pub(crate) fn udp(&self, address: &str, port: u16) -> io::Result<Answer> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.open(Protocol::Udp, to, None, LIMIT)?.ask(LIMIT)
    }

    /// A client that can ask again and again, from one port.
    pub(crate) fn open(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        from: Option<IpAddr>,
        limit: Duration,
    ) -> io::Result<Conversation> {
        self.run(|| Conversation::open(protocol, to, from, limit))
    }

    /// Whether a connection attempt gets no answer of any kind for that long.
    pub(crate) fn is_silent(&self, address: &str, port: u16, limit: Duration) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let start = Instant::now();
        self.open(Protocol::Tcp, to, None, limit).is_err() && start.elapsed() >= limit
    }

    /// Serves an address of its own until the server is dropped.
    pub(crate) fn serve(&self, address: SocketAddr) -> Server {
        self.run(|| Server::start(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Gives it an address of its own.
    pub(crate) fn add_address(&self, address: IpAddr) {
        let mut kernel = Rtnetlink::open_in(&self.netns).unwrap();
        let lo = kernel.expect_link("lo").unwrap().index;
        kernel.add_address(lo, address.into()).unwrap();
    }

    /// Takes an address that was added.
    pub(crate) fn remove_address(&self, address: IpAddr) {
        let mut kernel = Rtnetlink::open_in(&self.netns).unwrap();
        let lo = kernel.expect_link("lo").unwrap().index;
        kernel.delete_address(lo, address.into()).unwrap();
    }
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Joins a host to the node by a veth and routes. `addresses` are the host's and the node's.
fn attach(
    node: &Host,
    name: &str,
    host: &Host,
    addresses: fn(&Addresses) -> (&'static str, &'static str),
) {
    let host_net = |ip: &str| ip.parse::<IpAddr>().unwrap().into();
    let mut on_node = Rtnetlink::open_in(&node.netns).unwrap();
    let peer = VethEnd { netns: Some(&host.netns), ..VethEnd::new("eth0") };
    on_node.add_veth(VethEnd::new(name), peer).unwrap();
    let link = on_node.set_up(name).unwrap();
    let mut on_host = Rtnetlink::open_in(&host.netns).unwrap();
    let eth0 = on_host.set_up("eth0").unwrap();
    for net in [&V4, &V6] {
        let (address, node_address) = addresses(net);
        on_node.add_address(link.index, host_net(node_address)).unwrap();
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
        on_host.replace_route(&Route::new(net.default.parse().unwrap(), gateway, STATIC)).unwrap();
    }
}
