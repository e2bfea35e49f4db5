//! Many questions on one connection: each is answered when its answer is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dns::tally::Tallies;
use dns::{Directory, Forward, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Event, Kind, Object, World};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long is waited for what should not come.
const MOMENT: Duration = Duration::from_millis(300);
/// Questions of one connection that others are asked about at the same time.
const OUTSTANDING: usize = 32;
/// What is answered at once.
const KNOWN: &str = "web.default.svc.cluster.local.";

/// A server and the one that it asks, which holds the answers about `slow-N.example.` until it may give so many.
struct Asked {
    server: SocketAddr,
    running: JoinHandle<()>,
    ending: watch::Sender<bool>,
    released: watch::Sender<usize>,
    names: Arc<Mutex<BTreeSet<String>>>,
}

impl Asked {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let (released, names) = (watch::Sender::new(0), Arc::<Mutex<BTreeSet<_>>>::default());
        let (gate, asked) = (released.subscribe(), names.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_slowly(stream, gate.clone(), asked.clone()));
            }
        });
        let everything = Forward::everything(vec![upstream]);
        let resolver = Arc::new(Resolver::new(Upstreams::new(vec![everything]), None));
        let zone = Zone::new("cluster.local").unwrap();
        let responder = Arc::new(Responder::new(directory(), zone, resolver));
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let (address, ending) = (server.local_addr().unwrap(), watch::Sender::new(false));
        let running = server.run(responder, Tallies::default(), ending.subscribe());
        let running = tokio::spawn(running);
        Self { server: address, running, ending, released, names }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.server).await.unwrap())
    }

    /// Waits until the other server has been asked about so many names.
    async fn wait_for_names(&self, count: usize) {
        let asked = async {
            while self.names.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, asked).await.expect("it asks another server");
    }
}

async fn answer_slowly(
    mut stream: TcpStream,
    mut released: watch::Receiver<usize>,
    names: Arc<Mutex<BTreeSet<String>>>,
) {
    let length = stream.read_u16().await.unwrap();
    let mut query = vec![0; length.into()];
    stream.read_exact(&mut query).await.unwrap();
    let query = Message::from_vec(&query).unwrap();
    let name = query.queries[0].name().clone();
    let text = name.to_string();
    names.lock().unwrap().insert(text.clone());
    if let Some(number) = text.strip_prefix("slow-") {
        let number: usize = number.strip_suffix(".example.").unwrap().parse().unwrap();
        // The test may be over.
        let _ = released.wait_for(|released| number < *released).await;
    }
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.add_query(query.queries[0].clone());
    response.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    let response = response.to_vec().unwrap();
    // Who has asked may have given up.
    let _ = stream.write_all(&framed(&response)).await;
}

fn directory() -> Arc<Directory> {
    let mut world = World::new();
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
    });
    let service = Object::Service(serde_json::from_value(service).unwrap());
    let directory = Arc::new(Directory::new());
    for (kind, objects) in [
        (Kind::Namespace, Vec::new()),
        (Kind::Service, vec![service]),
        (Kind::EndpointSlice, Vec::new()),
    ] {
        let touched = world.apply(Event::listed(kind, objects));
        directory.update(&world, &touched);
    }
    directory
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// A question as it is in a stream.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    framed(&query.to_vec().unwrap())
}

fn slow(number: usize) -> String {
    format!("slow-{number}.example.")
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        timeout(LIMIT, self.0.write_all(bytes)).await.expect("it is read").unwrap();
    }

    /// The id of the next answer, which is a good one; `None` if there are no more.
    async fn next(&mut self) -> Option<u16> {
        let length =
            timeout(LIMIT, self.0.read_u16()).await.expect("an answer, or the end").ok()?;
        let mut answer = vec![0; length.into()];
        self.0.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.answers.len(), 1);
        Some(answer.metadata.id)
    }

    /// Nothing comes for a while.
    async fn expect_silence(&mut self) {
        let next = timeout(MOMENT, self.next()).await;
        assert!(next.is_err(), "an answer that is not to be there yet: {next:?}");
    }
}

