//! A host that Portolan has programmed, and was taken away from, is as it was before.

use std::time::Duration;

use e2e::{Lab, Output, Proxy, eventually, portolan_path};

const LIMIT: Duration = Duration::from_secs(20);
const HOST: &str = Proxy::HOST;
/// Where `examples/` serve the website, as seen from outside.
const URL: &str = "http://172.31.0.2:30001/";
/// All programs that an iptables keeps its rules by.
const IPTABLES: [&str; 4] =
    ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];
/// Every data plane, as flags.
const MODES: [&[&str]; 3] = [
    &["--proxy-mode=nftables"],
    &["--proxy-mode=iptables", "--iptables-backend=nft"],
    &["--proxy-mode=iptables", "--iptables-backend=legacy"],
];
/// Tracked connections through the Service.
const CONNECTIONS: &str = "conntrack -L 2>/dev/null | grep -E 'dport=(30080|30001) '";

/// A lab whose website a proxy can lead to.
fn lab() -> Lab {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    Proxy::prepare(&lab);
    shell(&lab, "echo 8000 > /proc/sys/net/ipv4/ip_local_reserved_ports");
    lab
}

fn shell(lab: &Lab, script: &str) -> String {
    lab.exec(HOST, &["sh", "-c", script]).expect_success()
}

/// What Portolan could have changed on a host besides connections, as text.
fn state(lab: &Lab) -> String {
    let own = format!("ls /run/portolan/lab/{}", lab.name());
    // Counters of rules are part of it; those of policies are everybody's.
    let saves = IPTABLES
        .map(|tool| format!("{tool}-save -c | grep -v ^# | sed '/^:/s/ [[].*//; s/^/{tool} /'"));
    let script = [
        "nft list ruleset",
        &saves.join("; "),
        "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names",
        "which ipset && ipset list",
        // Link-local addresses come of themselves, a moment after their link.
        "ip -o link; (ip -o address; ip route show table all; ip rule) | grep -v -e fe80: -e ff00:",
        "grep -r '' /proc/sys/net /proc/sys/vm 2>/dev/null | grep -v -e _count: -e stat",
        "ls /run/portolan | grep -v ^lab; ls /var/lib/portolan",
        &own,
    ];
    shell(lab, &(script.join("; echo; ") + "; true"))
}

/// Lines of a state that another one lacks.
fn missing(from: &str, lines: &str) -> Vec<String> {
    let lines: Vec<&str> = lines.lines().collect();
    from.lines().filter(|line| !lines.contains(line)).map(str::to_owned).collect()
}

/// Programs a host, kills the process, and cleans up; the kernel is looked at in between.
fn come_and_go(lab: &Lab, mode: &[&str], cleanup: &[&str]) -> Output {
    let flags = [&["--cluster-cidr", "10.244.0.0/16"], mode].concat();
    let mut proxy = Proxy::start_with(lab, &flags);
    eventually("the node port answers", LIMIT, || lab.curl("outside", URL).ok());
    let during = state(lab);
    let is_nftables = mode.contains(&"--proxy-mode=nftables");
    assert_eq!(during.contains("table ip portolan"), is_nftables, "{mode:?}: {during}");
    assert_eq!(during.contains("PORTOLAN-SERVICES"), !is_nftables, "{mode:?}: {during}");
    assert!(during.contains("ip_local_reserved_ports:8000,30000-32767"), "{during}");
    assert!(shell(lab, CONNECTIONS).contains("dport=30001"), "{mode:?}");
    proxy.end("-KILL");
    lab.exec(HOST, &[cleanup, &["--socket", &Proxy::socket(lab)]].concat())
}

#[test]
fn a_cleanup_leaves_the_host_as_it_was() {
    let lab = lab();
    // What loads when it is first used is there before.
    shell(&lab, "nft add table ip other; conntrack -L; true");
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    let commands: [&[&str]; 2] = [&[portolan, "proxy", "--cleanup"], &[portolan, "cleanup"]];
    for with_others in [false, true] {
        if with_others {
            for tool in IPTABLES {
                let range =
                    if tool.starts_with("ip6") { "2001:db8::/64" } else { "198.51.100.0/24" };
                for rule in ["nat PREROUTING", "filter INPUT"] {
                    let (table, chain) = rule.split_once(' ').expect("two words");
                    shell(
                        &lab,
                        &format!(
                            "{tool} -t {table} -N OTHERS && {tool} -t {table} -A {chain} -c 7 420 \
                             -d {range} -j OTHERS"
                        ),
                    );
                }
            }
            // A chain without rules that does something nevertheless.
            shell(&lab, "ip6tables-nft -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP");
        }
        for mode in MODES {
            if mode.contains(&"--iptables-backend=legacy") {
                // The kernel keeps the tables of this flavour once they are there.
                shell(
                    &lab,
                    "for tool in iptables-legacy ip6tables-legacy; do \
                     for table in nat filter; do $tool-save -t $table; done; done",
                );
            }
            for command in commands {
                let before = state(&lab);
                assert!(before.contains("ip_local_reserved_ports:8000\n"), "{before}");
                assert_eq!(before.contains("iptables-nft [7:420] -A "), with_others, "{before}");
                come_and_go(&lab, mode, command).expect_success();
                let after = state(&lab);
                let what = format!("{mode:?}, {command:?}");
                assert_eq!(missing(&before, &after), [""; 0], "it was there before: {what}");
                assert_eq!(missing(&after, &before), [""; 0], "it was not there before: {what}");
                // Connections are for the next proxy, or forgotten if there is to be none.
                let connections = shell(&lab, &format!("{CONNECTIONS}; true"));
                let are_forgotten = !command.contains(&"proxy");
                assert_eq!(connections.is_empty(), are_forgotten, "{what}: {connections}");
            }
        }
    }
}

/// A program that was never there has left nothing.
#[test]
fn a_host_without_iptables_is_cleaned_up() {
    let lab = lab();
    let nowhere = tempfile::tempdir().expect("a temporary directory");
    let socket = Proxy::socket(&lab);
    let path = format!("PATH={}", nowhere.path().display());
    let portolan = portolan_path();
    let portolan = portolan.to_str().expect("UTF-8");
    for command in [&["proxy", "--cleanup"][..], &["cleanup"]] {
        let command = [&["env", &path, portolan], command].concat();
        come_and_go(&lab, MODES[0], &command).expect_success();
        assert!(!shell(&lab, "nft list tables").contains("portolan"), "{command:?}");
        let again = [&command[..], &["--socket", &socket]].concat();
        lab.exec(HOST, &again).expect_success();
    }
}
