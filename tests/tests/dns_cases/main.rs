//! The cases of cluster DNS as one table: what dig is asked for, and all that is answered. Each is asked of the shipped
//! binary beside the API server of this project, by datagrams and in a stream.

mod exposed;
mod objects;

use std::fmt::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{NameServer, Server, eventually, free_port, say};

use objects::{CHANGES, OBJECTS};

const LIMIT: Duration = Duration::from_secs(20);
/// The namespace that nearly all is in.
const DOMAIN: &str = "shop.svc.cluster.local";
/// Longer sections are counted only: addresses take turns in what is left out.
const LISTED: usize = 16;
/// How many endpoints `big` has: too many for a datagram.
const MANY: usize = 100;

/// Who is asked, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A server with nothing said, that has nobody to ask about names of others.
    Usual,
    /// One where pods have no names.
    NoPods,
    /// One whose answers may be kept for an hour.
    Long,
    /// One that asks others, but not about addresses.
    KeptReverse,
    /// One that asks another one about `corp.example`, which it does not keep, and about `silent.example` nobody who is
    /// there.
    Forwarding,
    /// One where namespaces, Services and slices are selected by labels, endpoints called like their pods, and Services
    /// without them passed over.
    Selected,
    /// The same, after the labels of namespaces have changed.
    Relabelled,
    /// One where namespaces are named, and endpoints have no names.
    Alone,
    /// The usual one, after the cluster has changed.
    Changed,
    /// One that has never reached the API server.
    Unsynced,
}

/// A question, and what is to be answered.
#[derive(Debug, Clone, Copy)]
struct Case {
    what: &'static str,
    at: At,
    /// Arguments of dig. Here and below `~` is [`DOMAIN`].
    dig: &'static str,
    status: &'static str,
    flags: &'static str,
    /// What the server says of itself.
    edns: &'static str,
    /// Records of each section, in order of their text.
    answer: &'static [&'static str],
    authority: &'static [&'static str],
    additional: &'static [&'static str],
}

const EDNS: &str = "version: 0, flags:; udp: 1232";
/// With what it is said that there is nothing.
const SOA: &str = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";
const SOA_V4: &str = "in-addr.arpa. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";
const SOA_V6: &str =
    "ip6.arpa. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";

const SOA_CAPITAL: &str = "CLUSTER.local. 30 IN SOA ns.dns.CLUSTER.local. hostmaster.CLUSTER.local. SERIAL 7200 1800 86400 30";
const SOA_LONG: &str = "cluster.local. 300 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 3600";
const SOA_CORP: &str =
    "corp.example. 7 IN SOA ns.dns.corp.example. hostmaster.corp.example. SERIAL 7200 1800 86400 7";
/// What the longest names lead to.
const PTR_BOTH: &str =
    "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa. 30 IN PTR both.~.";
const PTR_TWIN: &str = "1.0.0.0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.0.d.f.ip6.arpa. 30 IN PTR twin-0.twin.~.";

/// There are these records.
const fn found(what: &'static str, dig: &'static str, answer: &'static [&'static str]) -> Case {
    let (status, flags, at) = ("NOERROR", "qr aa rd", At::Usual);
    Case { what, at, dig, status, flags, edns: EDNS, answer, authority: &[], additional: &[] }
}

/// There is such a name, but nothing of this type.
const fn empty(what: &'static str, dig: &'static str) -> Case {
    Case { authority: &[SOA], ..found(what, dig, &[]) }
}

/// There is no such name.
const fn missing(what: &'static str, dig: &'static str) -> Case {
    Case { status: "NXDOMAIN", ..empty(what, dig) }
}

/// It is not answered.
const fn failed(what: &'static str, dig: &'static str, status: &'static str) -> Case {
    Case { status, flags: "qr rd", ..found(what, dig, &[]) }
}

impl Case {
    const fn at(self, at: At) -> Self {
        Self { at, ..self }
    }

    const fn flags(self, flags: &'static str) -> Self {
        Self { flags, ..self }
    }

    const fn edns(self, edns: &'static str) -> Self {
        Self { edns, ..self }
    }

    const fn answer(self, answer: &'static [&'static str]) -> Self {
        Self { answer, ..self }
    }

    const fn authority(self, authority: &'static [&'static str]) -> Self {
        Self { authority, ..self }
    }

    const fn additional(self, additional: &'static [&'static str]) -> Self {
        Self { additional, ..self }
    }
}

