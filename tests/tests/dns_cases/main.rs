//! The cases of cluster DNS as one table: what dig is asked for, and all that is answered. Each is asked of the shipped
//! binary beside the API server of this project, by datagrams and in a stream.

mod case;
mod exposed;
mod objects;
mod reply;
mod table;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{NameServer, Server, eventually, free_port, say};

use case::{At, Case, whole};
use objects::{CHANGES, OBJECTS};
use reply::Reply;
use table::TABLE;

const LIMIT: Duration = Duration::from_secs(20);
/// How many endpoints `big` has: too many for a datagram.
const MANY: usize = 100;

/// Asks one question, and answers what is not as it should be.
fn check(dns: &NameServer, case: &Case) -> String {
    let says_how = ["+tcp", "+notcp", "+ignore", "AXFR"].iter().any(|way| case.dig.contains(way));
    let ways: &[&[&str]] = if says_how { &[&[]] } else { &[&["+notcp"], &["+tcp"]] };
    let expected = Reply::expected(case);
    let mut wrong = String::new();
    for way in ways {
        let given = whole(case.dig);
        let given: Vec<&str> = given.split_whitespace().collect();
        let arguments = [way, &given[..]].concat();
        let seen = dns.dig(&arguments).map_or_else(Reply::none, |text| Reply::read(&text));
        if seen != expected {
            let (what, line, port) = (case.what, arguments.join(" "), dns.port());
            let _ = write!(
                wrong,
                "\n{what}: dig @127.0.0.1 -p {port} {line}\n  expected {expected}\n  seen     {seen}\n"
            );
        }
    }
    wrong
}

/// Both tables.
fn cases() -> impl Iterator<Item = &'static Case> {
    TABLE.iter().chain(exposed::TABLE)
}

/// Asks all that is to be asked of one server.
fn check_all(at: At, dns: &NameServer) -> String {
    cases().filter(|case| case.at == at).map(|case| check(dns, case)).collect()
}

/// The same, until what has changed has come.
fn check_in_time(at: At, dns: &NameServer) -> String {
    let start = Instant::now();
    loop {
        let wrong = check_all(at, dns);
        if wrong.is_empty() || start.elapsed() > LIMIT {
            return wrong;
        }
    }
}

/// The endpoints of `big`.
fn many() -> String {
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: big-1, labels: {kubernetes.io/service-name: big}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
";
    let endpoints = (1..=MANY).map(|last| format!("- {{addresses: [10.244.9.{last}]}}\n"));
    slice.to_owned() + &endpoints.collect::<String>()
}

/// A server that is ready.
fn ready(kubeconfig: &Path, arguments: &[&str]) -> NameServer {
    let dns = NameServer::start(kubeconfig, &[&["--resolv-conf", ""], arguments].concat());
    dns.wait_until_ready();
    dns
}

/// A server that is asked about addresses itself, whoever else there may be to ask.
fn with_kept_reverse(kubeconfig: &Path, file: &Path, upstream: &NameServer) -> NameServer {
    let upstream = upstream.port();
    let dns = NameServer::start_by(kubeconfig, file, |port, ready| {
        format!(
            ".:{port} {{\n bind 127.0.0.1\n ready 127.0.0.1:{ready}\n kubernetes cluster.local in-addr.arpa ip6.arpa {{\n  pods insecure\n  ttl 30\n }}\n forward . 127.0.0.1:{upstream}\n}}\n"
        )
    });
    dns.wait_until_ready();
    dns
}

#[test]
fn every_case_is_answered_as_it_should_be() {
    let directory = tempfile::tempdir().unwrap();
    let both = ["--service-cidr", "10.96.0.0/16,fd00:96::/112"];
    let mut server = Server::start_with(&directory.path().join("data"), &[], &both);
    server.apply(&(OBJECTS.to_owned() + exposed::OBJECTS + &many())).expect_success();
    let kubeconfig = server.kubeconfig().to_owned();
    let upstream = ready(&kubeconfig, &["--cluster-domain", "corp.example", "--ttl", "7"]);
    let corp = format!("corp.example=127.0.0.1:{}", upstream.port());
    let silent = format!("silent.example=127.0.0.1:{}", free_port());
    let usual = ready(&kubeconfig, &[]);
    let mut wrong = check_all(At::Usual, &usual);
    wrong += &check_all(At::NoPods, &ready(&kubeconfig, &["--pods", "disabled"]));
    wrong += &check_all(At::Long, &ready(&kubeconfig, &["--ttl", "3600"]));
    let kept = with_kept_reverse(&kubeconfig, &directory.path().join("Corefile"), &upstream);
    wrong += &check_all(At::KeptReverse, &kept);
    let alone = exposed::with_lines(&kubeconfig, &directory.path().join("Alone"), exposed::ALONE);
    wrong += &check_all(At::Alone, &alone);
    wrong += &check_all(At::Alone, &ready(&kubeconfig, &exposed::ALONE_BY_FLAGS));
    let selected = directory.path().join("Selected");
    let selected = exposed::with_lines(&kubeconfig, &selected, exposed::SELECTED);
    wrong += &check_all(At::Selected, &selected);
    let others = ["--stub-domain", &corp, "--stub-domain", &silent, "--cache-size", "0"];
    let forwarding = ready(&kubeconfig, &others);
    wrong += &check_all(At::Forwarding, &forwarding);
    for arguments in exposed::RELABELLED {
        server.kubectl(&arguments).expect_success();
    }
    wrong += &check_in_time(At::Relabelled, &selected);
    server.apply(CHANGES).expect_success();
    for gone in [["service", "kube-dns", "-nkube-system"], ["service", "short", "-nshop"]] {
        server.kubectl(&[&["delete"], &gone[..]].concat()).expect_success();
    }
    server.kubectl(&["delete", "namespace", "passing"]).expect_success();
    wrong += &check_in_time(At::Changed, &usual);
    server.kill();
    let unsynced = NameServer::start(&kubeconfig, &["--resolv-conf", ""]);
    eventually("it answers", LIMIT, || unsynced.dig(&["cluster.local"]));
    wrong += &check_all(At::Unsynced, &unsynced);
    say(&format!("{} cases", cases().count()));
    assert!(wrong.is_empty(), "{wrong}");
}
