//! `portolan dns` as clients and operators meet it: the real API server of this project, dig and curl.

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{NAMES, NameServer, Server, eventually, free_port, say};

const LIMIT: Duration = Duration::from_secs(20);

/// A pod that is where this machine's clients ask from. Its container never starts: nobody runs it.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: client, image: none}]}
";

/// What `dig +short` says, its lines in order.
fn short(dns: &NameServer, arguments: &[&str]) -> Result<String, String> {
    let text = dns.dig(&[&["+short"], arguments].concat())?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join(" "))
}

fn code(dns: &NameServer, name: &str) -> Result<String, String> {
    let text = dns.dig(&["+noall", "+comments", name])?;
    let (_, rest) = text.split_once("status: ").ok_or(text.clone())?;
    Ok(rest.split(',').next().unwrap_or_default().to_owned())
}

#[test]
fn names_are_served_as_long_as_they_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let dns = NameServer::start(server.kubeconfig(), &["--resolv-conf", ""]);
    dns.wait_until_ready();
    let check = || {
        for way in ["+notcp", "+tcp"] {
            for (arguments, expected) in [
                (["7up.default.svc.cluster.local", "A"], "10.96.0.77"),
                (["7up.default.svc.cluster.local", "AAAA"], ""),
                (
                    ["_http._tcp.7up.default.svc.cluster.local", "SRV"],
                    "0 100 80 7up.default.svc.cluster.local.",
                ),
                (["db.default.svc.cluster.local", "A"], "10.244.99.2 10.244.99.3"),
                (["db-0.db.default.svc.cluster.local", "A"], "10.244.99.2"),
                (
                    ["out.default.svc.cluster.local", "A"],
                    "10.96.0.77 7up.default.svc.cluster.local.",
                ),
                (["dns-version.cluster.local", "TXT"], "\"1.1.0\""),
                (["77.0.96.10.in-addr.arpa", "PTR"], "7up.default.svc.cluster.local."),
                (["10-244-0-9.default.pod.cluster.local", "A"], "10.244.0.9"),
            ] {
                assert_eq!(
                    short(&dns, &[&[way], &arguments[..]].concat()).unwrap(),
                    expected,
                    "{arguments:?} {way}"
                );
            }
        }
        assert_eq!(code(&dns, "none.default.svc.cluster.local").unwrap(), "NXDOMAIN");
        assert_eq!(code(&dns, "7up.default.svc.cluster.local").unwrap(), "NOERROR");
        assert_eq!(code(&dns, "example.com").unwrap(), "REFUSED", "nobody is asked");
    };
    check();
    // As they change.
    let later = "
apiVersion: v1
kind: Service
metadata: {name: later}
spec: {clusterIP: 10.96.0.78, ports: [{port: 80}]}
";
    server.apply(later).expect_success();
    eventually("a new Service has a name", LIMIT, || {
        match short(&dns, &["later.default.svc.cluster.local"])? {
            address if address == "10.96.0.78" => Ok(()),
            other => Err(other),
        }
    });
    // And while nobody tells of them.
    server.kill();
    thread::sleep(Duration::from_secs(1));
    check();
    assert_eq!(dns.probe(1, "/ready").unwrap().0, "200");
    let (status, metrics) = dns.probe(2, "/metrics").unwrap();
    assert_eq!(status, "200");
    for line in [
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\"cluster.local.\",view=\"\",proto=\"udp\",family=\"1\",type=\"SRV\"} 2",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"REFUSED\",plugin=\"\"} 2",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(dns.probe(0, "/health").unwrap(), ("200".to_owned(), "OK".to_owned()));
}