/// What is asked, and what is answered.
const TABLE: &[Case] = &[
    // The zone itself.
    found(
        "the version of the schema is told",
        "dns-version.cluster.local TXT",
        &["dns-version.cluster.local. 28800 IN TXT \"1.1.0\""],
    ),
    empty("the version has no address", "dns-version.cluster.local A"),
    found("the zone has a start of authority", "cluster.local SOA", &[SOA]),
    found(
        "the zone's name server is the Service of DNS, with its address",
        "cluster.local NS",
        &["cluster.local. 30 IN NS kube-dns.kube-system.svc.cluster.local."],
    )
    .additional(&["kube-dns.kube-system.svc.cluster.local. 30 IN A 10.96.0.10"]),
    found(
        "the name server has its address by its other name",
        "ns.dns.cluster.local A",
        &["ns.dns.cluster.local. 30 IN A 10.96.0.10"],
    ),
    empty("the name server has no address of another family", "ns.dns.cluster.local AAAA"),
    empty("the zone has no address", "cluster.local A"),
    empty("the zone has no other type", "cluster.local MX"),
    empty("below svc there are names, but it has nothing itself", "svc.cluster.local A"),
    empty("below pod there are names, but it has nothing itself", "pod.cluster.local A"),
    empty("below dns there are names, but it has nothing itself", "dns.cluster.local A"),
    empty("there is one zone only: svc has no start of authority", "svc.cluster.local SOA"),
    empty("svc has no name server", "svc.cluster.local NS"),
    missing("nothing else is below the zone", "foo.cluster.local A"),
    missing("nothing is below what does not exist", "a.foo.cluster.local A"),
    missing("nothing is below the version", "a.dns-version.cluster.local TXT"),
    // Namespaces.
    empty("a namespace has Services, but nothing itself", "~ A"),
    empty("a namespace is no zone", "~ NS"),
    missing("a namespace that is not there", "nowhere.svc.cluster.local A"),
    missing("a namespace that is not there, for any type", "nowhere.svc.cluster.local NS"),
    missing("a Service of a namespace that is not there", "web.nowhere.svc.cluster.local A"),
    missing("a dot within a label is no dot between labels", "web\\.~ A"),
    // Services with addresses of their own.
    found(
        "the cluster's API has a name",
        "kubernetes.default.svc.cluster.local A",
        &["kubernetes.default.svc.cluster.local. 30 IN A 10.96.0.1"],
    ),
    found("a Service has its address", "web.~ A", &["web.~. 30 IN A 10.96.1.1"]),
    empty("a Service of IPv4 has no address of IPv6", "web.~ AAAA"),
    found("a Service of both families, by IPv4", "both.~ A", &["both.~. 30 IN A 10.96.1.2"]),
    found("a Service of both families, by IPv6", "both.~ AAAA", &["both.~. 30 IN AAAA fd00:96::2"]),
    found("a Service of IPv6 has its address", "six.~ AAAA", &["six.~. 30 IN AAAA fd00:96::4"]),
    empty("a Service of IPv6 has no address of IPv4", "six.~ A"),
    found(
        "a Service without endpoints has its address",
        "bare.~ A",
        &["bare.~. 30 IN A 10.96.1.3"],
    ),
    found(
        "a Service may be called like an address",
        "10-244-1-1.~ A",
        &["10-244-1-1.~. 30 IN A 10.96.1.6"],
    ),
    found(
        "of a load balancer's Service the address within the cluster is told",
        "outer.~ A",
        &["outer.~. 30 IN A 10.96.1.7"],
    ),
    empty("a Service has no MX", "web.~ MX"),
    empty("a Service has no TXT", "web.~ TXT"),
    empty("a Service has no SOA", "web.~ SOA"),
    empty("a Service has no NS", "web.~ NS"),
    empty("a Service has no CNAME", "web.~ CNAME"),
    empty("a Service has no PTR", "web.~ PTR"),
    empty("a Service has no HTTPS", "web.~ HTTPS"),
    empty("a Service has no TYPE65280", "web.~ TYPE65280"),
    missing("a Service that is not there", "none.~ A"),
    missing("a Service that is not there, for the other family", "none.~ AAAA"),
    missing("a Service that is not there, for a type that nothing has", "none.~ HTTPS"),
    missing("endpoints make no Service", "orphan.~ A"),
    missing("a star stands for nothing", "*.~ A"),
    missing("a star stands for no namespace", "web.*.svc.cluster.local A"),
    missing("a star stands for no endpoint", "*.web.~ A"),
    missing("a star stands for no port", "*._tcp.web.~ SRV"),
    missing("a word stands for nothing either", "any.~ A"),
    missing("nothing is longer than a port's name", "a.b.c.web.~ A"),
    found(
        "for all types there are the addresses",
        "both.~ ANY",
        &["both.~. 30 IN A 10.96.1.2", "both.~. 30 IN AAAA fd00:96::2"],
    ),
    // Ports.
    found(
        "a port of TCP has its number at the Service",
        "_http._tcp.web.~ SRV",
        &["_http._tcp.web.~. 30 IN SRV 0 100 80 web.~."],
    )
    .additional(&["web.~. 30 IN A 10.96.1.1"]),
    found(
        "a port of UDP has its number at the Service",
        "_dns._udp.web.~ SRV",
        &["_dns._udp.web.~. 30 IN SRV 0 100 53 web.~."],
    )
    .additional(&["web.~. 30 IN A 10.96.1.1"]),
    found(
        "a port of SCTP has its number at the Service",
        "_wire._sctp.web.~ SRV",
        &["_wire._sctp.web.~. 30 IN SRV 0 100 9 web.~."],
    )
    .additional(&["web.~. 30 IN A 10.96.1.1"]),
    found(
        "a port of a Service of both families comes with both addresses",
        "_http._tcp.both.~ SRV",
        &["_http._tcp.both.~. 30 IN SRV 0 50 80 both.~."],
    )
    .additional(&["both.~. 30 IN A 10.96.1.2", "both.~. 30 IN AAAA fd00:96::2"]),
    found(
        "a Service's own name has all of its ports",
        "web.~ SRV",
        &[
            "web.~. 30 IN SRV 0 33 53 web.~.",
            "web.~. 30 IN SRV 0 33 80 web.~.",
            "web.~. 30 IN SRV 0 33 9 web.~.",
        ],
    )
    .additional(&["web.~. 30 IN A 10.96.1.1"]),
    found("also one that has no name", "bare.~ SRV", &["bare.~. 30 IN SRV 0 100 8080 bare.~."])
        .additional(&["bare.~. 30 IN A 10.96.1.3"]),
    found(
        "a port's name has the Service's address",
        "_http._tcp.web.~ A",
        &["_http._tcp.web.~. 30 IN A 10.96.1.1"],
    ),
    empty("a port's name has no address that the Service has not", "_http._tcp.web.~ AAAA"),
    empty("a port's name has no other type", "_http._tcp.web.~ TXT"),
    missing("a port that is not there", "_none._tcp.web.~ SRV"),
    missing("a port of another protocol", "_http._udp.web.~ SRV"),
    missing("a protocol that is none", "_http._icmp.web.~ SRV"),
    missing("a port without its underscore", "http._tcp.web.~ SRV"),
    missing("a protocol without its underscore", "_http.tcp.web.~ SRV"),
    missing("a port without a name", "_._tcp.web.~ SRV"),
    missing("a port without a protocol", "_http.web.~ SRV"),
    missing("a protocol without a port", "_tcp.web.~ SRV"),
    missing("a port that has no name is not found by its number", "_8080._tcp.bare.~ SRV"),
    missing("a port of a Service that is not there", "_http._tcp.none.~ SRV"),
    // Endpoints of Services with addresses of their own.
    found(
        "an endpoint is called by its address",
        "10-244-1-1.web.~ A",
        &["10-244-1-1.web.~. 30 IN A 10.244.1.1"],
    ),
    found("or by its hostname", "front.web.~ A", &["front.web.~. 30 IN A 10.244.1.2"]),
    missing("one with a hostname has no other name", "10-244-1-2.web.~ A"),
    missing("an address that no endpoint has", "10-244-1-3.web.~ A"),
    // Headless Services.
    found(
        "a headless Service has the addresses of what is ready, each once",
        "db.~ A",
        &[
            "db.~. 30 IN A 10.244.2.1",
            "db.~. 30 IN A 10.244.2.2",
            "db.~. 30 IN A 10.244.2.3",
            "db.~. 30 IN A 10.244.2.6",
        ],
    ),
    empty("with endpoints of IPv4 it has none of IPv6", "db.~ AAAA"),
    empty("a headless Service has no other type", "db.~ MX"),
    found("a hostname has its address", "db-1.db.~ A", &["db-1.db.~. 30 IN A 10.244.2.2"]),
    found(
        "a hostname that two have has both addresses",
        "db-0.db.~ A",
        &["db-0.db.~. 30 IN A 10.244.2.1", "db-0.db.~. 30 IN A 10.244.2.6"],
    ),
    found(
        "who has no hostname is called by the address",
        "10-244-2-3.db.~ A",
        &["10-244-2-3.db.~. 30 IN A 10.244.2.3"],
    ),
    empty("an endpoint has no address of another family", "db-0.db.~ AAAA"),
    empty("an endpoint has no other type", "db-0.db.~ TXT"),
    missing("an endpoint that is not ready", "10-244-2-4.db.~ A"),
    missing("an endpoint that is ending, though it still serves", "db-5.db.~ A"),
    missing("an endpoint that is not there", "db-9.db.~ A"),
    missing("nothing is below an endpoint", "a.db-0.db.~ A"),
    found(
        "a port is told of each endpoint, by the number that it has there",
        "_sql._tcp.db.~ SRV",
        &[
            "_sql._tcp.db.~. 30 IN SRV 0 25 5432 10-244-2-3.db.~.",
            "_sql._tcp.db.~. 30 IN SRV 0 25 5432 db-0.db.~.",
            "_sql._tcp.db.~. 30 IN SRV 0 25 5432 db-1.db.~.",
        ],
    )
    .additional(&[
        "10-244-2-3.db.~. 30 IN A 10.244.2.3",
        "db-0.db.~. 30 IN A 10.244.2.1",
        "db-0.db.~. 30 IN A 10.244.2.6",
        "db-1.db.~. 30 IN A 10.244.2.2",
    ]),
    found(
        "a port that not all have is told of those that have it",
        "_admin._tcp.db.~ SRV",
        &[
            "_admin._tcp.db.~. 30 IN SRV 0 33 5433 10-244-2-3.db.~.",
            "_admin._tcp.db.~. 30 IN SRV 0 33 5433 db-0.db.~.",
            "_admin._tcp.db.~. 30 IN SRV 0 33 5433 db-1.db.~.",
        ],
    )
    .additional(&[
        "10-244-2-3.db.~. 30 IN A 10.244.2.3",
        "db-0.db.~. 30 IN A 10.244.2.1",
        "db-1.db.~. 30 IN A 10.244.2.2",
    ]),
    found(
        "a port's name has the addresses of those that have it",
        "_admin._tcp.db.~ A",
        &[
            "_admin._tcp.db.~. 30 IN A 10.244.2.1",
            "_admin._tcp.db.~. 30 IN A 10.244.2.2",
            "_admin._tcp.db.~. 30 IN A 10.244.2.3",
        ],
    ),
    found(
        "the Service's own name has all ports of all endpoints",
        "db.~ SRV",
        &[
            "db.~. 30 IN SRV 0 14 5432 10-244-2-3.db.~.",
            "db.~. 30 IN SRV 0 14 5432 db-0.db.~.",
            "db.~. 30 IN SRV 0 14 5432 db-1.db.~.",
            "db.~. 30 IN SRV 0 14 5433 10-244-2-3.db.~.",
            "db.~. 30 IN SRV 0 14 5433 db-0.db.~.",
            "db.~. 30 IN SRV 0 14 5433 db-1.db.~.",
        ],
    )
    .additional(&[
        "10-244-2-3.db.~. 30 IN A 10.244.2.3",
        "db-0.db.~. 30 IN A 10.244.2.1",
        "db-0.db.~. 30 IN A 10.244.2.6",
        "db-1.db.~. 30 IN A 10.244.2.2",
    ]),
    missing("a headless Service's port of another protocol", "_sql._udp.db.~ SRV"),
    missing("a headless Service's port that is not there", "_none._tcp.db.~ SRV"),
    found("endpoints of both families, by IPv4", "twin.~ A", &["twin.~. 30 IN A 10.244.3.1"]),
    found(
        "endpoints of both families, by IPv6",
        "twin.~ AAAA",
        &["twin.~. 30 IN AAAA fd00:244:0:3::", "twin.~. 30 IN AAAA fd00:244::3:1"],
    ),
    found(
        "a hostname has addresses of both families, by IPv4",
        "twin-0.twin.~ A",
        &["twin-0.twin.~. 30 IN A 10.244.3.1"],
    ),
    found(
        "a hostname has addresses of both families, by IPv6",
        "twin-0.twin.~ AAAA",
        &["twin-0.twin.~. 30 IN AAAA fd00:244::3:1"],
    ),
    found(
        "an address of IPv6 that ends with colons is called with a zero",
        "fd00-244-0-3--0.twin.~ AAAA",
        &["fd00-244-0-3--0.twin.~. 30 IN AAAA fd00:244:0:3::"],
    ),
    found(
        "a port of both families comes with addresses of both",
        "_http._tcp.twin.~ SRV",
        &[
            "_http._tcp.twin.~. 30 IN SRV 0 33 8080 fd00-244-0-3--0.twin.~.",
            "_http._tcp.twin.~. 30 IN SRV 0 33 8080 twin-0.twin.~.",
        ],
    )
    .additional(&[
        "fd00-244-0-3--0.twin.~. 30 IN AAAA fd00:244:0:3::",
        "twin-0.twin.~. 30 IN A 10.244.3.1",
        "twin-0.twin.~. 30 IN AAAA fd00:244::3:1",
    ]),
    missing("a headless Service without endpoints", "idle.~ A"),
    missing("a headless Service without endpoints has no ports", "_http._tcp.idle.~ SRV"),
    missing("a headless Service of which nothing is ready", "waiting.~ A"),
    found(
        "one that tells of what is not ready has what counts as ready",
        "eager.~ A",
        &["eager.~. 30 IN A 10.244.4.2"],
    ),
    found(
        "a headless Service without ports has addresses",
        "portless.~ A",
        &["portless.~. 30 IN A 10.244.4.3"],
    ),
    empty("a headless Service without ports has none to tell of", "portless.~ SRV"),
    found(
        "a headless Service's port without a name is told of at the Service's name",
        "unnamed.~ SRV",
        &["unnamed.~. 30 IN SRV 0 100 9001 10-244-4-4.unnamed.~."],
    )
    .additional(&["10-244-4-4.unnamed.~. 30 IN A 10.244.4.4"]),
    missing(
        "a headless Service's port without a name has none of its own",
        "_http._tcp.unnamed.~ SRV",
    ),
    // Services that are other names.
    found("another name is told for A", "out.~ A", &["out.~. 30 IN CNAME foo.example.com."]),
    found("another name is told for AAAA", "out.~ AAAA", &["out.~. 30 IN CNAME foo.example.com."]),
    found(
        "another name is told for CNAME",
        "out.~ CNAME",
        &["out.~. 30 IN CNAME foo.example.com."],
    ),
    empty("another name is not told for SRV", "out.~ SRV"),
    empty("another name is not told for TXT", "out.~ TXT"),
    missing("nothing is below another name", "x.out.~ A"),
    missing("another name has no ports", "_http._tcp.out.~ SRV"),
    found(
        "another name of the cluster comes with its address",
        "near.~ A",
        &["near.~. 30 IN CNAME web.~.", "web.~. 30 IN A 10.96.1.1"],
    ),
    empty("another name of the cluster without such an address", "near.~ AAAA")
        .answer(&["near.~. 30 IN CNAME web.~."]),
    found("another name by itself", "near.~ CNAME", &["near.~. 30 IN CNAME web.~."]),
    found(
        "another name that leads to another name",
        "far.~ A",
        &["far.~. 30 IN CNAME near.~.", "near.~. 30 IN CNAME web.~.", "web.~. 30 IN A 10.96.1.1"],
    ),
    missing("another name of the cluster that does not exist", "lost.~ A")
        .answer(&["lost.~. 30 IN CNAME none.~."]),
    missing("another name that is an address is none", "literal.~ A"),
    // Pods.
    found(
        "a pod's name spells its address",
        "10-244-7-7.shop.pod.cluster.local A",
        &["10-244-7-7.shop.pod.cluster.local. 30 IN A 10.244.7.7"],
    ),
    empty(
        "a pod's name has no address of another family",
        "10-244-7-7.shop.pod.cluster.local AAAA",
    ),
    empty("a pod's name has no other type", "10-244-7-7.shop.pod.cluster.local SRV"),
    found(
        "a pod's name spells an address of IPv6",
        "2001-db8--1.shop.pod.cluster.local AAAA",
        &["2001-db8--1.shop.pod.cluster.local. 30 IN AAAA 2001:db8::1"],
    ),
    empty("a pod's name of IPv6 has no address of IPv4", "2001-db8--1.shop.pod.cluster.local A"),
    empty("a namespace has pods, but nothing itself", "shop.pod.cluster.local A"),
    missing("a namespace that is not there has no pods", "nowhere.pod.cluster.local A"),
    missing("no pod is in a namespace that is not there", "10-244-7-7.nowhere.pod.cluster.local A"),
    missing("10-244-7 is no address", "10-244-7.shop.pod.cluster.local A"),
    missing("10-244-7-7-7 is no address", "10-244-7-7-7.shop.pod.cluster.local A"),
    missing("10-244-7-256 is no address", "10-244-7-256.shop.pod.cluster.local A"),
    missing("web is no address", "web.shop.pod.cluster.local A"),
    missing("nothing is below a pod", "a.10-244-7-7.shop.pod.cluster.local A"),
    missing("pods have no names where that is said", "10-244-7-7.shop.pod.cluster.local A")
        .at(At::NoPods),
    missing("nor have namespaces of them", "shop.pod.cluster.local A").at(At::NoPods),
    empty("what they would be below is there", "pod.cluster.local A").at(At::NoPods),
    found("Services have names there", "web.~ A", &["web.~. 30 IN A 10.96.1.1"]).at(At::NoPods),
    // Addresses.
    found(
        "a Service's address leads to its name, also where an endpoint has it",
        "-x 10.96.1.1",
        &["1.1.96.10.in-addr.arpa. 30 IN PTR web.~."],
    ),
    found(
        "each address of a Service does, of IPv4",
        "-x 10.96.1.2",
        &["2.1.96.10.in-addr.arpa. 30 IN PTR both.~."],
    ),
    found("each address of a Service does, of IPv6", "-x fd00:96::2", &[PTR_BOTH]),
    found(
        "an endpoint's address leads to its hostname",
        "-x 10.244.2.1",
        &["1.2.244.10.in-addr.arpa. 30 IN PTR db-0.db.~."],
    ),
    found(
        "or to the name by its address",
        "-x 10.244.2.3",
        &["3.2.244.10.in-addr.arpa. 30 IN PTR 10-244-2-3.db.~."],
    ),
    found(
        "an address of two Services leads to both",
        "-x 10.244.2.2",
        &[
            "2.2.244.10.in-addr.arpa. 30 IN PTR 10-244-2-2.twice.~.",
            "2.2.244.10.in-addr.arpa. 30 IN PTR db-1.db.~.",
        ],
    ),
    found("an endpoint's address of IPv6", "-x fd00:244::3:1", &[PTR_TWIN]),
    found(
        "an endpoint of a Service with an address of its own",
        "-x 10.244.1.1",
        &["1.1.244.10.in-addr.arpa. 30 IN PTR 10-244-1-1.web.~."],
    ),
    empty("an address has no other type", "1.1.96.10.in-addr.arpa A").authority(&[SOA_V4]),
    empty("an address of IPv6 has no other type", "-x fd00:244::3:1 -t TXT").authority(&[SOA_V6]),
    missing("an address of nobody, where there is nobody to ask", "-x 10.96.1.99")
        .authority(&[SOA_V4]),
    missing("an address of IPv6 of nobody, where there is nobody to ask", "-x fd00:96::99")
        .authority(&[SOA_V6]),
    missing("the address of an endpoint that is not ready", "-x 10.244.2.4").authority(&[SOA_V4]),
    missing("the address of an endpoint without a Service", "-x 10.244.4.9").authority(&[SOA_V4]),
    missing("an address outside that a Service has", "-x 192.0.2.9").authority(&[SOA_V4]),
    missing("an address of nobody, where others are not asked", "-x 10.96.1.99")
        .authority(&[SOA_V4])
        .at(At::KeptReverse)
        .flags("qr aa rd ra"),
    found(
        "an address that is known, where others are not asked",
        "-x 10.96.1.1",
        &["1.1.96.10.in-addr.arpa. 30 IN PTR web.~."],
    )
    .at(At::KeptReverse)
    .flags("qr aa rd ra"),
    // Letters.
    found(
        "small and capital letters are the same, and stay as they were asked",
        "WEB.Shop.SVC.Cluster.LOCAL A",
        &["WEB.Shop.SVC.Cluster.LOCAL. 30 IN A 10.96.1.1"],
    ),
    found(
        "also those of an endpoint",
        "Db-0.DB.~ A",
        &["Db-0.DB.~. 30 IN A 10.244.2.1", "Db-0.DB.~. 30 IN A 10.244.2.6"],
    ),
    found(
        "what a port leads to has the zone as it was asked",
        "_HTTP._Tcp.WEB.shop.svc.CLUSTER.local SRV",
        &["_HTTP._Tcp.WEB.shop.svc.CLUSTER.local. 30 IN SRV 0 100 80 web.shop.svc.CLUSTER.local."],
    )
    .additional(&["web.shop.svc.CLUSTER.local. 30 IN A 10.96.1.1"]),
    missing("and so has what says that there is nothing", "None.shop.svc.CLUSTER.local A")
        .authority(&[SOA_CAPITAL]),
    found(
        "an address leads to small letters",
        "1.1.96.10.IN-ADDR.Arpa PTR",
        &["1.1.96.10.IN-ADDR.Arpa. 30 IN PTR web.~."],
    ),
    // How long answers may be kept.
    found("as long as is said", "web.~ A", &["web.~. 3600 IN A 10.96.1.1"]).at(At::Long),
    missing("that there is nothing at most five minutes", "none.~ A")
        .at(At::Long)
        .authority(&[SOA_LONG]),
    found("the start of authority too", "cluster.local SOA", &[SOA_LONG]).at(At::Long),
    // What clients say of themselves.
    found("who says nothing is told nothing", "web.~ A +noedns", &["web.~. 30 IN A 10.96.1.1"])
        .edns(""),
    found(
        "who takes signatures is told so, though there are none",
        "web.~ A +dnssec",
        &["web.~. 30 IN A 10.96.1.1"],
    )
    .edns("version: 0, flags: do; udp: 1232"),
    found(
        "what is not known of them is passed over",
        "web.~ A +ednsopt=65001:abcd",
        &["web.~. 30 IN A 10.96.1.1"],
    ),
    failed("another version of EDNS", "web.~ A +edns=1 +noednsnegotiation", "BADVERS"),
    found("who wants no recursion", "web.~ A +norecurse", &["web.~. 30 IN A 10.96.1.1"])
        .flags("qr aa"),
    found("who checks signatures himself", "web.~ A +cdflag", &["web.~. 30 IN A 10.96.1.1"])
        .flags("qr aa rd cd"),
    // What does not fit.
    found(
        "a datagram of the least length has what fits",
        "big.~ A +notcp +noedns +ignore",
        &["29 records"],
    )
    .flags("qr aa tc rd")
    .edns(""),
    found("as long as the client takes", "big.~ A +notcp +bufsize=700 +ignore", &["40 records"])
        .flags("qr aa tc rd"),
    found(
        "less than the least is the least",
        "big.~ A +notcp +bufsize=100 +ignore",
        &["28 records"],
    )
    .flags("qr aa tc rd"),
    found(
        "but no longer than passes everywhere",
        "big.~ A +notcp +bufsize=4096 +ignore",
        &["73 records"],
    )
    .flags("qr aa tc rd"),
    found("a stream has all", "big.~ A +tcp +noedns", &["100 records"]).edns(""),
    found("and so has who comes back with one", "big.~ A +notcp +bufsize=512", &["100 records"]),
    // What is not answered.
    failed("names of others, where there is nobody to ask", "www.example.com A", "REFUSED"),
    failed("a name that ends alike", "xcluster.local A", "REFUSED"),
    failed("the root", ". NS", "REFUSED"),
    failed("a class that there is not", "web.~ CH A", "REFUSED"),
    failed("a question about the server", "version.bind CH TXT", "REFUSED"),
    failed("a transfer of the zone", "cluster.local AXFR", "; Transfer failed.").flags("").edns(""),
    failed("another operation", "web.~ A +opcode=STATUS", "NOTIMP").edns(""),
    failed("no question", "+header-only", "FORMERR").edns(""),
    // Names of others.
    found(
        "what is the cluster's is said by who also asks others",
        "web.~ A",
        &["web.~. 30 IN A 10.96.1.1"],
    )
    .at(At::Forwarding)
    .flags("qr aa rd ra"),
    found(
        "a name of others is asked of them",
        "web.shop.svc.corp.example A",
        &["web.shop.svc.corp.example. 7 IN A 10.96.1.1"],
    )
    .at(At::Forwarding)
    .flags("qr rd ra"),
    failed("and what they deny is denied", "none.shop.svc.corp.example A", "NXDOMAIN")
        .at(At::Forwarding)
        .flags("qr rd ra")
        .authority(&[SOA_CORP]),
    failed("others are asked only about what is said", "www.example.com A", "REFUSED")
        .at(At::Forwarding)
        .flags("qr rd ra"),
    missing("what the cluster has not is asked of nobody", "none.~ A")
        .at(At::Forwarding)
        .flags("qr aa rd ra"),
    found(
        "another name of others comes with what they say, each record for its own time",
        "corp.~ A",
        &[
            "corp.~. 30 IN CNAME web.shop.svc.corp.example.",
            "web.shop.svc.corp.example. 7 IN A 10.96.1.1",
        ],
    )
    .at(At::Forwarding)
    .flags("qr aa rd ra"),
    found(
        "another name of others without such an address",
        "corp.~ AAAA",
        &["corp.~. 30 IN CNAME web.shop.svc.corp.example."],
    )
    .authority(&[SOA_CORP])
    .at(At::Forwarding)
    .flags("qr aa rd ra"),
    found(
        "another name of others by itself",
        "corp.~ CNAME",
        &["corp.~. 30 IN CNAME web.shop.svc.corp.example."],
    )
    .at(At::Forwarding)
    .flags("qr aa rd ra"),
    failed("another name of others that they deny", "corp-none.~ A", "NXDOMAIN")
        .at(At::Forwarding)
        .flags("qr aa rd ra")
        .answer(&["corp-none.~. 30 IN CNAME none.shop.svc.corp.example."])
        .authority(&[SOA_CORP]),
    found(
        "another name of others whose addresses do not fit says that there is more",
        "corp-big.~ A +notcp +noedns +ignore",
        &["corp-big.~. 30 IN CNAME big.shop.svc.corp.example."],
    )
    .at(At::Forwarding)
    .flags("qr aa tc rd ra")
    .edns(""),
    found("and in a stream all of them", "corp-big.~ A +tcp", &["101 records"])
        .at(At::Forwarding)
        .flags("qr aa rd ra"),
    found(
        "another name that nobody can be asked about is told alone",
        "out.~ A",
        &["out.~. 30 IN CNAME foo.example.com."],
    )
    .at(At::Forwarding)
    .flags("qr aa rd ra"),
    failed(
        "another name of others who do not answer is not known for the moment",
        "silent.~ A",
        "SERVFAIL",
    )
    .at(At::Forwarding)
    .flags("qr aa rd ra")
    .answer(&["silent.~. 30 IN CNAME web.silent.example."]),
    // After changes.
    found("a Service that came", "later.~ A", &["later.~. 30 IN A 10.96.1.21"]).at(At::Changed),
    missing("a Service that went", "short.~ A").at(At::Changed),
    missing("and its address", "-x 10.96.1.4").authority(&[SOA_V4]).at(At::Changed),
    found("another name that changed", "out.~ A", &["out.~. 30 IN CNAME bar.example.com."])
        .at(At::Changed),
    found(
        "another name that became a Service with an address",
        "near.~ A",
        &["near.~. 30 IN A 10.96.1.22"],
    )
    .at(At::Changed),
    empty("and is no other name any more", "near.~ CNAME").at(At::Changed),
    found(
        "what led to it leads to its address",
        "far.~ A",
        &["far.~. 30 IN CNAME near.~.", "near.~. 30 IN A 10.96.1.22"],
    )
    .at(At::Changed),
    found(
        "a Service that became another name",
        "bare.~ A",
        &["bare.~. 30 IN CNAME foo.example.com."],
    )
    .at(At::Changed),
    missing("and has no address any more", "-x 10.96.1.3").authority(&[SOA_V4]).at(At::Changed),
    found("an endpoint that became ready", "waiting.~ A", &["waiting.~. 30 IN A 10.244.4.1"])
        .at(At::Changed),
    missing("an endpoint that is ready no more", "eager.~ A").at(At::Changed),
    missing("a namespace that went", "passing.svc.cluster.local A").at(At::Changed),
    missing("and its Services", "web.passing.svc.cluster.local A").at(At::Changed),
    found(
        "without a Service of DNS the server itself is the name server",
        "cluster.local NS",
        &["cluster.local. 30 IN NS ns.dns.cluster.local."],
    )
    .at(At::Changed)
    .additional(&["ns.dns.cluster.local. 30 IN A 127.0.0.1"]),
    found(
        "by its own address",
        "ns.dns.cluster.local A",
        &["ns.dns.cluster.local. 30 IN A 127.0.0.1"],
    )
    .at(At::Changed),
    // While the cluster is not known.
    failed("nothing is denied", "none.~ A", "SERVFAIL").at(At::Unsynced).flags("qr aa rd"),
    failed("nor is a namespace", "~ A", "SERVFAIL").at(At::Unsynced).flags("qr aa rd"),
    failed("nor an address", "-x 10.96.1.1", "SERVFAIL").at(At::Unsynced).flags("qr rd"),
    found(
        "what does not depend on it is answered",
        "dns-version.cluster.local TXT",
        &["dns-version.cluster.local. 28800 IN TXT \"1.1.0\""],
    )
    .at(At::Unsynced),
];

