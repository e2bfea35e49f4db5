//! What is answered about a cluster of which not all has names.

use model::object::SliceWithPodNames;

use super::*;
use RecordType::{A, NS, PTR, SRV};

/// What is said about names and their types.
fn check(known: &Known, rows: &[(&str, RecordType, &str)]) {
    for (name, kind, expected) in rows {
        let (message, outcome) = outcome(known, name, *kind);
        let said = match outcome {
            Outcome::Foreign => "FOREIGN".to_owned(),
            _ => text(&message),
        };
        assert_eq!(said, *expected, "{name} {kind}");
    }
}

/// Those that have all names, with what has them alone.
const OF_DEFAULT: [(&str, RecordType); 7] = [
    ("web.default.svc.cluster.local.", A),
    ("_http._tcp.web.default.svc.cluster.local.", SRV),
    ("db-0.db.default.svc.cluster.local.", A),
    ("out.default.svc.cluster.local.", A),
    ("default.svc.cluster.local.", A),
    ("default.pod.cluster.local.", A),
    ("10-244-0-9.default.pod.cluster.local.", A),
];
const ADDRESSES_OF_DEFAULT: [(&str, RecordType); 2] =
    [("7.0.96.10.in-addr.arpa.", PTR), ("2.0.244.10.in-addr.arpa.", PTR)];

/// That the namespace `default` has no names.
fn check_default_is_hidden(known: &Known) {
    for (name, kind) in OF_DEFAULT {
        check(known, &[(name, kind, "NXDOMAIN")]);
    }
    for (name, kind) in ADDRESSES_OF_DEFAULT {
        check(known, &[(name, kind, "FOREIGN")]);
    }
}

/// That it has some.
fn check_default_is_there(known: &Known) {
    for (name, kind) in OF_DEFAULT.into_iter().chain(ADDRESSES_OF_DEFAULT) {
        let (message, outcome) = outcome(known, name, kind);
        assert_ne!(outcome, Outcome::Foreign, "{name}");
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{name}");
    }
}

#[test]
fn namespaces_that_are_not_named_have_no_names() {
    let exposing = |names: &[&str]| {
        let namespaces = names.iter().map(|name| (*name).to_owned()).collect();
        fill(Known::exposing(Exposure { namespaces, ..Exposure::default() }))
    };
    let known = exposing(&["kube-system", "to-come"]);
    check_default_is_hidden(&known);
    check(
        &known,
        &[
            ("kube-dns.kube-system.svc.cluster.local.", A, "OK A 10.96.0.10"),
            ("kube-system.svc.cluster.local.", A, "NODATA"),
            ("10.0.96.10.in-addr.arpa.", PTR, "OK PTR kube-dns.kube-system.svc.cluster.local."),
            ("to-come.svc.cluster.local.", A, "NXDOMAIN"),
        ],
    );
    assert_eq!(known.world.services().count(), 1, "no more is kept than has names");
    let known = exposing(&["default"]);
    check_default_is_there(&known);
    check(
        &known,
        &[
            ("kube-dns.kube-system.svc.cluster.local.", A, "NXDOMAIN"),
            // Not a name server that has no name.
            ("cluster.local.", NS, "OK NS ns.dns.cluster.local."),
            (
                "alias.default.svc.cluster.local.",
                A,
                "OK CNAME web.default.svc.cluster.local. A 10.96.0.7",
            ),
        ],
    );
}

#[test]
fn a_namespace_has_names_as_long_as_it_is_selected() {
    let exposure =
        Exposure { namespace_labels: Some("team=shop".parse().unwrap()), ..Exposure::default() };
    let mut known = fill(Known::exposing(exposure));
    check_default_is_there(&known);
    // It has another label, which the API server tells of as if it were gone.
    known.apply(Event::Removed(Kind::Namespace, ObjectName::new("", "default")));
    check_default_is_hidden(&known);
    let changes = known.directory.changes();
    put(&mut known, service("default", "later", json!({"clusterIPs": ["10.96.0.8"], "ports": []})));
    check(&known, &[("later.default.svc.cluster.local.", A, "NXDOMAIN")]);
    assert_eq!(known.directory.changes(), changes, "what has no name changes none");
    let namespace = json!({"metadata": {"name": "default", "labels": {"team": "shop"}}});
    let namespace = Object::Namespace(serde_json::from_value(namespace).unwrap());
    known.apply(Event::Put(namespace));
    check_default_is_there(&known);
    check(&known, &[("later.default.svc.cluster.local.", A, "OK A 10.96.0.8")]);
    // Gone in truth.
    known.apply(Event::listed(Kind::Namespace, Vec::new()));
    check_default_is_hidden(&known);
}

