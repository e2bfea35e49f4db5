//! The schema as a table: question, type, what is answered.

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use model::{Event, Kind, Object, World};
use serde_json::{Value, json};

use super::{Answer, Reply, Zone, answer};

fn world() -> World {
    let mut world = World::new();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        world.apply(Event::listed(kind, Vec::new()));
    }
    let namespace =
        |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let namespaces = ["default", "kube-system"].map(|name| Object::Namespace(namespace(name)));
    world.apply(Event::listed(Kind::Namespace, namespaces.into()));
    put(
        &mut world,
        service("kube-system", "kube-dns", json!({"clusterIPs": ["10.96.0.10"], "ports": []})),
    );
    put(
        &mut world,
        service(
            "default",
            "web",
            json!({"clusterIPs": ["10.96.0.7", "fd00:96::7"],
                   "ports": [{"name": "http", "port": 80, "targetPort": 8080},
                             {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
    );
    put_slice(&mut world, "web", "IPv4", json!([{"addresses": ["10.244.0.9"]}]));
    put(
        &mut world,
        service(
            "default",
            "db",
            json!({"clusterIPs": ["None"], "clusterIP": "None",
                                        "ports": [{"name": "sql", "port": 1, "targetPort": 3306}]}),
        ),
    );
    put_slice(
        &mut world,
        "db",
        "IPv4",
        json!([{"addresses": ["10.244.0.2"], "hostname": "db-0"},
               {"addresses": ["10.244.0.3"]},
               {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}}]),
    );
    put(
        &mut world,
        service("default", "idle", json!({"clusterIPs": ["None"], "clusterIP": "None"})),
    );
    put(
        &mut world,
        service("default", "out", json!({"type": "ExternalName", "externalName": "Example.com"})),
    );
    put(
        &mut world,
        service(
            "default",
            "alias",
            json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
        ),
    );
    world
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn put(world: &mut World, service: Value) {
    world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
}

fn put_slice(world: &mut World, service: &str, family: &str, endpoints: Value) {
    let slice = json!({
        "metadata": {"name": format!("{service}-{family}"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
}

fn ask(world: &World, name: &str, kind: RecordType) -> Answer {
    let zone = Zone::new("cluster.local").unwrap();
    match answer(world, &zone, &Query::query(Name::from_ascii(name).unwrap(), kind)) {
        Reply::Answer(answer) => answer,
        Reply::Forward => panic!("{name} is left to others"),
    }
}

/// `code: type data, ...`, which is short to write and to compare.
fn text(answer: &Answer) -> String {
    let code = match answer.code {
        ResponseCode::NoError if answer.records.is_empty() => "NODATA",
        ResponseCode::NoError => "OK",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        _ => "?",
    };
    let mut text = code.to_owned();
    for record in &answer.records {
        text += &format!(" {} {}", record.record_type(), record.data);
    }
    text
}

#[test]
fn schema() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SRV, TXT};
    let world = world();
    for (name, kind, expected) in [
        ("dns-version.cluster.local.", TXT, "OK TXT 1.1.0"),
        ("web.default.svc.cluster.local.", A, "OK A 10.96.0.7"),
        ("WEB.Default.svc.Cluster.LOCAL.", A, "OK A 10.96.0.7"),
        ("web.default.svc.cluster.local.", AAAA, "OK AAAA fd00:96::7"),
        ("web.default.svc.cluster.local.", MX, "NODATA"),
        ("kube-dns.kube-system.svc.cluster.local.", AAAA, "NODATA"),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "OK SRV 0 50 80 web.default.svc.cluster.local.",
        ),
        (
            "_dns._udp.web.default.svc.cluster.local.",
            SRV,
            "OK SRV 0 50 53 web.default.svc.cluster.local.",
        ),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        ("_none._tcp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        ("_http._tcp.web.default.svc.cluster.local.", A, "OK A 10.96.0.7"),
        ("10-244-0-9.web.default.svc.cluster.local.", A, "OK A 10.244.0.9"),
        ("10-244-0-8.web.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("db.default.svc.cluster.local.", A, "OK A 10.244.0.2 A 10.244.0.3"),
        ("db.default.svc.cluster.local.", AAAA, "NODATA"),
        ("db-0.db.default.svc.cluster.local.", A, "OK A 10.244.0.2"),
        ("10-244-0-2.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("10-244-0-4.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            SRV,
            "OK SRV 0 50 3306 10-244-0-3.db.default.svc.cluster.local. SRV 0 50 3306 db-0.db.default.svc.cluster.local.",
        ),
        ("idle.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("out.default.svc.cluster.local.", A, "OK CNAME Example.com."),
        ("out.default.svc.cluster.local.", CNAME, "OK CNAME Example.com."),
        ("out.default.svc.cluster.local.", SRV, "NODATA"),
        ("x.out.default.svc.cluster.local.", A, "NXDOMAIN"),
        (
            "alias.default.svc.cluster.local.",
            A,
            "OK CNAME web.default.svc.cluster.local. A 10.96.0.7",
        ),
        ("none.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("default.svc.cluster.local.", A, "NODATA"),
        ("default.pod.cluster.local.", A, "NODATA"),
        ("nowhere.svc.cluster.local.", A, "NXDOMAIN"),
        ("svc.cluster.local.", A, "NODATA"),
        ("foo.cluster.local.", A, "NXDOMAIN"),
        ("*.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("a.b.c.web.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("10-244-0-77.default.pod.cluster.local.", A, "OK A 10.244.0.77"),
        ("10-244-0-77.default.pod.cluster.local.", AAAA, "NODATA"),
        ("10-244-0-77.nowhere.pod.cluster.local.", A, "NXDOMAIN"),
        ("cluster.local.", A, "NODATA"),
        ("cluster.local.", NS, "OK NS kube-dns.kube-system.svc.cluster.local."),
        ("ns.dns.cluster.local.", A, "OK A 10.96.0.10"),
        ("7.0.96.10.in-addr.arpa.", PTR, "OK PTR web.default.svc.cluster.local."),
        ("2.0.244.10.in-addr.arpa.", PTR, "OK PTR db-0.db.default.svc.cluster.local."),
        ("2.0.244.10.in-addr.arpa.", A, "NODATA"),
        ("cluster.local.", RecordType::AXFR, "REFUSED"),
    ] {
        assert_eq!(text(&ask(&world, name, kind)), expected, "{name} {kind}");
    }
}

#[test]
fn names_of_others_are_left_to_them() {
    let zone = Zone::new("cluster.local").unwrap();
    for name in ["example.com.", "4.0.244.10.in-addr.arpa.", "xcluster.local.", "."] {
        let question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        assert_eq!(answer(&world(), &zone, &question), Reply::Forward, "{name}");
    }
    let out = ask(&world(), "out.default.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(out.leads_to.map(|name| name.to_ascii()).as_deref(), Some("Example.com."));
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut world = World::new();
    put(&mut world, service("default", "web", json!({"clusterIPs": ["10.96.0.7"], "ports": []})));
    let name = "web.default.svc.cluster.local.";
    assert_eq!(text(&ask(&world, name, RecordType::A)), "OK A 10.96.0.7");
    let name = "none.default.svc.cluster.local.";
    assert_eq!(text(&ask(&world, name, RecordType::A)), "SERVFAIL");
}

#[test]
fn a_denial_says_how_long_to_believe_it_and_keeps_the_case() {
    let denial = ask(&world(), "none.default.svc.CLUSTER.local.", RecordType::A);
    let soa = &denial.authority[0];
    assert_eq!(soa.name.to_ascii(), "CLUSTER.local.");
    assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5));
    let port = ask(&world(), "_http._tcp.web.default.svc.CLUSTER.local.", RecordType::SRV);
    let additional: Vec<String> =
        port.additional.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    let target = "web.default.svc.CLUSTER.local.";
    assert_eq!(additional, [format!("{target} 10.96.0.7"), format!("{target} fd00:96::7")]);
}

#[test]
fn aliases_in_a_circle_end() {
    let mut world = world();
    for (name, to) in [("a", "b"), ("b", "a")] {
        let to = format!("{to}.default.svc.cluster.local");
        put(
            &mut world,
            service("default", name, json!({"type": "ExternalName", "externalName": to})),
        );
    }
    let answer = ask(&world, "a.default.svc.cluster.local.", RecordType::A);
    assert_eq!((answer.records.len(), answer.leads_to), (super::CHAIN, None));
}
