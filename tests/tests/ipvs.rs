//! IPVS as users start it, beside virtual servers of others and in the place of a kube-proxy.
//!
//! It takes a kernel with IPVS. Where there is none each test says that it is not run; `make test-vm` runs
//! them in VMs. The servers are programs on hosts of the lab: a VM has nothing that pods are made of.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use e2e::{Lab, Output, Proxy, eventually, portolan_path, run, say};

/// How long something may take, also on an imitated machine.
const LIMIT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const TRAFFIC: &str = env!("CARGO_BIN_EXE_traffic");
const HOST: &str = Proxy::HOST;

/// The Service, as it is met on the host and from outside.
const VIP: &str = "10.96.7.7:80";
const NODE_PORT: &str = "172.31.0.2:30080";
/// A link of the kube-proxy that was there before.
const KUBE_PROXYS: &str = "kube-ipvs0";
const OURS: &str = "portolan-ipvs";

/// The Service with an endpoint on each node.
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.7.7
  ports:
  - {name: t, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: u, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [172.31.0.11]}
- {addresses: [172.31.0.12]}
ports:
- {name: t, port: 8080}
- {name: u, port: 8080, protocol: UDP}
";

/// A lab with a Service and its servers, and a host for a proxy.
struct Site {
    /// They end with this.
    servers: Vec<Child>,
    lab: Lab,
}

impl Drop for Site {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have ended.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Site {
    /// `None`, and a line about it, where the kernel has no IPVS.
    fn up(test: &str) -> Option<Self> {
        let is_loaded = || std::fs::exists("/proc/net/ip_vs").unwrap_or_default();
        if !is_loaded() {
            // Whether it can be loaded is seen by what is there then.
            let _ = Command::new("modprobe").args(["-q", "ip_vs"]).status();
        }
        if !is_loaded() {
            say(&format!("{test}: NOT RUN: this kernel has no IPVS; make test-vm runs it in a VM"));
            return None;
        }
        let lab = Lab::up();
        let serve = |node: &str| {
            Command::new(portolan_path())
                .args(["lab", "exec", "--name", lab.name(), node, "--", TRAFFIC])
                .args(["serve", "8080", node])
                .stdin(Stdio::null())
                .spawn()
                .expect("the binary under test starts")
        };
        let servers = vec![serve("node-1"), serve("node-2")];
        let manifest = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        std::fs::write(manifest.path(), SERVICE).expect("a temporary file can be written");
        let path = manifest.path().to_str().expect("UTF-8");
        lab.portolan(&["apply", "-f", path]).expect_success();
        let site = Self { servers, lab };
        site.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        Some(site)
    }

    /// A command line on the host.
    fn sh(&self, script: &str) -> String {
        self.lab.exec(HOST, &["sh", "-c", script]).expect_success()
    }

    /// Starts a proxy and waits until it has programmed; the one before has to be gone.
    fn proxy(&self, mode: &str) -> Proxy {
        let flags = ["--cluster-cidr", "10.244.0.0/16", "--proxy-mode", mode];
        let proxy = Proxy::start_with(&self.lab, &flags);
        eventually("it has programmed", LIMIT, || match self.status().stdout {
            status if status.contains("transaction ") => Ok(()),
            status => Err(status),
        });
        assert_eq!(self.metrics("/proxyMode"), mode);
        proxy
    }

    fn status(&self) -> Output {
        self.lab.portolan(&["status", "--socket", &Proxy::socket(&self.lab)])
    }

    fn traffic(&self, host: &'static str, arguments: &[&str]) -> thread::JoinHandle<Output> {
        let mut command = Command::new(portolan_path());
        command.args(["lab", "exec", "--name", self.lab.name(), host, "--", TRAFFIC]);
        command.args(arguments);
        thread::spawn(move || run(command, 5 * LIMIT))
    }

    /// Waits until both servers answer on the host and outside, and nothing is lost of some connections.
    fn wait_for_answers(&self) {
        for (host, target) in [(HOST, VIP), ("outside", NODE_PORT)] {
            eventually("the Service answers", LIMIT, || {
                let output = self.traffic(host, &["connect", target, "20", "1"]);
                let output = output.join().expect("no panic").expect_success();
                let is_whole = ["lost 0", "node-1", "node-2"].iter().all(|w| output.contains(w));
                if is_whole { Ok(()) } else { Err(output) }
            });
        }
    }

    fn switch(&self, mode: &str) {
        let socket = Proxy::socket(&self.lab);
        let output = self.lab.portolan(&["switch-dataplane", mode, "--socket", &socket]);
        let took = output.took;
        say(&format!("{}, {took:?}", output.expect_success()));
        assert_eq!(self.metrics("/proxyMode"), mode);
    }

