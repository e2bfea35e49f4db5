//! The schema as a table: question, type, what is answered.

mod exposed;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use model::{Event, Kind, Object, ObjectName, World};
use serde_json::{Value, json};

use super::{Outcome, Pods, Zone, answer, deny_reverse};
use crate::directory::Directory;
use crate::exposure::Exposure;
use crate::wire::{self, LARGEST, Response, Transport};

/// A World, and what the directory makes of it.
#[derive(Default)]
struct Known {
    world: World,
    directory: Directory,
    exposure: Exposure,
}

impl Known {
    /// One of which this has names.
    fn exposing(exposure: Exposure) -> Self {
        let directory = Directory::exposing(&exposure);
        let mut known = Self { world: World::new(), directory, exposure };
        if let Some(event) = known.exposure.first() {
            known.apply(event);
        }
        known
    }

    fn apply(&mut self, event: Event) {
        let Some(event) = self.exposure.narrow(event) else { return };
        let touched = self.world.apply(event);
        self.directory.update(&self.world, &touched);
    }
}

fn world() -> Known {
    fill(Known::default())
}

/// The cluster that is asked about.
fn fill(mut world: Known) -> Known {
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

fn put(world: &mut Known, service: Value) {
    world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
}

fn put_slice(world: &mut Known, service: &str, family: &str, endpoints: Value) {
    let slice = json!({
        "metadata": {"name": format!("{service}-{family}"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
}

/// What is answered, and what was made of the question.
fn outcome(known: &Known, name: &str, kind: RecordType) -> (Message, Outcome) {
    outcome_in(&Zone::new("cluster.local").unwrap(), known, name, kind)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn outcome_in(zone: &Zone, known: &Known, name: &str, kind: RecordType) -> (Message, Outcome) {
    let bytes = question(name, kind);
    let query = wire::Query::read(&bytes, Transport::Tcp).unwrap();
    let mut buffer = [0; LARGEST];
    let mut response = Response::to(&query, &mut buffer);
    let outcome = answer(&known.directory, zone, &query, &mut response, 0);
    let code = match &outcome {
        Outcome::Known(code) => *code,
        Outcome::LeadsTo(_) | Outcome::Foreign => wire::Code::NO_ERROR,
    };
    let length = response.finish(code);
    (Message::from_vec(&buffer[..length]).unwrap(), outcome)
}

fn ask(known: &Known, name: &str, kind: RecordType) -> Message {
    let (message, outcome) = outcome(known, name, kind);
    assert_ne!(outcome, Outcome::Foreign, "{name} is left to others");
    assert!(message.metadata.authoritative, "{name}");
    message
}

/// `code: type data, ...`, which is short to write and to compare.
fn text(message: &Message) -> String {
    let code = match message.metadata.response_code {
        ResponseCode::NoError if message.answers.is_empty() => "NODATA",
        ResponseCode::NoError => "OK",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        _ => "?",
    };
    let mut text = code.to_owned();
    for record in &message.answers {
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
    ] {
        assert_eq!(text(&ask(&world, name, kind)), expected, "{name} {kind}");
    }
}

#[test]
fn names_of_others_are_left_to_them() {
    for name in ["example.com.", "4.0.244.10.in-addr.arpa.", "xcluster.local.", "."] {
        assert_eq!(outcome(&world(), name, RecordType::A).1, Outcome::Foreign, "{name}");
    }
    let (_, out) = outcome(&world(), "out.default.svc.cluster.local.", RecordType::AAAA);
    let Outcome::LeadsTo(target) = out else { panic!("{out:?}") };
    assert_eq!(target[..], *b"\x07Example\x03com\0");
}

#[test]
fn pods_have_no_names_where_that_is_said() {
    let mut zone = Zone::new("cluster.local").unwrap();
    zone.pods = Pods::Disabled;
    for name in ["default.pod.cluster.local.", "10-244-0-77.default.pod.cluster.local."] {
        let (message, _) = outcome_in(&zone, &world(), name, RecordType::A);
        assert_eq!(text(&message), "NXDOMAIN", "{name}");
    }
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut world = Known::default();
    put(&mut world, service("default", "web", json!({"clusterIPs": ["10.96.0.7"], "ports": []})));
    let name = "web.default.svc.cluster.local.";
    assert_eq!(text(&ask(&world, name, RecordType::A)), "OK A 10.96.0.7");
    let name = "none.default.svc.cluster.local.";
    assert_eq!(text(&ask(&world, name, RecordType::A)), "SERVFAIL");
}

#[test]
fn an_address_is_nobodys_only_where_that_is_known() {
    let zone = Zone::new("cluster.local").unwrap();
    let bytes = question("9.0.96.10.in-addr.arpa.", RecordType::PTR);
    let query = wire::Query::read(&bytes, Transport::Udp).unwrap();
    for (known, expected, authorities) in
        [(Known::default(), "SERVFAIL", 0), (world(), "NXDOMAIN", 1)]
    {
        let mut buffer = [0; LARGEST];
        let mut response = Response::to(&query, &mut buffer);
        let code = deny_reverse(&known.directory, &zone, &query, &mut response);
        let length = response.finish(code);
        let message = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(text(&message), expected);
        assert_eq!(message.authorities.len(), authorities, "{expected}");
    }
}

#[test]
fn a_denial_says_how_long_to_believe_it_and_keeps_the_case() {
    let denial = ask(&world(), "none.default.svc.CLUSTER.local.", RecordType::A);
    let soa = &denial.authorities[0];
    assert_eq!(soa.name.to_ascii(), "CLUSTER.local.");
    assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5));
    let port = ask(&world(), "_http._tcp.web.default.svc.CLUSTER.local.", RecordType::SRV);
    let additional: Vec<String> =
        port.additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    let target = "web.default.svc.CLUSTER.local.";
    assert_eq!(additional, [format!("{target} 10.96.0.7"), format!("{target} fd00:96::7")]);
}

#[test]
fn a_denial_is_not_believed_for_longer_than_five_minutes() {
    let mut zone = Zone::new("cluster.local").unwrap();
    zone.ttl = 3600;
    let name = "none.default.svc.cluster.local.";
    let (denial, _) = outcome_in(&zone, &world(), name, RecordType::A);
    assert_eq!(denial.authorities[0].ttl, 300);
}

#[test]
fn an_alias_comes_to_what_the_last_name_comes_to() {
    let mut world = world();
    let to = "none.default.svc.cluster.local";
    let lost = service("default", "lost", json!({"type": "ExternalName", "externalName": to}));
    put(&mut world, lost);
    let to = "kube-dns.kube-system.svc.cluster.local";
    let v4 = service("default", "v4", json!({"type": "ExternalName", "externalName": to}));
    put(&mut world, v4);
    for (name, expected) in [
        ("lost.default.svc.cluster.local.", "NXDOMAIN CNAME none.default.svc.cluster.local."),
        ("v4.default.svc.cluster.local.", "OK CNAME kube-dns.kube-system.svc.cluster.local."),
    ] {
        let answer = ask(&world, name, RecordType::AAAA);
        assert_eq!(text(&answer), expected);
        assert_eq!(answer.authorities.len(), 1, "{name}");
    }
}

#[test]
fn an_address_has_each_name_once_and_says_for_how_long_it_has_nothing_else() {
    let mut world = world();
    let slice = json!({
        "metadata": {"name": "more", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "admin", "port": 3307, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.2"], "hostname": "db-0"}, {"addresses": ["10.244.0.3"]}],
    });
    world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
    for (name, expected) in [
        ("2.0.244.10.in-addr.arpa.", "OK PTR db-0.db.default.svc.cluster.local."),
        ("3.0.244.10.in-addr.arpa.", "OK PTR 10-244-0-3.db.default.svc.cluster.local."),
    ] {
        assert_eq!(text(&ask(&world, name, RecordType::PTR)), expected);
    }
    let nothing = ask(&world, "2.0.244.10.IN-ADDR.arpa.", RecordType::A);
    let soa = &nothing.authorities[0];
    assert_eq!(
        (soa.name.to_ascii().as_str(), soa.record_type()),
        ("IN-ADDR.arpa.", RecordType::SOA)
    );
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
    assert_eq!(answer.answers.len(), super::CHAIN);
}

#[test]
fn what_changes_is_answered_as_it_is_now() {
    let mut known = world();
    let ask = |known: &Known, name: &str, kind| text(&ask(known, name, kind));
    let (db, a) = ("db.default.svc.cluster.local.", RecordType::A);
    put_slice(&mut known, "db", "IPv4", json!([{"addresses": ["10.244.0.3"], "hostname": "db-9"}]));
    assert_eq!(ask(&known, db, a), "OK A 10.244.0.3");
    assert_eq!(ask(&known, "db-0.db.default.svc.cluster.local.", a), "NXDOMAIN");
    assert_eq!(ask(&known, "db-9.db.default.svc.cluster.local.", a), "OK A 10.244.0.3");
    let (reverse, ptr) = ("3.0.244.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(ask(&known, reverse, ptr), "OK PTR db-9.db.default.svc.cluster.local.");
    // Two Services have it, then a third one as its own address.
    put_slice(&mut known, "web", "IPv4", json!([{"addresses": ["10.244.0.3"]}]));
    assert_eq!(
        ask(&known, reverse, ptr),
        "OK PTR db-9.db.default.svc.cluster.local. PTR 10-244-0-3.web.default.svc.cluster.local."
    );
    let spec = json!({"clusterIPs": ["10.244.0.3"], "ports": []});
    put(&mut known, service("default", "own", spec));
    assert_eq!(ask(&known, reverse, ptr), "OK PTR own.default.svc.cluster.local.");
    known.apply(Event::Removed(Kind::Service, ObjectName::new("default", "own")));
    known.apply(Event::Removed(Kind::Service, ObjectName::new("default", "db")));
    assert_eq!(ask(&known, reverse, ptr), "OK PTR 10-244-0-3.web.default.svc.cluster.local.");
    assert_eq!(ask(&known, db, a), "NXDOMAIN");
    known.apply(Event::Removed(Kind::Namespace, ObjectName::new("", "default")));
    assert_eq!(ask(&known, "default.svc.cluster.local.", a), "NXDOMAIN");
}

#[test]
fn several_addresses_take_turns_and_are_cut_where_they_do_not_fit() {
    let mut known = world();
    let endpoints: Vec<Value> =
        (0..200).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    put_slice(&mut known, "db", "IPv4", json!(endpoints));
    let zone = Zone::new("cluster.local").unwrap();
    let bytes = question("DB.default.svc.cluster.local.", RecordType::A);
    let ask = |transport, turn| {
        let query = wire::Query::read(&bytes, transport).unwrap();
        let mut buffer = vec![0; 65_535];
        let mut response = Response::to(&query, &mut buffer);
        answer(&known.directory, &zone, &query, &mut response, turn);
        let length = response.finish(wire::Code::NO_ERROR);
        (length, Message::from_vec(&buffer[..length]).unwrap())
    };
    let (_, whole) = ask(Transport::Tcp, 0);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
    for turn in [0, 7, 199, 200] {
        let (length, cut) = ask(Transport::Udp, turn);
        assert!(length <= 512 && cut.metadata.truncation);
        // Header 12, question 34, each address 16 with a pointer for its name.
        assert_eq!(cut.answers.len(), (512 - 12 - 34) / 16);
        assert_eq!(cut.answers[0].data, whole.answers[turn % 200].data);
        assert_eq!(cut.answers[0].name.to_ascii(), "DB.default.svc.cluster.local.");
    }
}
