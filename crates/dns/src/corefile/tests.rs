//! Corefiles of clusters, and what is wrong with others.

use super::*;
use crate::answer::Pods;
use crate::rewrite::Pattern;

/// As kubeadm writes it.
const STOCK: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

fn parse(text: &str) -> Result<Corefile, Vec<Refusal>> {
    Corefile::parse(text, |_| None)
}

fn any(port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))
}

#[test]
fn that_of_a_cluster_is_read() {
    let corefile = parse(STOCK).unwrap();
    let kubernetes = corefile.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.domain, "cluster.local.");
    assert_eq!((kubernetes.ttl, kubernetes.pods), (30, Pods::Insecure));
    assert!(kubernetes.reverse_falls_through);
    assert_eq!(corefile.lameduck, Duration::from_secs(5));
    assert_eq!((corefile.health, corefile.ready), (any(8080), any(8181)));
    assert_eq!((corefile.prometheus, corefile.port), (any(9153), 53));
    let [forward] = &corefile.forwards[..] else { panic!("{:?}", corefile.forwards) };
    assert_eq!(forward.domain, Name::root());
    assert_eq!(forward.to, [To::File("/etc/resolv.conf".into())]);
    let cache = corefile.cache.unwrap();
    assert_eq!((cache.success, cache.denial), (Duration::from_secs(30), Duration::from_secs(30)));
    assert!(!corefile.log);
}

#[test]
fn domains_of_others_have_blocks_of_their_own() {
    let stub = "corp.example:53 {\n errors\n cache 60\n forward . 192.0.2.53 192.0.2.54:5353 {\n  policy sequential\n }\n}\n";
    let corefile = parse(&format!("{STOCK}{stub}")).unwrap();
    let stub = &corefile.forwards[1];
    assert_eq!(stub.domain, Name::parse("corp.example").unwrap());
    assert_eq!(stub.policy, Policy::Sequential);
    assert_eq!(
        stub.to,
        ["192.0.2.53:53", "192.0.2.54:5353"].map(|at| To::Server(at.parse().unwrap()))
    );
    assert_eq!(corefile.cache.unwrap().success, Duration::from_secs(60));
}

#[test]
fn each_line_that_is_not_accepted_is_named() {
    let text = ".:53 {
    dnssec
    kubernetes cluster.local {
        pods perhaps
        fallthrough
        transfer to *
    }
    forward . https://192.0.2.1
    forward .
    cache soon
    health 1.2.3.4
    rewrite name regex a(.*) b
}
example.com:54 {
    forward . 192.0.2.1
}
https://. {
}
";
    let refused = parse(text).unwrap_err();
    let lines: Vec<usize> = refused.iter().map(|refusal| refusal.line).collect();
    assert_eq!(lines, [2, 4, 5, 6, 8, 9, 10, 11, 12, 14, 17], "{refused:#?}");
    assert_eq!(refused[0].text, "dnssec");
    assert!(refused[1].to_string().starts_with("line 4: pods perhaps: "), "{}", refused[1]);
}

#[test]
fn servers_by_tls_are_read() {
    let of = |inner: &str| parse(&format!(". {{\n forward . tls://9.9.9.9 {{\n{inner}\n }}\n}}\n"));
    let tls = |inner: &str| of(inner).unwrap().forwards[0].tls.clone();
    let to = of("").unwrap().forwards[0].to.clone();
    assert_eq!(to, [To::Server(Address::Tls("9.9.9.9:853".parse().unwrap()))]);
    assert_eq!(tls("tls"), TlsOptions::default());
    let name = tls("tls_servername dns.quad9.net\ntls").server_name.unwrap();
    assert_eq!(name.to_string(), "dns.quad9.net");
    let files = |inner: &str| -> Vec<String> {
        tls(inner).files().map(|path| path.display().to_string()).collect()
    };
    assert_eq!(files("tls /ca"), ["/ca"]);
    assert_eq!(files("tls /cert /key"), ["/cert", "/key"]);
    assert_eq!(files("tls /cert /key /ca"), ["/ca", "/cert", "/key"]);
    for refused in ["tls a b c d", "tls_servername", "tls_servername a b", "tls_servername a..b"] {
        assert_eq!(of(refused).unwrap_err()[0].line, 3, "{refused}");
    }
    for (line, text) in [
        (2, ". {\n forward . tls://dns.quad9.net\n}\n"),
        (2, ". {\n forward . tls://9.9.9.9:x\n}\n"),
        // It would be asked in clear text.
        (3, ". {\n forward . 9.9.9.9 {\n  tls_servername dns.quad9.net\n }\n}\n"),
        (3, ". {\n forward . 9.9.9.9 {\n  tls\n }\n}\n"),
    ] {
        assert_eq!(parse(text).unwrap_err()[0].line, line, "{text}");
    }
}

#[test]
fn hosts_are_read() {
    let text = ". {\n hosts /etc/more {\n  192.0.2.1 build.example build\n  ttl 60\n  fallthrough\n }\n}\n";
    let hosts = parse(text).unwrap().hosts.unwrap();
    assert_eq!(hosts.file, Some("/etc/more".into()));
    assert_eq!((&*hosts.lines, hosts.ttl), ("192.0.2.1 build.example build\n", 60));
    assert_eq!(hosts.falls_through, [Name::root()]);
}

#[test]
fn names_that_stand_for_others_are_read() {
    let rules = "rewrite name shop.example web.default.svc.cluster.local
        rewrite stop name exact Shop2.example web.default.svc.cluster.local answer auto
        rewrite name suffix .in.example. .default.svc.cluster.local answer auto
        autopath @kubernetes";
    let corefile = parse(&format!(".:53 {{\n{rules}\n}}\n")).unwrap();
    let name = |text: &str| Name::parse(text).unwrap();
    let from: Vec<Pattern> = corefile.rewrites.iter().map(|rule| rule.from.clone()).collect();
    let exact = ["shop.example", "shop2.example"].map(|text| Pattern::Exact(name(text)));
    assert_eq!(from[..2], exact);
    assert_eq!(from[2], Pattern::Suffix(name("in.example")));
    assert!(corefile.autopath);
    for refused in [
        "rewrite name suffix in.example .b",
        "rewrite type ANY HINFO",
        "rewrite continue name a b",
        "rewrite name a b answer name b a",
        "rewrite name a",
        "autopath /etc/resolv.conf",
    ] {
        let refused = parse(&format!(".:53 {{\n{refused}\n}}\n")).unwrap_err();
        assert!(refused[0].to_string().contains("accepted"), "{}", refused[0]);
    }
}