/// What an answer is, as text.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: String,
    flags: String,
    edns: String,
    sections: [Vec<String>; 3],
}

/// Names of the sections, as dig has them.
const SECTIONS: [&str; 3] = ["ANSWER", "AUTHORITY", "ADDITIONAL"];

impl Reply {
    /// Reads what dig has printed.
    fn read(text: &str) -> Self {
        let mut reply = Self {
            status: between(text, "status: ", ","),
            flags: between(text, ";; flags: ", ";"),
            edns: between(text, "; EDNS: ", "\n"),
            sections: SECTIONS.map(|name| section(text, name)),
        };
        // A transfer has no more than that.
        if reply.status.is_empty() {
            reply.status = text.lines().last().unwrap_or_default().to_owned();
        }
        reply
    }

    fn expected(case: &Case) -> Self {
        let sections = [case.answer, case.authority, case.additional];
        Self {
            status: case.status.to_owned(),
            flags: case.flags.to_owned(),
            edns: case.edns.to_owned(),
            sections: sections.map(|lines| lines.iter().map(|line| whole(line)).collect()),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, flags: {}, EDNS: {}", self.status, self.flags, self.edns)?;
        for (name, lines) in SECTIONS.iter().zip(&self.sections) {
            for line in lines {
                write!(f, "\n    {name}: {line}")?;
            }
        }
        Ok(())
    }
}

/// A text of the table, as it is meant.
fn whole(text: &str) -> String {
    text.replace('~', DOMAIN)
}

/// What is between two texts, if they are there.
fn between(text: &str, from: &str, to: &str) -> String {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split(to).next().unwrap_or_default().to_owned()
}

/// The records of a section in order, or how many if they are many.
fn section(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| *line != format!(";; {name} SECTION:")).skip(1);
    let mut lines: Vec<String> = lines.take_while(|line| !line.is_empty()).map(record).collect();
    lines.sort_unstable();
    match lines.len() {
        0..=LISTED => lines,
        count => vec![format!("{count} records")],
    }
}

/// A record with one blank between words, and without the number that counts changes.
fn record(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let [_, _, _, "SOA", _, _, serial, ..] = &mut words[..] {
        *serial = "SERIAL";
    }
    words.join(" ")
}

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
        let seen = dns.dig(&arguments).map_or_else(
            |said| Reply { status: said, ..Reply::read("") },
            |text| Reply::read(&text),
        );
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