#[test]
fn pods_that_ask_and_that_are_asked_for_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let dns = NameServer::start(
        server.kubeconfig(),
        &["--resolv-conf", "", "--autopath", "--pods", "verified"],
    );
    dns.wait_until_ready();
    let searched = ["7up.default.default.svc.cluster.local"];
    let check = |is_there: bool| {
        let (found, address) = match is_there {
            true => ("10.96.0.77 7up.default.svc.cluster.local.", "127.0.0.1"),
            false => ("", ""),
        };
        let of_pod = short(&dns, &["127-0-0-1.default.pod.cluster.local"])?;
        match (short(&dns, &searched)?, of_pod) {
            (one, other) if (&*one, &*other) == (found, address) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    check(false).unwrap();
    server.apply(POD).expect_success();
    let at = |phase: &str| {
        let status = format!(
            r#"{{"status": {{"phase": "{phase}", "podIP": "127.0.0.1", "podIPs": [{{"ip": "127.0.0.1"}}]}}}}"#
        );
        server
            .kubectl(&[
                "patch",
                "pod",
                "client",
                "--subresource=status",
                "--type=merge",
                "-p",
                &status,
            ])
            .expect_success();
    };
    at("Running");
    eventually("it is known by its address", LIMIT, || check(true));
    let (_, metrics) = dns.probe(2, "/metrics").unwrap();
    let name = "coredns_autopath_success_total{server=\"dns://:53\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert!(count.is_some_and(|count| count != "0"), "{metrics}");
    at("Failed");
    eventually("its address is nobody's when it has ended", LIMIT, || check(false));
}

#[test]
fn nothing_is_denied_before_the_cluster_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start(&data, &[]);
    server.apply(NAMES).expect_success();
    let kubeconfig = server.kubeconfig().to_owned();
    server.kill();
    let dns = NameServer::start(&kubeconfig, &["--resolv-conf", ""]);
    let name = "none.default.svc.cluster.local";
    eventually("it answers", LIMIT, || code(&dns, name).map(|code| assert_eq!(code, "SERVFAIL")));
    assert_eq!(dns.probe(1, "/ready").unwrap(), ("503".to_owned(), "kubernetes".to_owned()));
    assert_eq!(dns.probe(0, "/health").unwrap().0, "200");
}

