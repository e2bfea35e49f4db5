//! Data planes other than the default one, as users start them.

use std::time::Duration;

use e2e::{Lab, Proxy, eventually, portolan_path, run};

const LIMIT: Duration = Duration::from_secs(20);
const HOST: &str = Proxy::HOST;

/// All rules of Portolan's on the host, each behind the program that lists it.
fn rules(lab: &Lab) -> String {
    let script = "for tool in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
                  $tool-save | grep PORTOLAN- | sed \"s/^/$tool /\"; done; \
                  nft list tables | grep portolan; true";
    lab.exec(HOST, &["sh", "-c", script]).expect_success()
}

/// Programs whose rules are there: `iptables-nft`, `table` for a table of nftables, ...
fn programs(rules: &str) -> Vec<&str> {
    let mut programs: Vec<&str> = rules.lines().filter_map(|l| l.split(' ').next()).collect();
    programs.dedup();
    programs
}

#[test]
fn services_work_by_either_iptables_and_outlive_the_proxy() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    Proxy::prepare(&lab);
    let vip = lab.field("service", "nginx-service", "{.spec.clusterIP}");
    let cluster_ip = format!("http://{vip}:30080/");
    let node_port = |port: u16| format!("http://172.31.0.2:{port}/");
    let start = |mode: &[&str]| Proxy::start_confined(&lab, mode);
    let metrics =
        |path: &str| lab.curl(HOST, &format!("http://127.0.0.1:10249{path}")).expect_success();
    let iptables = |flavour| ["--proxy-mode", "iptables", "--iptables-backend", flavour];
    let (nft, legacy) = (iptables("nft"), iptables("legacy"));
    let mut port = 30001;
    // Each start finds what another mode has left.
    for (mode, tools) in [
        (&nft[..], &["iptables-nft", "ip6tables-nft"][..]),
        (&legacy, &["iptables-legacy", "ip6tables-legacy"]),
        (&[], &["table"]),
        (&legacy, &["iptables-legacy", "ip6tables-legacy"]),
        (&nft, &["iptables-nft", "ip6tables-nft"]),
    ] {
        let mut proxy = start(mode);
        eventually("it is the only one", LIMIT, || {
            let rules = rules(&lab);
            if programs(&rules) == tools { Ok(()) } else { Err(format!("{mode:?}: {rules}")) }
        });
        eventually("the ClusterIP answers", LIMIT, || lab.curl(HOST, &cluster_ip).ok());
        eventually("the node port answers", LIMIT, || lab.curl("outside", &node_port(port)).ok());
        let name = if mode.is_empty() { "nftables" } else { "iptables" };
        assert_eq!(metrics("/proxyMode"), name);
        let failures = match name {
            "nftables" => "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            _ => "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        };
        let line = format!("{failures}{{ip_family=\"IPv4\"}} 0");
        assert!(metrics("/metrics").contains(&line), "{line}");
        let status = lab.portolan(&["status", "--socket", &Proxy::socket(&lab)]).stdout;
        assert!(status.contains(name), "{status}");
        for signal in ["-KILL", "-TERM"] {
            proxy.end(signal);
            for _ in 0..10 {
                lab.curl(HOST, &cluster_ip).expect_success();
                lab.curl("outside", &node_port(port)).expect_success();
            }
            // What changes meanwhile is caught up with.
            let (old, new) = (port, port + 1);
            let patch = format!(
                "[{{\"op\": \"replace\", \"path\": \"/spec/ports/0/nodePort\", \"value\": {new}}}]"
            );
            lab.kubectl(&["patch", "service", "nginx-service", "--type=json", "-p", &patch])
                .expect_success();
            lab.curl("outside", &node_port(old)).expect_success();
            // The old one has to be gone first: its end would be the new one's too.
            drop(proxy);
            proxy = start(mode);
            eventually("the new node port answers", LIMIT, || {
                lab.curl("outside", &node_port(new)).ok()
            });
            lab.curl("outside", &node_port(old)).expect_failure();
            port = new;
        }
    }
}

#[test]
fn nodes_of_a_lab_run_on_iptables_and_change_their_mind() {
    nodes_change_their_mind("iptables", "iptables -t nat -F PORTOLAN-SERVICES");
}

#[test]
fn nodes_of_a_lab_run_on_ebpf_and_change_their_mind() {
    nodes_change_their_mind("ebpf", "rm /sys/fs/bpf/portolan/*/*/links/connect4");
}

/// A lab on one data plane, of which a node goes to nftables and comes back. `tampering` is what others do
/// to what is there then.
fn nodes_change_their_mind(mode: &str, tampering: &str) {
    let lab = Lab::up_with_examples_and(&["--dataplane", mode]);
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    let url = "http://172.31.0.11:30001/";
    eventually("the node port answers", LIMIT, || lab.curl("outside", url).ok());
    let explain = || {
        let text = lab.portolan(&["explain", "--verify", "outside", "172.31.0.11:30001"]);
        let text = text.expect_success();
        for part in ["that of node-1 says the same", "it holds exactly what it should"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    };
    explain();
    let socket = format!("/run/portolan/lab/{}/node-1/portolan.sock", lab.name());
    // Whoever has a connection open is counted.
    let mut client = std::process::Command::new(portolan_path());
    client.args(["lab", "exec", "--name", lab.name(), "outside", "--", "bash", "-c"]);
    client.arg("exec 3<>/dev/tcp/172.31.0.11/30001; sleep 5");
    let client = std::thread::spawn(move || run(client, LIMIT));
    eventually("the connection is counted", LIMIT, || {
        let status = ["status", "--connections", "--socket", &socket];
        let text = lab.portolan(&status).stdout;
        if text.contains("default/nginx-service") { Ok(()) } else { Err(text) }
    });
    client.join().expect("no panic").expect_success();
    for (mode, other) in [("nftables", mode), (mode, "nftables")] {
        let said = lab.portolan(&["switch-dataplane", mode, "--socket", &socket]).expect_success();
        assert_eq!(said, format!("the data plane is {mode} now, in the place of {other}"));
        lab.curl("outside", url).expect_success();
        explain();
    }
    // Others' changes are noticed in the data plane that is in force.
    lab.exec("node-1", &["sh", "-c", tampering]).expect_success();
    eventually("it is mended", LIMIT, || lab.curl("outside", url).ok());
    eventually("the repair is counted", LIMIT, || {
        // It fails for as long as a change waits, as it does at the moment of the repair.
        let status = lab.portolan(&["status", "--socket", &socket]).stdout;
        if status.contains("1 changes by others") { Ok(()) } else { Err(status) }
    });
}

#[test]
fn a_data_plane_that_is_not_there_is_told() {
    let portolan = portolan_path();
    let refused = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&portolan);
        command.args(["proxy", "--kubeconfig", "/nonexistent"]).args(arguments);
        run(command, LIMIT).expect_failure()
    };
    let message = refused(&["--proxy-mode", "userspace"]);
    for part in ["mode: userspace", "iptables", "nftables", "ebpf"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let message = refused(&["--proxy-mode", "iptables", "--iptables-backend", "ebtables"]);
    for part in ["--iptables-backend", "ebtables", "nft and legacy"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}
