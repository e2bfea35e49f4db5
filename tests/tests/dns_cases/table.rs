//! The cases of a cluster of which all has names.

use super::case::*;

/// What is asked, and what is answered.
pub(crate) const TABLE: &[Case] = &[
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