#[test]
fn what_has_names_changes_with_a_corefile() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let text = |lines: &str, port: u16, ready: u16| {
        format!(
            ".:{port} {{\n bind 127.0.0.1\n ready 127.0.0.1:{ready}\n kubernetes cluster.local {{\n{lines}\n }}\n reload 200ms\n}}\n"
        )
    };
    let file = directory.path().join("Corefile");
    let dns = NameServer::start_by(server.kubeconfig(), &file, |port, ready| text("", port, ready));
    dns.wait_until_ready();
    let (service, headless) = ("7up.default.svc.cluster.local", "db.default.svc.cluster.local");
    let are = |what: &str, expected: [&str; 2]| {
        eventually(what, LIMIT, || match [code(&dns, service)?, code(&dns, headless)?] {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    let say = |lines: &str| fs::write(&file, text(lines, dns.port(), dns.ready_port())).unwrap();
    are("all have names", ["NOERROR", "NOERROR"]);
    say("noendpoints");
    are("endpoints have none", ["NOERROR", "NXDOMAIN"]);
    say("namespaces kube-system");
    are("what is in other namespaces has none", ["NXDOMAIN", "NXDOMAIN"]);
    say("labels none=such");
    thread::sleep(Duration::from_secs(1));
    say("namespace_labels kubernetes.io/metadata.name=default");
    are("they have them again", ["NOERROR", "NOERROR"]);
    // What can't be known is not answered from: it would be a failure for what is known now.
    server.kill();
    say("noendpoints");
    thread::sleep(Duration::from_secs(1));
    are("they have them still", ["NOERROR", "NOERROR"]);
}

#[test]
fn a_corefile_says_where_the_api_server_is() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let of_client = fs::read_to_string(server.kubeconfig()).unwrap();
    let value = |key: &str| {
        let line = of_client.lines().find_map(|line| line.trim().strip_prefix(key));
        line.and_then(|rest| rest.strip_prefix(": ")).unwrap().to_owned()
    };
    let keys = ["client-certificate-data", "client-key-data", "certificate-authority-data"];
    let files = keys.map(|key| {
        let (encoded, file) = (directory.path().join("encoded"), directory.path().join(key));
        fs::write(&encoded, value(key)).unwrap();
        let mut decode = std::process::Command::new("base64");
        decode.arg("-d").arg(encoded);
        fs::write(&file, e2e::run(decode, LIMIT).ok().unwrap()).unwrap();
        file.display().to_string()
    });
    let by_address = format!("endpoint {}\ntls {}", value("server"), files.join(" "));
    // The current one leads nowhere.
    let other = directory.path().join("other");
    let (used, unused) = (value("current-context"), "current-context: none");
    fs::write(&other, of_client.replace(&format!("current-context: {used}"), unused)).unwrap();
    let by_context = format!("kubeconfig {} {used}", other.display());
    for lines in [by_address, by_context] {
        let dns = NameServer::start_by(None, &directory.path().join("Corefile"), |port, ready| {
            format!(
                ".:{port} {{\n bind 127.0.0.1\n ready 127.0.0.1:{ready}\n kubernetes cluster.local {{\n{lines}\n }}\n}}\n"
            )
        });
        dns.wait_until_ready();
        assert_eq!(
            short(&dns, &["7up.default.svc.cluster.local"]).unwrap(),
            "10.96.0.77",
            "{lines}"
        );
    }
}

#[test]
fn a_corefile_is_read_again_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let upstream = NameServer::start(
        server.kubeconfig(),
        &["--resolv-conf", "", "--cluster-domain", "corp.example"],
    );
    let forward = format!("corp.example:PORT {{\n forward . 127.0.0.1:{}\n}}\n", upstream.port());
    let text = |domain: &str, more: &str, port: u16, ready: u16| {
        let text = format!(
            ".:PORT {{\n bind 127.0.0.1\n errors\n ready 127.0.0.1:{ready}\n kubernetes {domain} in-addr.arpa {{\n  pods insecure\n }}\n cache 30\n reload 200ms\n}}\n{more}"
        );
        text.replace("PORT", &port.to_string())
    };
    let file = directory.path().join("Corefile");
    let dns = NameServer::start_by(server.kubeconfig(), &file, |port, ready| {
        text("cluster.local", &forward, port, ready)
    });
    let is = |name: &str, expected: &str| {
        eventually(&format!("{name} is {expected:?}"), LIMIT, || match short(&dns, &[name])? {
            found if found == expected => Ok(()),
            found => Err(found),
        });
    };
    is("7up.default.svc.cluster.local", "10.96.0.77");
    is("7up.default.svc.corp.example", "10.96.0.77");
    // What is not accepted changes nothing.
    fs::write(&file, "nonsense {\n").unwrap();
    thread::sleep(Duration::from_millis(600));
    is("7up.default.svc.cluster.local", "10.96.0.77");
    fs::write(&file, text("other.local", "", dns.port(), dns.ready_port())).unwrap();
    is("7up.default.svc.other.local", "10.96.0.77");
    is("7up.default.svc.corp.example", "");
    // Until those who answered before have ended.
    eventually("the old names are nobody's", LIMIT, || {
        match &*code(&dns, "7up.default.svc.cluster.local")? {
            "REFUSED" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

#[test]
fn each_line_of_a_corefile_that_is_not_accepted_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("Corefile");
    fs::write(&file, ".:53 {\n errors\n dnssec\n forward . nobody\n}\n").unwrap();
    let mut command = std::process::Command::new(e2e::portolan_path());
    command.args(["dns", "--conf", &file.display().to_string()]);
    let said = e2e::run(command, LIMIT).expect_failure();
    for part in ["line 3: dnssec: ", "line 4: forward . nobody: ", "accepted are"] {
        assert!(said.contains(part), "{said}");
    }
}

/// A question about a name, with an id.
fn question(id: u16, name: &str, kind: u8) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

#[test]
fn an_upgrade_loses_no_question() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"), &[]);
    server.apply(NAMES).expect_success();
    let port = free_port();
    let start = || NameServer::start_at(port, server.kubeconfig(), &["--resolv-conf", ""]);
    let mut dns = start();
    dns.wait_until_ready();
    let (is_over, pairs, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, pairs, lost) = (&is_over, &pairs, &lost);
    let ask = move || {
        while !is_over.load(Ordering::Relaxed) {
            // A socket of its own, as resolvers have, and both questions at once.
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            let name = "7up.default.svc.cluster.local";
            for (id, kind) in [(1, 1), (2, 28)] {
                // Nobody may be there for a moment, which counts as lost below.
                let _ = socket.send(&question(id, name, kind));
            }
            let mut buffer = [0; 512];
            let answers = (0..2).filter(|_| {
                matches!(socket.recv(&mut buffer), Ok(length) if length > 12 && buffer[3] & 0xf == 0)
            });
            let missing = 2 - answers.count() as u64;
            pairs.fetch_add(1, Ordering::Relaxed);
            lost.fetch_add(missing, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(ask);
        }
        let begin = Instant::now();
        for _ in 0..3 {
            let next = start();
            next.wait_until_ready();
            dns.end();
            dns = next;
        }
        say(&format!("three upgrades in {:?}", begin.elapsed()));
        is_over.store(true, Ordering::Relaxed);
    });
    let (pairs, lost) = (pairs.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    say(&format!("{pairs} pairs of questions during three upgrades, {lost} lost"));
    assert!(pairs > 1000);
    assert_eq!(lost, 0);
}