    fn metrics(&self, path: &str) -> String {
        self.lab.curl(HOST, &format!("http://127.0.0.1:10249{path}")).expect_success()
    }

    /// Virtual servers with their destinations, as ipvsadm(8) takes them.
    fn servers(&self) -> String {
        self.sh("ipvsadm -Sn")
    }

    /// What a data plane could have changed on the host, as text.
    fn state(&self) -> String {
        // Link-local addresses come of themselves, a moment after their link.
        self.sh("ipvsadm -Sn; nft list ruleset; ip -o link | sed 's/^[0-9]*: //'; \
                 (ip -o address; ip route show table all; ip -6 route show table all; ip rule) | \
                 sed 's/^[0-9]*: //' | grep -v -e fe80: -e ff00:; \
                 grep -r '' /proc/sys/net/ipv4/vs /proc/sys/net/ipv4/ip_local_reserved_ports")
    }
}

/// Connections and flows that go on while something happens.
struct Load {
    what: String,
    connections: Vec<thread::JoinHandle<Output>>,
    flows: Vec<thread::JoinHandle<Output>>,
}

impl Load {
    fn start(what: &str, site: &Site, seconds: u32) -> Self {
        let seconds = seconds.to_string();
        let to = [(HOST, VIP), ("outside", NODE_PORT)];
        let connections = to.map(|(host, to)| site.traffic(host, &["connect", to, "40", &seconds]));
        let flows = to.map(|(host, to)| site.traffic(host, &["hold", to, &seconds]));
        thread::sleep(2 * SECOND);
        Self { what: what.to_owned(), connections: connections.into(), flows: flows.into() }
    }

    /// Waits for the end; nothing may have been lost, and each flow has had one server.
    fn expect_nothing_lost(self) {
        for output in self.connections {
            let text = output.join().expect("no panic").expect_success();
            say(&format!("{}: {text}", self.what));
            assert!(number(&text, "tried") > 100, "{text}");
            assert_eq!(number(&text, "lost"), 0, "{text}");
        }
        for output in self.flows {
            let text = output.join().expect("no panic").expect_success();
            say(&format!("{}: {text}", self.what));
            for line in text.lines() {
                assert!(number(line, "asked") > 50, "{line}");
                assert_eq!(number(line, "lost"), 0, "{line}");
                let by = line.split_whitespace().skip_while(|word| *word != "by").skip(1).count();
                assert_eq!(by, 1, "it has kept its server: {line}");
            }
        }
    }
}

/// The number after a word.
fn number(text: &str, word: &str) -> u64 {
    let mut words = text.split_whitespace();
    words.find(|found| *found == word);
    words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {word} N in {text}"))
}

/// Lines of one text that the other lacks.
fn missing<'t>(from: &'t str, lines: &str) -> Vec<&'t str> {
    let lines: Vec<&str> = lines.lines().collect();
    from.lines().filter(|line| !lines.contains(line)).collect()
}

