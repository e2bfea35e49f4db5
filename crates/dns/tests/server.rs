//! The server on loopback sockets: what it forwards, and over which transport.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dns::tally::Tallies;
use dns::{Directory, Forward, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Event, Object, World};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A server that answers every question with one address.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut response = Message::response(query.metadata.id, OpCode::Query);
            let name = query.queries[0].name().clone();
            response.add_query(query.queries[0].clone());
            let data = RData::A(A::new(192, 0, 2, 1));
            response.add_answer(Record::from_rdata(name, 60, data));
            socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn server(upstreams: Vec<SocketAddr>) -> SocketAddr {
    let mut world = World::new();
    let service = serde_json::json!({
        "metadata": {"name": "out", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    });
    let touched =
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
    let zone = Zone::new("cluster.local").unwrap();
    let directory = Directory::new();
    directory.update(&world, &touched);
    let server = Server::bind(any_port(), 2).unwrap();
    let address = server.local_addr().unwrap();
    let upstreams = Upstreams::new(vec![Forward::everything(upstreams)]);
    let resolver = Arc::new(Resolver::new(upstreams, Some(dns::cache::Limits::default())));
    let responder = Responder::new(Arc::new(directory), zone, resolver);
    let ending = tokio::sync::watch::Sender::new(false);
    let running = server.run(Arc::new(responder), Tallies::default(), ending.subscribe());
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
    let server = server(vec![silent, upstream().await]).await;
    let kinds = |message: &Message| -> Vec<RecordType> {
        message.answers.iter().map(Record::record_type).collect()
    };
    assert_eq!(kinds(&ask(server, "example.com.").await), [RecordType::A]);
    let alias = ask(server, "out.default.svc.cluster.local.").await;
    assert_eq!(kinds(&alias), [RecordType::CNAME, RecordType::A]);
    assert!(alias.metadata.authoritative && alias.metadata.recursion_available);
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