#[tokio::test]
async fn what_is_there_does_not_wait_for_what_was_asked_before() {
    let asked = Asked::start().await;
    let mut client = asked.connect().await;
    // In one segment, and the last one in pieces.
    let last = question(4, KNOWN);
    let questions = [
        &question(1, &slow(0))[..],
        &question(2, KNOWN),
        &question(3, "fast.example."),
        &last[..1],
    ];
    client.send(&questions.concat()).await;
    assert_eq!((client.next().await, client.next().await), (Some(2), Some(3)));
    for byte in &last[1..] {
        client.send(&[*byte]).await;
    }
    assert_eq!(client.next().await, Some(4));
    client.expect_silence().await;
    asked.released.send_replace(1);
    assert_eq!(client.next().await, Some(1));
}

#[tokio::test]
async fn any_number_that_comes_at_once_is_answered() {
    let asked = Asked::start().await;
    let mut client = asked.connect().await;
    let questions: Vec<u8> = (0..5000).flat_map(|id| question(id, KNOWN)).collect();
    let (mut reading, mut writing) = client.0.split();
    let read = async {
        let mut seen = BTreeMap::new();
        let mut answer = Vec::new();
        while seen.len() < 5000 {
            answer.resize(reading.read_u16().await.unwrap().into(), 0);
            reading.read_exact(&mut answer).await.unwrap();
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            assert_eq!(seen.insert(id, answer.len()), None, "{id} is answered once");
        }
    };
    let written = async { writing.write_all(&questions).await.unwrap() };
    timeout(LIMIT, async { tokio::join!(written, read) }).await.expect("all are answered");
}

#[tokio::test]
async fn who_asks_no_more_still_gets_what_was_asked_for() {
    let asked = Asked::start().await;
    let mut client = asked.connect().await;
    client.send(&[question(1, &slow(0)), question(2, KNOWN)].concat()).await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.next().await, Some(2));
    asked.wait_for_names(1).await;
    asked.released.send_replace(1);
    assert_eq!((client.next().await, client.next().await), (Some(1), None));
}

#[tokio::test]
async fn more_than_may_wait_are_not_read_until_there_is_room() {
    let asked = Asked::start().await;
    let mut client = asked.connect().await;
    let more = 8;
    let count = OUTSTANDING + more;
    let mut questions: Vec<u8> =
        (0..count).flat_map(|number| question(number as u16, &slow(number))).collect();
    questions.extend(question(1000, KNOWN));
    client.send(&questions).await;
    asked.wait_for_names(OUTSTANDING).await;
    client.expect_silence().await;
    assert_eq!(asked.names.lock().unwrap().len(), OUTSTANDING, "no more are asked about");
    // Another connection is none of this one's business.
    let mut other = asked.connect().await;
    other.send(&question(7, KNOWN)).await;
    assert_eq!(other.next().await, Some(7));
    asked.released.send_replace(1);
    assert_eq!(client.next().await, Some(0));
    asked.wait_for_names(OUTSTANDING + 1).await;
    asked.released.send_replace(count);
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        seen.insert(client.next().await.expect("all are answered"));
    }
    let expected: BTreeSet<u16> = (1..count as u16).chain([1000]).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_has() {
    let asked = Asked::start().await;
    let (mut idle, mut client) = (asked.connect().await, asked.connect().await);
    idle.send(&question(1, KNOWN)).await;
    assert_eq!(idle.next().await, Some(1));
    client.send(&question(2, &slow(0))).await;
    asked.wait_for_names(1).await;
    asked.ending.send_replace(true);
    assert_eq!(idle.next().await, None, "nothing is asked there");
    client.expect_silence().await;
    assert!(!asked.running.is_finished());
    asked.released.send_replace(1);
    assert_eq!((client.next().await, client.next().await), (Some(2), None));
    timeout(LIMIT, asked.running).await.expect("it ends").unwrap();
}
