//! What happens to connections while the proxy or the pods come and go: nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Lab, Output, Proxy, eventually, portolan_path, run, say};

const LIMIT: Duration = Duration::from_secs(20);
/// How soon a client has to follow a change.
const SECOND: Duration = Duration::from_secs(1);
const TRAFFIC: &str = env!("CARGO_BIN_EXE_traffic");

/// The program of pods, where they see it: their /tmp and /run are their own.
struct Program(tempfile::TempDir);

impl Program {
    fn install() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        std::fs::copy(TRAFFIC, directory.path().join("traffic")).expect("it can be written");
        Self(directory)
    }

    fn path(&self) -> String {
        format!("{}/traffic", self.0.path().display())
    }
}

/// A pod that says its name on port 8080, TCP and UDP, and on SIGTERM goes on until it is killed.
fn pod(program: &Program, name: &str, node: &str, labels: &str, grace: u32) -> String {
    let traffic = program.path();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: {node}, terminationGracePeriodSeconds: {grace}, containers: [{{\
         name: server, image: none, command: [/bin/sh, -c, 'trap \"\" TERM; exec {traffic} serve 8080'], \
         readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}]}}\n---\n"
    )
}

/// A Service on port 80 and node port 30080, TCP and UDP.
fn service(selector: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{type: NodePort, selector: {{{selector}}}, {spec} ports: [\
         {{name: t, port: 80, targetPort: 8080, nodePort: 30080}}, \
         {{name: u, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}}]}}\n---\n"
    )
}

fn wait_for_pods(lab: &Lab, names: &[&str]) {
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=20s"];
    let pods: Vec<String> = names.iter().map(|name| format!("pod/{name}")).collect();
    arguments.extend(pods.iter().map(String::as_str));
    lab.kubectl(&arguments).expect_success();
}

/// Has a pod on each of two nodes serve as the Service, and waits until they do.
fn serve_web(lab: &Lab, program: &Program) {
    let pods =
        [pod(program, "a", "node-1", "app: web", 1), pod(program, "b", "node-2", "app: web", 1)]
            .concat();
    lab.apply(&(pods + &service("app: web", ""))).expect_success();
    wait_for_pods(lab, &["a", "b"]);
}

/// Starts `traffic` on a host; answers what it printed, at its end.
fn traffic(lab: &Lab, host: &'static str, arguments: &[&str]) -> thread::JoinHandle<Output> {
    let mut command = Command::new(portolan_path());
    command.args(["lab", "exec", "--name", lab.name(), host, "--", TRAFFIC]).args(arguments);
    thread::spawn(move || run(command, Duration::from_secs(60)))
}

/// The number after a word.
fn number(text: &str, word: &str) -> u64 {
    let mut words = text.split_whitespace();
    words.find(|found| *found == word);
    words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {word} N in {text}"))
}

/// Waits until connections from outside succeed, all of a second.
fn wait_for_answers(lab: &Lab, target: &str) {
    eventually("the node port answers", LIMIT, || {
        let output = traffic(lab, "outside", &["connect", target, "100", "1"]);
        let output = output.join().expect("no panic").expect_success();
        if number(&output, "lost") == 0 { Ok(()) } else { Err(output) }
    });
}

/// Checks that of `tried` connections none was lost; prints the counts.
fn expect_nothing_lost(what: &str, output: Output, at_least: u64) {
    let text = output.expect_success();
    say(&format!("{what}: {text}"));
    assert!(number(&text, "tried") >= at_least, "{text}");
    assert_eq!(number(&text, "lost"), 0, "{text}");
}

