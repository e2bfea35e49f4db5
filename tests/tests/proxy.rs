//! `portolan proxy` by itself: on a host that runs no node agent, in the place of kube-proxy.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{Lab, eventually, portolan_path, run};

const LIMIT: Duration = Duration::from_secs(20);
/// A host of the lab without an agent, and so without Services.
const HOST: &str = "control-plane";

/// A proxy on [`HOST`]; killed when dropped.
struct Proxy {
    exec: Child,
    /// What only its command line holds.
    pattern: String,
}

impl Proxy {
    fn start(lab: &Lab) -> Self {
        // How the nodes reach the API server: the administrator's is on the machine's loopback.
        let kubeconfig = format!("/run/portolan/lab/{}/node-1/kubeconfig", lab.name());
        let portolan = portolan_path();
        let exec = Command::new(&portolan)
            .args(["lab", "exec", "--name", lab.name(), HOST, "--"])
            .arg(&portolan)
            .args(["--log-level", "warn", "proxy", "--kubeconfig", &kubeconfig])
            .args(["--hostname-override", HOST, "--cluster-cidr", "10.244.0.0/16"])
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary under test starts");
        Self { exec, pattern: format!("warn proxy --kubeconfig {kubeconfig}") }
    }

    fn end(&mut self, signal: &str) {
        let mut kill = Command::new("pkill");
        kill.args([signal, "-f", &self.pattern]);
        // Whether there was one is seen by what happens next.
        let _ = run(kill, LIMIT);
        let _ = self.exec.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end("-KILL");
    }
}

#[test]
fn services_work_where_only_the_proxy_runs_and_outlive_it() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    // Pods are reached by routes that a network of pods would make.
    for node in ["node-1", "node-2"] {
        let range = lab.field("node", node, "{.spec.podCIDR}");
        let gateway = lab.field("node", node, "{.status.addresses[0].address}");
        lab.exec(HOST, &["ip", "route", "add", &range, "via", &gateway]).expect_success();
    }
    let vip = lab.field("service", "nginx-service", "{.spec.clusterIP}");
    let url = format!("http://{vip}:30080/");
    lab.curl(HOST, &url).expect_failure();

    let mut proxy = Proxy::start(&lab);
    eventually("the ClusterIP answers", LIMIT, || lab.curl(HOST, &url).ok());
    // Load balancers may send to a node that exists; the proxy lives in either case.
    let answers = |path: &str, code: &str| {
        let url = format!("http://127.0.0.1:10256{path}");
        let seen = lab.exec(HOST, &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        if seen.stdout == code { Ok(()) } else { Err(format!("{path}: {}", seen.stdout)) }
    };
    eventually("not eligible", LIMIT, || answers("/healthz", "503"));
    lab.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {HOST}}}\n"))
        .expect_success();
    eventually("eligible", LIMIT, || answers("/healthz", "200"));
    eventually("alive", LIMIT, || answers("/livez", "200"));
    let metrics =
        |path: &str| lab.curl(HOST, &format!("http://127.0.0.1:10249{path}")).expect_success();
    assert_eq!(metrics("/proxyMode"), "nftables");
    assert_eq!(metrics("/healthz"), "ok");
    assert!(metrics("/configz").contains("\"clusterCIDR\":\"10.244.0.0/16\""));
    let text = metrics("/metrics");
    for line in [
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 0",
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    for signal in ["-KILL", "-TERM"] {
        proxy.end(signal);
        for _ in 0..10 {
            lab.curl(HOST, &url).expect_success();
        }
        // The old one has to be gone first: its end would be the new one's too.
        drop(proxy);
        proxy = Proxy::start(&lab);
    }
    // What changed meanwhile is caught up with.
    lab.kubectl(&["delete", "service", "nginx-service"]).expect_success();
    eventually("the ClusterIP is gone", LIMIT, || match lab.curl(HOST, &url).success {
        true => Err("it answers".to_owned()),
        false => Ok(()),
    });
    let rules = lab.exec(HOST, &["nft", "list", "tables"]).expect_success();
    assert!(rules.contains("portolan"), "{rules}");
    proxy.end("-TERM");
    lab.exec(HOST, &[portolan_path().to_str().expect("UTF-8"), "cleanup"]).expect_success();
    assert_eq!(lab.exec(HOST, &["nft", "list", "tables"]).expect_success(), "");
}

