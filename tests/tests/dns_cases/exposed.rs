//! Cases of a cluster of which not all has names: who answers about it, and what.

use std::path::Path;

use e2e::NameServer;

use super::case::{At, Case, SOA_V4, found, missing};

/// What there is besides: endpoints that know their pods, labels, and a namespace that is not selected at first.
pub(crate) const OBJECTS: &str = "
---
apiVersion: v1
kind: Namespace
metadata: {name: depot}
---
apiVersion: v1
kind: Service
metadata: {namespace: depot, name: web}
spec: {clusterIP: 10.96.1.30, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: depot, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.5.1]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: named}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: named-1, labels: {kubernetes.io/service-name: named}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.5.2], hostname: host, targetRef: {kind: Pod, namespace: shop, name: named-a}}
- {addresses: [10.244.5.3], targetRef: {kind: Pod, namespace: shop, name: named-b}}
- {addresses: [10.244.5.4]}
- addresses: [10.244.5.5]
  targetRef:
    kind: Pod
    namespace: shop
    name: a-name-that-is-longer-than-the-sixty-three-letters-that-a-label-has
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: secret, labels: {exposed: 'false'}}
spec: {clusterIP: 10.96.1.31, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: secret-1, labels: {kubernetes.io/service-name: secret, exposed: 'false'}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.5.6]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: half}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: half-1, labels: {kubernetes.io/service-name: half}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.5.7]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: half-2, labels: {kubernetes.io/service-name: half, exposed: 'false'}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.5.8]}]
";

/// The lines of the Corefile of [`At::Selected`].
pub(crate) const SELECTED: &str = "namespace_labels team in (shop, ops)\nlabels exposed!=false\nendpoint_pod_names\nignore empty_service";
/// Those of [`At::Alone`].
pub(crate) const ALONE: &str = "namespaces shop elsewhere\nnoendpoints";
/// The same as flags.
pub(crate) const ALONE_BY_FLAGS: [&str; 3] = ["--namespaces", "shop,elsewhere", "--no-endpoints"];
/// How the label of a namespace goes to another one.
pub(crate) const RELABELLED: [[&str; 4]; 2] =
    [["label", "namespace", "shop", "team-"], ["label", "namespace", "depot", "team=ops"]];

/// A server whose Corefile has lines in `kubernetes`.
pub(crate) fn with_lines(kubeconfig: &Path, file: &Path, lines: &str) -> NameServer {
    let dns = NameServer::start_by(kubeconfig, file, |port, ready| {
        format!(
            ".:{port} {{\n bind 127.0.0.1\n ready 127.0.0.1:{ready}\n kubernetes cluster.local in-addr.arpa ip6.arpa {{\n  pods insecure\n  ttl 30\n{lines}\n }}\n}}\n"
        )
    });
    dns.wait_until_ready();
    dns
}

const fn at(at: At, case: Case) -> Case {
    Case { at, ..case }
}

/// There is no such address.
const fn nobodys(what: &'static str, dig: &'static str) -> Case {
    Case { authority: &[SOA_V4], ..missing(what, dig) }
}