#[test]
fn nothing_is_lost_while_the_proxy_is_killed_restarted_and_reconfigured() {
    let (lab, program) = (Lab::up(), Program::install());
    Proxy::prepare(&lab);
    serve_web(&lab, &program);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.yaml");
    let path = file.to_str().expect("UTF-8");
    let configure = |text: &str| {
        let whole = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             clientConnection: {{kubeconfig: {}}}\nclusterCIDR: 10.244.0.0/16\n{text}",
            Proxy::kubeconfig(&lab)
        );
        let new = file.with_extension("new");
        std::fs::write(&new, whole).expect("a file can be written");
        std::fs::rename(new, &file).expect("a file can be replaced");
    };
    configure("");
    let start = || Proxy::start_with(&lab, &["--config", path]);
    let mut proxy = start();
    let target = "172.31.0.2:30080";
    wait_for_answers(&lab, target);

    let load = traffic(&lab, "outside", &["connect", target, "1000", "12"]);
    let flows = traffic(&lab, "outside", &["hold", target, "12"]);
    let pause = || thread::sleep(Duration::from_millis(1000));
    pause();
    for signal in ["-KILL", "-TERM", "-KILL"] {
        proxy.end(signal);
        pause();
        // The old one has to be gone first: its end would be the new one's too.
        drop(proxy);
        proxy = start();
        pause();
    }
    // With another way to tell pods all rules are others, as after an upgrade.
    for text in [
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: pod}\n",
        "nftables: {masqueradeAll: true}\n",
    ] {
        configure(text);
        assert!(!proxy.ended(), "a changed configuration ends it, to be started again");
        drop(proxy);
        proxy = start();
        pause();
    }
    let rules = lab.exec(Proxy::HOST, &["nft", "list", "table", "ip", "portolan"]).expect_success();
    assert!(rules.contains("30080"), "{rules}");
    expect_nothing_lost("1,000 connections a second", load.join().expect("no panic"), 11_000);
    let flows = flows.join().expect("no panic").expect_success();
    say(&flows);
    for line in flows.lines() {
        assert!(number(line, "asked") > 500, "{line}");
        assert_eq!(number(line, "lost"), 0, "{line}");
        let by = line.split_whitespace().skip_while(|word| *word != "by").skip(1).count();
        assert_eq!(by, 1, "it has kept its endpoint: {line}");
    }
}

/// How many times a proxy is killed, if this says nothing else.
const KILLS: u64 = 12;