#[test]
fn a_node_of_kube_proxy_is_taken_over_and_others_rules_stay() {
    let lab = Lab::up_with_examples();
    let on_host = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec(HOST, &words)
    };
    for command in [
        "iptables-legacy -t nat -N KUBE-SERVICES",
        "iptables-legacy -t nat -N KUBE-SVC-ABC",
        "iptables-legacy -t nat -N OTHERS",
        "iptables-legacy -t nat -A PREROUTING -j OTHERS",
        "iptables-legacy -t nat -A PREROUTING -j KUBE-SERVICES",
        "iptables-legacy -t nat -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC",
        "iptables-nft -t mangle -N KUBE-IPTABLES-HINT",
        "iptables-nft -t filter -N KUBE-FORWARD",
        "iptables-nft -t filter -A FORWARD -j KUBE-FORWARD",
        "ip6tables-nft -t nat -N KUBE-POSTROUTING",
        "nft add table ip kube-proxy",
        "nft add table ip6 kube-proxy",
        "nft add table inet firewall",
    ] {
        on_host(command).expect_success();
    }
    let close_wait = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    let before = on_host(close_wait).expect_success();
    let proxy = Proxy::start(&lab);
    let rules = || {
        ["nft list tables", "iptables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"]
            .map(|command| on_host(command).expect_success())
            .join("\n")
    };
    let gone = ["kube-proxy", "KUBE-SERVICES", "KUBE-SVC", "KUBE-FORWARD", "KUBE-POSTROUTING"];
    eventually("kube-proxy's rules are gone", LIMIT, || {
        let rules = rules();
        match gone.iter().find(|name| rules.contains(*name)) {
            Some(name) => Err(format!("{name} in {rules}")),
            None => Ok(()),
        }
    });
    let rules = rules();
    for kept in ["table ip portolan", "OTHERS", "KUBE-IPTABLES-HINT", "table inet firewall"] {
        assert!(rules.contains(kept), "{kept} in {rules}");
    }
    assert_eq!(
        on_host(close_wait).expect_success(),
        "3600",
        "as conntrack.tcpCloseWaitTimeout says"
    );
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    drop(proxy);
    lab.exec(HOST, &[portolan, "proxy", "--cleanup"]).expect_success();
    assert!(!on_host("nft list tables").expect_success().contains("portolan"));
    assert_eq!(on_host(close_wait).expect_success(), before);
}

#[test]
fn packets_do_not_need_the_api_server() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    let url = "http://172.31.0.11:30001/";
    eventually("the node port answers", LIMIT, || lab.curl("outside", url).ok());
    let data = format!("/run/portolan/lab/{}/", lab.name());
    let signal = |signal: &str| {
        let mut kill = Command::new("pkill");
        kill.args([signal, "-f", &format!("portolan .*server .*{data}")]);
        run(kill, LIMIT)
    };
    // A server that is stopped answers nobody and keeps its connections: the worst way to be gone.
    signal("-STOP").expect_success();
    for _ in 0..20 {
        lab.curl("outside", url).expect_success();
    }
    signal("-CONT").expect_success();
    lab.kubectl(&["delete", "service", "nginx-service"]).expect_success();
    eventually("the change comes in", LIMIT, || match lab.curl("outside", url).success {
        true => Err("it answers".to_owned()),
        false => Ok(()),
    });
}

#[test]
fn a_wrong_configuration_is_refused_with_all_its_mistakes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                clusterCIDR: 10.0.0.0\noomScoreAdj: 2000\n";
    std::fs::write(&path, text).expect("a file can be written");
    let mut command = Command::new(portolan_path());
    command.arg("proxy").arg("--config").arg(&path);
    let message = run(command, LIMIT).expect_failure();
    for part in ["clusterCIDR: 10.0.0.0", "10.244.0.0/16", "oomScoreAdj: 2000", "1000"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}
