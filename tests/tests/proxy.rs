//! `portolan proxy` by itself: on a host that runs no node agent, in the place of kube-proxy.

use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{Lab, Proxy, eventually, portolan_path, run};

const LIMIT: Duration = Duration::from_secs(20);
const HOST: &str = Proxy::HOST;

#[test]
fn services_work_where_only_the_proxy_runs_and_outlive_it() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    Proxy::prepare(&lab);
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
    lab.exec(
        HOST,
        &[portolan_path().to_str().expect("UTF-8"), "cleanup", "--socket", &Proxy::socket(&lab)],
    )
    .expect_success();
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
    let reserved = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";
    // The lab has set that already.
    lab.exec(HOST, &["sh", "-c", "echo 8000 > /proc/sys/net/ipv4/ip_local_reserved_ports"])
        .expect_success();
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
    assert_eq!(on_host(reserved).expect_success(), "8000,30000-32767");
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    drop(proxy);
    lab.exec(HOST, &[portolan, "proxy", "--cleanup", "--socket", &Proxy::socket(&lab)])
        .expect_success();
    assert!(!on_host("nft list tables").expect_success().contains("portolan"));
    assert_eq!(on_host(close_wait).expect_success(), before);
    assert_eq!(on_host(reserved).expect_success(), "8000");
}

#[test]
fn owners_of_services_are_told_what_is_in_their_way() {
    let lab = Lab::up();
    lab.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: taken}, \
         spec: {type: NodePort, ports: [{port: 80, nodePort: 30099}]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: foreign}, \
         spec: {externalIPs: [198.51.100.7, 203.0.113.7], ports: [{port: 80}]}}\n",
    )
    .expect_success();
    let portolan = portolan_path();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = directory.path().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/log; events {{}}\n\
         http {{ access_log off; server {{ listen 30099; return 200 ok; }} }}\n",
        directory.path().display()
    );
    std::fs::write(&config, text).expect("a file can be written");
    let mut listener = Command::new(&portolan)
        .args(["lab", "exec", "--name", lab.name(), HOST, "--"])
        .args(["nginx", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary under test starts");
    let listens = || lab.curl(HOST, "http://127.0.0.1:30099/").ok();
    eventually("somebody listens", LIMIT, listens);
    let proxy = Proxy::start_with(
        &lab,
        &["--allow-external-ips", "203.0.113.0/24", "--programmed-annotation"],
    );
    let describe = |service: &str, parts: &[&str]| {
        let text = lab.kubectl(&["describe", "service", service]).expect_success();
        match parts.iter().find(|part| !text.contains(*part)) {
            Some(part) => Err(format!("no {part} in {text}")),
            None => Ok(text),
        }
    };
    eventually("the listener is named", LIMIT, || {
        describe("taken", &["NodePortConflict", "nginx (pid ", "30099"])
    });
    let text = eventually("the address is named", LIMIT, || {
        describe("foreign", &["ExternalIPRefused", "198.51.100.7", "--allow-external-ips"])
    });
    eventually("each Service is annotated", LIMIT, || {
        describe("taken", &["portolan.dev/programmed.control-plane: true"])
    });
    lab.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {ports: [{port: 80}]}}",
    )
    .expect_success();
    eventually("also a later one", LIMIT, || {
        describe("late", &["portolan.dev/programmed.control-plane: true"])
    });
    let refused = text.lines().find(|line| line.contains("ExternalIPRefused"));
    assert!(!refused.is_some_and(|line| line.contains("203.0.113.7")), "it is allowed: {text}");
    drop(proxy);
    let mut kill = Command::new("pkill");
    kill.args(["-KILL", "-f", &format!("nginx -c {}", config.display())]);
    run(kill, LIMIT).expect_success();
    // It has been killed.
    let _ = listener.wait();
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

#[test]
fn a_running_proxy_explains_itself() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    let url = "http://172.31.0.11:30001/";
    eventually("the node port answers", LIMIT, || lab.curl("outside", url).ok());
    let socket = format!("/run/portolan/lab/{}/node-1/portolan.sock", lab.name());
    let status = || lab.portolan(&["status", "--connections", "--socket", &socket]);
    let text = status().stdout;
    for part in ["node node-1: portolan", "transaction", "default/nginx-service", "0 changes"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let explain = || lab.portolan(&["explain", "--verify", "outside", "172.31.0.11:30001"]);
    let text = explain().expect_success();
    for part in ["that of node-1 says the same", "it holds exactly what it should"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // While the agent is stopped nobody mends what others change.
    let pattern = format!("portolan .*node .*{}/node-1", lab.name());
    let agent = |signal: &str| {
        let mut kill = Command::new("pkill");
        kill.args([signal, "-f", &pattern]);
        run(kill, LIMIT).expect_success();
    };
    agent("-STOP");
    lab.exec("node-1", &["nft", "flush", "map", "ip", "portolan", "node-ports"]).expect_success();
    let portolan = portolan_path();
    // The administrator's leads to the machine's loopback.
    let kubeconfig = Proxy::kubeconfig(&lab);
    let here = [
        portolan.to_str().expect("UTF-8"),
        "explain",
        "--verify",
        "--allow-external-ips=0.0.0.0/0,::/0",
        "--kubeconfig",
        &kubeconfig,
        "outside",
        "172.31.0.11:30001",
    ];
    let output = lab.exec("node-1", &here);
    assert!(!output.success);
    for part in ["[Drifted]", "missing: IPv4 node:30001/TCP in node-ports", "can't be asked"] {
        assert!(output.stdout.contains(part), "{part} in {} {}", output.stdout, output.stderr);
    }
    agent("-CONT");
    eventually("it is mended", LIMIT, || lab.curl("outside", url).ok());
    eventually("the repair is counted", LIMIT, || match status().stdout {
        text if text.contains("1 changes by others") => Ok(()),
        text => Err(text),
    });
}