/// A control group without processes, as the proxy on a host without pods has it; removed when dropped.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn create() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("it is always there");
        let mut unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let unified = unified.find(|words| words[2] == "cgroup2").expect("cgroup v2 is mounted");
        let path = format!("{}/portolan-kills-{}", unified[1], std::process::id());
        std::fs::create_dir(&path).expect("these tests need root: they make a control group");
        Self(path.into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn nothing_is_lost_however_often_the_proxy_is_killed() {
    let (lab, program, cgroup) = (Lab::up(), Program::install(), Cgroup::create());
    Proxy::prepare(&lab);
    serve_web(&lab, &program);
    let cgroup = cgroup.0.to_str().expect("UTF-8");
    let flags = ["--cluster-cidr", "10.244.0.0/16", "--proxy-mode", "ebpf", "--cgroup", cgroup];
    let mut proxy = Proxy::start_with(&lab, &flags);
    let target = "172.31.0.2:30080";
    wait_for_answers(&lab, target);

    let kills = std::env::var("PORTOLAN_KILLS")
        .map_or(KILLS, |text| text.parse().expect("PORTOLAN_KILLS is a number"));
    let (mut tried, mut asked, mut killed) = (0, 0, 0);
    let seconds: u64 = if kills > 100 { 30 } else { 10 };
    let text = seconds.to_string();
    while killed < kills {
        // A client has 28,000 ports, and each waits for a minute after its connection.
        let load = traffic(&lab, "outside", &["connect", target, "300", &text]);
        let flows = traffic(&lab, "outside", &["hold", target, &text]);
        let round = Instant::now();
        while killed < kills && round.elapsed() < Duration::from_secs(seconds - 2) {
            // At any moment of a start, and after it.
            thread::sleep(Duration::from_millis(killed * 37 % 400));
            proxy.end("-KILL");
            drop(proxy);
            proxy = Proxy::start_with(&lab, &flags);
            killed += 1;
        }
        let load = load.join().expect("no panic").expect_success();
        assert_eq!(number(&load, "lost"), 0, "after {killed} kills: {load}");
        tried += number(&load, "tried");
        let flows = flows.join().expect("no panic").expect_success();
        for line in flows.lines() {
            assert_eq!(number(line, "lost"), 0, "after {killed} kills: {line}");
            asked += number(line, "asked");
        }
    }
    say(&format!("{killed} kills: {tried} connections and {asked} questions, none lost"));
    // It is the last one that still does its work.
    wait_for_answers(&lab, target);
    proxy.end("-TERM");
    let socket = Proxy::socket(&lab);
    let cleanup = [&["proxy", "--cleanup", "--socket", &socket], &flags[4..]].concat();
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    lab.exec(Proxy::HOST, &[&[portolan], cleanup.as_slice()].concat()).expect_success();
}

/// A client is refused or, as each is told but once a second (icmp_ratelimit), hears nothing.
const NOBODY: &str = "nobody";

/// Rules by which a kube-proxy leads the node port to a pod, as far as packets can tell.
fn kube_proxy_rules(mode: &str, pod: &str) -> Vec<String> {
    let lines = match mode {
        "nftables" => {
            let dnat = format!("dnat to {pod}:8080");
            vec![
                "nft add table ip kube-proxy".to_owned(),
                "nft add chain ip kube-proxy nat { type nat hook prerouting priority -100; }"
                    .into(),
                "nft add chain ip kube-proxy src { type nat hook postrouting priority 100; }"
                    .into(),
                format!("nft add rule ip kube-proxy nat tcp dport 30080 {dnat}"),
                "nft add rule ip kube-proxy src ct status dnat masquerade".into(),
            ]
        }
        tool => vec![
            format!("{tool} -t nat -N KUBE-NODEPORTS"),
            format!("{tool} -t nat -N KUBE-POSTROUTING"),
            format!("{tool} -t nat -A PREROUTING -j KUBE-NODEPORTS"),
            format!("{tool} -t nat -A POSTROUTING -j KUBE-POSTROUTING"),
            format!("{tool} -t nat -A KUBE-NODEPORTS -p tcp --dport 30080 -j DNAT --to {pod}:8080"),
            format!("{tool} -t nat -A KUBE-POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE"),
        ],
    };
    lines.into_iter().map(|line| line.replace('{', "'{").replace('}', "}'")).collect()
}

#[test]
fn nothing_is_lost_from_kube_proxy_to_portolan_and_back() {
    let (lab, program) = (Lab::up(), Program::install());
    Proxy::prepare(&lab);
    lab.apply(&(pod(&program, "a", "node-1", "app: web", 1) + &service("app: web", "")))
        .expect_success();
    wait_for_pods(&lab, &["a"]);
    let address = lab.field("pod", "a", "{.status.podIP}");
    let on_host = |command: &str| lab.exec(Proxy::HOST, &["sh", "-c", command]).expect_success();
    let target = "172.31.0.2:30080";
    let portolan = portolan_path();
    let socket = format!("--socket {}", Proxy::socket(&lab));
    for mode in ["nftables", "iptables-nft", "iptables-legacy"] {
        let there = kube_proxy_rules(mode, &address).join(" && ");
        on_host(&there);
        let load = traffic(&lab, "outside", &["connect", target, "500", "4"]);
        let flows = traffic(&lab, "outside", &["hold-tcp", target, "4"]);
        thread::sleep(SECOND);
        let mut proxy = Proxy::start_confined(&lab, &[]);
        let rules = || {
            let saved = on_host("nft list tables; iptables-nft-save; iptables-legacy-save");
            match saved.contains("kube-proxy") || saved.contains("KUBE-") {
                true => Err(saved),
                false => Ok(saved),
            }
        };
        let left = eventually("kube-proxy's rules are gone", LIMIT, rules);
        assert!(left.contains("table ip portolan"), "{left}");
        thread::sleep(SECOND / 2);
        // Back: kube-proxy has programmed before Portolan's rules go.
        proxy.end("-TERM");
        on_host(&there);
        on_host(&format!("{} proxy --cleanup --keep-kube-proxy {socket}", portolan.display()));
        let tables = on_host("nft list tables");
        assert!(!tables.contains("portolan"), "{tables}");
        let what = format!("from {mode} to Portolan and back");
        expect_nothing_lost(&what, load.join().expect("no panic"), 1_900);
        let flows = flows.join().expect("no panic").expect_success();
        say(&format!("{what}: {flows}"));
        assert_eq!(number(&flows, "lost"), 0, "{flows}");
        on_host(&format!("{} proxy --cleanup {socket}", portolan.display()));
    }
}

#[test]
fn nothing_is_lost_while_one_data_plane_follows_another() {
    let (lab, program) = (Lab::up(), Program::install());
    Proxy::prepare(&lab);
    serve_web(&lab, &program);
    let socket = Proxy::socket(&lab);
    let switch_at =
        |mode: &str, socket: &str| lab.portolan(&["switch-dataplane", mode, "--socket", socket]);
    let message = switch_at("iptables", &socket).expect_failure();
    for part in ["no proxy answers at", &socket, "--socket"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let on_host = |command: &str| lab.exec(Proxy::HOST, &["sh", "-c", command]).expect_success();
    let rules = || {
        on_host(
            "for tool in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
             $tool-save | sed \"s/^/$tool /\"; done; nft list tables",
        )
    };
    let target = "172.31.0.2:30080";
    for flavour in ["nft", "legacy"] {
        let flags = ["--cluster-cidr", "10.244.0.0/16", "--iptables-backend", flavour];
        let mut proxy = Proxy::start_with(&lab, &flags);
        wait_for_answers(&lab, target);
        let switch = |mode: &str| switch_at(mode, &socket);
        let mode = || lab.curl(Proxy::HOST, "http://127.0.0.1:10249/proxyMode").expect_success();
        let message = switch("ipfw").expect_failure();
        for part in ["ipfw", "nftables, iptables"] {
            assert!(message.contains(part), "{part} in {message}");
        }
        let said = switch("nftables").expect_success();
        assert_eq!(said, "the data plane is nftables already");

        let load = traffic(&lab, "outside", &["connect", target, "500", "10"]);
        let flows = traffic(&lab, "outside", &["hold", target, "10"]);
        thread::sleep(SECOND);
        for (to, from) in
            [("iptables", "nftables"), ("nftables", "iptables"), ("iptables", "nftables")]
        {
            let output = switch(to);
            let took = output.took;
            let said = output.expect_success();
            assert_eq!(said, format!("the data plane is {to} now, in the place of {from}"));
            say(&format!("{said}, iptables-{flavour}, {took:?}"));
            assert_eq!(mode(), to);
            // It retires at once: connection tracking has what established connections need.
            let rules = rules();
            let hook = format!("iptables-{flavour} -A PREROUTING -j PORTOLAN-SERVICES");
            assert_eq!(rules.contains(&hook), to == "iptables", "{rules}");
            assert_eq!(rules.contains("PORTOLAN-"), to == "iptables", "{rules}");
            assert_eq!(rules.contains("table ip portolan"), to == "nftables", "{rules}");
            thread::sleep(SECOND);
        }
        // The same by another process: it has not heard of the switch, and finds iptables.
        for now in ["nftables", "iptables", "nftables"] {
            drop(proxy);
            proxy = Proxy::start_with(&lab, &[&flags[..], &["--proxy-mode", now]].concat());
            eventually("nothing is left of the one before", LIMIT, || {
                let rules = rules();
                let is = |ours: &str| rules.contains(ours);
                match (is("table ip portolan"), is("PORTOLAN-")) {
                    (true, false) if now == "nftables" => Ok(()),
                    (false, true) if now == "iptables" => Ok(()),
                    _ => Err(rules),
                }
            });
            thread::sleep(SECOND / 2);
        }
        let what = format!("nftables, iptables-{flavour} and back");
        expect_nothing_lost(&what, load.join().expect("no panic"), 4_800);
        let flows = flows.join().expect("no panic").expect_success();
        say(&flows);
        for line in flows.lines() {
            assert!(number(line, "asked") > 300, "{line}");
            assert_eq!(number(line, "lost"), 0, "{line}");
            let by = line.split_whitespace().skip_while(|word| *word != "by").skip(1).count();
            assert_eq!(by, 1, "it has kept its endpoint: {line}");
        }
    }
}

/// Datagrams from one port, and who answers them.
struct Follower {
    process: Child,
    changes: mpsc::Receiver<String>,
}

impl Follower {
    fn start(lab: &Lab, host: &str, to: &str, port: &str) -> Self {
        let mut process = Command::new(portolan_path())
            .args(["lab", "exec", "--name", lab.name(), host, "--", TRAFFIC])
            .args(["follow", to, port, "60"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let stdout = process.stdout.take().expect("stdout is piped");
        let (sender, changes) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        Self { process, changes }
    }

    /// Waits until `who` answers, or nobody; says how long it took since `start`.
    fn reaches(&self, what: &str, who: &str, start: Instant, limit: Duration) {
        let mut seen = Vec::new();
        while start.elapsed() < limit {
            match self.changes.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(now)
                    if now == who || (who == NOBODY && ["refused", "silence"].contains(&&*now)) =>
                {
                    say(&format!("{what}: {now} after {:?}", start.elapsed()));
                    return;
                }
                Ok(other) => seen.push(other),
                Err(_) => {}
            }
        }
        panic!("{what}: not {who} within {limit:?}; seen {seen:?}");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn datagrams_from_one_port_never_stick_to_a_dead_endpoint() {
    let (lab, program) = (Lab::up(), Program::install());
    Proxy::prepare(&lab);
    let pods = [
        pod(&program, "a", "node-1", "app: a, all: x", 1),
        pod(&program, "b", "node-2", "app: b, all: x", 1),
    ]
    .concat();
    lab.apply(&(pods + &service("app: a", ""))).expect_success();
    wait_for_pods(&lab, &["a", "b"]);
    let mut proxy = Proxy::start(&lab);
    let select = |selector: &str| {
        let patch = format!("{{\"spec\": {{\"selector\": {{\"app\": \"{selector}\"}}}}}}");
        lab.kubectl(&["patch", "service", "web", "-p", &patch]).expect_success();
        Instant::now()
    };
    let vip = lab.field("service", "web", "{.spec.clusterIP}");
    let outside = Follower::start(&lab, "outside", "172.31.0.2:30080", "5000");
    outside.reaches("at first", "a", Instant::now(), LIMIT);
    let here = Follower::start(&lab, Proxy::HOST, &format!("{vip}:80"), "5001");
    here.reaches("at first", "a", Instant::now(), LIMIT);
    let both = |what: &str, who: &str, start: Instant, limit: Duration| {
        outside.reaches(&format!("node port, {what}"), who, start, limit);
        here.reaches(&format!("ClusterIP, {what}"), who, start, limit);
    };
    both("1 -> 0 endpoints", NOBODY, select("none"), SECOND);
    both("0 -> 1 endpoints", "b", select("b"), SECOND);
    both("another endpoint", "a", select("a"), SECOND);

    lab.kubectl(&["delete", "service", "web"]).expect_success();
    outside.reaches("node port, Service deleted", NOBODY, Instant::now(), SECOND);
    let spec = format!("clusterIP: {vip},");
    lab.apply(&service("app: b", &spec)).expect_success();
    both("Service made again", "b", Instant::now(), SECOND);

    // What changes while nobody follows is put right at the start.
    proxy.end("-KILL");
    select("a");
    thread::sleep(SECOND);
    drop(proxy);
    let start = Instant::now();
    proxy = Proxy::start(&lab);
    both("changed while the proxy was down", "a", start, SECOND);
    proxy.end("-KILL");
    select("none");
    thread::sleep(SECOND);
    drop(proxy);
    let start = Instant::now();
    let _proxy = Proxy::start(&lab);
    both("gone while the proxy was down", NOBODY, start, SECOND);
}

#[test]
fn a_rolling_update_under_policy_local_loses_nothing() {
    let (lab, program) = (Lab::up(), Program::install());
    let name = |round: usize| format!("web-{round}");
    lab.apply(
        &(pod(&program, &name(0), "node-1", "app: web", 4)
            + &service("app: web", "externalTrafficPolicy: Local,")),
    )
    .expect_success();
    wait_for_pods(&lab, &[&name(0)]);
    let target = "172.31.0.11:30080";
    wait_for_answers(&lab, target);
    let load = traffic(&lab, "outside", &["connect", target, "300", "12"]);
    for round in 1..=3 {
        thread::sleep(Duration::from_millis(300));
        // Its only pod drains, and serves until the next one is ready.
        lab.kubectl(&["delete", "pod", &name(round - 1), "--wait=false"]).expect_success();
        thread::sleep(Duration::from_millis(500));
        lab.apply(&pod(&program, &name(round), "node-1", "app: web", 4)).expect_success();
        wait_for_pods(&lab, &[&name(round)]);
    }
    let output = load.join().expect("no panic");
    for round in 0..=3 {
        assert!(output.stdout.contains(&name(round)), "each has served: {}", output.stdout);
    }
    expect_nothing_lost("a rolling update", output, 3_000);
}