#[test]
fn ipvs_comes_stays_and_goes_beside_what_others_have() {
    let Some(site) = Site::up("ipvs_comes_stays_and_goes_beside_what_others_have") else { return };
    // What loads when it is first used is there before.
    site.sh(
        "nft add table ip other; ip link add others type dummy; ip link set others up; \
         ip address add 198.51.100.9/32 dev others; ip route add 203.0.113.0/24 dev others; \
         ipvsadm -A -t 198.51.100.9:443 -s wrr; ipvsadm -a -t 198.51.100.9:443 -r 172.31.0.11:8443 -m; \
         ipvsadm -A -t 172.31.0.2:8443 -s wlc; ipvsadm -A -f 77 -s rr; conntrack -L; \
         : Clients of UDP are remembered for five minutes otherwise.; ipvsadm --set 0 0 5",
    );
    let before = site.state();
    let others = site.servers();
    assert_eq!(others.lines().count(), 4, "{others}");

    let mut proxy = site.proxy("ipvs");
    site.wait_for_answers();
    let status = site.status().stdout;
    assert!(status.contains("ipvs"), "{status}");
    for line in ["-A -t 10.96.7.7:80 -s rr", "-A -u 172.31.0.2:30080 -s rr"] {
        assert!(site.servers().contains(line), "{line} in {}", site.servers());
    }

    let load = Load::start("ipvs, nftables, and ipvs again", &site, 14);
    for mode in ["nftables", "ipvs", "nftables", "ipvs"] {
        site.switch(mode);
        thread::sleep(2 * SECOND);
    }
    load.expect_nothing_lost();

    let load = Load::start("killed, and started again", &site, 20);
    for _ in 0..2 {
        proxy.end("-KILL");
        thread::sleep(2 * SECOND);
        drop(proxy);
        proxy = site.proxy("ipvs");
    }
    load.expect_nothing_lost();

    // What another process finds lets the connections go on that it has, and ends with them.
    let load = Load::start("started again as nftables", &site, 25);
    drop(proxy);
    let mut proxy = site.proxy("nftables");
    eventually("the companion is gone", LIMIT, || {
        let tables = site.sh("nft list tables");
        match tables.lines().any(|l| l == "table ip portolan") && !tables.contains(OURS) {
            true => Ok(()),
            false => Err(tables),
        }
    });
    assert!(site.sh("ip -o link").contains(OURS), "connections of before need it");
    load.expect_nothing_lost();
    // One that never began, as its first packet was dropped, is remembered for a minute.
    eventually("IPVS has retired", 3 * LIMIT, || {
        let (servers, links) = (site.servers(), site.sh("ip -o link"));
        match servers == others && !links.contains(OURS) {
            true => Ok(()),
            false => Err(format!("{servers}\n{links}\n{}", site.sh("ipvsadm -Lnc"))),
        }
    });

    proxy.end("-TERM");
    drop(proxy);
    let mut proxy = site.proxy("ipvs");
    site.wait_for_answers();
    proxy.end("-KILL");
    let during = site.state();
    assert!(during.contains(OURS) && during.contains("10.96.7.7:80"), "{during}");
    assert_eq!(missing(&others, &during), [""; 0], "others have theirs");
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    let socket = Proxy::socket(&site.lab);
    site.lab.exec(HOST, &[portolan, "cleanup", "--socket", &socket]).expect_success();
    let after = site.state();
    assert_eq!(missing(&before, &after), [""; 0], "it was there before");
    assert_eq!(missing(&after, &before), [""; 0], "it was not there before");
}

#[test]
fn a_kube_proxy_in_ipvs_mode_is_taken_over_without_a_connection_lost() {
    let name = "a_kube_proxy_in_ipvs_mode_is_taken_over_without_a_connection_lost";
    let Some(site) = Site::up(name) else { return };
    // As it has them, with a Service that is gone, and rewriting by a table that is known as its own.
    let server = |server: &str| {
        let destination = |node: &str| format!("ipvsadm -a {server} -r {node}:8080 -m; ");
        let add = format!("ipvsadm -A {server} -s rr; ");
        [add, destination("172.31.0.11"), destination("172.31.0.12")].concat()
    };
    let servers =
        ["-t 10.96.7.7:80", "-u 10.96.7.7:80", "-t 172.31.0.2:30080", "-u 172.31.0.2:30080"];
    let gone = "10.96.9.9:80";
    site.sh(&format!(
        "set -e; echo 1 > /proc/sys/net/ipv4/vs/conntrack; ip link add {KUBE_PROXYS} type dummy; \
         ip address add 10.96.7.7/32 dev {KUBE_PROXYS}; ip address add 10.96.9.9/32 dev {KUBE_PROXYS}; \
         {}ipvsadm -A -t {gone} -s rr; ipvsadm -A -t 198.51.100.9:443 -s rr; \
         nft add table ip kube-proxy; \
         nft 'add chain ip kube-proxy source {{ type nat hook postrouting priority 100; }}'; \
         nft add rule ip kube-proxy source meta l4proto {{ tcp, udp }} th dport 8080 masquerade",
        servers.map(server).concat(),
    ));
    site.wait_for_answers();

    let load = Load::start("from kube-proxy's IPVS to ours", &site, 14);
    let _proxy = site.proxy("ipvs");
    let taken_over = || {
        let state = site.state();
        let is_theirs = [KUBE_PROXYS, "table ip kube-proxy", gone];
        match is_theirs.iter().find(|theirs| state.contains(**theirs)) {
            Some(theirs) => Err(format!("{theirs} is there: {state}")),
            None => Ok(state),
        }
    };
    let state = eventually("what kube-proxy had is gone", LIMIT, taken_over);
    for ours in servers {
        assert!(state.contains(&format!("-A {ours} -s rr")), "{ours} in {state}");
    }
    assert!(state.contains("local 10.96.7.7 dev portolan-ipvs"), "{state}");
    assert!(state.contains("-A -t 198.51.100.9:443"), "others' servers stay: {state}");
    load.expect_nothing_lost();
    site.wait_for_answers();
}