/// What is asked, and what is answered.
pub(crate) const TABLE: &[Case] = &[
    // Namespaces, Services and slices that are selected by labels.
    at(
        At::Selected,
        found("what is selected has its names", "web.~ A", &["web.~. 30 IN A 10.96.1.1"]),
    ),
    at(
        At::Selected,
        found("and its addresses", "-x 10.96.1.1", &["1.1.96.10.in-addr.arpa. 30 IN PTR web.~."]),
    ),
    at(At::Selected, missing("a namespace with other labels", "depot.svc.cluster.local A")),
    at(
        At::Selected,
        missing("what is in a namespace with other labels", "web.depot.svc.cluster.local A"),
    ),
    at(At::Selected, nobodys("its address", "-x 10.96.1.30")),
    at(At::Selected, nobodys("the address of its endpoint", "-x 10.244.5.1")),
    at(
        At::Selected,
        missing("pods of a namespace with other labels", "10-244-7-7.depot.pod.cluster.local A"),
    ),
    at(
        At::Selected,
        found(
            "the server itself is the name server where its Service has no name",
            "cluster.local NS",
            &["cluster.local. 30 IN NS ns.dns.cluster.local."],
        )
        .additional(&["ns.dns.cluster.local. 30 IN A 127.0.0.1"]),
    ),
    at(At::Selected, missing("a Service with other labels", "secret.~ A")),
    at(At::Selected, nobodys("the address of a Service with other labels", "-x 10.96.1.31")),
    at(
        At::Selected,
        found(
            "a slice with other labels has no endpoints to tell of",
            "half.~ A",
            &["half.~. 30 IN A 10.244.5.7"],
        ),
    ),
    at(At::Selected, missing("a Service without endpoints is passed over", "bare.~ A")),
    at(At::Selected, missing("and has no other names", "_http._tcp.both.~ SRV")),
    at(At::Selected, nobodys("nor addresses", "-x 10.96.1.3")),
    at(
        At::Selected,
        found(
            "another name has no endpoints, and is there",
            "out.~ A",
            &["out.~. 30 IN CNAME foo.example.com."],
        ),
    ),
    at(
        At::Selected,
        found(
            "an endpoint is called by its hostname first",
            "host.named.~ A",
            &["host.named.~. 30 IN A 10.244.5.2"],
        ),
    ),
    at(At::Selected, missing("and not like its pod, too", "named-a.named.~ A")),
    at(
        At::Selected,
        found(
            "without one it is called like its pod",
            "named-b.named.~ A",
            &["named-b.named.~. 30 IN A 10.244.5.3"],
        ),
    ),
    at(At::Selected, missing("and not by its address, too", "10-244-5-3.named.~ A")),
    at(
        At::Selected,
        found(
            "its address leads to that name",
            "-x 10.244.5.3",
            &["3.5.244.10.in-addr.arpa. 30 IN PTR named-b.named.~."],
        ),
    ),
    at(
        At::Selected,
        found(
            "who has no pod, or one whose name is too long, is called by the address",
            "_http._tcp.named.~ SRV",
            &[
                "_http._tcp.named.~. 30 IN SRV 0 25 8080 10-244-5-4.named.~.",
                "_http._tcp.named.~. 30 IN SRV 0 25 8080 10-244-5-5.named.~.",
                "_http._tcp.named.~. 30 IN SRV 0 25 8080 host.named.~.",
                "_http._tcp.named.~. 30 IN SRV 0 25 8080 named-b.named.~.",
            ],
        )
        .additional(&[
            "10-244-5-4.named.~. 30 IN A 10.244.5.4",
            "10-244-5-5.named.~. 30 IN A 10.244.5.5",
            "host.named.~. 30 IN A 10.244.5.2",
            "named-b.named.~. 30 IN A 10.244.5.3",
        ]),
    ),
    // Namespaces that are named, without endpoints.
    at(
        At::Alone,
        found("a namespace that is named has names", "web.~ A", &["web.~. 30 IN A 10.96.1.1"]),
    ),
    at(
        At::Alone,
        found(
            "also those of ports",
            "_http._tcp.web.~ SRV",
            &["_http._tcp.web.~. 30 IN SRV 0 100 80 web.~."],
        )
        .additional(&["web.~. 30 IN A 10.96.1.1"]),
    ),
    at(
        At::Alone,
        found(
            "a Service without endpoints is there as ever",
            "bare.~ A",
            &["bare.~. 30 IN A 10.96.1.3"],
        ),
    ),
    at(At::Alone, missing("one that is not named", "kubernetes.default.svc.cluster.local A")),
    at(At::Alone, nobodys("its addresses", "-x 10.96.0.1")),
    at(At::Alone, missing("a namespace that is not named", "default.svc.cluster.local A")),
    at(At::Alone, missing("its pods", "10-244-7-7.default.pod.cluster.local A")),
    at(At::Alone, missing("one that is named and is not there", "elsewhere.svc.cluster.local A")),
    at(At::Alone, missing("a headless Service", "db.~ A")),
    at(At::Alone, missing("its ports", "_sql._tcp.db.~ SRV")),
    at(At::Alone, missing("an endpoint by its hostname", "db-0.db.~ A")),
    at(At::Alone, missing("an endpoint by its address", "10-244-1-1.web.~ A")),
    at(At::Alone, nobodys("the address of an endpoint", "-x 10.244.2.1")),
    // The labels of namespaces have changed.
    at(At::Relabelled, missing("a namespace that is selected no more", "~ A")),
    at(At::Relabelled, missing("a Service in it", "web.~ A")),
    at(At::Relabelled, missing("an endpoint in it", "db-0.db.~ A")),
    at(At::Relabelled, missing("a pod in it", "10-244-7-7.shop.pod.cluster.local A")),
    at(At::Relabelled, nobodys("the address of a Service in it", "-x 10.96.1.1")),
    at(At::Relabelled, nobodys("the address of an endpoint in it", "-x 10.244.5.3")),
    at(
        At::Relabelled,
        found(
            "what is in a namespace that is selected now",
            "web.depot.svc.cluster.local A",
            &["web.depot.svc.cluster.local. 30 IN A 10.96.1.30"],
        ),
    ),
    at(
        At::Relabelled,
        found(
            "and the addresses of that",
            "-x 10.244.5.1",
            &["1.5.244.10.in-addr.arpa. 30 IN PTR 10-244-5-1.web.depot.svc.cluster.local."],
        ),
    ),
];