#[test]
fn endpoints_have_no_names_where_that_is_said() {
    let exposure = Exposure { is_without_endpoints: true, ..Exposure::default() };
    assert!(exposure.kinds().all(|kind| kind != Kind::EndpointSlice));
    let mut known = Known::exposing(exposure);
    for kind in [Kind::Service, Kind::Namespace] {
        assert!(!known.directory.is_synced());
        known.apply(Event::listed(kind, Vec::new()));
    }
    assert!(known.directory.is_synced(), "nobody waits for what nobody asks for");
    put(&mut known, service("default", "web", json!({"clusterIPs": ["10.96.0.7"], "ports": []})));
    put(&mut known, service("default", "db", json!({"clusterIPs": ["None"], "clusterIP": "None"})));
    check(
        &known,
        &[
            ("web.default.svc.cluster.local.", A, "OK A 10.96.0.7"),
            ("10-244-0-9.web.default.svc.cluster.local.", A, "NXDOMAIN"),
            ("db.default.svc.cluster.local.", A, "NXDOMAIN"),
            ("db-0.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        ],
    );
}

#[test]
fn services_without_endpoints_have_no_names_where_that_is_said() {
    let exposure = Exposure { ignores_empty_services: true, ..Exposure::default() };
    let mut known = fill(Known::exposing(exposure));
    let web = "web.default.svc.cluster.local.";
    let there = [
        (web, A, "OK A 10.96.0.7"),
        ("7.0.96.10.in-addr.arpa.", PTR, "OK PTR web.default.svc.cluster.local."),
        ("db.default.svc.cluster.local.", A, "OK A 10.244.0.2 A 10.244.0.3"),
        ("out.default.svc.cluster.local.", A, "OK CNAME Example.com."),
    ];
    check(&known, &there);
    let not_ready = json!([{"addresses": ["10.244.0.9"], "conditions": {"ready": false}}]);
    put_slice(&mut known, "web", "IPv4", not_ready);
    check(
        &known,
        &[
            (web, A, "NXDOMAIN"),
            ("_http._tcp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
            ("7.0.96.10.in-addr.arpa.", PTR, "FOREIGN"),
            (
                "alias.default.svc.cluster.local.",
                A,
                "NXDOMAIN CNAME web.default.svc.cluster.local.",
            ),
            ("out.default.svc.cluster.local.", A, "OK CNAME Example.com."),
        ],
    );
    put_slice(&mut known, "web", "IPv4", json!([{"addresses": ["10.244.0.9"]}]));
    check(&known, &there);
}

#[test]
fn endpoints_are_called_like_their_pods_where_that_is_said() {
    let slice = json!({
        "metadata": {"name": "db-IPv4", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.0.2"], "hostname": "db-0", "targetRef": {"kind": "Pod", "name": "db-x"}},
            {"addresses": ["10.244.0.3"], "targetRef": {"kind": "Pod", "name": "db-y"}},
            {"addresses": ["10.244.0.4"]},
        ],
    });
    let mut known = world();
    let SliceWithPodNames(slice) = serde_json::from_value(slice).unwrap();
    known.apply(Event::Put(Object::EndpointSlice(slice)));
    check(
        &known,
        &[
            ("db-0.db.default.svc.cluster.local.", A, "OK A 10.244.0.2"),
            ("db-x.db.default.svc.cluster.local.", A, "NXDOMAIN"),
            ("db-y.db.default.svc.cluster.local.", A, "OK A 10.244.0.3"),
            ("10-244-0-3.db.default.svc.cluster.local.", A, "NXDOMAIN"),
            ("10-244-0-4.db.default.svc.cluster.local.", A, "OK A 10.244.0.4"),
            ("3.0.244.10.in-addr.arpa.", PTR, "OK PTR db-y.db.default.svc.cluster.local."),
        ],
    );
}
