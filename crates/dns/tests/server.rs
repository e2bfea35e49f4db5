//! The server on loopback sockets: what it forwards, and over which transport.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dns::rewrite::{Pattern, Rewrite};
use dns::tally::Tallies;
use dns::{Directory, Forward, Pod, PodWriter, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Event, Kind, Object, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A server that answers every question with so many addresses, of which many do not fit, or denies it; but for names that
/// begin with `silent` or `none`, and those of a company.
async fn upstream(addresses: u8) -> SocketAddr {
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut response = Message::response(query.metadata.id, OpCode::Query);
            let name = query.queries[0].name().clone();
            response.add_query(query.queries[0].clone());
            let text = name.to_string();
            if text.starts_with("silent.") {
                continue;
            }
            let is_denied = text.starts_with("none.") || text.ends_with(".corp.example.");
            match is_denied || addresses == 0 {
                true => {
                    response.metadata.response_code = ResponseCode::NXDomain;
                    let soa = SOA::new(name.clone(), name.clone(), 1, 7200, 1800, 86400, 30);
                    response.add_authority(Record::from_rdata(name, 30, RData::SOA(soa)));
                }
                false => {
                    for last in 1..=addresses {
                        let data = RData::A(A::new(192, 0, 2, last));
                        response.add_answer(Record::from_rdata(name.clone(), 60, data));
                    }
                }
            }
            socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn server(upstreams: Vec<SocketAddr>) -> SocketAddr {
    let mut world = World::new();
    for kind in [Kind::EndpointSlice, Kind::Namespace] {
        world.apply(Event::listed(kind, Vec::new()));
    }
    let service = serde_json::json!({
        "metadata": {"name": "out", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    });
    let service = Object::Service(serde_json::from_value(service).unwrap());
    let touched = world.apply(Event::listed(Kind::Service, vec![service]));
    let directory = Directory::new();
    directory.update(&world, &touched);
    serve(Arc::new(directory), Zone::new("cluster.local").unwrap(), upstreams)
}

fn serve(directory: Arc<Directory>, zone: Zone, upstreams: Vec<SocketAddr>) -> SocketAddr {
    serve_rewriting(directory, zone, upstreams, Vec::new(), Tallies::default())
}

fn serve_rewriting(
    directory: Arc<Directory>,
    zone: Zone,
    upstreams: Vec<SocketAddr>,
    rewrites: Vec<Rewrite>,
    tallies: Tallies,
) -> SocketAddr {
    let server = Server::bind(any_port(), 2).unwrap();
    let address = server.local_addr().unwrap();
    let upstreams = Upstreams::new(vec![Forward::everything(upstreams)]);
    let resolver = Arc::new(Resolver::new(upstreams, Some(dns::cache::Limits::default())));
    let responder = Responder::new(directory, zone, resolver).rewriting(rewrites);
    let ending = tokio::sync::watch::Sender::new(false);
    let running = server.run(Arc::new(responder), tallies, ending.subscribe());
    tokio::spawn(running);
    address
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let message = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(message.metadata.id, 77);
    message
}

#[tokio::test]
async fn names_of_others_are_asked_of_others_and_aliases_are_followed() {
    // The first one never answers: nobody listens there.
    let silent = UdpSocket::bind(any_port()).await.unwrap().local_addr().unwrap();
    let server = server(vec![silent, upstream(1).await]).await;
    let kinds = |message: &Message| -> Vec<RecordType> {
        message.answers.iter().map(Record::record_type).collect()
    };
    assert_eq!(kinds(&ask(server, "example.com.").await), [RecordType::A]);
    let alias = ask(server, "out.default.svc.cluster.local.").await;
    assert_eq!(kinds(&alias), [RecordType::CNAME, RecordType::A]);
    assert!(alias.metadata.authoritative && alias.metadata.recursion_available);
}

#[tokio::test]
async fn an_alias_comes_to_what_others_say_of_the_name_that_it_leads_to() {
    let alias = "out.default.svc.cluster.local.";
    let denied = ask(server(vec![upstream(0).await]).await, alias).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(denied.answers.len(), 1, "the alias itself is ours");
    let owners: Vec<String> = denied.authorities.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(owners, ["example.com."], "who denies it says for how long");
    let cut = ask(server(vec![upstream(60).await]).await, alias).await;
    assert!(cut.metadata.truncation, "there is more in a stream");
}

#[tokio::test]
async fn without_others_their_names_are_refused_at_once() {
    let server = server(Vec::new()).await;
    let code = async |name| ask(server, name).await.metadata.response_code;
    assert_eq!(code("example.com.").await, ResponseCode::Refused);
    assert_eq!(code("1.2.0.192.in-addr.arpa.").await, ResponseCode::NXDomain);
    let alias = ask(server, "out.default.svc.cluster.local.").await;
    assert_eq!(alias.answers.len(), 1, "the alias itself is ours");
}

/// What a server knows for clients on this machine, who are a pod of the namespace `team`.
fn cluster() -> Arc<Directory> {
    let mut world = World::new();
    let object = |json| serde_json::from_value(json).unwrap();
    let service = Object::Service(object(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
    })));
    let namespaces = ["default", "team"].map(|name| {
        Object::Namespace(
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap(),
        )
    });
    let directory = Arc::new(Directory::new());
    for (kind, objects) in [
        (Kind::Namespace, namespaces.to_vec()),
        (Kind::Service, vec![service]),
        (Kind::EndpointSlice, Vec::new()),
    ] {
        let touched = world.apply(Event::listed(kind, objects));
        directory.update(&world, &touched);
    }
    directory
}

fn put_client(directory: &Arc<Directory>, is_cluster_first: bool) {
    let mut pods = PodWriter::new(directory.clone(), false);
    let addresses = [Ipv4Addr::LOCALHOST.into()];
    pods.put(Pod { uid: "a", namespace: "team", addresses: &addresses, is_cluster_first });
}

#[tokio::test]
async fn a_pod_gets_in_its_first_answer_what_it_would_find_in_the_end() {
    let directory = cluster();
    let mut zone = Zone::new("cluster.local").unwrap();
    zone.search = Some(vec![dns::wire::Name::parse("corp.example").unwrap()]);
    let (upstreams, tallies) = (vec![upstream(1).await], Tallies::default());
    let server = serve_rewriting(directory.clone(), zone, upstreams, Vec::new(), tallies.clone());
    // Which name it is led to, and the address that this has.
    let found = async |name: &str| {
        let message = ask(server, &format!("{name}.team.svc.cluster.local.")).await;
        match message.metadata.response_code {
            ResponseCode::NoError => {
                let data: Vec<String> =
                    message.answers.iter().map(|record| record.data.to_string()).collect();
                data.join(" ")
            }
            code => code.to_string(),
        }
    };
    let nothing = "Non-Existent Domain";
    assert_eq!(found("web.default").await, nothing, "nobody knows who asks");
    put_client(&directory, true);
    for (name, expected) in [
        // By its namespace, by `svc`, and whole, though with less than five dots.
        ("web.default", "web.default.svc.cluster.local. 10.96.0.7"),
        ("web.default.svc", "web.default.svc.cluster.local. 10.96.0.7"),
        ("web.default.svc.cluster.local", "web.default.svc.cluster.local. 10.96.0.7"),
        // Of others: the company does not have it.
        ("www.example.com", "www.example.com. 192.0.2.1"),
        ("none.example.com", nothing),
        // Who does not answer is asked by the client itself.
        ("silent.example.com", nothing),
        // With five dots it was not found by searching.
        ("a.b.c.d.e.example.com", nothing),
    ] {
        assert_eq!(found(name).await, expected, "{name}");
    }
    let other = ask(server, "web.default.default.svc.cluster.local.").await;
    assert_eq!(other.metadata.response_code, ResponseCode::NXDomain, "of another namespace");
    put_client(&directory, false);
    assert_eq!(found("web.default").await, nothing, "it searches elsewhere, too");
    let counts =
        tallies.all().into_iter().map(|tally| tally.found_for_pods.load(Ordering::Relaxed));
    assert_eq!(counts.sum::<u64>(), 4, "what is found is counted");
}

#[tokio::test]
async fn names_of_pods_can_be_verified() {
    let directory = cluster();
    let mut zone = Zone::new("cluster.local").unwrap();
    zone.pods = dns::answer::Pods::Verified;
    put_client(&directory, true);
    let server = serve(directory, zone, Vec::new());
    for (name, expected) in [
        ("127-0-0-1.team.pod", ResponseCode::NoError),
        ("127-0-0-1.default.pod", ResponseCode::NXDomain),
        ("127-0-0-2.team.pod", ResponseCode::NXDomain),
    ] {
        let message = ask(server, &format!("{name}.cluster.local.")).await;
        assert_eq!(message.metadata.response_code, expected, "{name}");
    }
}

#[tokio::test]
async fn names_that_stand_for_others_are_aliases_of_them() {
    let name = |text| dns::wire::Name::parse(text).unwrap();
    let rule = |from, to| Rewrite { zones: vec![name(".")], from, to: name(to) };
    let rules = vec![
        rule(Pattern::Exact(name("shop.example")), "web.default.svc.cluster.local"),
        rule(Pattern::Exact(name("gone.example")), "none.default.svc.cluster.local"),
        rule(Pattern::Suffix(name("in.example")), "elsewhere.example"),
    ];
    let zone = Zone::new("cluster.local").unwrap();
    let server =
        serve_rewriting(cluster(), zone, vec![upstream(1).await], rules, Tallies::default());
    for (name, code, expected) in [
        ("Shop.example.", ResponseCode::NoError, "web.default.svc.cluster.local. 10.96.0.7"),
        ("gone.example.", ResponseCode::NXDomain, "none.default.svc.cluster.local."),
        ("www.in.example.", ResponseCode::NoError, "www.elsewhere.example. 192.0.2.1"),
        ("none.in.example.", ResponseCode::NXDomain, "none.elsewhere.example."),
        ("other.example.", ResponseCode::NoError, "192.0.2.1"),
    ] {
        let message = ask(server, name).await;
        let data: Vec<String> =
            message.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!((message.metadata.response_code, &*data.join(" ")), (code, expected), "{name}");
    }
}

#[tokio::test]
async fn what_is_searched_for_in_a_stream_is_answered_whole() {
    let name = |text| dns::wire::Name::parse(text).unwrap();
    let rule = Rewrite {
        zones: vec![name(".")],
        from: Pattern::Exact(name("shop.example")),
        to: name("many.default.svc.cluster.local"),
    };
    let mut world = World::new();
    let directory = cluster();
    let service = serde_json::json!({
        "metadata": {"name": "many", "namespace": "default"},
        "spec": {"clusterIP": "None", "clusterIPs": ["None"]},
    });
    let endpoints: Vec<_> =
        (1..=200).map(|n| serde_json::json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    let slice = serde_json::json!({
        "metadata": {"name": "many-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints,
    });
    for object in [
        Object::Service(serde_json::from_value(service).unwrap()),
        Object::EndpointSlice(serde_json::from_value(slice).unwrap()),
    ] {
        let touched = world.apply(Event::Put(object));
        directory.update(&world, &touched);
    }
    let zone = Zone::new("cluster.local").unwrap();
    let server = serve_rewriting(directory, zone, Vec::new(), vec![rule], Tallies::default());
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii("shop.example.").unwrap(), RecordType::A));
    let query = query.to_vec().unwrap();
    let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (201, false));
}
